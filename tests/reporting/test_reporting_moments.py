"""The page's section on analytic moments."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from withstand.reporting import report
from withstand.reporting.sections.analytic_moments import section
from withstand.results.analytic import (
    Moments,
    MomentsError,
    MomentsForm,
    MomentsLayer,
    MomentsLevel,
    MomentsMethod,
    StdRatio,
)


def level(std: float) -> MomentsLevel:
    points = [(1.0, 0.75), (2.0, 1.5), (3.0, 0.0)]
    ratio = StdRatio(0.5, 0.75, 0.9)
    diagonal = MomentsMethod("diagonal", None, 0.25, ratio, 0.002, 16.0, 4.0, 2500.4, points)
    mean_only = replace(diagonal, name="first-activation", std_ratio=None, points=[])
    full = MomentsMethod("full", "Not tried: 25,088 <wide>.")
    form = MomentsForm(MomentsError(0.5, 0.25, 0.75), MomentsError(1e-7, None, 1.0), 1234.5)
    layers = [MomentsLayer("Conv2d", 2, {"diagonal": form})]
    return MomentsLevel(std, 5e-4, [mean_only, diagonal, full], layers)


def moments(*stds: float) -> Moments:
    return Moments(3, 1000, 1000**-0.5, "How", [level(std) for std in stds])


def view(evaluated: Any, *stds: float) -> Any:
    return section(evaluated.but(moments=moments(*stds)).run())


def test_moments_tables_hold_the_numbers_and_dashes(evaluated: Any, build: Any) -> None:
    shown = view(evaluated, 0.2, 0.1)
    logits, *layers = shown.tables
    first, diagonal, full, *_ = map(build.texts, logits.rows)
    assert first[:3] == ["0.1, first-activation", "0.25", "—"]
    assert diagonal[1:] == ["0.25", "0.750", "0.500–0.900", "2 ms", "16", "4", "2,500"]
    assert full == ["0.1, full", "not tried"]
    assert logits.rows[2][1].span == 7
    assert (shown.notes[0].lead, shown.notes[0].text) == ("full.", "Not tried: 25,088 <wide>.")
    assert [(table.title, table.is_folded) for table in layers] == [
        ("Layers at noise_std 0.2", False),
        ("Layers at noise_std 0.1", True),
    ]
    (row,) = layers[0].rows
    assert build.texts(row) == [
        "Conv2d × 2, diagonal",
        *("0.5", "< 0.0001", "0.25", "—", "0.75", "1", "1,234"),
    ]
    meaning = build.plain(shown.prose[0].text)
    assert "against 1,000 draws" in meaning
    assert "a draw takes 0.5 ms here" in meaning


def test_moments_figure_has_one_colour_a_form_and_the_line_of_equals(evaluated: Any) -> None:
    (figure,) = view(evaluated, 0.1, 0.2).figures
    equal, diagonal = figure.plot["data"]
    assert equal["x"] == equal["y"]
    assert diagonal["x"] == [1.0, 2.0, 1.0, 2.0]  # what is 0 has no place on a logarithmic axis
    assert diagonal["y"] == [0.75, 1.5, 0.75, 1.5]
    assert figure.plot["layout"]["xaxis"]["type"] == "log"


def test_moments_without_deviations_have_no_figure(evaluated: Any) -> None:
    whole = moments(0.1)
    levels = [replace(whole.levels[0], methods=whole.levels[0].methods[:1])]
    shown = section(evaluated.but(moments=replace(whole, levels=levels)).run())
    assert shown is not None
    assert not shown.figures
    assert view(evaluated) is None


def test_moments_are_on_the_page(write_run: Any, evaluated: Any) -> None:
    folder = write_run(evaluated=evaluated.but(moments=moments(0.1, 0.2)))
    text = report(folder).read_text(encoding="utf-8")
    assert ">Analytic moments under noise</h2>" in text
    assert "25,088 &lt;wide&gt;" in text
    assert '<td colspan="7">not tried</td>' in text
    assert "Layers at noise_std 0.2" in text
