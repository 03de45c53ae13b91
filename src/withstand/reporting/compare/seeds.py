"""Groups of runs that differ in their seeds alone: their means, as a table and a figure."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from withstand.core.writing import percent
from withstand.reporting.compare.comparison import Comparison, records
from withstand.reporting.compare.families import levels_of
from withstand.reporting.compare.groups import Group, mean_text, seeds_text
from withstand.reporting.figures import axis, chart, error_bars, hover, series, shares_between
from withstand.reporting.read import read_run
from withstand.reporting.section import PROSE, Figure, Section, Table

MOST_CURVES = 8
"""Beyond which single runs too are easier to see in one figure."""

_LABEL_WIDTH = 22
_LEVEL_STEP = 0.22
_DASH = "\N{EM DASH}"
_TEXTS = PROSE["compare_seeds"]
# Behind the marks, on white and on near-black alike.
_BAR = {"color": "rgba(138,143,152,0.7)", "thickness": 1.2, "width": 3}


def section(compared: Comparison) -> Section | None:
    """What the page shows of groups of runs; None of few single runs, which the table of runs tells apart."""
    groups = compared.groups
    are_single = all(len(group.members) == 1 for group in groups)
    if len(groups) <= MOST_CURVES and are_single:
        return None
    table = seeds_table(compared)
    title = "All beside each other" if are_single else "Over seeds"
    caption = _TEXTS["table"]
    caption += f" {_TEXTS['noise']}" if (compared.points.kind == "noise").any() else ""
    header, rows = list(table.columns), table.to_numpy().tolist()
    tall = len(rows) > 12
    shown = Table(title, header, rows, caption, is_sortable=True, is_tall=tall, kind="groups")
    return Section("over-seeds", title, "summary", figures=[seeds_figure(compared)], tables=[shown])


def seeds_table(compared: Comparison, *, is_short: bool = False) -> pd.DataFrame:
    """The means of groups as texts, a row a group.

    Args:
        compared: The runs.
        is_short: Of the norms and epsilons that all groups share, show only the middle one; neither areas nor
            times.
    """
    means = compared.means
    texts = means.assign(text=[mean_text(mean) for mean in records(means)])
    table = texts.set_index("aspect", append=True).text.unstack()
    table = table.reindex([group.members[0] for group in compared.groups])
    columns = ["Clean"]
    for kind in ("attacked", "certified"):
        names = means.aspect[means.kind == kind].unique()
        shared = [name for name in names if table[name].notna().all()]
        columns += shared[(len(shared) - 1) // 2 :][:1] if is_short else shared
    of_noise = means[means.kind == "noise"].norm.unique()
    titles = ["Accuracy under noise"] if is_short else ["Accuracy under noise", "Agreement area"]
    columns += [f"{title}, {scale}" for scale in of_noise for title in titles]
    table = table.reindex(columns=columns if is_short else [*columns, "Training time"])
    table = table.astype(object).fillna(_DASH)
    table.insert(0, "Run", [group.label for group in compared.groups])
    table.insert(1, "Seeds", [str(len(group.members)) for group in compared.groups])
    return table.rename(columns=lambda name: name.replace("Accuracy under", "Mean accuracy under"))


def summarize_seeds(run_dirs: Sequence[Path | str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the means over seeds of several run folders, one row a group, for a terminal.

    Of the norms and epsilons that all share, the middle one represents all; the page has all.

    Args:
        run_dirs: The run folders; those without ``metrics.json`` are left out.

    Raises:
        RunFolderError: one is missing or damaged.
    """
    table = seeds_table(Comparison([read_run(folder) for folder in run_dirs]), is_short=True)
    return list(table.columns), table.to_numpy().tolist()


