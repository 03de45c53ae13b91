"""Nested values of a recipe by dotted key."""

from __future__ import annotations

from withstand.core.flat import flat

TERMS = [{"class_path": "a.CrossEntropy"}, {"class_path": "b.W", "init_args": {"w": 2}}]
RECIPE = {"seed": 1, "objective": {"class_path": "withstand.loss.terms.Sum", "init_args": {"terms": TERMS}}}


def test_flat_joins_keys_with_dots() -> None:
    assert flat(RECIPE) == {
        "seed": 1,
        "objective": "Sum",
        "objective.terms.0": "CrossEntropy",
        "objective.terms.1": "W",
        "objective.terms.1.w": 2,
    }


def test_flat_leaves_what_is_not_opened_as_it_is() -> None:
    assert flat(RECIPE, opens=False) == {
        "seed": 1,
        "objective.class_path": "withstand.loss.terms.Sum",
        "objective.terms": TERMS,
    }


def test_flat_drops_empty_mappings_and_keeps_empty_lists_only_where_not_opened() -> None:
    assert flat({"a": {}, "b": []}) == {}
    assert flat({"a": {}, "b": []}, opens=False) == {"b": []}
