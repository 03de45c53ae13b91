"""What is gained for what is given up: each measure against clean accuracy, and against training time."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import plotly.graph_objects as go

from withstand.reporting.aspects import Aspect, aspects_of, measure
from withstand.reporting.axes import logarithmic
from withstand.reporting.families import Family, by_train_size, families_of
from withstand.reporting.old_figures import GREY, Figure, axis, finished, layout, legend_height, series_style
from withstand.reporting.group_figures import bars, legend_of
from withstand.reporting.old_read import Run
from withstand.reporting.schema import Accuracy
from withstand.reporting.seeds import Group, Mean, groups_of, mean_of
from withstand.reporting.summary import run_labels
from withstand.reporting.old_wording import dataset_title, duration, percent

__all__ = ["Tradeoff", "TradeoffView", "pareto_best", "view_tradeoffs"]

_SHARES = {"tickformat": ".2~%", "rangemode": "normal"}
_FEWEST = 2  # groups that a figure holds against each other
_MOST_NAMED = 8  # points that have their names beside them
_LONGEST_NAME = 24
_TO = "\N{EN DASH}"
_TIME = "training time in seconds"


@dataclass(frozen=True)
class Tradeoff:
    """One figure to choose.

    Attributes:
        name: What the choice calls it.
        figure: Ready for the page.
        best: In words, which runs no other beats.
        num_points: How many groups of runs it holds.
        is_first: Whether it is the one to show first.
    """

    name: str
    figure: Figure
    best: str
    num_points: int
    is_first: bool = False


@dataclass(frozen=True)
class TradeoffView:
    """The section: figures against clean accuracy, and against training time; either may be empty."""

    against_clean: Sequence[Tradeoff]
    against_cost: Sequence[Tradeoff]


class _Point(NamedTuple):
    """A group of runs in a figure; ``dots`` are its single runs, where there are several."""

    group: Group
    x: Mean
    y: Mean
    dots: Sequence[tuple[str, float, float]]


class _Axes(NamedTuple):
    """What a figure holds against what; ``cost`` is the axis of time instead of that of clean accuracy."""

    aspect: Aspect
    is_of_cost: bool
    labels: Mapping[int, str]  # of a run, by its identity
    middle: float = 0.0  # of the horizontal axis, where names change sides so as to stay inside


def view_tradeoffs(runs: Sequence[Run]) -> TradeoffView | None:
    """Every trade-off in which at least two groups of runs have a place; None where there is none."""
    aspects = aspects_of([run.metrics for run in runs if run.metrics])
    labels = {id(run): label for run, label in zip(runs, run_labels(runs), strict=True)}
    parts = _parts(groups_of(runs)) if aspects else {}
    of_clean, of_cost = (
        _opened(
            [
                found
                for aspect in aspects
                if is_of_cost or aspect.kind != "clean"
                for of, groups in parts.items()
                if (found := _tradeoff(groups, _Axes(aspect, is_of_cost, labels), of))
            ],
            aspects,
        )
        for is_of_cost in (False, True)
    )
    return TradeoffView(of_clean, of_cost) if of_clean or of_cost else None


def _parts(groups: Sequence[Group]) -> dict[str, list[Group]]:
    """The groups that may be held against each other: of one data set and number of training examples."""
    by_dataset: dict[str, list[Group]] = {}
    for group in groups:
        name = next(run.metrics["dataset"] for run in group.members if run.metrics)
        by_dataset.setdefault(dataset_title(name), []).append(group)
    return {
        ", ".join(filter(None, (title if len(by_dataset) > 1 else "", of))): part
        for title, those in by_dataset.items()
        for of, part in by_train_size(those).items()
    }


def _opened(found: Sequence[Tradeoff], aspects: Sequence[Aspect]) -> list[Tradeoff]:
    """Marks the figure to show first: of those under attack the middle one with most runs, else of all."""
    titles = tuple(each.title for each in aspects if each.kind == "attacked")
    attacked = [each for each in found if each.name.startswith(titles)] or found
    most = max((each.num_points for each in attacked), default=0)
    fullest = [each for each in attacked if each.num_points == most]
    return [replace(each, is_first=each is fullest[(len(fullest) - 1) // 2]) for each in found]


def _tradeoff(groups: Sequence[Group], axes: _Axes, of: str) -> Tradeoff | None:
    points = {group.label: point for group in groups if (point := _point(group, axes))}
    if len(points) < _FEWEST or not any(point.y.value > 0 for point in points.values()):
        return None
    signed = [
        (-point.x.value if axes.is_of_cost else point.x.value, point.y.value) for point in points.values()
    ]
    best = [point for point, is_best in zip(points.values(), pareto_best(signed), strict=True) if is_best]
    name = ", ".join(filter(None, (axes.aspect.title, of)))
    return Tradeoff(name, _figure(points, best, axes, name), _in_words(best, len(points), axes), len(points))


def pareto_best(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each point whether no other is at least as large in both numbers and larger in one."""
    return [
        not any(
            other[0] >= point[0] and other[1] >= point[1] and tuple(other) != tuple(point) for other in points
        )
        for point in points
    ]


