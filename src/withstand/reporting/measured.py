"""Gathers the sections of the page that tell of one evaluation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from withstand.reporting.calibration import CalibrationView, view_calibration
from withstand.reporting.checks import ChecksView, view_checks
from withstand.reporting.classes import ClassesView, ConfusionView, view_classes, view_confusion
from withstand.reporting.corruptions import CorruptionsView, view_corruptions
from withstand.reporting.kernel_norms import KernelNormsView, view_kernel_norms
from withstand.reporting.moments import MomentsView, view_moments
from withstand.reporting.noise import NoiseView, view_noise
from withstand.reporting.protocols import ProtocolView, view_protocols
from withstand.reporting.random_answers import RandomAnswersView, view_random_answers
from withstand.reporting.schema import Metrics
from withstand.reporting.smoothing import SmoothingView, view_smoothing
from withstand.reporting.suites import SuiteView, view_suites
from withstand.reporting.summary import chance_of
from withstand.reporting.uncertainty import UncertaintyView, view_uncertainty

__all__ = ["MeasuredView", "view_measured"]

_Found = TypeVar("_Found")
_View = TypeVar("_View")


@dataclass(frozen=True)
class MeasuredView:
    """What an evaluation measured beside its curves; empty or None where it did not."""

    checks: ChecksView | None = None
    protocols: Sequence[ProtocolView] = ()
    suites: Sequence[SuiteView] = ()
    random_answers: RandomAnswersView | None = None
    smoothing: SmoothingView | None = None
    kernel_norms: KernelNormsView | None = None
    noise: NoiseView | None = None
    corruptions: CorruptionsView | None = None
    moments: MomentsView | None = None
    classes: ClassesView | None = None
    confusion: ConfusionView | None = None
    calibration: CalibrationView | None = None
    uncertainty: UncertaintyView | None = None


def view_measured(metrics: Metrics) -> MeasuredView:
    """What the page shows of an evaluation beside its curves."""
    chance, clean = chance_of([metrics]), metrics["clean"]
    return MeasuredView(
        checks=_shown(metrics.get("checks"), view_checks),
        protocols=view_protocols(metrics),
        suites=view_suites(metrics),
        random_answers=_shown(metrics.get("sampling"), view_random_answers),
        smoothing=_shown(metrics.get("smoothing"), lambda found: view_smoothing(found, chance)),
        kernel_norms=_shown(metrics.get("kernel_norms"), view_kernel_norms),
        noise=_shown(metrics.get("noise"), lambda found: view_noise(found, chance)),
        corruptions=_shown(metrics.get("corruptions"), lambda found: view_corruptions(found, clean, chance)),
        moments=_shown(metrics.get("moments"), view_moments),
        classes=_shown(metrics.get("classes"), view_classes),
        confusion=_shown(metrics.get("confusion"), view_confusion),
        calibration=_shown(metrics.get("calibration"), view_calibration),
        uncertainty=_shown(metrics.get("uncertainty"), view_uncertainty),
    )


def _shown(found: _Found | None, view: Callable[[_Found], _View | None]) -> _View | None:
    return view(found) if found else None
