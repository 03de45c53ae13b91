"""Trade-offs: who has a place in which figure, and whom no other beats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting.read import read_run
from withstand.reporting.tradeoff import Tradeoff, TradeoffView, pareto_best, view_tradeoffs

WriteRun = Callable[..., Path]


def test_pareto_best() -> None:
    assert pareto_best([(1, 1), (2, 0), (0, 2), (0, 0), (1, 0)]) == [True, True, True, False, False]
    assert pareto_best([(1, 1), (1, 1)]) == [True, True]  # neither is better


@pytest.fixture
def add(write_run: WriteRun, metrics: dict[str, Any], environment: dict[str, Any]) -> Callable[..., Path]:
    """Writes a run with some right of 1,000 clean and under the stronger attack at 0.1."""

    def write(
        name: str, clean: int, attacked: int, seconds: float = 60.0, *, seed: int = 0, **more: Any
    ) -> Path:
        changed = json.loads(json.dumps(metrics | more))
        changed["clean"] |= {"correct": clean, "accuracy": clean / 1000}
        changed["attacks"][1]["curve"][0] |= {"accuracy": attacked / 1000, "lower": 0.1, "upper": 0.95}
        recipe = f"{{name: {name}/seed={seed}, seed: {seed}, model: {{name: {name}}}}}"
        cost = environment | {"cost": {"train_seconds": seconds}}
        return write_run(f"{name}-{seed}", recipe=recipe, metrics=changed, environment=cost)

    return write


def view(*folders: Path) -> TradeoffView:
    found = view_tradeoffs([read_run(folder) for folder in folders])
    assert found is not None
    return found


def named(tradeoffs: Any) -> dict[str, Tradeoff]:
    return {each.name.replace("\N{NO-BREAK SPACE}", " "): each for each in tradeoffs}


def test_figures_to_choose_from(add: Callable[..., Path]) -> None:
    found = view(add("a", 980, 500), add("b", 900, 600))
    clean, cost = named(found.against_clean), named(found.against_cost)
    assert list(clean) == ["Attacked, ℓ∞ ε = 0.1", "Attacked, ℓ∞ ε = 0.3"]
    assert list(cost) == ["Clean", *clean]
    assert [each.is_first for each in clean.values()] == [True, False]
    assert [each.is_first for each in cost.values()] == [False, True, False]
    figure = clean["Attacked, ℓ∞ ε = 0.1"].figure
    layout = figure.plot["layout"]
    assert layout["xaxis"]["title"]["text"] == "clean accuracy"
    assert (
        layout["yaxis"]["title"]["text"].replace("\N{NO-BREAK SPACE}", " ") == "attacked accuracy, ℓ∞ ε = 0.1"
    )
    assert cost["Clean"].figure.plot["layout"]["xaxis"]["type"] == "log"
    assert "logarithmic" in cost["Clean"].figure.caption


def test_points_and_their_looks(add: Callable[..., Path]) -> None:
    found = view(add("a<b>", 980, 500), add("b", 900, 600))
    ring, first, second = named(found.against_clean)["Attacked, ℓ∞ ε = 0.1"].figure.plot["data"]
    assert (ring["name"], ring["x"]) == ("Pareto-best", [0.98, 0.9])
    assert (first["x"], first["y"], second["x"], second["y"]) == ([0.98], [0.5], [0.9], [0.6])
    assert first["marker"]["symbol"] != second["marker"]["symbol"]
    assert first["marker"]["color"] != second["marker"]["color"]
    assert first["text"] == ["a&lt;b&gt;"]
    assert first["error_y"]["array"] == pytest.approx([0.45])
    assert "a&lt;b&gt;</b>, one run<br>clean 98.0" in first["customdata"][0]
    assert "(10.0\N{EN DASH}95.0)" in first["customdata"][0]


def test_runs_that_differ_in_seeds_share_a_look(add: Callable[..., Path]) -> None:
    found = view(add("a", 980, 500), add("a", 960, 520, seed=1), add("b", 900, 600))
    _, dots, mean, single = named(found.against_clean)["Attacked, ℓ∞ ε = 0.1"].figure.plot["data"]
    assert dots["x"] == [0.98, 0.96]
    assert "a/seed=1" in dots["text"][1]
    assert mean["x"] == pytest.approx([0.97])
    assert mean["y"] == pytest.approx([0.51])
    assert (dots["marker"]["symbol"], dots["marker"]["color"]) == (
        mean["marker"]["symbol"],
        mean["marker"]["color"],
    )
    assert single["marker"]["symbol"] != mean["marker"]["symbol"]
    assert "mean of 2 seeds" in mean["customdata"][0]


def test_the_best_in_words(add: Callable[..., Path]) -> None:
    found = view(add("a", 980, 500, 10), add("b", 900, 600, 20), add("c", 890, 590, 30))
    clean, cost = named(found.against_clean), named(found.against_cost)
    assert clean["Attacked, ℓ∞ ε = 0.1"].best.startswith("Pareto-best of 3: a and b. No other")
    assert cost["Clean"].best.startswith("Pareto-best of 3: a. No other is at least as fast")
    assert "intervals may overlap" in cost["Clean"].best


def test_only_what_is_measured_has_a_place(add: Callable[..., Path]) -> None:
    corruptions = {"description": "", "num_examples": 9, "kinds": [], "mean": 0.5}
    folders = [add("a", 980, 500, corruptions=corruptions), add("b", 900, 600, 0.0)]
    found = view(*folders)
    assert "Accuracy under corruptions" not in named(found.against_clean)  # one alone
    assert found.against_cost == []  # the time of one is not known
    both = view(folders[0], add("c", 900, 600, corruptions=corruptions))
    assert named(both.against_clean)["Accuracy under corruptions"].num_points == 2


def test_data_sets_are_kept_apart(add: Callable[..., Path]) -> None:
    digits = [add(name, 900, 500, dataset="digits") for name in ("c", "d", "e")]
    found = named(view(add("a", 980, 500), add("b", 970, 600), *digits).against_clean)
    assert {name: each.num_points for name, each in found.items() if "0.1" in name} == {
        "Attacked, ℓ∞ ε = 0.1, MNIST": 2,
        "Attacked, ℓ∞ ε = 0.1, Digits (8×8)": 3,
    }
    assert [name for name, each in found.items() if each.is_first] == ["Attacked, ℓ∞ ε = 0.1, Digits (8×8)"]


def test_nothing_left_of_any(add: Callable[..., Path]) -> None:
    found = view(add("a", 980, 0), add("b", 900, 0))
    assert "Attacked, ℓ∞ ε = 0.1" not in named(found.against_clean)


def test_no_tradeoff(add: Callable[..., Path], write_run: WriteRun) -> None:
    alone = read_run(add("a", 980, 500))
    assert view_tradeoffs([alone]) is None
    assert view_tradeoffs([read_run(write_run("bare", only={"train.csv"}))]) is None


def test_a_line_joins_what_differs_in_a_number(write_run: WriteRun) -> None:
    recipes = {f"w-{weight}": f"{{name: w-{weight}, objective: {{weight: {weight}}}}}" for weight in (1, 2)}
    found = view(*(write_run(name, recipe=recipe) for name, recipe in recipes.items()))
    figure = found.against_clean[0].figure
    line = figure.plot["data"][-1]
    assert line["text"] == ["1", "2"]
    assert "lines" in line["mode"]
    assert "A line joins" in figure.caption
