"""VNN-LIB as it is read and written: what a text means, and what it must not hold."""

from __future__ import annotations

import gzip
import operator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from withstand.properties import Property, parse_vnnlib, read_vnnlib, robustness, to_vnnlib
from withstand.types import DataError

HEAD = """; a property
(declare-const X_0 Real)
(declare-const X_1 Real)
(declare-const Y_0 Real)
(declare-const Y_1 Real)
"""
BOX = "(assert (>= X_0 -1)) (assert (<= X_0 1.5))\n(assert (and (>= X_1 0) (<= X_1 (/ 1 2))))\n"


def parsed(*asserted: str) -> Property:
    return parse_vnnlib(HEAD + BOX + "\n".join(f"(assert {formula})" for formula in asserted))


def is_broken(stated: Property, x: tuple[float, ...], y: tuple[float, ...]) -> bool:
    return stated.is_broken_by(torch.tensor(x, dtype=torch.float64), torch.tensor(y, dtype=torch.float64))


@pytest.mark.parametrize(
    ("formula", "broken", "kept"),
    [
        ("(<= Y_0 Y_1)", (1, 1), (2, 1)),
        ("(< Y_0 Y_1)", (0, 1), (1, 1)),
        ("(>= Y_0 3.5e-1)", (0.35, 0), (0.3, 0)),
        ("(> 2 Y_0)", (1, 0), (2, 0)),
        ("(= Y_0 2)", (2, 0), (2.1, 0)),
        ("(and (<= Y_0 0) (<= Y_1 0))", (0, 0), (0, 1)),
        ("(or (<= Y_0 0) (<= Y_1 0))", (1, 0), (1, 1)),
        ("(or (and (<= Y_0 0) (or (<= Y_1 0) (>= Y_1 9))) (>= Y_0 5))", (0, 9), (0, 5)),
        ("(<= (+ Y_0 (* 2 Y_1) 1) (- 4 Y_1))", (0, 1), (0.5, 1)),
        ("(<= (- Y_0) (* (- Y_1 1) 2))", (0, 1), (0, 0.9)),
        ("(<= (/ Y_0 2) (- 1))", (-2, 0), (-1.9, 0)),
        ("(<= 1 2)", (7, 7), None),
        ("(<= 2 1)", None, (7, 7)),
    ],
)
def test_condition_of_outputs_means_what_it_says(
    formula: str, broken: tuple[float, float] | None, kept: tuple[float, float] | None
) -> None:
    for stated in (parsed(formula), parse_vnnlib(to_vnnlib(parsed(formula)))):
        assert broken is None or is_broken(stated, (0, 0), broken)
        assert kept is None or not is_broken(stated, (0, 0), kept)
        assert broken is None or not is_broken(stated, (0, 0.6), broken)  # outside of the box
        assert (
            broken is None or not is_broken(stated, (0, 0), (float("nan"), broken[1])) or "Y_0" not in formula
        )


def test_inputs_in_disjunctions_are_boxes_of_their_own() -> None:
    stated = parsed(
        "(or (and (<= X_0 0) (>= Y_0 1)) (and (>= X_0 0.5) (<= Y_0 -1)) (and (<= X_0 0) (>= Y_1 1)))"
    )
    assert [len(case.goal.bias) for case in stated.cases] == [2, 1]  # the same box is one case
    assert [case.lower.tolist() for case in stated.cases] == [[-1, 0], [0.5, 0]]
    assert is_broken(stated, (-0.5, 0), (1, 0))
    assert not is_broken(stated, (0.7, 0), (1, 0))
    assert is_broken(stated, (0.7, 0), (-1, 0))


def test_strict_bounds_of_inputs_leave_their_ends_out() -> None:
    stated = parsed("(< X_0 1)", "(> X_1 0.25)", "(<= Y_0 0)")
    assert not is_broken(stated, (1, 0.5), (0, 0))
    assert not is_broken(stated, (0, 0.25), (0, 0))
    assert is_broken(stated, (1 - 1e-15, 0.25 + 1e-15), (0, 0))


