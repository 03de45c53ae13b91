"""Groups of runs that differ in their seeds alone: their means, as a table and a figure."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from withstand.reporting.compare.comparison import Comparison, records
from withstand.reporting.compare.families import levels_of
from withstand.reporting.compare.groups import BAR, Group, mean_text, seeds_text
from withstand.reporting.figures import axis, chart, error_bars, hover, series
from withstand.reporting.read import read_run
from withstand.reporting.section import Figure, Section, Table

__all__ = ["MOST_CURVES", "section", "seeds_figure", "seeds_table", "summarize_seeds"]

MOST_CURVES = 8
"""Beyond which single runs too are easier to see in one figure."""

_SHARES = {"tickformat": ".1~%", "rangemode": "normal"}
_LABEL_WIDTH = 22
_LEVEL_STEP = 0.22
_DASH = "\N{EM DASH}"
_CAPTION = (
    "Means over runs that differ in their seeds alone, with 95 % intervals of the mean (Student's t); of a "
    "single run, the binomial interval of its test examples. Attacked accuracy is that under the strongest "
    "attack run at that epsilon."
)
_OF_NOISE = (
    " Under noise, accuracy is the mean over all levels, and the area is that under the curve of agreement "
    "with the prediction without noise, at which a constant answer scores 1; those of a single run have no "
    "interval."
)


def section(compared: Comparison) -> Section | None:
    """What the page shows of groups of runs; None of few single runs, which the table of runs tells apart."""
    groups = compared.groups
    are_single = all(len(group.members) == 1 for group in groups)
    if len(groups) <= MOST_CURVES and are_single:
        return None
    points = compared.points[compared.points.kind == "clean"]
    figure = seeds_figure(groups, points, compared.mean("Clean"))
    table = seeds_table(compared)
    title = "All beside each other" if are_single else "Over seeds"
    shown = Table(
        title,
        list(table.columns),
        table.to_numpy().tolist(),
        caption=_CAPTION + (_OF_NOISE if (compared.points.kind == "noise").any() else ""),
        is_sortable=True,
        is_tall=len(table) > 12,
        kind="groups",
    )
    return Section("over-seeds", title, "summary", figures=[figure], tables=[shown])


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
    table = table.reindex(columns=columns if is_short else [*columns, "Training time"]).astype(object).fillna(_DASH)
    table.insert(0, "Run", [group.label for group in compared.groups])
    table.insert(1, "Seeds", [str(len(group.members)) for group in compared.groups])
    return table.rename(columns=lambda name: name.replace("Accuracy under", "Mean accuracy under"))


def summarize_seeds(run_dirs: Sequence[Path | str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the means over seeds of several run folders, one row a group, for a terminal.

    Of the norms and epsilons that all share, the middle one stands for all; the page has all.

    Args:
        run_dirs: The run folders; those without ``metrics.json`` are left out.

    Raises:
        RunFolderError: one is missing or damaged.
    """
    table = seeds_table(Comparison([read_run(folder) for folder in run_dirs]), is_short=True)
    return list(table.columns), table.to_numpy().tolist()


def seeds_figure(groups: Sequence[Group], points: pd.DataFrame, means: pd.DataFrame) -> Figure:
    """Clean accuracy of each group as a dot with its interval, and of each run as a small dot.

    Args:
        groups: At least one; they are sorted by accuracy, the best on top.
        points: The clean accuracies of all runs.
        means: Those of the groups.
    """
    levels = levels_of(groups)
    best = {
        name: max(means.value[group.members[0]] for group in row.values())
        for name, row in levels.rows.items()
    }
    names = sorted(levels.rows, key=best.__getitem__)
    single = points.set_index("run").value
    traces = []
    for number, level in enumerate(levels.names):
        shift = _LEVEL_STEP * ((len(levels.names) - 1) / 2 - number)
        placed = [
            (place + shift, levels.rows[name][level])
            for place, name in enumerate(names)
            if level in levels.rows[name]
        ]
        dots = [
            (place, single[run]) for place, group in placed for run in group.members if len(group.members) > 1
        ]
        traces += [_run_dots(dots, number), _mean_dots(placed, means, number, level)]
    ticks = [_wrapped(name) for name in names]
    lines = 1 + max(text.count("<br>") for text in ticks)
    is_told = levels.word is not None
    return chart(
        traces,
        "Clean accuracy",
        _caption(groups),
        x=axis("clean accuracy", **_SHARES),
        y=axis(
            "",
            tickmode="array",
            tickvals=list(range(len(names))),
            ticktext=ticks,
            showgrid=False,
            range=[-0.6, len(names) - 0.4],
        ),
        height=110 + len(names) * max(14 + 16 * lines, 12 + 16 * len(levels.names)),
        layout={"showlegend": is_told}
        | ({"legend_title_text": html.escape(levels.word or "")} if is_told else {}),
    )


def _caption(groups: Sequence[Group]) -> str:
    numbers = {len(group.members) for group in groups}
    if numbers == {1}:
        return (
            "Each dot is one run, and bars are the 95 % binomial intervals of its test examples: "
            "they say nothing of other seeds."
        )
    of_one = "; of a single run, the binomial interval of its test examples" if 1 in numbers else ""
    return (
        f"Dots are means over seeds, and bars their 95 % intervals (Student's t){of_one}. "
        "Small dots are single runs."
    )


def _wrapped(text: str) -> str:
    return "<br>".join(map(html.escape, textwrap.wrap(text, _LABEL_WIDTH))) or html.escape(text)


def _run_dots(dots: Sequence[tuple[float, float]], number: int) -> Any:
    look = {"symbol": "circle", "size": 5, "opacity": 0.45}
    places, shares = zip(*dots, strict=True) if dots else ((), ())
    return series(
        "", shares, places, number, mode="markers", marker=look, showlegend=False, legendgroup=str(number)
    )


def _mean_dots(placed: Sequence[tuple[float, Group]], means: pd.DataFrame, number: int, level: str) -> Any:
    shown = means.loc[[group.members[0] for _, group in placed]]
    return series(
        level,
        list(shown.value),
        [place for place, _ in placed],
        number,
        mode="markers",
        texts=[
            hover(group.label, seeds_text(len(group.members)), f"clean {mean_text(mean)}")
            for (_, group), mean in zip(placed, records(shown), strict=True)
        ],
        error_x=error_bars(shown.value, shown.lower, shown.upper) | BAR,
        marker={"size": 9},
        legendgroup=str(number),
    )
