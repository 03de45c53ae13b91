"""What is gained for what is given up: each measure against clean accuracy, and against training time."""

from __future__ import annotations

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from withstand.core.writing import percent
from withstand.reporting.compare.comparison import Comparison, aspects_of, records
from withstand.reporting.compare.families import Family, by_train_size, families_of
from withstand.reporting.compare.groups import Group, mean_text, seeds_text
from withstand.reporting.compare.seeds import dots
from withstand.reporting.figures import GREY, axis, chart, hover, logarithmic, series, shares_between
from withstand.reporting.formatting import dataset_title, duration
from withstand.reporting.naming import what_differs
from withstand.reporting.section import PROSE, Choice, Figure, Prose, Section

_FEWEST = 2  # groups that a figure compares
_MOST_NAMED = 8  # points that have their names beside them
_LONGEST_NAME = 24
_CLEAN, _TIME = "Clean", "Training time"
_AGAINST = {_CLEAN: "clean accuracy", _TIME: "training time"}
_TEXTS = PROSE["compare_tradeoffs"]
_RING = {"symbol": "circle-open", "size": 19, "color": GREY, "line": {"width": 2.5}}


class _Tradeoff(NamedTuple):
    """One figure to choose: groups by their means in two aspects, of which ``on_axis`` is the vertical one.

    ``places`` has a row a group, named by its label, as ``dots`` takes them, and ``runs`` one a run, named by
    the label of its group. ``legends`` are what groups are called beside their marks, by label.
    """

    is_of_cost: bool
    is_attacked: bool
    is_share: bool
    name: str
    on_axis: str
    groups: Sequence[Group]
    places: pd.DataFrame
    runs: pd.DataFrame
    legends: Mapping[str, str]


def section(compared: Comparison) -> Section | None:
    """Every trade-off in which at least two groups of runs have a place; None where there is none."""
    choices = []
    for x, against in _AGAINST.items():
        tradeoffs = list(_tradeoffs(compared, x))
        if tradeoffs:
            options = [_option(tradeoff) for tradeoff in tradeoffs]
            choices.append(Choice("On the vertical axis", options, f"Against {against}", _opened(tradeoffs)))
    across: Literal[1, 2] = 1 if compared.are_many else 2
    section = Section("compare-tradeoffs", "Trade-offs", "summary", choices=choices, across=across)
    return section if choices else None


def _tradeoffs(compared: Comparison, x: str) -> Iterator[_Tradeoff]:
    parts, labels = _parts(compared), [group.label for group in compared.groups]
    legends = dict(zip(labels, what_differs(labels), strict=True))
    for aspect in records(aspects_of(compared.points)):
        y = aspect.Index
        known = compared.mean(x).index.intersection(compared.mean(y).index)
        kind, at, where = y.partition(", ")  # an axis has little room
        is_share = aspect.kind in ("clean", "attacked", "certified")
        on_axis = f"{kind.lower()} accuracy{at}{where}" if is_share else kind.lower()
        for of, groups in parts.items():
            placed = [group for group in groups if group.members[0] in known]
            if y == x or len(placed) < _FEWEST:
                continue
            places = _places(compared, placed, (x, y), on_axis)
            if (places.y > 0).any():
                name = ", ".join(filter(None, (y, of)))
                runs = _runs(compared, placed, (x, y), on_axis)
                kinds = aspect.kind == "attacked", aspect.kind != "agreement"
                yield _Tradeoff(x == _TIME, *kinds, name, on_axis, placed, places, runs, legends)


def _parts(compared: Comparison) -> dict[str, list[Group]]:
    """The groups that may be compared: of one data set and number of training examples."""
    by_dataset: dict[str, list[Group]] = {}
    for group in compared.groups:
        results = compared.runs[group.members[0]].results
        by_dataset.setdefault(dataset_title(results.dataset) if results else "", []).append(group)
    return {
        ", ".join(filter(None, (title if len(by_dataset) > 1 else "", of))): part
        for title, those in by_dataset.items()
        for of, part in by_train_size(those).items()
    }


def _places(
    compared: Comparison, groups: Sequence[Group], axes: tuple[str, str], on_axis: str
) -> pd.DataFrame:
    xs, ys = (compared.mean(aspect).loc[[group.members[0] for group in groups]] for aspect in axes)
    word = "training" if axes[0] == _TIME else "clean"
    texts = [
        hover(
            group.label,
            seeds_text(len(group.members)),
            f"{word} {mean_text(x)}",
            f"{on_axis} {mean_text(y)}",
        )
        for group, x, y in zip(groups, records(xs), records(ys), strict=True)
    ]
    columns = {"value": "", "lower": "_lower", "upper": "_upper"}
    named = {
        f"{axis}{end}": means[name] for axis, means in (("x", xs), ("y", ys)) for name, end in columns.items()
    }
    places = pd.DataFrame(named).dropna(axis=1, how="all").assign(text=texts)
    return places.set_axis([group.label for group in groups])


