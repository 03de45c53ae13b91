"""What is gained for what is given up: each measure against clean accuracy, and against training time."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import pandas as pd

from withstand.reporting.compare.comparison import Comparison, records
from withstand.reporting.compare.families import Family, by_train_size, families_of
from withstand.reporting.compare.groups import BAR, Group, mean_text, seeds_text
from withstand.reporting.compare.points import aspects_of
from withstand.reporting.figures import GREY, axis, chart, error_bars, escaped, hover, logarithmic, series
from withstand.reporting.section import Choice, Figure, Prose, Section
from withstand.reporting.wording import dataset_title, duration, percent

__all__ = ["pareto_best", "section"]

_SHARES = {"tickformat": ".2~%", "rangemode": "normal"}
_FEWEST = 2  # groups that a figure holds against each other
_MOST_NAMED = 8  # points that have their names beside them
_LONGEST_NAME = 24
_CLEAN, _TIME = "Clean", "Training time"
_ACCURACIES = ("clean", "attacked", "certified")
_AGAINST = {_CLEAN: "clean accuracy", _TIME: "training time"}


class _Tradeoff(NamedTuple):
    """One figure to choose: groups by their means in two aspects; ``xs`` and ``ys`` hold a row a group."""

    x: str
    y: str
    name: str
    groups: Sequence[Group]
    xs: pd.DataFrame
    ys: pd.DataFrame

    @property
    def is_of_cost(self) -> bool:
        """Whether it is against time instead of clean accuracy."""
        return self.x == _TIME

    @property
    def kind(self) -> str:
        """Of what is on the vertical axis."""
        return str(self.ys.kind.iloc[0])

    def rows_of(self, groups: Sequence[Group]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """The means of some groups."""
        first = [group.members[0] for group in groups]
        return self.xs.loc[first], self.ys.loc[first]


def section(compared: Comparison) -> Section | None:
    """Every trade-off in which at least two groups of runs have a place; None where there is none."""
    choices = []
    for x, against in _AGAINST.items():
        tradeoffs = list(_tradeoffs(compared, x))
        if tradeoffs:
            options = [_option(compared, each) for each in tradeoffs]
            choices.append(Choice("On the vertical axis", options, f"Against {against}", _opened(tradeoffs)))
    return Section("compare-tradeoffs", "Trade-offs", "summary", choices=choices) if choices else None


def _tradeoffs(compared: Comparison, x: str) -> Iterator[_Tradeoff]:
    parts = _parts(compared)
    for y in aspects_of(compared.points).index:
        xs, ys = compared.mean(x), compared.mean(y)
        for of, groups in parts.items():
            placed = [group for group in groups if group.members[0] in xs.index.intersection(ys.index)]
            first = [group.members[0] for group in placed]
            if y != x and len(placed) >= _FEWEST and (ys.loc[first].value > 0).any():
                name = ", ".join(filter(None, (y, of)))
                yield _Tradeoff(x, y, name, placed, xs.loc[first], ys.loc[first])


def _parts(compared: Comparison) -> dict[str, list[Group]]:
    """The groups that may be held against each other: of one data set and number of training examples."""
    by_dataset: dict[str, list[Group]] = {}
    for group in compared.groups:
        results = compared.runs[group.members[0]].results
        by_dataset.setdefault(dataset_title(results.dataset) if results else "", []).append(group)
    return {
        ", ".join(filter(None, (title if len(by_dataset) > 1 else "", of))): part
        for title, those in by_dataset.items()
        for of, part in by_train_size(those).items()
    }


def _opened(tradeoffs: Sequence[_Tradeoff]) -> int:
    """The figure to show first: of those under attack the middle one with most runs, else of all."""
    places = [place for place, each in enumerate(tradeoffs) if each.kind == "attacked"]
    places = places or list(range(len(tradeoffs)))
    most = max(len(tradeoffs[place].groups) for place in places)
    fullest = [place for place in places if len(tradeoffs[place].groups) == most]
    return fullest[(len(fullest) - 1) // 2]


def _option(compared: Comparison, each: _Tradeoff) -> Section:
    signed = zip(-each.xs.value if each.is_of_cost else each.xs.value, each.ys.value, strict=True)
    best = [group for group, is_best in zip(each.groups, pareto_best([*signed]), strict=True) if is_best]
    words = Prose(_in_words(best, each), "best")
    return Section("", each.name, "summary", figures=[_figure(compared, each, best)], notes=[words])


def pareto_best(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each point whether no other is at least as large in both numbers and larger in one."""
    return [
        not any(
            other[0] >= point[0] and other[1] >= point[1] and tuple(other) != tuple(point) for other in points
        )
        for point in points
    ]


def _in_words(best: Sequence[Group], each: _Tradeoff) -> str:
    names = [group.label for group in best]
    listed = f"{', '.join(names[:-1])} and {names[-1]}" if len(names) > 1 else names[0]
    than = "as fast" if each.is_of_cost else "as good clean"
    return (
        f"Pareto-best of {len(each.groups)}: {listed}. No other is at least {than} and at least as good in "
        "this, and better in one of them. That is by the figures as measured; their intervals may overlap."
    )


