"""Curves of accuracy against epsilon, and their figure."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from withstand.reporting.curves import (
    Curve,
    accuracy_figure,
    attacked_curves,
    certified_curves,
    strongest_curve,
    tightest_curve,
)
from withstand.reporting.read import Run
from withstand.results.measurements import CLEAN, Measurement, table_of
from withstand.results.results import CertificateInfo, Results


@pytest.fixture
def curves(evaluated: Any) -> list[Curve]:
    return attacked_curves(evaluated.run(), "inf")


def test_curves_begin_with_clean_and_ascend(evaluated: Any, build: Any) -> None:
    at_zero = build.measured(build.ATTACKED, 981, "fgsm", "inf", 0.0)
    for curve in attacked_curves(evaluated.plus(at_zero).run(), "inf"):
        assert [point.level for point in curve.points] == [0.0, 0.1, 0.3]
        assert curve.points[0].correct == 981
        assert [point.by for point in curve.points] == ["clean", curve.name, curve.name]


def test_strongest_curve_names_the_attack_of_each_point(evaluated: Any) -> None:
    curve = strongest_curve(evaluated.run(), "inf", "a run")
    assert curve.name == "a run"
    assert [point.by for point in curve.points] == ["clean", "fgsm", "pgd-200"]
    assert [point.correct for point in curve.points] == [981, 905, 402]


def test_certified_curves_begin_with_clean_and_have_different_names(certified: Any) -> None:
    best, box = certified_curves(certified.run(), "2")
    assert (best.name, box.name) == ("certified (best)", "certified (box)")
    assert [point.level for point in best.points] == [0.0, 0.5, 1.0, 1.5]
    assert best.points[0].correct == 981
    assert best.is_certified
    assert not best.steps
    again = certified.certified("certified-unclipped-l2", "2", "best", {0.5: 700})
    names = [curve.name for curve in certified_curves(again.run(), "2")]
    assert names == ["certified-l2", "certified (box)", "certified-unclipped-l2"]


def test_tightest_curve_is_of_the_tightest_method(certified: Any) -> None:
    (curve,) = tightest_curve(certified.run(), "2", "a run")
    assert curve.name == "a run, certified (best)"
    assert tightest_curve(certified.run(), "1", "a run") == []


RADII = st.lists(st.floats(0, 3).map(lambda value: round(value, 3)), min_size=1, max_size=1200)


@given(RADII, st.floats(0.001, 4))
def test_certified_line_is_the_share_whose_radius_reaches_an_epsilon(
    radii: list[float], epsilon: float
) -> None:
    results = Results("mnist", 9, 10, certificates=[CertificateInfo("certified-l2", "2", "best")])
    table = table_of([Measurement(CLEAN, value=1.0, lower=0.9, upper=1.0, correct=9, total=9)])
    run = Run("run", None, None, None, None, None, {"radius-l2": radii}, results, table)  # type: ignore[arg-type]
    (curve,) = certified_curves(run, "2")
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
    most_alike = max(radii.count(radius) for radius in radii)
    assert drawn <= true + 1e-12  # never more than is proven
    assert drawn >= true - 2 / 250 - (1 + most_alike) / len(radii)
    if len(radii) < 500:
        assert drawn == pytest.approx(true)


def test_accuracy_figure_holds_values_intervals_and_chance(curves: list[Curve]) -> None:
    plot = accuracy_figure(curves, "inf", 0.1).plot
    first = plot["data"][0]
    assert first["x"] == [0.0, 0.1, 0.3]
    assert first["y"] == [0.981, 0.907, 0.402]
    assert first["error_y"]["array"] == pytest.approx([0.019, 0.02, 0.02])
    assert first["error_y"]["arrayminus"] == pytest.approx([0.02, 0.02, 0.02])
    assert "95 % interval 38.2" in first["hovertext"][2]
    assert plot["layout"]["shapes"][0]["y0"] == 0.1
    assert plot["layout"]["shapes"][0]["line"]["dash"] == "dot"
    assert plot["layout"]["annotations"][0]["text"].startswith("chance, 10.0")
    assert "shapes" not in accuracy_figure(curves, "inf", None).plot["layout"]


def test_series_differ_without_colour(curves: list[Curve]) -> None:
    many = [Curve(str(number), curves[0].points) for number in range(20)]
    data = accuracy_figure(many, "inf", None).plot["data"]
    looks = {(trace["line"]["dash"], trace["marker"]["symbol"]) for trace in data}
    assert len(looks) == len(data)


def test_certified_curves_are_heavy_and_open(certified: Any) -> None:
    run = certified.run(radii={"radius-l2": [0.0, 0.4, 0.6, 1.75]})
    attacked_alone = attacked_curves(run, "2")
    figure = accuracy_figure([*attacked_alone, *certified_curves(run, "2")], "2", 0.1)
    attacked, line, points, box = figure.plot["data"]
    assert [trace["name"] for trace in (attacked, line, box)] == [
        "pgd-20-l2",
        "certified (best)",
        "certified (box)",
    ]
    for proven in (line, points, box):
        assert proven["line"]["width"] > attacked["line"]["width"]
        assert proven["line"]["dash"] == "solid"
        assert proven["marker"]["symbol"].endswith("-open")
    assert (line["mode"], line["line"]["shape"], points["mode"]) == ("lines", "vh", "markers")
    assert box["line"]["shape"] == "vh"
    assert line["x"] == [0.0, 0.4, 0.6, 1.75, 1.75]
    assert line["y"] == [0.75, 0.75, 0.5, 0.25, 0.0]
    assert points["showlegend"] is False
    assert points["y"] == [0.981, 0.7, 0.4, 0.09]
    assert "certified" in figure.caption
    assert "certified" not in accuracy_figure(attacked_alone, "2", 0.1).caption


def test_certified_curve_is_shaded_where_it_is_the_only_one(certified: Any) -> None:
    (one,) = certified_curves(certified.run(), "inf")
    assert accuracy_figure([one], "inf", None).plot["data"][0]["fill"] == "tozeroy"
    several = accuracy_figure(certified_curves(certified.run(), "2"), "2", None)
    assert not any("fill" in trace for trace in several.plot["data"])


def test_curves_of_one_series_share_their_colour(curves: list[Curve]) -> None:
    attacked = replace(curves[0], series=1)
    certified = replace(attacked, is_certified=True)
    first, second = accuracy_figure([attacked, certified], "inf", None).plot["data"]
    assert first["line"]["color"] == second["line"]["color"]
    assert first["line"]["dash"] != second["line"]["dash"]


def test_ticks_of_pixel_epsilons_are_fractions(evaluated: Any, build: Any) -> None:
    levels = evaluated.without(build.ATTACKED).but(attacks=[])
    levels = levels.attacked("pgd", "inf", {4 / 255: 900, 8 / 255: 800})
    figure = accuracy_figure(attacked_curves(levels.run(), "inf"), "inf", None)
    assert figure.plot["layout"]["xaxis"]["ticktext"] == ["0", "4/255", "8/255"]
