"""The page's section on answers under noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.sections import noise_accuracy as noise
from withstand.reporting.table import noise_scale
from withstand.results.measurements import NOISE_ACCURACY, NOISE_AGREEMENT, Measurement
from withstand.results.results import Noise

ABOVE = {
    (NOISE_AGREEMENT, "unclipped"): 0.01,
    (NOISE_ACCURACY, "unclipped"): 0.0,
    (NOISE_AGREEMENT, "clipped"): 0.015,
    (NOISE_ACCURACY, "clipped"): 0.005,
}


def view(evaluated: Any) -> Any:
    return noise.under_noise(evaluated.run())


def noisy(evaluated: Any, accuracies: Sequence[float] = (0.98, 0.8, 0.5), draws: int = 1) -> Any:
    """Levels 0, 0.25, 0.5 …; agreement is 0.01 above accuracy, and clipping adds 0.005."""
    values = [
        (*of, 0.25 * number, value + above)
        for of, above in ABOVE.items()
        for number, value in enumerate(accuracies)
    ]
    rows = [
        Measurement(
            measure, by, "", level, value, value - 0.02, min(1.0, value + 0.02), round(1000 * value), 1000
        )
        for measure, by, level, value in values
    ]
    return evaluated.but(noise=Noise("How <it> was measured", draws)).plus(*rows)


def test_noise_figure_draws_accuracy_and_agreement_with_clipped_ones_dashed(
    evaluated: Any, build: Any
) -> None:
    (figure,) = view(noisy(evaluated)).figures
    traces = {trace["name"]: trace for trace in figure.plot["data"]}
    assert list(traces) == ["accuracy", "agreement", "accuracy, clipped", "agreement, clipped"]
    assert traces["accuracy"]["x"] == [0.0, 0.25, 0.5]
    assert traces["accuracy"]["y"] == [0.98, 0.8, 0.5]
    assert traces["agreement, clipped"]["y"] == pytest.approx([0.995, 0.815, 0.515])
    assert [trace["line"]["dash"] for trace in traces.values()] == ["solid", "solid", "dash", "dash"]
    assert len({trace["marker"]["symbol"] for trace in traces.values()}) == 4
    assert build.plain(traces["accuracy"]["hovertext"][1]) == (
        "<b>accuracy</b><br>noise_std 0.25: 80.0 %<br>95 % interval 78.0–82.0 %"
    )
    (line,) = figure.plot["layout"]["shapes"]
    assert line["y0"] == 0.1


def test_noise_table_shows_some_levels_of_many(evaluated: Any, build: Any) -> None:
    few, every = view(noisy(evaluated, [0.98 - 0.02 * number for number in range(30)])).tables
    assert [build.texts(row)[0] for row in few.rows] == [
        "0",
        "1.5",
        "3",
        "4.25",
        "5.75",
        "7.25",
        "Mean",
        "Area",
    ]
    assert (every.title, len(every.rows), every.is_folded) == ("All 30 levels", 30, True)
    assert build.texts(every.rows[1]) == [
        "0.25",
        *("96.0 % 94.0–98.0 %", "97.0 % 95.0–99.0 %", "96.5 % 94.5–98.5 %", "97.5 % 95.5–99.5 %"),
    ]
    (table,) = view(noisy(evaluated)).tables  # all stand in the first table
    assert len(table.rows) == 5


def test_noise_means_and_areas_are_over_all_levels(evaluated: Any, build: Any) -> None:
    shown = view(noisy(evaluated, [0.98, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4]))
    summary = build.plain(shown.prose[0].text)
    assert summary.startswith(
        "Over noise_std from 0 to 1.5 the mean accuracy is <b>69.7 %</b>, and 70.2 % where"
    )
    assert "under the curve of agreement is <b>0.708</b>, and 0.713 clipped" in summary
    assert "Agreement is not accuracy: a constant answer scores 1" in shown.prose[1].text
    assert "Nothing is certified here" in shown.prose[1].text
    assert [build.texts(row) for row in shown.tables[0].rows[-2:]] == [
        ["Mean", "69.7 %", "70.7 %", "70.2 %", "71.2 %"],
        ["Area", "0.698", "0.708", "0.703", "0.713"],
    ]


def test_noise_caption_says_that_draws_are_several(evaluated: Any) -> None:
    several, one = (view(noisy(evaluated, draws=draws)).tables[0].caption for draws in (3, 1))
    assert "and draws with their 95 % intervals, which count each image once" in several
    assert "draws" not in one


def test_noise_is_on_the_page(write_run: Any, evaluated: Any) -> None:
    page = report(write_run(evaluated=noisy(evaluated, [0.9] * 7))).read_text(encoding="utf-8")
    assert ">Under Gaussian noise</h2>" in page
    assert "How &lt;it&gt; was measured." in page
    assert "<summary>All 7 levels" in page
    assert page.count("<details") == page.count("</details>")


def test_noise_without_levels_is_no_section(write_run: Any, evaluated: Any, tmp_path: Any) -> None:
    without = replace(noisy(evaluated), rows=evaluated.rows)
    assert view(without) is None
    folders = [write_run(name, evaluated=without) for name in ("one", "two")]
    for page in (report(folders[0]), report(folders, tmp_path / "page.html")):
        text = page.read_text(encoding="utf-8")
        assert "Gaussian noise" not in text
        assert "under noise" not in text.lower()


def test_noise_scales_differ_where_runs_do_not_compare(evaluated: Any) -> None:
    on_shell = noisy(evaluated).but(noise=Noise("How", 1, shell=True))
    runs = [
        evaluation.run()
        for evaluation in (noisy(evaluated), noisy(evaluated, [0.9, 0.8]), on_shell, evaluated)
    ]
    assert list(map(noise_scale, runs)) == [
        "3 levels of noise_std to 0.5",
        "2 levels of noise_std to 0.25",
        "3 levels of noise_std to 0.5, on the shell",
        None,
    ]
