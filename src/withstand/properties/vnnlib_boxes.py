"""What a property in VNN-LIB says of inputs as boxes, and of outputs as goals, one for each box."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, NoReturn, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from withstand.certificates.goals import Goal
from withstand.properties.property import Case

Terms: TypeAlias = dict[str, float]
"""Name of a variable -> by what it is multiplied."""
Ends: TypeAlias = NDArray[np.float64]
Box: TypeAlias = tuple[Ends, Ends]
Fail: TypeAlias = Callable[[int, str], NoReturn]


class Atom(NamedTuple):
    """That a sum of variables times numbers plus a constant is at most 0, or below it where strict."""

    terms: Terms
    constant: float
    is_strict: bool
    place: int  # of the token where it begins


Conjunction: TypeAlias = list[Atom]


class Boxes:
    """Sorts conjunctions by the boxes of inputs that they speak of.

    Args:
        fail: Raises an error of the place of a token.
        declared: Place of the declaration of each variable.
        counts: How many inputs and outputs there are.
        common: What all conjunctions have in common.
    """

    def __init__(
        self, fail: Fail, declared: Mapping[str, int], counts: tuple[int, int], common: Conjunction
    ) -> None:
        self._fail, self._declared, (num_inputs, self._num_outputs) = fail, declared, counts
        everywhere = np.full(num_inputs, math.inf)
        self._base, self._common = self._split((-everywhere, everywhere), common)
        self._groups: dict[bytes, tuple[Box, list[Conjunction]]] = {}

    def add(self, conjunction: Conjunction) -> None:
        """Takes up one way to a counter-example."""
        box, rows = self._split(self._base, conjunction)
        rows = [*self._common, *rows]
        if any(_is_never(atom) for atom in rows):
            return
        key = b"" if box is self._base else box[0].tobytes() + box[1].tobytes()
        if key not in self._groups:
            self._groups[key] = box, []
            if not _is_empty(box):
                self._require_bounds(*box)
        self._groups[key][1].append([atom for atom in rows if atom.terms])

    def cases(self) -> list[Case]:
        """All boxes with what must not be there, but for empty ones."""
        return [self._case(box, groups) for box, groups in self._groups.values() if not _is_empty(box)]

    def _split(self, box: Box, conjunction: Conjunction) -> tuple[Box, Conjunction]:
        """The part of a box where a conjunction holds, and what it says of outputs or of nothing."""
        rows, (lower, upper) = [], box
        if any(name[0] == "X" for atom in conjunction for name in atom.terms):
            lower, upper = lower.copy(), upper.copy()
        for atom in conjunction:
            terms = {name: number for name, number in atom.terms.items() if number}
            if not any(name[0] == "X" for name in terms):
                rows.append(atom._replace(terms=terms))
                continue
            if any(name[0] == "Y" for name in terms):
                self._fail(atom.place, "a condition of inputs and outputs together is not supported")
            if len(terms) > 1:
                self._fail(atom.place, f"a condition of {' and '.join(terms)} together gives no box")
            ((name, number),) = terms.items()
            index, end = int(name[2:]), -atom.constant / number
            side = upper if number > 0 else lower
            end = float(np.nextafter(end, math.copysign(math.inf, -number))) if atom.is_strict else end
            side[index] = min(side[index], end) if number > 0 else max(side[index], end)
        return (box if lower is box[0] else (lower, upper)), rows

    def _require_bounds(self, lower: Ends, upper: Ends) -> None:
        """Accepts a box that has ends everywhere."""
        for side, ends in (("lower", lower), ("upper", upper)):
            if not np.isfinite(ends).all():
                name = f"X_{int(np.argmin(np.isfinite(ends)))}"
                self._fail(self._declared[name], f"{name} has no {side} bound, but inputs must be in a box")

    def _case(self, box: Box, conjunctions: Sequence[Conjunction]) -> Case:
        # Where every output will do, one row that is 0 says so.
        always = [Atom({}, 0.0, False, 0)]
        rows = [(group, atom) for group, atoms in enumerate(conjunctions) for atom in atoms or always]
        weight = np.zeros((len(rows), self._num_outputs))
        for row, (_, atom) in enumerate(rows):
            for name, number in atom.terms.items():
                weight[row, int(name[2:])] = number
        bias = torch.tensor([atom.constant for _, atom in rows], dtype=torch.float64)
        goal = Goal(torch.from_numpy(weight), bias, torch.tensor([group for group, _ in rows]))
        strict = torch.tensor([atom.is_strict for _, atom in rows])
        return Case(torch.from_numpy(box[0]), torch.from_numpy(box[1]), goal, strict)


def _is_never(atom: Atom) -> bool:
    """Whether a condition without variables is false."""
    return not atom.terms and not (atom.constant < 0 or (atom.constant == 0 and not atom.is_strict))


def _is_empty(box: Box) -> bool:
    return bool((box[0] > box[1]).any())