def _point(group: Group, axes: _Axes) -> _Point | None:
    """A group's place; None where one of its runs was not measured so."""
    places = [_place(run, axes) for run in group.members]
    known = [place for place in places if place is not None]
    if not known or len(known) < len(places):
        return None
    xs, ys = [x for x, _ in known], [y for _, y in known]
    names = [axes.labels[id(run)] for run in group.members]
    dots = [
        (name, x["accuracy"], y["accuracy"])
        for name, x, y in zip(names, xs, ys, strict=True)
        if len(names) > 1
    ]
    return _Point(group, _mean_time(xs) if axes.is_of_cost else mean_of(xs), mean_of(ys), dots)


def _mean_time(times: Sequence[Accuracy]) -> Mean:
    """The mean of times, which has no interval: it says more of the machine than of the seeds."""
    seconds = [each["accuracy"] for each in times]
    mean = sum(seconds) / len(seconds)
    return Mean(mean, mean, mean, seconds)


def _place(run: Run, axes: _Axes) -> tuple[Accuracy, Accuracy] | None:
    if run.metrics is None:
        return None
    y = measure(run.metrics, axes.aspect)
    seconds = (run.environment or {}).get("cost", {}).get("train_seconds")
    if y is None or (axes.is_of_cost and not seconds):
        return None
    bare = _accuracy(y.value, y.lower, y.upper)
    return (_accuracy(seconds or 0.0) if axes.is_of_cost else run.metrics["clean"]), bare


def _accuracy(value: float, lower: float | None = None, upper: float | None = None) -> Accuracy:
    ends = {"lower": value if lower is None else lower, "upper": value if upper is None else upper}
    return Accuracy(accuracy=value, lower=ends["lower"], upper=ends["upper"], correct=0, total=0)


def _figure(points: Mapping[str, _Point], best: Sequence[_Point], axes: _Axes, name: str) -> Figure:
    families = families_of([point.group for point in points.values()])
    axes = axes._replace(middle=_middle([point.x.value for point in points.values()], axes))
    are_named = len(points) <= _MOST_NAMED
    traces = [_ring(best)]
    for number, family in enumerate(families):
        placed = [points[group.label] for _, group in family.members]
        traces += [_dots(placed, number, axes), _means(family, placed, number, axes, are_named=are_named)]
    x_axis = axis("clean accuracy") | _SHARES
    if axes.is_of_cost:
        x_axis = axis(_TIME) | logarithmic([point.x.value for point in points.values()])
    against = "training time" if axes.is_of_cost else "clean accuracy"
    title = f"{'Clean accuracy' if axes.aspect.kind == 'clean' else name}, against {against}"
    shape = layout(x_axis, axis(html.escape(_on_axis(axes.aspect))) | _SHARES)
    return finished(
        go.Figure([trace for trace in traces if trace.x], shape),
        title,
        _caption(points, families, axes),
        440 + legend_height(len(families) + 1),
    )


def _middle(values: Sequence[float], axes: _Axes) -> float:
    return math.sqrt(min(values) * max(values)) if axes.is_of_cost else (min(values) + max(values)) / 2


def _on_axis(aspect: Aspect) -> str:
    """What an aspect measures, for the title of an axis, which has little room."""
    kind, at, where = aspect.title.partition(", ")
    if aspect.kind in ("clean", "attacked", "certified"):
        return f"{kind.lower()} accuracy{at}{where}"
    return kind.lower()


