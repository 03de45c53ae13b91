"""The curves and means of several runs: under attack, under noise, and over seeds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting import report, summarize_seeds
from withstand.reporting.compare import compared_curves as curves
from withstand.reporting.compare import seeds
from withstand.reporting.compare.comparison import Comparison
from withstand.reporting.compare.seeds import seeds_table
from withstand.reporting.read import Run
from withstand.reporting.section import Figure
from withstand.results.measurements import NOISE_ACCURACY, NOISE_AGREEMENT
from withstand.results.results import Noise

WriteRun = Callable[..., Path]
RECIPE = "{{name: {name}/seed={seed}, seed: {seed}, model: {{name: {name}}}}}"
SCALE = "3 levels of noise_std to 0.5"


def words(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def recipe_of(name: str, seed: int = 0) -> dict[str, Any]:
    return {"name": f"{name}/seed={seed}", "seed": seed, "model": {"name": name}}


@pytest.fixture
def noisy(evaluated: Any, build: Any) -> Callable[..., Any]:
    """Evaluates at noise_std 0, 0.25, 0.5 …; agreement is 0.01 above accuracy, and clipping adds 0.005."""

    def of(*accuracies: float) -> Any:
        above = {
            (NOISE_ACCURACY, "unclipped"): 0.0,
            (NOISE_ACCURACY, "clipped"): 0.005,
            (NOISE_AGREEMENT, "unclipped"): 0.01,
            (NOISE_AGREEMENT, "clipped"): 0.015,
        }
        return evaluated.but(noise=Noise("", 1)).plus(
            *(
                build.measured(measure, round(1000 * (share + more)), by, level=0.25 * number)
                for (measure, by), more in above.items()
                for number, share in enumerate(accuracies)
            )
        )

    return of


@pytest.fixture
def over_seeds(noisy: Callable[..., Any]) -> list[Run]:
    """Five models with two seeds each."""
    ends = {"mlp": (0.5, 0.6), "cnn": (0.7, 0.7), "vgg": (0.3, 0.4), "net": (0.2, 0.2), "fcn": (0.1, 0.2)}
    return [
        noisy(0.98, 0.8, end).run(recipe=recipe_of(name, seed))
        for name, of_seeds in ends.items()
        for seed, end in enumerate(of_seeds)
    ]


def noise_figure(runs: Sequence[Run]) -> Figure:
    section = curves.noise_section(Comparison(runs))
    assert section is not None
    (figure,) = section.figures
    return figure


def test_noise_section_has_runs_beside_each_other(
    write_run: WriteRun, evaluated: Any, noisy: Callable[..., Any], tmp_path: Path
) -> None:
    contents = {"one": noisy(0.98, 0.8, 0.5), "two": noisy(0.9, 0.8), "none": evaluated}
    runs = [content.run(recipe={"name": name}) for name, content in contents.items()]
    figure = noise_figure(runs)
    assert [trace["name"] for trace in figure.plot["data"]] == ["one", "two"]
    assert figure.plot["data"][0]["y"] == [0.98, 0.8, 0.5]
    assert "Not all were measured alike" in figure.caption
    folders = [
        write_run(name, evaluated=content, recipe=f"name: {name}\n") for name, content in contents.items()
    ]
    folders.append(write_run("raw", only={"train.csv"}))
    page = words(report(folders, tmp_path / "page.html").read_text(encoding="utf-8"))
    page = page[page.index('id="compare-results"') :]
    assert re.findall(r'<th scope="col">Agreement area <small>([^<]*)<', page) == [
        SCALE,
        "2 levels of noise_std to 0.25",
    ]
    assert re.search(r"<b>76\.0 %</b> <small>clipped 76\.5 %</small></td><td [^>]*>0\.780 ", page)
    assert page.count('<td class="absent">not measured</td><td class="absent">not measured</td>') == 4
    assert ">Accuracy under noise</h2>" in page
    assert "at which a constant answer scores 1" in page


def test_noise_section_has_one_curve_of_several_seeds(over_seeds: list[Run]) -> None:
    figure = noise_figure(over_seeds)
    traces = figure.plot["data"]
    assert [trace["name"] for trace in traces] == ["mlp", "cnn", "vgg", "net", "fcn"]
    assert traces[0]["y"] == pytest.approx([0.98, 0.8, 0.55])
    assert "mean of 2" in traces[0]["hovertext"][0]
    assert "seeds alone are one curve" in figure.caption
    assert "measured alike" not in figure.caption


def test_noise_section_draws_the_best_of_many(noisy: Callable[..., Any]) -> None:
    runs = [
        noisy(0.9, 0.1 + 0.05 * (n % 7)).run(recipe={"name": f"r{n}", "model": f"m{n}"}) for n in range(14)
    ]
    figure = noise_figure(runs)
    assert [trace["name"] for trace in figure.plot["data"]] == [f"r{n}" for n in range(14) if n % 7]
    assert "12 of 14 with the highest mean" in figure.caption


def test_noise_section_is_none_without_noise(evaluated: Any) -> None:
    assert curves.noise_section(Comparison([evaluated.run(), evaluated.run()])) is None


def test_seeds_table_has_means_under_noise(over_seeds: list[Run]) -> None:
    compared = Comparison(over_seeds)
    table = seeds_table(compared)
    mean, area = f"Mean accuracy under noise, {SCALE}", f"Agreement area, {SCALE}"
    assert list(table.columns).index(area) == list(table.columns).index(mean) + 1
    assert words(table[mean].iloc[1]) == "82.7 % (82.7–82.7)"
    assert table[area].iloc[1] == "0.830 (0.830–0.830)"
    section = seeds.section(compared)
    assert section is not None
    assert "those of a single run have no interval" in section.tables[0].caption


def test_seeds_summary_shows_means_under_noise(write_run: WriteRun, noisy: Callable[..., Any]) -> None:
    folders = [
        write_run(f"a-{seed}", recipe=RECIPE.format(name="a", seed=seed), evaluated=noisy(0.98, 0.8, end))
        for seed, end in enumerate((0.5, 0.6))
    ]
    header, (row,) = summarize_seeds(folders)
    assert header[-1] == f"Mean accuracy under noise, {SCALE}"
    assert words(row[-1]).startswith("77.7 % (")


def test_seeds_table_has_no_interval_of_a_single_run_under_noise(
    evaluated: Any, noisy: Callable[..., Any]
) -> None:
    runs = noisy(0.98, 0.8, 0.5).run(recipe=recipe_of("a")), evaluated.run(recipe=recipe_of("b"))
    table = seeds_table(Comparison(runs))
    assert words(table[f"Mean accuracy under noise, {SCALE}"].iloc[0]) == "76.0 %"
    assert table[f"Agreement area, {SCALE}"].tolist() == ["0.780", "—"]


def test_seeds_table_has_no_mean_of_seeds_measured_otherwise(
    evaluated: Any, noisy: Callable[..., Any]
) -> None:
    mixed = [noisy(0.98, 0.8, 0.5), noisy(0.9, 0.8)]
    partly = [noisy(0.98, 0.8, 0.5), noisy(0.98, 0.8, 0.5), evaluated]
    runs = [
        evaluation.run(recipe=recipe_of(name, seed))
        for name, evaluations in (("mixed", mixed), ("partly", partly))
        for seed, evaluation in enumerate(evaluations)
    ]
    compared = Comparison(runs)
    assert [len(group.members) for group in compared.groups] == [2, 3]
    assert not any("noise" in name for name in seeds_table(compared).columns)


def test_seeds_section_holds_single_runs_only_where_they_are_many(evaluated: Any) -> None:
    runs = [evaluated.run(recipe=recipe_of(f"m{number}")) for number in range(9)]
    assert seeds.section(Comparison(runs[:3])) is None
    section = seeds.section(Comparison(runs))
    assert section is not None
    assert section.title == "All beside each other"
    assert curves.accuracy_section(Comparison(runs)) is None  # too many groups to be told apart


def test_seeds_table_has_a_row_a_group_with_its_number_of_seeds(evaluated: Any) -> None:
    runs = [evaluated.run(recipe=recipe_of(name, seed)) for name in ("mlp", "cnn") for seed in range(3)]
    section = seeds.section(Comparison(runs))
    assert section is not None
    assert section.title == "Over seeds"
    assert [list(row[:2]) for row in section.tables[0].rows] == [["mlp", "3"], ["cnn", "3"]]
    assert seeds.section(Comparison(runs[:1])) is None


def test_mean_curves_begin_at_clean_accuracy(evaluated: Any) -> None:
    runs = [
        evaluated.run(recipe=recipe_of(name, seed)) for name in ("mlp", "cnn", "vgg") for seed in range(3)
    ]
    section = curves.accuracy_section(Comparison(runs))
    assert section is not None
    (figure,) = section.figures
    assert [trace["name"] for trace in figure.plot["data"]] == ["mlp", "cnn", "vgg"]
    first = figure.plot["data"][0]
    assert first["x"] == [0.0, 0.1, 0.3]
    assert first["y"] == pytest.approx([0.981, 0.905, 0.402])
    assert "mean of 3" in first["hovertext"][0]


def test_accuracy_section_draws_a_run_in_one_look_attacked_and_certified(certified: Any) -> None:
    runs = [certified.run(recipe={"name": name}) for name in ("one", "two")]
    section = curves.accuracy_section(Comparison(runs))
    assert section is not None
    assert section.title == "Accuracy under attack, and certified"
    assert [figure.title for figure in section.figures] == [
        "Accuracy against ε, ℓ∞",
        "Accuracy against ε, ℓ₂",
    ]
    traces = section.figures[1].plot["data"]
    assert [trace["name"] for trace in traces] == [
        "one, attacked",
        "one, certified (best)",
        "two, attacked",
        "two, certified (best)",
    ]
    colours = [trace["line"]["color"] for trace in traces]
    assert colours[0] == colours[1] != colours[2] == colours[3]


def test_training_section_has_a_figure_a_column(make_run: Callable[..., Run]) -> None:
    runs = [make_run(name, recipe=f"name: {name}") for name in ("one", "two")]
    section = curves.training_section(Comparison(runs))
    assert section is not None
    assert section.figures[0].title == "Loss"
    named = [trace["name"] for trace in section.figures[0].plot["data"] if trace.get("name")]
    assert named == ["one", "two"]
    assert section.fold == "The curves of all 2 runs"
