"""Gathers what the page's templates show of one run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from withstand.reporting.certified import certified_curves, describe
from withstand.reporting.checks import other_warnings
from withstand.reporting.extremes import ExtremesView, view_extremes
from withstand.reporting.old_figures import Figure, accuracy_figure, training_figure
from withstand.reporting.headlines import Card, PublishedRow, cards, published_rows
from withstand.reporting.old_history import events, history_table, panels_of_run
from withstand.reporting.old_images import GalleryView, view_gallery
from withstand.reporting.measured import MeasuredView, view_measured
from withstand.reporting.old_read import Run
from withstand.reporting.schema import Environment, Metrics
from withstand.reporting.spectral_norms import SpectralNormsView, view_spectral_norms
from withstand.reporting.summary import (
    Curve,
    chance_of,
    cost_rows,
    curves,
    environment_rows,
    lookup,
    norms,
    run_title,
    setting,
)
from withstand.reporting.old_wording import dataset_note

__all__ = ["RunView", "TrainingView", "view_run"]


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
    """One run's part of the page; what its folder lacks is None or empty.

    ``warnings`` leaves out those of failed checks, which are told apart.
    """

    run: Run
    label: str
    title: str
    setting: str
    description: str | None
    dataset_note: str | None
    cards: Sequence[Card]
    warnings: Sequence[str]
    published: Sequence[PublishedRow]
    curves: Mapping[str, Sequence[Curve]]
    descriptions: Sequence[tuple[str, str]]
    is_certified: bool
    accuracy_figures: Sequence[Figure]
    measured: MeasuredView
    extremes: ExtremesView | None
    training: TrainingView | None
    spectral_norms: SpectralNormsView | None
    gallery: GalleryView | None
    cost: Sequence[tuple[str, str]]
    environment: Sequence[tuple[str, str]]
    commands: Sequence[str]

    @property
    def num_repeats(self) -> int:
        """How many predictions of each example accuracies count."""
        sampling = self.run.metrics.get("sampling") if self.run.metrics else None
        return sampling["num_repeats"] if sampling else 1

    @property
    def num_failed_checks(self) -> int:
        """How many checks for false robustness failed."""
        return self.measured.checks.num_failed if self.measured.checks else 0

    @property
    def num_warnings(self) -> int:
        """How many warnings there are, each failed check one of them."""
        return len(self.warnings) + self.num_failed_checks


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
        warnings=other_warnings(metrics) if metrics else [],
        published=published_rows(metrics) if metrics else [],
        curves=by_norm,
        descriptions=_descriptions(metrics) if metrics else [],
        is_certified=bool(metrics and metrics.get("certificates")),
        accuracy_figures=[
            accuracy_figure(each, norm, chance_of([metrics])) for norm, each in by_norm.items()
        ],
        measured=view_measured(metrics) if metrics else MeasuredView(),
        extremes=view_extremes(run.extremes) if run.extremes else None,
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