def _caption(points: Mapping[str, _Point], families: Sequence[Family], axes: _Axes) -> str:
    parts = [
        f"The upper {'left' if axes.is_of_cost else 'right'} is best; rings mark the runs that none beats."
    ]
    if axes.is_of_cost:
        parts.append("The axis of time is logarithmic; times hold for the machine of the runs.")
    if any(point.dots for point in points.values()):
        parts.append(
            "Runs that differ in their seeds alone share a look: small marks are the runs, the large one is "
            "their mean with its 95 % interval (Student's t)."
        )
    if any(not point.dots for point in points.values()):
        parts.append(
            "Bars of a single run are 95 % binomial intervals of its test examples, where it has some."
        )
    parts.append("Names that would lie on one another are left out; pointing at a mark tells each.")
    if any(family.word for family in families):
        parts.append("A line joins what differs in one number alone, which stands beside each point.")
    return " ".join(parts)


def _in_words(best: Sequence[_Point], total: int, axes: _Axes) -> str:
    names = [point.group.label for point in best]
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    than = "as fast" if axes.is_of_cost else "as good clean"
    return (
        f"Pareto-best of {total}: {listed}. No other is at least {than} and at least as good in this, and "
        "better in one of them. That is by the figures as measured; their intervals may overlap."
    )


def _ring(best: Sequence[_Point]) -> go.Scatter:
    look = series_style(0, "markers")
    return go.Scatter(
        name="Pareto-best",
        x=[point.x.value for point in best],
        y=[point.y.value for point in best],
        hoverinfo="skip",
        **look | {"marker": {"symbol": "circle-open", "size": 19, "color": GREY, "line": {"width": 2.5}}},
    )


def _dots(placed: Sequence[_Point], number: int, axes: _Axes) -> go.Scatter:
    dots = [dot for point in placed for dot in point.dots]
    look = series_style(number, "markers")
    return go.Scatter(
        x=[x for _, x, _ in dots],
        y=[y for _, _, y in dots],
        text=[
            f"<b>{html.escape(name)}</b><br>{_text(axes, Mean(x, x, x, [x]), Mean(y, y, y, [y]))}"
            for name, x, y in dots
        ],
        hovertemplate="%{text}<extra></extra>",
        showlegend=False,
        legendgroup=str(number),
        **look | {"marker": look["marker"] | {"size": 5, "opacity": 0.55}},
    )


def _means(
    family: Family, placed: Sequence[_Point], number: int, axes: _Axes, *, are_named: bool
) -> go.Scatter:
    look = series_style(number, "lines+markers+text" if family.word else "markers+text")
    names = (
        [level for level, _ in family.members] if family.word else [_short(family.name) if are_named else ""]
    )
    return go.Scatter(
        name=html.escape(legend_of(family)),
        legendgroup=str(number),
        x=[point.x.value for point in placed],
        y=[point.y.value for point in placed],
        error_x=bars([point.x for point in placed]) | {"visible": not axes.is_of_cost},
        error_y=bars([point.y for point in placed]),
        text=[html.escape(name) for name in names],
        textposition=[f"top {'left' if point.x.value > axes.middle else 'right'}" for point in placed],
        textfont={"size": 12},
        customdata=[_hover(point, axes) for point in placed],
        hovertemplate="%{customdata}<extra></extra>",
        **look | {"marker": look["marker"] | {"size": 10}},
    )


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…"


def _hover(point: _Point, axes: _Axes) -> str:
    group = point.group
    seeds = "one run" if group.num_seeds == 1 else f"mean of {group.num_seeds} seeds"
    return f"<b>{html.escape(group.label)}</b>, {seeds}<br>{_text(axes, point.x, point.y)}"


def _text(axes: _Axes, x: Mean, y: Mean) -> str:
    first = f"training {duration(x.value)}" if axes.is_of_cost else f"clean {_with_interval(x)}"
    return f"{first}<br>{html.escape(_on_axis(axes.aspect))} {_with_interval(y)}"


def _with_interval(mean: Mean) -> str:
    if mean.lower == mean.upper:
        return percent(mean.value)
    return f"{percent(mean.value)} ({100 * mean.lower:.1f}{_TO}{100 * mean.upper:.1f})"
