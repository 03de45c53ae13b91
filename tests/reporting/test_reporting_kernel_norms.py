"""The page's section on kernel norms."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from withstand.reporting import report
from withstand.reporting.kernel_norms import view_kernel_norms
from withstand.reporting.schema import KernelNorms
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def bounds(name: str, *numbers: float | None) -> dict[str, Any]:
    keys = ("gradient", "perturbation", "deformation", "deformation_change", "spectral")
    return {"class": name, **dict(zip(keys, numbers, strict=True))}


def found(*classes: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    keys = [key for key in classes[0] if key != "class"]
    largest = {
        key: max((each[key] for each in classes if each[key] is not None), default=None) for key in keys
    }
    return {
        "num_examples": 1200,
        "description": "How it was found",
        "classes": list(classes),
        "layers": [{"name": "layers.0", "kernel_norm": 2.0, "operator_norm": 5.0}],
        "summary": largest,
        "reason": reason,
    }


CAT = bounds("cat", 1.5, 2.0, 0.25, 0.75, 6.0)
DOG = bounds("a <b> dog", 0.5, 0.25, 0.125, 0.5, 8.0)


def view(*classes: dict[str, Any]) -> Any:
    return view_kernel_norms(cast("KernelNorms", found(*classes)))


def test_tables_hold_every_bound_and_the_quotients() -> None:
    shown = view(CAT, DOG)
    cat, dog = shown.rows
    assert (cat.name, [*cat.numbers]) == ("cat", ["1.5", "2", "0.25", "0.75", "2", "6", "3"])
    assert [*dog.numbers] == ["0.5", "0.25", "0.125", "0.5", "0.5", "8", "16"]
    assert (shown.total.name, [*shown.total.numbers]) == (
        "Largest",
        ["1.5", "2", "0.25", "0.75", "2", "8", "4"],
    )
    assert [*shown.layers[0].numbers] == ["2", "5", "2.5"]
    assert shown.num_examples == "1,200"


def test_what_is_unknown_or_zero_is_a_dash() -> None:
    (row,) = view(bounds("cat", 0.0, 0.0, None, None, None)).rows
    assert [*row.numbers] == ["0", "0", "—", "—", "0", "—", "—"]
    (row,) = view(bounds("cat", 0.0, 0.0, 0.0, 0.0, 3.0)).rows
    assert row.numbers[-1] == "—"


def test_the_figure_draws_each_kind_and_a_line_between() -> None:
    figure = view(CAT, DOG).figure
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


def test_without_an_upper_bound_no_line_is_drawn() -> None:
    figure = view(bounds("cat", 1.0, 2.0, 0.5, 0.5, None)).figure
    assert [trace["name"] for trace in figure.plot["data"]] == ["gradient", "perturbation", "deformation"]
    assert "on the line" not in figure.caption


def test_a_dead_net_has_no_figure() -> None:
    assert view(bounds("cat", 0.0, 0.0, 0.0, 0.0, 0.0)).figure is None


def test_of_many_classes_the_steepest_are_drawn_in_their_order() -> None:
    classes = [bounds(str(number), float(number + 1), 0.0, None, None, 200.0) for number in range(40)]
    shown = view(*classes)
    assert shown.figure.plot["data"][1]["y"] == [str(number) for number in range(10, 40)]
    assert "30 classes" in shown.figure.caption
    assert len(shown.rows) == 40


@settings(max_examples=25, deadline=None)
@given(st.floats(1e-30, 1e30), st.floats(1.0, 1e12))
def test_ticks_lie_on_the_axis_and_are_few(lower: float, factor: float) -> None:
    axis = view(bounds("cat", lower, lower, None, None, lower * factor)).figure.plot["layout"]["xaxis"]
    low, high = axis["range"]
    assert low < math.log10(lower) <= math.log10(lower * factor) < high
    assert 1 <= len(axis["tickvals"]) <= 12
    assert all(low <= math.log10(tick) <= high for tick in axis["tickvals"])


def test_the_page_has_the_section(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    text = report(write_run(metrics=metrics | {"kernel_norms": found(CAT, DOG)})).read_text(encoding="utf-8")
    assert ">Kernel norms</h2>" in text
    assert "lies between its largest lower bound and its spectral upper bound" in text
    assert "a &lt;b&gt; dog" in text
    assert "<b> dog" not in text
    assert "layers.0" in text
    assert "How it was found." in text
    assert "No upper bound" not in text


def test_the_page_says_why_there_is_no_upper_bound(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    lower = bounds("cat", 1.0, 2.0, 0.5, 0.5, None)
    content = metrics | {"kernel_norms": found(lower, reason="There is no rule for <fold>.")}
    text = report(write_run(metrics=content)).read_text(encoding="utf-8")
    assert "<strong>No upper bound.</strong> There is no rule for &lt;fold&gt;." in text


@pytest.mark.parametrize("content", [{}, {"kernel_norms": None}])
def test_without_kernel_norms_there_is_no_section(
    write_run: WriteRun, metrics: dict[str, Any], content: dict[str, Any]
) -> None:
    text = report(write_run(metrics=metrics | content)).read_text(encoding="utf-8")
    assert "Kernel norms" not in text


def test_damaged_bounds_are_named(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    broken = found(CAT, DOG)
    broken["classes"][1] = {"class": "dog", "gradient": "steep"}
    with pytest.raises(RunFolderError, match=r"kernel_norms\.classes\[1\]\.gradient must be a finite number"):
        report(write_run(metrics=metrics | {"kernel_norms": broken}))
