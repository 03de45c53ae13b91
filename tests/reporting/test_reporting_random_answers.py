"""The page's section on how a network of random weights is scored."""

from __future__ import annotations

from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.sections import attack_suites as attacks
from withstand.results.random_answers import Sampling, Sweep, SweepLevel


def sampling(*, has_settled: bool = True, attack_samples: int | None = 4) -> Sampling:
    shares = ((4, 0.11), (1, 0.3), (2, 0.12))
    levels = [SweepLevel(share, share - 0.05, share + 0.05, 5, 10, number) for number, share in shares]
    sweep = Sweep("pgd-20-<linf>", 8 / 255, 200, 0.005, levels, has_settled, 4)
    return Sampling("How.", 20, 5, attack_samples, sweep)


def of(evaluated: Any, shown: Sampling) -> Any:
    return attacks.random_answers(evaluated.but(sampling=shown).run())


def view(evaluated: Any, **changes: Any) -> Any:
    return of(evaluated, sampling(**changes))


def test_sweep_is_drawn_from_few_draws_to_many(evaluated: Any, build: Any) -> None:
    shown = view(evaluated)
    assert [value for _, value in shown.facts] == ["20", "5", "4"]
    (trace,) = shown.figures[0].plot["data"]
    assert (trace["x"], trace["y"]) == ([1, 2, 4], [0.3, 0.12, 0.11])
    assert trace["name"] == "pgd-20-&lt;linf&gt;"
    assert trace["error_y"]["array"] == pytest.approx([0.05] * 3)
    shape = shown.figures[0].plot["layout"]
    assert (shape["xaxis"]["type"], shape["xaxis"]["ticktext"]) == ("log", ["1", "2", "4"])
    assert shape["yaxis"]["range"][1] == pytest.approx(1.15 * 0.35)
    assert build.texts(shown.tables[0].rows[0]) == ["1", "30.0 %", "25.0–35.0 %"]


def test_sweep_verdict_says_whether_more_draws_break_more(evaluated: Any, build: Any) -> None:
    settled = build.plain(view(evaluated).prose[1].text)
    assert settled.startswith("From 1 draw a gradient to 4 the accuracy under pgd-20-<linf> at ε = 8/255")
    assert "goes from 30.0 % to 11.0 %" in settled
    assert "It has settled" in settled
    assert "less than 0.5 points" in settled
    assert settled.endswith("average 4 draws.")
    falling = view(evaluated, has_settled=False).prose[1].text
    assert "It has not settled: the last two doublings lowered it by 0.5 points or more" in falling


def test_random_answers_show_draws_of_a_gradient_where_there_are_some(evaluated: Any) -> None:
    assert ("Draws an attack's gradient", "4") in view(evaluated).facts
    without = view(evaluated, attack_samples=None)
    assert [name for name, _ in without.facts] == ["Draws a prediction", "Predictions an example"]
    assert "average" not in without.prose[1].text


@pytest.mark.parametrize("sweep", [None, Sweep("pgd", 0.1, 200, 0.005, [], has_settled=True, chosen=1)])
def test_random_answers_without_a_sweep_have_only_facts(evaluated: Any, sweep: Sweep | None) -> None:
    shown = of(evaluated, Sampling("How.", 20, 5, 4, sweep))
    assert (len(shown.prose), shown.figures, shown.tables) == (1, (), ())
    assert len(shown.facts) == 3


def test_random_answers_are_on_the_page(write_run: Any, evaluated: Any) -> None:
    text = report(write_run(evaluated=evaluated.but(sampling=sampling()))).read_text(encoding="utf-8")
    assert ">Random answers</h2>" in text
    assert "pgd-20-&lt;ℓ∞&gt;" in text
