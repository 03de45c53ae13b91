"""The page's section on kernel norms."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from withstand.reporting import report
from withstand.reporting.sections.kernel_norm_bounds import section
from withstand.results.analytic import KernelNorms, KernelNormsOf, KernelNormsOfLayer

CAT = KernelNormsOf("cat", 1.5, 2.0, 0.25, 0.75, 6.0)
DOG = KernelNormsOf("a <b> dog", 0.5, 0.25, 0.125, 0.5, 8.0)
LARGEST = KernelNormsOf("largest", 1.5, 2.0, 0.25, 0.75, 8.0)
LAYERS = [KernelNormsOfLayer("layers.0", 2.0, 5.0)]


def norms(*classes: KernelNormsOf, reason: str | None = None) -> KernelNorms:
    return KernelNorms(1200, "How it was measured", list(classes), LAYERS, LARGEST, reason)


def view(evaluated: Any, *classes: KernelNormsOf) -> Any:
    return section(evaluated.but(kernel_norms=norms(*classes)).run())


def test_kernel_norms_hold_every_bound_and_the_quotients(evaluated: Any, build: Any) -> None:
    bounds, layers = view(evaluated, CAT, DOG).tables
    assert [build.texts(row) for row in bounds.rows] == [
        ["Largest", "1.5", "2", "0.25", "0.75", "2", "8", "4"],
        ["cat", "1.5", "2", "0.25", "0.75", "2", "6", "3"],
        ["a <b> dog", "0.5", "0.25", "0.125", "0.5", "0.5", "8", "16"],
    ]
    assert build.texts(layers.rows[0]) == ["layers.0", "2", "5", "2.5"]
    assert layers.is_folded
    assert "1,200 test examples" in bounds.caption


def test_kernel_norms_unknown_or_zero_are_a_dash(evaluated: Any, build: Any) -> None:
    unknown = KernelNormsOf("cat", 0.0, 0.0, None, None, None)
    zero = KernelNormsOf("dog", 0.0, 0.0, 0.0, 0.0, 3.0)
    _, first, second = view(evaluated, unknown, zero).tables[0].rows
    assert build.texts(first)[1:] == ["0", "0", "—", "—", "0", "—", "—"]
    assert build.texts(second)[-1] == "—"


def test_kernel_norms_are_drawn_by_kind_with_a_line_between(evaluated: Any) -> None:
    (figure,) = view(evaluated, CAT, DOG).figures
    span, *dots = figure.plot["data"]
    assert span["x"] == [2.0, 6.0, None, 0.5, 8.0, None]
    assert [trace["name"] for trace in dots] == [
        "gradient",
        "perturbation",
        "deformation",
        "spectral, from above",
    ]
    assert [trace["x"] for trace in dots] == [[1.5, 0.5], [2.0, 0.25], [0.25, 0.125], [6.0, 8.0]]
    assert len({trace["marker"]["symbol"] for trace in dots}) == 4
    assert dots[0]["y"] == ["cat", "a &lt;b&gt; dog"]
    axis = figure.plot["layout"]["xaxis"]
    assert axis["type"] == "log"
    assert axis["ticktext"] == ["0.1", "0.2", "0.5", "1", "2", "5", "10"]
    assert "on the line" in figure.caption


def test_kernel_norms_without_an_upper_bound_have_no_line(evaluated: Any) -> None:
    (figure,) = view(evaluated, KernelNormsOf("cat", 1.0, 2.0, 0.5, 0.5, None)).figures
    assert [trace["name"] for trace in figure.plot["data"]] == ["gradient", "perturbation", "deformation"]
    assert "on the line" not in figure.caption


def test_kernel_norms_of_a_dead_net_have_no_figure(evaluated: Any) -> None:
    assert not view(evaluated, KernelNormsOf("cat", 0.0, 0.0, 0.0, 0.0, 0.0)).figures


def test_kernel_norms_of_many_classes_draw_the_steepest_in_order(evaluated: Any) -> None:
    many = [KernelNormsOf(str(n), float(n + 1), 0.0, None, None, 200.0) for n in range(40)]
    shown = view(evaluated, *many)
    assert shown.figures[0].plot["data"][1]["y"] == [str(number) for number in range(10, 40)]
    assert "30 classes" in shown.figures[0].caption
    assert len(shown.tables[0].rows) == 41


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(1e-30, 1e30), st.floats(1.0, 1e12))
def test_ticks_of_kernel_norms_lie_on_the_axis_and_are_few(
    evaluated: Any, lower: float, factor: float
) -> None:
    (figure,) = view(evaluated, KernelNormsOf("cat", lower, lower, None, None, lower * factor)).figures
    axis = figure.plot["layout"]["xaxis"]
    low, high = axis["range"]
    assert low < math.log10(lower) <= math.log10(lower * factor) < high
    assert 1 <= len(axis["tickvals"]) <= 12
    assert all(low <= math.log10(tick) <= high for tick in axis["tickvals"])


def test_kernel_norms_are_on_the_page(write_run: Any, evaluated: Any) -> None:
    folder = write_run(evaluated=evaluated.but(kernel_norms=norms(CAT, DOG)))
    text = report(folder).read_text(encoding="utf-8")
    assert ">Kernel norms</h2>" in text
    assert "lies between its largest lower bound and its spectral upper bound" in text
    assert 'the model of <a href="https://arxiv.org/abs/1810.00363">' in text
    assert "a &lt;b&gt; dog" in text
    assert "<b> dog" not in text
    assert "layers.0" in text
    assert "How it was measured." in text
    assert "No upper bound" not in text


def test_kernel_norms_say_why_there_is_no_upper_bound(write_run: Any, evaluated: Any) -> None:
    lower = KernelNormsOf("cat", 1.0, 2.0, 0.5, 0.5, None)
    without = evaluated.but(kernel_norms=norms(lower, reason="There is no rule for <fold>."))
    text = report(write_run(evaluated=without)).read_text(encoding="utf-8")
    assert "<strong>No upper bound.</strong> There is no rule for &lt;fold&gt;." in text
