"""Writes properties in VNN-LIB 1.0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from withstand.properties.property import Case, Property


def to_vnnlib(stated: Property) -> str:
    """A property as a text in VNN-LIB 1.0, which ``parse_vnnlib`` reads to the same numbers.

    Args:
        stated: The property.
    """
    lines = [f"; {line}" for line in (stated.name or "Written by withstand").splitlines()]
    lines += [f"(declare-const X_{index} Real)" for index in range(stated.num_inputs)]
    lines += [f"(declare-const Y_{index} Real)" for index in range(stated.num_outputs)]
    if len(stated.cases) == 1:
        (case,) = stated.cases
        lines += [f"(assert {bound})" for bound in _bounds(case)]
        lines.append(_any_of([f"(and {' '.join(rows)})" for rows in _groups(case)]))
    else:
        ways = [(case, rows) for case in stated.cases for rows in _groups(case)]
        lines.append(_any_of([f"(and {' '.join([*_bounds(case), *rows])})" for case, rows in ways]))
    return "\n".join(lines) + "\n"


def _any_of(conjunctions: Sequence[str]) -> str:
    if not conjunctions:
        return "(assert (< 1 0))"
    return "\n".join(["(assert (or", *(f"  {conjunction}" for conjunction in conjunctions), "))"])


def _bounds(case: Case) -> list[str]:
    ends = zip(case.lower.tolist(), case.upper.tolist(), strict=True)
    return [
        text
        for index, (low, high) in enumerate(ends)
        for text in (f"(>= X_{index} {_decimal(low)})", f"(<= X_{index} {_decimal(high)})")
    ]


def _groups(case: Case) -> list[list[str]]:
    """The conditions of each way to break the goal of a case."""
    groups: list[list[str]] = [[] for _ in range(case.goal.num_groups)]
    for weight, bias, group, strict in zip(*case.goal, case.strict, strict=True):
        groups[int(group)].append(_condition(weight.tolist(), float(bias), "<" if strict else "<="))
    return groups


def _condition(weight: Sequence[float], bias: float, sign: str) -> str:
    """That a row is at most 0: what counts for it on the left, the rest on the right."""
    scaled = [(number, f"Y_{index}") for index, number in enumerate(weight) if number]
    left = [_times(number, name) for number, name in scaled if number > 0]
    right = [_times(-number, name) for number, name in scaled if number < 0]
    if left:
        right += [_decimal(-bias)] if bias or not right else []
        return f"({sign} {_sum(left)} {_sum(right)})"
    return f"({sign.replace('<', '>')} {_sum(right or ['0.0'])} {_decimal(bias)})"


def _times(number: float, name: str) -> str:
    return name if number == 1 else f"(* {_decimal(number)} {name})"


def _sum(terms: Sequence[str]) -> str:
    return terms[0] if len(terms) == 1 else f"(+ {' '.join(terms)})"


def _decimal(number: float) -> str:
    """A float64 in the fewest digits that give it back, without an exponent, which not all readers know."""
    return np.format_float_positional(number, trim="0")