def _runs(compared: Comparison, groups: Sequence[Group], axes: tuple[str, str], on_axis: str) -> pd.DataFrame:
    several = [(group.label, run) for group in groups if len(group.members) > 1 for run in group.members]
    labels, places = [label for label, _ in several], [place for _, place in several]
    runs = compared.values.loc[places, list(axes)].set_axis(["x", "y"], axis=1)
    texts = [
        hover(
            compared.labels[place],
            f"training {duration(x)}" if axes[0] == _TIME else f"clean {percent(x)}",
            f"{on_axis} {percent(y)}",
        )
        for place, x, y in runs.itertuples()
    ]
    return runs.assign(text=texts).set_axis(labels)


def _opened(tradeoffs: Sequence[_Tradeoff]) -> int:
    """The figure to show first: of those under attack the middle one with most runs, else of all."""
    places = [place for place, tradeoff in enumerate(tradeoffs) if tradeoff.is_attacked] or [
        *range(len(tradeoffs))
    ]
    most = max(len(tradeoffs[place].groups) for place in places)
    fullest = [place for place in places if len(tradeoffs[place].groups) == most]
    return fullest[(len(fullest) - 1) // 2]


def _option(tradeoff: _Tradeoff) -> Section:
    x, y = tradeoff.places.x, tradeoff.places.y
    best = tradeoff.places[pareto_best([*zip(-x if tradeoff.is_of_cost else x, y, strict=True)])]
    *names, last = best.index
    listed = f"{', '.join(names)} and {last}" if names else last
    than = "as fast" if tradeoff.is_of_cost else "as good clean"
    words = _TEXTS["best"].format(number=len(x), names=listed, than=than)
    notes = [Prose(words, "best")]
    return Section("", tradeoff.name, "summary", figures=[_figure(tradeoff, best)], notes=notes)


def pareto_best(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each point whether no other is at least as large in both numbers and larger in one."""
    return [
        not any(other[0] >= x and other[1] >= y and tuple(other) != (x, y) for other in points)
        for x, y in points
    ]


def _figure(tradeoff: _Tradeoff, best: pd.DataFrame) -> Figure:
    families = families_of(tradeoff.groups)
    families = [family._replace(name=tradeoff.legends.get(family.name, family.name)) for family in families]
    traces = [series("Pareto-best", list(best.x), list(best.y), 0, mode="markers", marker=_RING)]
    for number, family in enumerate(families):
        traces += _traces(tradeoff, family, number)
    x_axis = axis("clean accuracy", **_ticks(tradeoff, "x"))
    if tradeoff.is_of_cost:
        x_axis = axis("training time in seconds", **logarithmic(list(tradeoff.places.x)))
    title = "Clean accuracy" if tradeoff.on_axis == _AGAINST[_CLEAN] else tradeoff.name
    against = _AGAINST[_TIME if tradeoff.is_of_cost else _CLEAN]
    caption = _caption(tradeoff, is_joined=any(family.word for family in families))
    y_axis = axis(tradeoff.on_axis, **_ticks(tradeoff, "y"))
    return chart(traces, f"{title}, against {against}", caption, x=x_axis, y=y_axis, height=440)


def _ticks(tradeoff: _Tradeoff, way: str) -> dict[str, Any]:
    """An axis that shows every mean with its interval, and every run."""
    if way == "y" and not tradeoff.is_share:
        return {"rangemode": "normal"}
    ends = [name for name in (way, f"{way}_lower", f"{way}_upper") if name in tradeoff.places]
    values = [value for name in ends for value in tradeoff.places[name].dropna()]
    values += tradeoff.runs[way].tolist()
    return shares_between(min(values), max(values))


def _traces(tradeoff: _Tradeoff, family: Family, number: int) -> list[go.Scatter]:
    """A family's runs and means; names change sides in the middle, so as to stay inside."""
    labels = [group.label for _, group in family.members]
    places, runs = tradeoff.places.loc[labels], tradeoff.runs[tradeoff.runs.index.isin(labels)]
    ends = tradeoff.places.x.min(), tradeoff.places.x.max()
    middle = math.sqrt(ends[0] * ends[1]) if tradeoff.is_of_cost else sum(ends) / 2
    name = family.name if len(family.name) <= _LONGEST_NAME else f"{family.name[: _LONGEST_NAME - 1]}…"
    alone = name if len(tradeoff.groups) <= _MOST_NAMED else ""
    return dots(
        family.legend,
        number,
        places,
        runs,
        mode="lines+markers+text" if family.word else "markers+text",
        text=[html.escape(level or alone) for level, _ in family.members],
        textposition=[f"top {'left' if x > middle else 'right'}" for x in places.x],
        textfont={"size": 12},
    )


def _caption(tradeoff: _Tradeoff, *, is_joined: bool) -> str:
    sizes = {len(group.members) for group in tradeoff.groups}
    side = "left" if tradeoff.is_of_cost else "right"
    parts = {
        f"The upper {side} is best; rings mark the runs that none beats.": True,
        "The axis of time is logarithmic; times hold for the machine of the runs.": tradeoff.is_of_cost,
        _TEXTS["seeds"]: max(sizes) > 1,
        _TEXTS["single"]: min(sizes) == 1,
        "Names that would lie on one another are left out; pointing at a mark tells each.": True,
        "A line joins what differs in one number alone, which stands beside each point.": is_joined,
    }
    return " ".join(part for part, applies in parts.items() if applies)