def _figure(compared: Comparison, each: _Tradeoff, best: Sequence[Group]) -> Figure:
    families = families_of(each.groups)
    traces = [_ring(*each.rows_of(best))]
    for number, family in enumerate(families):
        traces += [_dots(compared, family, number, each), _means(family, number, each)]
    x_axis = axis("clean accuracy", **_SHARES)
    if each.is_of_cost:
        x_axis = axis("training time in seconds", **logarithmic(list(each.xs.value)))
    return chart(
        [trace for trace in traces if trace.x],
        f"{'Clean accuracy' if each.y == _CLEAN else each.name}, against {_AGAINST[each.x]}",
        _caption(each, families),
        x=x_axis,
        y=axis(_on_axis(each), **_SHARES),
        height=440,
    )


def _on_axis(each: _Tradeoff) -> str:
    """What an aspect measures, for the title of an axis, which has little room."""
    kind, at, where = each.y.partition(", ")
    return f"{kind.lower()} accuracy{at}{where}" if each.kind in _ACCURACIES else kind.lower()


def _caption(each: _Tradeoff, families: Sequence[Family]) -> str:
    sizes = {len(group.members) for group in each.groups}
    best = f"The upper {'left' if each.is_of_cost else 'right'} is best; rings mark the runs that none beats."
    parts = {
        best: True,
        "The axis of time is logarithmic; times hold for the machine of the runs.": each.is_of_cost,
        "Runs that differ in their seeds alone share a look: small marks are the runs, the large one is "
        "their mean with its 95 % interval (Student's t).": max(sizes) > 1,
        "Bars of a single run are 95 % binomial intervals of its test examples, where it has some.": 1
        in sizes,
        "Names that would lie on one another are left out; pointing at a mark tells each.": True,
        "A line joins what differs in one number alone, which stands beside each point.": any(
            family.word for family in families
        ),
    }
    return " ".join(part for part, is_said in parts.items() if is_said)


def _ring(xs: pd.DataFrame, ys: pd.DataFrame) -> Any:
    look = {"symbol": "circle-open", "size": 19, "color": GREY, "line": {"width": 2.5}}
    return series("Pareto-best", list(xs.value), list(ys.value), 0, mode="markers", marker=look)


def _dots(compared: Comparison, family: Family, number: int, each: _Tradeoff) -> Any:
    """The single runs of groups of several."""
    runs = [run for _, group in family.members if len(group.members) > 1 for run in group.members]
    values = compared.points.pivot(index="run", columns="aspect", values="value")
    x, y = values.loc[runs, each.x], values.loc[runs, each.y]
    return series(
        family.legend,
        list(x),
        list(y),
        number,
        mode="markers",
        texts=[
            hover(
                compared.labels[run],
                _x_text(each, duration(one) if each.is_of_cost else percent(one)),
                f"{_on_axis(each)} {percent(other)}",
            )
            for run, one, other in zip(runs, x, y, strict=True)
        ],
        marker={"size": 5, "opacity": 0.55},
        showlegend=False,
        legendgroup=str(number),
    )


def _x_text(each: _Tradeoff, value: str) -> str:
    return f"{'training' if each.is_of_cost else 'clean'} {value}"


def _means(family: Family, number: int, each: _Tradeoff) -> Any:
    groups = [group for _, group in family.members]
    xs, ys = each.rows_of(groups)
    name = family.name if len(family.name) <= _LONGEST_NAME else f"{family.name[: _LONGEST_NAME - 1]}…"
    alone = name if len(each.groups) <= _MOST_NAMED else ""
    ends = [each.xs.value.min(), each.xs.value.max()]
    middle = math.sqrt(ends[0] * ends[1]) if each.is_of_cost else sum(ends) / 2
    return series(
        family.legend,
        list(xs.value),
        list(ys.value),
        number,
        mode="lines+markers+text" if family.word else "markers+text",
        texts=[
            hover(
                group.label,
                seeds_text(len(group.members)),
                _x_text(each, mean_text(x, 1)),
                f"{_on_axis(each)} {mean_text(y, 1)}",
            )
            for group, x, y in zip(groups, records(xs), records(ys), strict=True)
        ],
        error_y=_bars(ys),
        error_x=None if each.is_of_cost else _bars(xs),
        text=[escaped(level or alone) for level, _ in family.members],
        textposition=[f"top {'left' if x > middle else 'right'}" for x in xs.value],
        textfont={"size": 12},
        marker={"size": 10},
        legendgroup=str(number),
    )


def _bars(means: pd.DataFrame) -> dict[str, Any]:
    """The intervals; of a mean without one, which stays where it is."""
    known = means.lower.fillna(means.value), means.upper.fillna(means.value)
    return error_bars(means.value, *known) | BAR