def seeds_figure(compared: Comparison) -> Figure:
    """Clean accuracy of each group as a large mark with its interval, and of each run as a small one.

    Groups are sorted by accuracy, the best on top.
    """
    levels = levels_of(compared.groups)
    means, runs = compared.mean("Clean"), compared.values["Clean"]
    best = {
        name: max(means.value[group.members[0]] for group in row.values())
        for name, row in levels.rows.items()
    }
    names = sorted(levels.rows, key=best.__getitem__)
    traces = []
    for number, level in enumerate(levels.names):
        shift = _LEVEL_STEP * ((len(levels.names) - 1) / 2 - number)
        placed = {
            group: place + shift
            for place, name in enumerate(names)
            if (group := levels.rows[name].get(level))
        }
        large = means.loc[[group.members[0] for group in placed]]
        large = large.rename(columns={"value": "x", "lower": "x_lower", "upper": "x_upper"})
        texts = [
            hover(group.label, seeds_text(len(group.members)), f"clean {mean_text(mean)}")
            for group, mean in zip(placed, records(means.loc[large.index]), strict=True)
        ]
        small = [
            (runs[run], place, hover(compared.labels[run], f"clean {percent(runs[run])}"))
            for group, place in placed.items()
            for run in group.members
            if len(group.members) > 1
        ]
        large = large.assign(y=list(placed.values()), text=texts)
        traces += dots(level, number, large, pd.DataFrame(small, columns=["x", "y", "text"]))
    ticks = [
        "<br>".join(map(html.escape, textwrap.wrap(name, _LABEL_WIDTH))) or html.escape(name)
        for name in names
    ]
    lines = 1 + max(text.count("<br>") for text in ticks)
    places = {"tickmode": "array", "tickvals": [*range(len(names))], "ticktext": ticks, "showgrid": False}
    return chart(
        traces,
        "Clean accuracy",
        _caption(compared.groups),
        x=axis("clean accuracy", **shares_between(*_ends(means, runs))),
        y=axis("", range=[-0.6, len(names) - 0.4], **places),
        height=110 + len(names) * max(14 + 16 * lines, 12 + 16 * len(levels.names)),
        layout={"showlegend": bool(levels.word), "legend_title_text": html.escape(levels.word or "")},
    )


def _ends(means: pd.DataFrame, runs: pd.Series[float]) -> tuple[float, float]:
    """The smallest and the largest of all means, ends of intervals and runs."""
    values = pd.concat([means.value, means.lower.dropna(), means.upper.dropna(), runs.dropna()])
    return float(values.min()), float(values.max())


def _caption(groups: Sequence[Group]) -> str:
    numbers = {len(group.members) for group in groups}
    if numbers == {1}:
        return _TEXTS["single_runs"]
    of_one = "; of a single run, the binomial interval of its test examples" if 1 in numbers else ""
    return (
        f"Dots are means over seeds, and bars their 95 % intervals (Student's t){of_one}. "
        "Small dots are single runs."
    )


def dots(
    name: str, number: int, means: pd.DataFrame, runs: pd.DataFrame, *, mode: str = "markers", **more: Any
) -> list[go.Scatter]:
    """The traces of groups that share a look; none where there is nothing to draw.

    Args:
        name: What the legend calls them.
        number: Of the series, by which they look.
        means: A row a group: ``x``, ``y``, and ``text``, which pointing at it tells; with ``x_lower`` and
            ``x_upper`` or ``y_lower`` and ``y_upper`` an interval, of no length where these are not known.
        runs: A row a run of groups of several: ``x``, ``y`` and ``text``.
        mode: Of the means.
        **more: What else plotly's Scatter takes of the means.
    """
    small: dict[str, Any] = {"mode": "markers", "marker": {"size": 5, "opacity": 0.55}, "showlegend": False}
    large: dict[str, Any] = {"mode": mode, "marker": {"size": 10}, **more}
    for way in [way for way in "xy" if f"{way}_lower" in means]:
        value = means[way]
        lower, upper = (means[f"{way}_{end}"].fillna(value) for end in ("lower", "upper"))
        large[f"error_{way}"] = error_bars(value, lower, upper) | _BAR
    return [
        series(name, list(rows.x), list(rows.y), number, texts=list(rows.text), legendgroup=name, **look)
        for rows, look in ((runs, small), (means, large))
        if len(rows)
    ]
