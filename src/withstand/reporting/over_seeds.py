"""The section on groups of runs: a table of means over seeds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from withstand.reporting.old_figures import Figure
from withstand.reporting.group_figures import seeds_figure
from withstand.reporting.old_read import Run
from withstand.reporting.schema import CurvePoint
from withstand.reporting.seeds import Group, groups_of, table_of_groups
from withstand.reporting.summary import Curve

__all__ = ["SeedsView", "group_curves", "view_seeds"]

_MOST_CURVES = 8  # beyond which single runs too are easier to see in one figure


@dataclass(frozen=True)
class SeedsView:
    """Groups of runs that differ in their seeds alone.

    Attributes:
        heading: Of the first section.
        header: Of the table.
        rows: One a group, texts.
        figure: Clean accuracy of all groups.
    """

    heading: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    figure: Figure


def view_seeds(runs: Sequence[Run]) -> SeedsView | None:
    """What the page shows of groups of runs; None of few single runs, which the table of runs tells apart."""
    groups = groups_of(runs)
    if len(groups) <= _MOST_CURVES and all(group.num_seeds == 1 for group in groups):
        return None
    header, rows = table_of_groups(groups)
    return SeedsView(
        heading="Over seeds" if any(group.num_seeds > 1 for group in groups) else "All beside each other",
        header=header,
        rows=rows,
        figure=seeds_figure(groups),
    )


def group_curves(runs: Sequence[Run]) -> dict[str, list[Curve]]:
    """Norm's sign -> one curve of means a group; none where they are too many to be told apart."""
    groups = groups_of(runs)
    if len(groups) > _MOST_CURVES:
        return {}
    signs = dict.fromkeys(norm for group in groups for norm, _ in group.attacked)
    return {norm: [_curve(group, norm) for group in groups] for norm in signs}


def _curve(group: Group, norm: str) -> Curve:
    means = {0.0: group.clean} | {
        epsilon: mean for (sign, epsilon), mean in group.attacked.items() if sign == norm
    }
    points = [
        CurvePoint(
            epsilon=epsilon, accuracy=mean.value, lower=mean.lower, upper=mean.upper, correct=0, total=0
        )
        for epsilon, mean in means.items()
    ]
    seeds = f"mean of {group.num_seeds}" if group.num_seeds > 1 else "one run"
    return Curve(group.label, points, [seeds] * len(points))
