from __future__ import annotations

from bisect import bisect_left
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from withstand.reporting.certified import (
    certified_at,
    certified_curve,
    certified_curves,
    describe,
    telling_certificates,
)
from withstand.reporting.schema import Metrics
from withstand.reporting.summary import norms


@pytest.fixture
def measured(certified_metrics: dict[str, Any]) -> Metrics:
    return cast("Metrics", certified_metrics)


def test_curves_begin_with_clean_and_are_told_from_attacked_ones(measured: Metrics) -> None:
    best, box = certified_curves(measured, "2", {})
    assert (best.name, box.name) == ("certified (best)", "certified (box)")
    assert [point["epsilon"] for point in best.points] == [0.0, 0.5, 1.0, 1.5]
    assert best.points[0]["correct"] == 981
    assert best.is_certified
    assert not best.steps
    assert norms(measured) == ["inf", "2"]


def test_certificates_of_one_method_are_told_apart(certified_metrics: dict[str, Any]) -> None:
    other = certified_metrics["certificates"][0] | {"name": "certified-unclipped-l2"}
    certified_metrics["certificates"].append(other)
    names = [curve.name for curve in certified_curves(cast("Metrics", certified_metrics), "2", {})]
    assert names == ["certified-l2", "certified (box)", "certified-unclipped-l2"]


def test_the_most_that_is_certified_counts(measured: Metrics) -> None:
    found = certified_at(measured, "2", 0.5000000001)
    assert found is not None
    assert (found.certificate, found.point["correct"]) == ("certified (box)", 710)
    assert certified_at(measured, "2", 0.6) is None
    assert certified_at(measured, "inf", 0.5) is None


def test_the_telling_one_is_the_largest_better_than_chance(measured: Metrics) -> None:
    assert [(each.norm, each.point["epsilon"]) for each in telling_certificates(measured)] == [
        ("2", 1.0),
        ("inf", 0.1),
    ]


def test_where_all_is_below_chance_the_smallest_is_told(certified_metrics: dict[str, Any]) -> None:
    for point in certified_metrics["certificates"][2]["curve"]:
        point["accuracy"] = 0.0
    found = telling_certificates(cast("Metrics", certified_metrics))
    assert [each.point["epsilon"] for each in found if each.norm == "inf"] == [0.1]
    assert telling_certificates(cast("Metrics", certified_metrics | {"certificates": []})) == []


def test_a_run_beside_others_shows_its_tightest_method(measured: Metrics) -> None:
    (curve,) = certified_curve(measured, "2", {}, "a run")
    assert curve.name == "a run, certified (best)"
    assert certified_curve(measured, "1", {}, "a run") == []


def test_radii_are_described(measured: Metrics) -> None:
    best, box, _ = map(describe, measured["certificates"])
    assert best == (
        "certified-l2",
        "certified-l2 in words. Certified radius: mean 0.7125, median 0.65, largest 1.75.",
    )
    assert box == ("certified-box-l2", "certified-box-l2 in words")


RADII = st.lists(st.floats(0, 3).map(lambda value: round(value, 3)), min_size=1, max_size=1200)


@given(RADII, st.floats(0.001, 4))
def test_the_line_through_radii_is_the_share_that_reaches_an_epsilon(
    radii: list[float], epsilon: float
) -> None:
    metrics = {
        "clean": {"accuracy": 1.0, "lower": 0.9, "upper": 1.0, "correct": 9, "total": 9},
        "certificates": [{"name": "certified-l2", "norm": "2", "method": "best", "curve": []}],
    }
    (curve,) = certified_curves(cast("Metrics", metrics), "2", {"radius-l2": radii})
    steps = curve.steps
    if max(radii) == 0:
        assert steps == []
        return
    places = [place for place, _ in steps]
    assert places == sorted(places)
    # As the figure draws it: down first and then along, so that the later point holds before it.
    number = bisect_left(places, epsilon)
    drawn = steps[number][1] if number < len(steps) else 0.0
    true = sum(radius >= epsilon for radius in radii) / len(radii)
    assert drawn <= true + 1e-12  # never more than is proven
    assert drawn >= true - 2 / 250 - 1 / len(radii) - max(radii.count(radius) for radius in radii) / len(
        radii
    )
    if len(radii) < 500:
        assert drawn == pytest.approx(true)
