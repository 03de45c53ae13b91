"""Gathers what the page's templates show: of one run, and of several beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from withstand.reporting.certified import (
    Certified,
    Radii,
    certified_at,
    certified_curve,
    certified_curves,
    describe,
    telling_certificates,
)
from withstand.reporting.compared_noise import ComparedNoise, compare_noise
from withstand.reporting.figures import Figure, accuracy_figure, training_figure
from withstand.reporting.headlines import Card, PublishedRow, cards, published_rows, telling_attacks
from withstand.reporting.history import events, history_table, panels_of_run, panels_of_runs
from withstand.reporting.images import GalleryView, view_gallery
from withstand.reporting.kernel_norms import KernelNormsView, view_kernel_norms
from withstand.reporting.moments import MomentsView, view_moments
from withstand.reporting.noise import NoiseView, view_noise
from withstand.reporting.over_seeds import SeedsView, group_curves, view_seeds
from withstand.reporting.protocols import ComparedProtocols, ProtocolView, compare_protocols, view_protocols
from withstand.reporting.random_answers import RandomAnswersView, view_random_answers
from withstand.reporting.read import Run
from withstand.reporting.schema import Environment, Metrics
from withstand.reporting.spectral_norms import SpectralNormsView, view_spectral_norms
from withstand.reporting.summary import (
    Attacked,
    Curve,
    cost_rows,
    curves,
    environment_rows,
    lookup,
    norms,
    run_labels,
    run_title,
    setting,
    strongest_at,
    strongest_curve,
)
from withstand.reporting.uncertainty import UncertaintyView, view_uncertainty
from withstand.reporting.wording import dataset_note, norm_text

__all__ = ["CompareView", "RunView", "TrainingView", "view_run", "view_runs"]

_MANY_RUNS = 8  # from here on their own sections are folded, and figures show means


@dataclass(frozen=True)
class TrainingView:
    """The training as figures, as happenings in words, and as a table of its newest epochs."""

    figures: Sequence[Figure]
    happenings: Sequence[str]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_epochs: int


@dataclass(frozen=True)
class RunView:
    """One run's part of the page; what its folder lacks is None or empty."""

    run: Run
    label: str
    title: str
    setting: str
    description: str | None
    dataset_note: str | None
    cards: Sequence[Card]
    warnings: Sequence[str]
    published: Sequence[PublishedRow]
    protocols: Sequence[ProtocolView]
    curves: Mapping[str, Sequence[Curve]]
    descriptions: Sequence[tuple[str, str]]
    is_certified: bool
    accuracy_figures: Sequence[Figure]
    random_answers: RandomAnswersView | None
    uncertainty: UncertaintyView | None
    noise: NoiseView | None
    moments: MomentsView | None
    kernel_norms: KernelNormsView | None
    training: TrainingView | None
    spectral_norms: SpectralNormsView | None
    gallery: GalleryView | None
    cost: Sequence[tuple[str, str]]
    environment: Sequence[tuple[str, str]]
    commands: Sequence[str]


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
    are_many: bool


def view_run(run: Run, label: str) -> RunView:
    """What the page shows of one run."""
    metrics, environment = run.metrics, run.environment or {}
    by_norm = (
        {
            norm: [*curves(metrics, norm), *certified_curves(metrics, norm, run.radii)]
            for norm in norms(metrics)
        }
        if metrics
        else {}
    )
    return RunView(
        run=run,
        label=label,
        title=run_title(run),
        setting=setting(run),
        description=lookup(run.recipe, "description"),
        dataset_note=dataset_note(metrics["dataset"]) if metrics else None,
        cards=cards(metrics) if metrics else [],
        warnings=metrics.get("warnings", []) if metrics else [],
        published=published_rows(metrics) if metrics else [],
        protocols=view_protocols(metrics) if metrics else [],
        curves=by_norm,
        descriptions=_descriptions(metrics) if metrics else [],
        is_certified=bool(metrics and metrics.get("certificates")),
        accuracy_figures=[accuracy_figure(each, norm, _chance([metrics])) for norm, each in by_norm.items()],
        random_answers=_view_random_answers(metrics) if metrics else None,
        uncertainty=_view_uncertainty(metrics) if metrics else None,
        noise=_view_noise(metrics) if metrics else None,
        moments=_view_moments(metrics) if metrics else None,
        kernel_norms=_view_kernel_norms(metrics) if metrics else None,
        training=_view_training(run),
        spectral_norms=view_spectral_norms(run.history) if run.history else None,
        gallery=view_gallery(run.gallery) if run.gallery else None,
        cost=cost_rows(environment),
        environment=environment_rows(environment),
        commands=_commands(environment, metrics),
    )


