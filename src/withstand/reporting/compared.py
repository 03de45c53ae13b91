"""Gathers what the page's templates show of several runs beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from withstand.reporting.aspects import Aspect, Measured, measure, targets_of
from withstand.reporting.certified import (
    Certified,
    Radii,
    certified_at,
    certified_curve,
    telling_certificates,
)
from withstand.reporting.compared_noise import ComparedNoise, compare_noise
from withstand.reporting.old_figures import Figure, accuracy_figure, training_figure
from withstand.reporting.headlines import telling_attacks
from withstand.reporting.old_history import panels_of_runs
from withstand.reporting.over_seeds import SeedsView, group_curves, view_seeds
from withstand.reporting.paired_view import PairedView, view_pairs
from withstand.reporting.protocols import ComparedProtocols, compare_protocols
from withstand.reporting.old_read import Run
from withstand.reporting.schema import Metrics
from withstand.reporting.summary import Attacked, chance_of, norms, run_labels, strongest_at, strongest_curve
from withstand.reporting.tradeoff import TradeoffView, view_tradeoffs

__all__ = ["CompareView", "view_runs"]

_MANY_RUNS = 8  # from here on their own sections are folded, and figures show means


@dataclass(frozen=True)
class CompareView:
    """What stands above the single runs where there are several.

    Attributes:
        targets: (norm, epsilon) of each attacked column.
        attacked: Label -> one entry a target, None where that run was not attacked so.
        certified_targets: (norm, epsilon) of each certified column.
        certified: Label -> one entry a certified target, None where nothing was certified there.
        accuracy_figures: One a norm, the strongest attack of each run; of many runs, means over seeds.
        protocols: Their figures under published protocols; None where there are none.
        noise: Their answers under noise; None where none was measured.
        training_figures: One a column of the training's records.
        seeds: Groups of runs; None where there are none.
        corruptions: Label -> the mean accuracy under corruptions, None where that was not measured; empty
            where no run has one.
        tradeoffs: Measures against clean accuracy and training time; None where there is nothing to compare.
        pairs: Differences on the same test examples; None where no two runs hold such.
        are_many: Whether the runs are too many to show all of each at once.
    """

    targets: Sequence[tuple[str, float]]
    attacked: Mapping[str, Sequence[Attacked | None]]
    certified_targets: Sequence[tuple[str, float]]
    certified: Mapping[str, Sequence[Certified | None]]
    accuracy_figures: Sequence[Figure]
    protocols: ComparedProtocols | None
    noise: ComparedNoise | None
    training_figures: Sequence[Figure]
    seeds: SeedsView | None
    corruptions: Mapping[str, Measured | None]
    tradeoffs: TradeoffView | None
    pairs: PairedView | None
    are_many: bool


def view_runs(runs: Sequence[Run]) -> CompareView:
    """What the page shows of several runs beside each other."""
    labels = run_labels(runs)
    measured = {label: run.metrics for label, run in zip(labels, runs, strict=True) if run.metrics}
    trained = {label: run.history for label, run in zip(labels, runs, strict=True) if run.history}
    every_norm = dict.fromkeys(norm for metrics in measured.values() for norm in norms(metrics))
    targets = targets_of([each for metrics in measured.values() for each in telling_attacks(metrics)])
    certified_targets = targets_of(
        [each for metrics in measured.values() for each in telling_certificates(metrics)]
    )
    are_many = len(runs) > _MANY_RUNS
    chance = chance_of(list(measured.values()))
    radii = {label: run.radii for label, run in zip(labels, runs, strict=True)}
    return CompareView(
        targets=targets,
        attacked={
            label: [strongest_at(metrics, norm, epsilon) for norm, epsilon in targets]
            for label, metrics in measured.items()
        },
        certified_targets=certified_targets,
        certified={
            label: [certified_at(metrics, norm, epsilon) for norm, epsilon in certified_targets]
            for label, metrics in measured.items()
        },
        accuracy_figures=(
            _mean_accuracy(runs, chance)
            if are_many
            else [_compared_accuracy(measured, radii, norm) for norm in every_norm]
        ),
        protocols=compare_protocols(runs),
        noise=compare_noise(runs, measured, chance, are_many=are_many),
        training_figures=[training_figure(panel) for panel in panels_of_runs(trained)],
        seeds=view_seeds(runs),
        corruptions=_corruptions(measured),
        tradeoffs=view_tradeoffs(runs),
        pairs=view_pairs(runs),
        are_many=are_many,
    )


def _corruptions(measured: Mapping[str, Metrics]) -> dict[str, Measured | None]:
    aspect = Aspect("corruptions", "")
    found = {label: measure(metrics, aspect) for label, metrics in measured.items()}
    return found if any(found.values()) else {}


def _compared_accuracy(measured: Mapping[str, Metrics], radii: Mapping[str, Radii], norm: str) -> Figure:
    drawn = [
        replace(curve, series=series)
        for series, (label, metrics) in enumerate(measured.items())
        if norm in norms(metrics)
        for curve in [
            strongest_curve(metrics, norm, label),
            *certified_curve(metrics, norm, radii[label], label),
        ]
    ]
    having = [metrics for metrics in measured.values() if norm in norms(metrics)]
    return accuracy_figure(drawn, norm, chance_of(having))


def _mean_accuracy(runs: Sequence[Run], chance: float | None) -> list[Figure]:
    return [accuracy_figure(drawn, norm, chance) for norm, drawn in group_curves(runs).items()]
