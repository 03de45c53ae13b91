"""The page's section on uncertainty."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from withstand.reporting import report
from withstand.reporting.stochastic_schema import Uncertainty
from withstand.reporting.uncertainty import view_uncertainty
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def one_set(name: str, kind: str, **more: Any) -> dict[str, Any]:
    other = kind == "out-of-distribution"
    return {
        "name": name,
        "kind": kind,
        "num_examples": 100,
        "accuracy": None if other else 0.9,
        "calibration_error": None if other else 0.0314,
        "entropy": {"mean": 0.5, "median": 0.25},
        "expected_entropy": {"mean": 0.375, "median": 0.2},
        "mutual_information": {"mean": 0.125, "median": 0.05},
        "auroc": 0.75,
        "histogram": {
            "edges": [0.0, 0.5, 1.0, 1.5],
            "entropy": [90, 10, 0],
            "expected_entropy": [98, 1, 1],
            "mutual_information": [100, 0, 0],
        },
        **more,
    }


def uncertainty(*sets: dict[str, Any]) -> dict[str, Any]:
    return {"description": "How.", "num_samples": 50, "num_classes": 10, "sets": [*sets]}


def view(*sets: dict[str, Any]) -> Any:
    return view_uncertainty(cast("Uncertainty", uncertainty(*sets)))


CLEAN = one_set("clean", "clean", auroc=None)
OTHER = one_set("<other>", "out-of-distribution")


def test_rows_hold_the_numbers_and_dashes() -> None:
    shown = view(CLEAN, OTHER)
    first, second = shown.rows
    assert [*first.numbers] == ["100", "90.0\xa0%", "0.031", "0.500", "0.375", "0.125", "—"]
    assert [*second.numbers] == ["100", "—", "—", "0.500", "0.375", "0.125", "0.750"]
    assert (shown.largest, shown.num_samples) == ("2.303", "50")


def test_each_measure_has_its_own_histogram() -> None:
    figures = {figure.title: figure for figure in view(CLEAN, OTHER).figures}
    assert [*figures] == ["Predictive entropy", "Expected entropy", "Mutual information"]
    clean, other = figures["Predictive entropy"].plot["data"]
    assert clean["x"] == [0.0, 0.5, 1.0, 1.5]
    assert clean["y"][:2] == [0.9, 0.1]
    assert clean["fill"] == "tozeroy"
    assert "fill" not in other
    assert other["name"] == "&lt;other&gt;"
    looks = {(each["line"]["dash"], each["marker"]["symbol"]) for each in (clean, other)}
    assert len(looks) == 2
    ranges = [figure.plot["layout"]["xaxis"]["range"] for figure in figures.values()]
    assert ranges == [[0, 1.0], [0, 1.5], [0, 0.5]]  # as far as there is any image
    assert "(nats)" in figures["Mutual information"].plot["layout"]["xaxis"]["title"]["text"]


def test_an_empty_bin_of_a_small_set_is_below_the_floor_of_a_large_one() -> None:
    large = CLEAN | {"num_examples": 10_000}
    predictive, _, information = view(large, OTHER).figures
    for figure, place in ((predictive, 2), (information, 1)):
        floor = 10 ** figure.plot["layout"]["yaxis"]["range"][0]
        assert all(0 < trace["y"][place] < floor < 1 / 10_000 for trace in figure.plot["data"])


def test_of_many_sets_some_are_drawn_and_all_are_in_the_table() -> None:
    attacked = [one_set(f"{name}@{eps}", "attacked") for name in ("pgd", "fgsm") for eps in (1, 2, 3, 4, 5)]
    shown = view(CLEAN, *attacked, OTHER)
    assert len(shown.rows) == 12
    drawn = [trace["name"] for trace in shown.figures[0].plot["data"]]
    assert drawn == ["clean", "pgd@1", "pgd@3", "pgd@5", "&lt;other&gt;"]
    assert "Drawn are 5 of 12 sets" in shown.figures[0].caption
    few = view(CLEAN, attacked[0])
    assert [trace["name"] for trace in few.figures[0].plot["data"]] == ["clean", "pgd@1"]


def test_many_other_data_sets_leave_room_for_an_attack() -> None:
    others = [one_set(f"other{number}", "out-of-distribution") for number in range(6)]
    attacked = [one_set(f"pgd@{number}", "attacked") for number in range(3)]
    drawn = [trace["name"] for trace in view(CLEAN, *attacked, *others).figures[0].plot["data"]]
    assert drawn == ["clean", "pgd@2", "other0", "other1", "other2"]


def test_the_page_has_the_section(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    text = report(write_run(metrics=metrics | {"uncertainty": uncertainty(CLEAN, OTHER)})).read_text(
        encoding="utf-8"
    )
    assert ">Uncertainty</h2>" in text
    assert "&lt;other&gt;" in text


@pytest.mark.parametrize("content", [{}, {"uncertainty": None}, {"uncertainty": uncertainty()}])
def test_without_it_there_is_no_section(
    write_run: WriteRun, metrics: dict[str, Any], content: dict[str, Any]
) -> None:
    text = report(write_run(metrics=metrics | content)).read_text(encoding="utf-8")
    assert ">Uncertainty</h2>" not in text


def test_damage_is_named(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    broken = uncertainty(CLEAN | {"auroc": 2.0})
    with pytest.raises(RunFolderError, match=r"uncertainty\.sets\[0\]\.auroc must be"):
        report(write_run(metrics=metrics | {"uncertainty": broken}))
