"""Trade-offs: who has a place in which figure, and whom no other beats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting.compare import tradeoffs
from withstand.reporting.compare.comparison import Comparison
from withstand.reporting.compare.tradeoffs import pareto_best
from withstand.reporting.read import Cost, Environment, Run, read_run
from withstand.reporting.section import Section
from withstand.results.measurements import CORRUPTED

WriteRun = Callable[..., Path]
AT = "Attacked, ℓ∞ ε = 0.1"


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_pareto_best_are_those_that_none_beats() -> None:
    assert pareto_best([(1, 1), (2, 0), (0, 2), (0, 0), (1, 0)]) == [True, True, True, False, False]
    assert pareto_best([(1, 1), (1, 1)]) == [True, True]  # neither is better


@pytest.fixture
def make(evaluated: Any) -> Callable[..., Run]:
    """A run with some correct of 1,000 clean and under the stronger attack at 0.1."""

    def of(
        name: str,
        clean: int,
        attacked: int,
        seconds: float = 60.0,
        *,
        seed: int = 0,
        more: Any = (),
        **fields: Any,
    ) -> Run:
        first, *others = evaluated.rows
        changed = [
            replace(row, value=attacked / 1000, lower=0.1, upper=0.95)
            if (row.by, row.level) == ("fgsm", 0.1)
            else row
            for row in others
        ]
        rows = (replace(first, value=clean / 1000, correct=clean), *changed, *more)
        recipe = {"name": f"{name}/seed={seed}", "seed": seed, "model": {"name": name}}
        environment = Environment(cost=Cost(train_seconds=seconds))
        evaluation = replace(evaluated, rows=rows).but(**fields)
        run: Run = evaluation.run(path=Path(f"{name}-{seed}"), recipe=recipe, environment=environment)
        return run

    return of


def options(*runs: Run) -> tuple[dict[str, Section], dict[str, Section]]:
    """The figures against clean accuracy and against time, by their names."""
    section = tradeoffs.section(Comparison(runs))
    assert section is not None
    choices = {choice.title: choice.options for choice in section.choices}
    assert list(choices) == [
        title for title in ("Against clean accuracy", "Against training time") if title in choices
    ]
    clean, cost = (choices.get(f"Against {axis}", []) for axis in ("clean accuracy", "training time"))
    return {plain(option.title): option for option in clean}, {plain(option.title): option for option in cost}


def opened(*runs: Run) -> list[str]:
    """The names of the options to begin with."""
    section = tradeoffs.section(Comparison(runs))
    assert section is not None
    return [plain(choice.options[choice.opened].title) for choice in section.choices]


def test_tradeoffs_are_chosen_by_what_is_measured(make: Callable[..., Run]) -> None:
    runs = make("a", 980, 500), make("b", 900, 600)
    clean, cost = options(*runs)
    assert list(clean) == [AT, "Attacked, ℓ∞ ε = 0.3"]
    assert list(cost) == ["Clean", *clean]
    assert opened(*runs) == [AT, AT]
    layout = clean[AT].figures[0].plot["layout"]
    assert layout["xaxis"]["title"]["text"] == "clean accuracy"
    assert plain(layout["yaxis"]["title"]["text"]) == "attacked accuracy, ℓ∞ ε = 0.1"
    figure = cost["Clean"].figures[0]
    assert figure.plot["layout"]["xaxis"]["type"] == "log"
    assert "logarithmic" in figure.caption


def test_tradeoffs_draw_groups_in_looks_of_their_own(make: Callable[..., Run]) -> None:
    clean, _ = options(make("a<b>", 980, 500), make("b", 900, 600))
    ring, first, second = clean[AT].figures[0].plot["data"]
    assert (ring["name"], ring["x"]) == ("Pareto-best", [0.98, 0.9])
    assert (first["x"], first["y"], second["x"], second["y"]) == ([0.98], [0.5], [0.9], [0.6])
    assert first["marker"]["symbol"] != second["marker"]["symbol"]
    assert first["marker"]["color"] != second["marker"]["color"]
    assert first["text"] == ["a&lt;b&gt;"]
    assert first["error_y"]["array"] == pytest.approx([0.45])
    assert "a&lt;b&gt;</b><br>one run<br>clean 98.0" in first["hovertext"][0]
    assert "(10.0\N{EN DASH}95.0)" in first["hovertext"][0]


def test_tradeoffs_draw_runs_that_differ_in_seeds_alike(make: Callable[..., Run]) -> None:
    clean, _ = options(make("a", 980, 500), make("a", 960, 520, seed=1), make("b", 900, 600))
    _, dots, mean, single = clean[AT].figures[0].plot["data"]
    assert dots["x"] == [0.98, 0.96]
    assert "a/seed=1" in dots["hovertext"][1]
    assert mean["x"] == pytest.approx([0.97])
    assert mean["y"] == pytest.approx([0.51])
    assert all(dots["marker"][name] == mean["marker"][name] for name in ("symbol", "color"))
    assert single["marker"]["symbol"] != mean["marker"]["symbol"]
    assert "mean of 2 seeds" in mean["hovertext"][0]


def test_tradeoffs_name_the_best_in_words(make: Callable[..., Run]) -> None:
    clean, cost = options(make("a", 980, 500, 10), make("b", 900, 600, 20), make("c", 890, 590, 30))
    assert clean[AT].notes[0].text.startswith("Pareto-best of 3: a and b. No other")
    assert cost["Clean"].notes[0].text.startswith("Pareto-best of 3: a. No other is at least as fast")
    assert "intervals may overlap" in cost["Clean"].notes[0].text


def test_tradeoffs_hold_only_what_is_measured(make: Callable[..., Run], build: Any) -> None:
    corrupted = [build.measured(CORRUPTED, 500, "blur", level=1)]
    first = make("a", 980, 500, more=corrupted)
    clean, cost = options(first, make("b", 900, 600, 0.0))
    assert "Accuracy under corruptions" not in clean  # one alone
    assert cost == {}  # the time of one is not known
    clean, _ = options(first, make("c", 900, 600, more=corrupted))
    assert clean["Accuracy under corruptions"].notes[0].text.startswith("Pareto-best of 2")


def test_tradeoffs_separate_data_sets(make: Callable[..., Run]) -> None:
    digits = [make(name, 900, 500, dataset="digits") for name in ("c", "d", "e")]
    runs = [make("a", 980, 500), make("b", 970, 600), *digits]
    clean, _ = options(*runs)
    assert [name for name in clean if "0.1" in name] == [f"{AT}, MNIST", f"{AT}, Digits (8×8)"]
    assert clean[f"{AT}, MNIST"].notes[0].text.startswith("Pareto-best of 2")
    assert clean[f"{AT}, Digits (8×8)"].notes[0].text.startswith("Pareto-best of 3")
    assert opened(*runs)[0] == f"{AT}, Digits (8×8)"


def test_tradeoffs_have_no_figure_where_all_is_zero(make: Callable[..., Run]) -> None:
    clean, _ = options(make("a", 980, 0), make("b", 900, 0))
    assert AT not in clean


def test_tradeoffs_of_one_run_are_none(make: Callable[..., Run], write_run: WriteRun) -> None:
    bare = read_run(write_run("bare", only={"train.csv"}))
    assert tradeoffs.section(Comparison([make("a", 980, 500)])) is None
    assert tradeoffs.section(Comparison([bare])) is None


def test_tradeoffs_join_what_differs_in_a_number(evaluated: Any) -> None:
    recipes = [{"name": f"w-{weight}", "objective": {"weight": weight}} for weight in (1, 2)]
    clean, _ = options(*(evaluated.run(recipe=recipe) for recipe in recipes))
    figure = next(iter(clean.values())).figures[0]
    line = figure.plot["data"][-1]
    assert line["text"] == ["1", "2"]
    assert "lines" in line["mode"]
    assert "A line joins" in figure.caption
