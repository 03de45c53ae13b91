"""The page's sections on answers under noise: of one run, of several, and over seeds."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from withstand.reporting import report, summarize_seeds
from withstand.reporting.compared_noise import compare_noise
from withstand.reporting.noise import view_noise
from withstand.reporting.read import Run, read_run
from withstand.reporting.schema import Noise
from withstand.reporting.seeds import groups_of, table_of_groups
from withstand.reporting.wording import noise_scale
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]
MEASURES = ("agreement", "accuracy", "clipped_agreement", "clipped_accuracy")
RECIPE = "{{name: {name}/seed={seed}, seed: {seed}, model: {{name: {name}}}}}"


def share(value: float, total: int = 1000) -> dict[str, float]:
    ends = {"lower": max(0.0, value - 0.02), "upper": min(1.0, value + 0.02)}
    return {"accuracy": value, **ends, "correct": round(value * total), "total": total}


def found(
    accuracies: Sequence[float] = (0.98, 0.8, 0.5), *, draws: int = 1, **settings: Any
) -> dict[str, Any]:
    """Levels 0, 0.25, 0.5 …; agreement is 0.01 above accuracy, and clipping adds 0.005."""
    above = {"agreement": 0.01, "accuracy": 0.0, "clipped_agreement": 0.015, "clipped_accuracy": 0.005}
    mean = sum(accuracies) / len(accuracies)
    inner = (sum(accuracies) - (accuracies[0] + accuracies[-1]) / 2) / (len(accuracies) - 1)
    return {
        "description": "How <it> was found",
        "settings": {"num_levels": len(accuracies), "shell": False} | settings,
        "num_draws": draws,
        "levels": [
            {"noise_std": 0.25 * number} | {name: share(value + above[name]) for name in MEASURES}
            for number, value in enumerate(accuracies)
        ],
        "area": {name: inner + above[name] for name in MEASURES},
        "mean": {name: mean + above[name] for name in MEASURES},
    }


def view(noise: dict[str, Any], chance: float | None = 0.1) -> Any:
    return view_noise(cast("Noise", noise), chance)


def words(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_the_figure_draws_accuracy_and_agreement_with_clipped_ones_dashed() -> None:
    figure = view(found()).figure
    traces = {trace["name"]: trace for trace in figure.plot["data"]}
    assert list(traces) == ["accuracy", "agreement", "accuracy, clipped", "agreement, clipped"]
    assert traces["accuracy"]["x"] == [0.0, 0.25, 0.5]
    assert traces["accuracy"]["y"] == [0.98, 0.8, 0.5]
    assert traces["agreement, clipped"]["y"] == pytest.approx([0.995, 0.815, 0.515])
    assert [trace["line"]["dash"] for trace in traces.values()] == ["solid", "solid", "dash", "dash"]
    assert len({trace["marker"]["symbol"] for trace in traces.values()}) == 4
    assert words(traces["accuracy"]["text"][1]) == (
        "<b>accuracy</b><br>noise_std 0.25: 80.0 %<br>95 % interval 78.0–82.0 %"
    )
    (line,) = figure.plot["layout"]["shapes"]
    assert line["y0"] == 0.1
    assert "shapes" not in view(found(), None).figure.plot["layout"]


def test_some_levels_stand_for_many() -> None:
    shown = view(found([1 - 0.02 * number for number in range(30)]))
    assert len(shown.levels) == 30
    assert [level["noise_std"] / 0.25 for level in shown.few] == [0, 6, 12, 17, 23, 29]
    assert shown.largest == "7.25"
    assert len(view(found()).few) == 3
    assert view(found() | {"levels": []}) is None


def test_the_page_has_the_section(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    noise = found([0.98, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    page = words(report(write_run(metrics=metrics | {"noise": noise})).read_text(encoding="utf-8"))
    assert ">Under Gaussian noise</h2>" in page
    assert "Over noise_std from 0 to 1.5 the mean accuracy is <b>69.7 %</b>, and 70.2 % where" in page
    assert "under the curve of agreement is <b>0.708</b>, and 0.713 clipped" in page
    assert "Agreement is not accuracy: a constant answer scores 1" in page
    assert "Nothing is certified here" in page
    assert "How &lt;it&gt; was found." in page
    assert "All 7 levels" in page
    assert "and draws with their" not in page
    assert page.count("<details") == page.count("</details>")


def test_several_draws_are_said(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    page = report(write_run(metrics=metrics | {"noise": found(draws=3)})).read_text(encoding="utf-8")
    assert "and draws with their 95 % intervals, which count each image once" in page
    assert "<summary>All 3 levels" not in page  # all stand in the first table


@pytest.mark.parametrize("content", [{}, {"noise": None}, {"noise": found() | {"levels": []}}])
def test_without_noise_there_is_no_section(
    write_run: WriteRun, metrics: dict[str, Any], content: dict[str, Any], tmp_path: Path
) -> None:
    folders = [write_run(name, metrics=metrics | content) for name in ("one", "two")]
    for page in (report(folders[0]), report(folders, tmp_path / "page.html")):
        text = page.read_text(encoding="utf-8")
        assert "Gaussian noise" not in text
        assert "under noise" not in text.lower()


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"settings": {"shell": "yes"}}, r"noise\.settings\.shell must be true or false"),
        ({"area": {"agreement": 1.5}}, r"noise\.area\.agreement must be between 0 and 1"),
        ({"levels": [{"noise_std": 0.0}]}, r"noise\.levels\[0\]\.agreement is missing"),
    ],
)
def test_damage_is_named(
    write_run: WriteRun, metrics: dict[str, Any], change: dict[str, Any], fault: str
) -> None:
    with pytest.raises(RunFolderError, match=fault):
        report(write_run(metrics=metrics | {"noise": found() | change}))


def test_scales_tell_what_does_not_compare() -> None:
    scales = [
        noise_scale(cast("Noise", each))
        for each in (found(), found([0.9, 0.8]), found(shell=True), found() | {"settings": {}})
    ]
    assert scales == [
        "3 levels of noise_std to 0.5",
        "2 levels of noise_std to 0.25",
        "3 levels of noise_std to 0.5, on the shell",
        "3 levels of noise_std to 0.5",
    ]


def compared(folders: Sequence[Path], *, are_many: bool = False) -> Any:
    runs = [read_run(folder) for folder in folders]
    measured = {folder.name: run.metrics for folder, run in zip(folders, runs, strict=True) if run.metrics}
    return compare_noise(runs, measured, 0.1, are_many=are_many)


def test_runs_beside_each_other(write_run: WriteRun, metrics: dict[str, Any], tmp_path: Path) -> None:
    contents = {
        "one": metrics | {"noise": found()},
        "two": metrics | {"noise": found([0.9, 0.8])},
        "none": metrics,
    }
    folders = [
        write_run(name, metrics=content, recipe=f"name: {name}\n") for name, content in contents.items()
    ]
    folders.append(write_run("raw", only={"train.csv"}))
    shown = compared(folders)
    assert shown.scales == ["3 levels of noise_std to 0.5", "2 levels of noise_std to 0.25"]
    assert [[cell is not None for cell in cells] for cells in shown.cells.values()] == [
        [True, False],
        [False, True],
        [False, False],
    ]
    assert [trace["name"] for trace in shown.figure.plot["data"]] == ["one", "two"]
    assert shown.figure.plot["data"][0]["y"] == [0.98, 0.8, 0.5]
    assert "Not all were measured alike" in shown.figure.caption
    page = words(report(folders, tmp_path / "page.html").read_text(encoding="utf-8"))
    page = page[page.index('id="compare-results"') :]
    assert page.count('<th scope="col">Agreement area <small>') == 2
    assert re.search(r"<b>76\.0 %</b> <small>clipped 76\.5 %</small></td><td [^>]*>0\.780 ", page)
    assert page.count("<td>not measured</td><td>not measured</td>") == 4
    assert ">Accuracy under noise</h2>" in page
    assert "at which a constant answer scores 1" in page


def test_the_compare_table_is_rectangular(
    write_run: WriteRun, metrics: dict[str, Any], tmp_path: Path
) -> None:
    folders = [write_run("one", metrics=metrics | {"noise": found()}), write_run("raw", only={"train.csv"})]
    page = report(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    table = page[
        page.index('id="compare-results"') : page.index("</table>", page.index('id="compare-results"'))
    ]
    head, *rows = table.split("<tr>")[1:]
    assert head.count("<th") == 8  # run, clean, two epsilons, noise and area, warnings, cost
    assert [row.count("<td") + row.count("<th") for row in rows] == [8, 4]
    assert 'colspan="5"' in rows[1]


def noisy_seeds(write_run: WriteRun, metrics: dict[str, Any]) -> list[Path]:
    ends = {"mlp": (0.5, 0.6), "cnn": (0.7, 0.7), "vgg": (0.3, 0.4), "net": (0.2, 0.2), "fcn": (0.1, 0.2)}
    return [
        write_run(
            f"{name}-{seed}",
            recipe=RECIPE.format(name=name, seed=seed),
            metrics=metrics | {"noise": found([0.98, 0.8, end])},
        )
        for name, of_seeds in ends.items()
        for seed, end in enumerate(of_seeds)
    ]


def test_seeds_are_one_curve(write_run: WriteRun, metrics: dict[str, Any], tmp_path: Path) -> None:
    folders = noisy_seeds(write_run, metrics)
    shown = compared(folders, are_many=True)
    traces = shown.figure.plot["data"]
    assert [trace["name"] for trace in traces] == ["mlp", "cnn", "vgg", "net", "fcn"]
    assert traces[0]["y"] == pytest.approx([0.98, 0.8, 0.55])
    assert "mean of 2" in traces[0]["text"][0]
    assert "seeds alone are one curve" in shown.figure.caption
    assert "measured alike" not in shown.figure.caption
    page = report(folders, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "seeds alone are one curve" in page
    assert "Mean accuracy under noise, 3 levels of noise_std to 0.5" in page
    assert "those of a single run have no interval" in page


def test_the_best_of_many_are_drawn(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    folders = [
        write_run(f"r{n}", metrics=metrics | {"noise": found([0.9, 0.1 + 0.05 * (n % 7)])}) for n in range(14)
    ]
    figure = compared(folders).figure
    assert [trace["name"] for trace in figure.plot["data"]] == [f"r{n}" for n in range(14) if n % 7]
    assert "12 of 14 with the highest mean" in figure.caption


def test_means_over_seeds_stand_in_the_table(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    folders = noisy_seeds(write_run, metrics)
    groups = groups_of([read_run(folder) for folder in folders])
    assert groups[0].noise is not None
    assert groups[0].noise.mean == pytest.approx([2.28 / 3, 2.38 / 3])
    header, rows = table_of_groups(groups)
    at = header.index("Mean accuracy under noise, 3 levels of noise_std to 0.5")
    assert header[at + 1] == "Agreement area, 3 levels of noise_std to 0.5"
    assert words(rows[1][at]) == "82.67 % (82.67–82.67)"
    assert rows[1][at + 1] == "0.830 (0.830–0.830)"
    short, lines = summarize_seeds(folders)
    assert short[-1] == header[at]
    assert lines[1][-1] == rows[1][at]


def test_a_single_run_has_no_interval_of_its_mean(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    noisy = write_run("a", recipe=RECIPE.format(name="a", seed=0), metrics=metrics | {"noise": found()})
    plain = write_run("b", recipe=RECIPE.format(name="b", seed=0))
    header, (first, second) = table_of_groups(groups_of([read_run(noisy), read_run(plain)]))
    at = header.index("Agreement area, 3 levels of noise_std to 0.5")
    assert words(first[at - 1]) == "76.00 %"
    assert (first[at], second[at]) == ("0.780", "—")


def test_seeds_measured_otherwise_have_no_mean(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    def group(*noises: dict[str, Any]) -> list[Run]:
        name = f"m{len(noises)}-{len(noises[-1])}"
        return [
            read_run(write_run(f"{name}-{seed}", recipe=RECIPE.format(name=name, seed=seed), metrics=content))
            for seed, content in enumerate(noises)
        ]

    mixed = group(metrics | {"noise": found()}, metrics | {"noise": found([0.9, 0.8])})
    partly = group(metrics | {"noise": found()}, metrics | {"noise": found()}, metrics)
    groups = groups_of([*mixed, *partly])
    assert [each.num_seeds for each in groups] == [2, 3]
    assert [each.noise for each in groups] == [None, None]
    assert not any("noise" in name for name in table_of_groups(groups)[0])
