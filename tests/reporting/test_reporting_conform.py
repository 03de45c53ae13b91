from __future__ import annotations

from typing import Annotated, Any, NotRequired, TypedDict

import pytest

from withstand.reporting.conform import misfit
from withstand.reporting.schema import Between


class Inner(TypedDict):
    share: Annotated[float, Between(0.0, 1.0)]


class Outer(TypedDict):
    number: int
    items: list[Inner]
    names: NotRequired[dict[str, str]]
    text: NotRequired[str | None]
    flag: NotRequired[bool]


def outer(**changes: object) -> dict[str, Any]:
    return {"number": 1, "items": [{"share": 0.5}]} | changes


@pytest.mark.parametrize(
    "value",
    [
        outer(),
        outer(text=None),
        outer(text="a", names={"a": "b"}),
        outer(items=[]),
        outer(items=[{"share": 1}, {"share": 0}]),
        outer(unknown=[object()]),
        outer(flag=False),
    ],
)
def test_fits(value: object) -> None:
    assert misfit(value, Outer, "") is None


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        ([], "The whole must be a mapping, but is []."),
        ({"number": 1}, "items is missing."),
        (outer(number=1.0), "number must be a whole number, but is 1.0."),
        (outer(number=True), "number must be a whole number, but is True."),
        (outer(flag=1), "flag must be true or false, but is 1."),
        (outer(items={}), "items must be a list, but is {}."),
        (outer(items=[{"share": 0.5}, {}]), "items[1].share is missing."),
        (outer(items=[{"share": 1.5}]), "items[0].share must be between 0 and 1, but is 1.5."),
        (
            outer(items=[{"share": float("nan")}]),
            "items[0].share must be a finite number, but is nan.",
        ),
        (outer(items=[{"share": "0.5"}]), "items[0].share must be a finite number, but is '0.5'."),
        (outer(names={"a": 1}), "names[a] must be a text, but is 1."),
        (outer(names=["a"]), "names must be a mapping, but is ['a']."),
        (outer(text=1), "text must be a text, but is 1."),
    ],
)
def test_misfit_names_the_place_and_the_value(value: object, sentence: str) -> None:
    assert misfit(value, Outer, "") == sentence


def test_long_values_are_cut() -> None:
    text = misfit(outer(number="x" * 500), Outer, "")
    assert text is not None
    assert len(text) < 120