def _descriptions(metrics: Metrics) -> list[tuple[str, str]]:
    """What was measured by what, in words, without repetition."""
    attacks = [(each["name"], each.get("description") or "") for each in metrics.get("attacks", [])]
    return list(dict.fromkeys([*attacks, *map(describe, metrics.get("certificates", []))]))


def _view_kernel_norms(metrics: Metrics) -> KernelNormsView | None:
    found = metrics.get("kernel_norms")
    return view_kernel_norms(found) if found else None


def _view_random_answers(metrics: Metrics) -> RandomAnswersView | None:
    found = metrics.get("sampling")
    return view_random_answers(found) if found else None


def _view_uncertainty(metrics: Metrics) -> UncertaintyView | None:
    found = metrics.get("uncertainty")
    return view_uncertainty(found) if found else None


def _view_noise(metrics: Metrics) -> NoiseView | None:
    found = metrics.get("noise")
    return view_noise(found, _chance([metrics])) if found else None


def _view_moments(metrics: Metrics) -> MomentsView | None:
    found = metrics.get("moments")
    return view_moments(found) if found else None


def _commands(environment: Environment, metrics: Metrics | None) -> list[str]:
    """What repeats the run: one command, or one each to train, to evaluate and so on."""
    has_moments = bool(metrics and metrics.get("moments"))  # which an evaluation anew forgets
    given = (
        environment.get("command"),
        environment.get("evaluate_command"),
        environment.get("certify_command"),
        environment.get("moments_command") if has_moments else None,
    )
    return list(dict.fromkeys(command for command in given if command))


def _view_training(run: Run) -> TrainingView | None:
    if run.history is None:
        return None
    header, rows = history_table(run.history)
    return TrainingView(
        figures=[training_figure(panel) for panel in panels_of_run(run.history)],
        happenings=list(events(run.history).values()),
        header=header,
        rows=rows,
        num_epochs=len(run.history.notes),
    )


def view_runs(runs: Sequence[Run]) -> CompareView:
    """What the page shows of several runs beside each other."""
    labels = run_labels(runs)
    measured = {label: run.metrics for label, run in zip(labels, runs, strict=True) if run.metrics}
    trained = {label: run.history for label, run in zip(labels, runs, strict=True) if run.history}
    every_norm = dict.fromkeys(norm for metrics in measured.values() for norm in norms(metrics))
    targets = _targets([each for metrics in measured.values() for each in telling_attacks(metrics)])
    certified_targets = _targets(
        [each for metrics in measured.values() for each in telling_certificates(metrics)]
    )
    are_many = len(runs) > _MANY_RUNS
    chance = _chance(list(measured.values()))
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
        are_many=are_many,
    )


def _targets(shown: Sequence[Attacked | Certified]) -> list[tuple[str, float]]:
    """Every (norm, epsilon) to compare at; equal up to rounding counts once."""
    found: dict[tuple[str, float], tuple[str, float]] = {}
    for each in shown:
        epsilon = each.point["epsilon"]
        found.setdefault((norm_text(each.norm), round(epsilon, 6)), (each.norm, epsilon))
    return [found[key] for key in sorted(found)]


def _compared_accuracy(measured: Mapping[str, Metrics], radii: Mapping[str, Radii], norm: str) -> Figure:
    having = {label: metrics for label, metrics in measured.items() if norm in norms(metrics)}
    drawn = [
        replace(curve, series=series)
        for series, (label, metrics) in enumerate(having.items())
        for curve in [
            strongest_curve(metrics, norm, label),
            *certified_curve(metrics, norm, radii[label], label),
        ]
    ]
    return accuracy_figure(drawn, norm, _chance(list(having.values())))


def _mean_accuracy(runs: Sequence[Run], chance: float | None) -> list[Figure]:
    return [accuracy_figure(drawn, norm, chance) for norm, drawn in group_curves(runs).items()]


def _chance(measured: Sequence[Metrics | None]) -> float | None:
    """The accuracy of guessing, where all runs have as many classes."""
    numbers = {metrics["num_classes"] for metrics in measured if metrics}
    return 1 / numbers.pop() if len(numbers) == 1 else None