def test_contradictory_bounds_leave_nothing_to_prove(caplog: pytest.LogCaptureFixture) -> None:
    assert not parsed("(<= X_0 -2)", "(<= Y_0 0)").cases
    assert "nothing to prove" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEAD + BOX + "(assert (<= (* Y_0 Y_1) 1))", "line 8: the product or quotient of variables is not"),
        (HEAD + BOX + "(assert (<= (/ 1 Y_0) 1))", "line 8: the product or quotient"),
        (HEAD + BOX + "(assert (<= (/ Y_0 0) 1))", "line 8: it divides by 0"),
        (HEAD + BOX + "(assert (<= X_0 X_1))", "line 8: a condition of X_0 and X_1 together gives no box"),
        (HEAD + BOX + "(assert (<= X_0 Y_1))", "line 8: a condition of inputs and outputs together"),
        (HEAD + BOX + "(assert (<= Y_2 1))", "line 8: Y_2 is not declared"),
        (HEAD + BOX + "(assert (<= Y_1 1)", "line 8: the text ends within brackets"),
        (HEAD + BOX + "(assert (<=", "line 8: the text ends within brackets"),
        (HEAD + BOX + "(assert (<= Y_1 1 2))", "line 8: <= compares two terms"),
        (HEAD + BOX + "(assert (<= Y_1 1)))", "line 8: expected '\\(', but got '\\)'"),
        (
            HEAD + BOX + "(assert (not (<= Y_1 1)))",
            "line 8: expected and, or, or a comparison, but got 'not'",
        ),
        (HEAD + BOX + "(assert (or))", r"line 8: \(or\) is of nothing"),
        (HEAD + BOX + "(assert (<= Y_1 nan))", "line 8: expected a variable or a number, but got 'nan'"),
        (HEAD + BOX + "(assert (<= Y_1 1e999))", "line 8: 1e999 is beyond"),
        (HEAD + BOX + "(push 1)", "line 8: there is no command 'push'"),
        (HEAD + "(assert (<= Y_1 1))", "line 2: X_0 has no lower bound"),
        (
            HEAD + BOX + "(assert (or (<= Y_0 0) (and (<= X_0 1) (<= Y_1 0))))(declare-const X_2 Real)",
            "X_2 has no",
        ),
        ("(vnnlib-version <2.0>)\n(declare-network N)", "line 1: this is VNN-LIB 2"),
        ("\n(declare-const X_0 Int)", "line 2: X_0 must be Real, but is Int"),
        ("(declare-const X_0 Real)\n(declare-const X_0 Real)", "line 2: X_0 is declared twice"),
        ("(declare-const Z Real)", "line 1: variables are X_0"),
        ("(declare-const X_0 Real)(declare-const Y_1 Real)", "Y_1 is declared, but Y_0 is not"),
        ("(declare-const X_0 Real)", "no Y_0 is declared"),
        ("", "no X_0 is declared"),
        ("X_0 <= 1", r"line 1: expected '\('"),
        (HEAD + BOX + "(assert " + "(or " * 5000, "nested too deeply"),
        (HEAD + BOX + "(assert (or (<= Y_0 1) (<= Y_1 1)))\n" * 20, "more than 100,000 conjunctions"),
    ],
)
def test_what_cannot_be_read_is_an_error_with_its_line(text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        parse_vnnlib(text)


_NUMBERS = st.integers(-3, 3).map(lambda number: number / 2)
_ATOMS = st.tuples(
    st.sampled_from(["<=", "<", ">=", ">"]),
    st.one_of(
        st.sampled_from([(1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0)]),
        st.tuples(st.just(0.0), st.just(0.0), _NUMBERS, _NUMBERS),
    ),
    _NUMBERS,
)
_FORMULAS = st.recursive(
    _ATOMS,
    lambda parts: st.tuples(st.sampled_from(["and", "or"]), st.lists(parts, min_size=1, max_size=3)),
    max_leaves=8,
)
_SIGNS = {"<=": operator.le, "<": operator.lt, ">=": operator.ge, ">": operator.gt}
_NAMES = ("X_0", "X_1", "Y_0", "Y_1")


def _text(formula: Any) -> str:
    if formula[0] in ("and", "or"):
        return f"({formula[0]} {' '.join(map(_text, formula[1]))})"
    sign, factors, constant = formula
    terms = [f"(* {factor} {name})" for factor, name in zip(factors, _NAMES, strict=True) if factor]
    return f"({sign} (+ 0 {' '.join(terms)}) {constant})"


def _holds(formula: Any, point: tuple[float, ...]) -> bool:
    if formula[0] in ("and", "or"):
        return (all if formula[0] == "and" else any)(_holds(part, point) for part in formula[1])
    sign, factors, constant = formula
    return bool(_SIGNS[sign](sum(a * b for a, b in zip(factors, point, strict=True)), constant))


@hypothesis.given(
    st.lists(_FORMULAS, min_size=1, max_size=3), st.lists(st.tuples(*[_NUMBERS] * 4), max_size=12)
)
@hypothesis.settings(deadline=None, max_examples=120)
def test_property_is_broken_exactly_where_all_assertions_hold(
    formulas: list[Any], points: list[tuple[float, ...]]
) -> None:
    stated = parsed(*map(_text, formulas))
    again = parse_vnnlib(to_vnnlib(stated))
    for point in points:
        is_in_box = -1 <= point[0] <= 1.5 and 0 <= point[1] <= 0.5
        expected = is_in_box and all(_holds(formula, point) for formula in formulas)
        assert is_broken(stated, point[:2], point[2:]) is expected
        assert is_broken(again, point[:2], point[2:]) is expected


def test_robustness_is_read_again_to_the_same_numbers(tmp_path: Path) -> None:
    image = torch.rand(1, 2, 3)
    stated = robustness(image, 1, epsilon="8/255", num_classes=3)  # type: ignore[arg-type]  # as users write it
    file = tmp_path / "p.vnnlib.gz"
    file.write_bytes(gzip.compress(to_vnnlib(stated).encode()))
    (case,), (again,) = stated.cases, read_vnnlib(file).cases
    assert (case.lower >= 0).all()
    assert (case.upper - case.lower).max() > 0.03
    for own, other in zip((*case[:2], *case.goal), (*again[:2], *again.goal), strict=True):
        assert torch.equal(own, other)
    y = torch.tensor([0.0, 1.0, 1.0])
    assert stated.is_broken_by(image, y)  # a tie
    assert not stated.is_broken_by(image, y + torch.tensor([0.0, 0.1, 0.0]))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm": 2}, "must be linf"),
        ({"epsilon": -1}, "epsilon"),
        ({"label": 3}, "label"),
        ({"image": torch.ones(2, 2, dtype=torch.uint8)}, "image.float"),
        ({"image": torch.full((2, 2), 3.0)}, "clip=False"),
    ],
)
def test_robustness_of_what_is_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {
        "image": torch.rand(2, 2),
        "label": 0,
        "epsilon": 0.1,
        "num_classes": 3,
    } | changes
    with pytest.raises(ValueError, match=message):
        robustness(**given)


def test_file_that_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"There is no property .*nope\.vnnlib"):
        read_vnnlib(tmp_path / "nope.vnnlib")
    (tmp_path / "cut.gz").write_bytes(gzip.compress(b"(assert" * 99)[:-9])
    with pytest.raises(DataError, match=r"cut\.gz is damaged"):
        read_vnnlib(tmp_path / "cut.gz")
