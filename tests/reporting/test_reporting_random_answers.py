"""The page's section on how a network of random weights is scored."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from withstand.reporting import report
from withstand.reporting.random_answers import view_random_answers
from withstand.reporting.stochastic_schema import Sampling
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def sampling(*, has_settled: bool = True, **more: Any) -> dict[str, Any]:
    levels = [
        {
            "num_samples": number,
            **{"accuracy": share, "lower": share - 0.05, "upper": share + 0.05, "correct": 5, "total": 10},
        }
        for number, share in ((4, 0.11), (1, 0.3), (2, 0.12))
    ]
    sweep = {
        "attack": "pgd-20-<linf>",
        "epsilon": 8 / 255,
        "num_examples": 200,
        "tolerance": 0.005,
        "levels": levels,
        "has_settled": has_settled,
    }
    return {
        "description": "How.",
        "settings": {"num_samples": 20},
        "num_samples": 20,
        "num_repeats": 5,
        "attack_samples": 4,
        "sweep": sweep,
        **more,
    }


def test_the_figure_goes_from_few_draws_to_many() -> None:
    view = view_random_answers(cast("Sampling", sampling()))
    assert [value for _, value in view.facts] == ["20", "5", "4"]
    assert view.figure is not None
    (trace,) = view.figure.plot["data"]
    assert (trace["x"], trace["y"]) == ([1, 2, 4], [0.3, 0.12, 0.11])
    assert trace["name"] == "pgd-20-&lt;linf&gt;"
    shape = view.figure.plot["layout"]
    assert (shape["xaxis"]["type"], shape["xaxis"]["ticktext"]) == ("log", ["1", "2", "4"])
    assert shape["yaxis"]["range"][1] == pytest.approx(1.15 * 0.35)


def test_the_verdict_says_whether_more_draws_find_more() -> None:
    settled = view_random_answers(cast("Sampling", sampling())).verdict
    assert settled is not None
    assert "goes from 30.0\xa0% to 11.0\xa0%" in settled
    assert "It has settled" in settled
    assert "less than 0.5 points" in settled
    assert settled.endswith("average 4 draws.")
    falling = view_random_answers(cast("Sampling", sampling(has_settled=False))).verdict
    assert falling is not None
    assert "It has not settled" in falling


def test_draws_of_a_gradient_are_shown_only_where_there_are_some() -> None:
    found = sampling()
    assert ("Draws an attack's gradient", "4") in view_random_answers(cast("Sampling", found)).facts
    view = view_random_answers(cast("Sampling", found | {"attack_samples": None}))
    assert [name for name, _ in view.facts] == ["Draws a prediction", "Predictions an example"]
    assert view.verdict is not None
    assert "average" not in view.verdict


@pytest.mark.parametrize("empty", [{"sweep": None}, {"sweep": sampling()["sweep"] | {"levels": []}}])
def test_without_a_sweep_there_are_only_facts(empty: dict[str, Any]) -> None:
    view = view_random_answers(cast("Sampling", sampling(**empty)))
    assert (view.figure, view.verdict, [*view.levels]) == (None, None, [])
    assert len(view.facts) == 3


def test_the_page_has_the_section(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    text = report(write_run(metrics=metrics | {"sampling": sampling()})).read_text(encoding="utf-8")
    assert ">Random answers</h2>" in text
    assert "pgd-20-&lt;linf&gt;" in text


@pytest.mark.parametrize("content", [{}, {"sampling": None}])
def test_without_it_there_is_no_section(
    write_run: WriteRun, metrics: dict[str, Any], content: dict[str, Any]
) -> None:
    text = report(write_run(metrics=metrics | content)).read_text(encoding="utf-8")
    assert ">Random answers</h2>" not in text


def test_damage_is_named(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    with pytest.raises(RunFolderError, match=r"sampling\.num_repeats must be"):
        report(write_run(metrics=metrics | {"sampling": sampling(num_repeats=0.5)}))
