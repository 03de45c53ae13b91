"""What is tried on a model: a line a family of training, and a line a kind of measurement.

A new one is a line in ``FAMILIES`` or ``METERS``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Generic, NamedTuple, TypeVar

from torch import nn

from withstand.attacks import PGD
from withstand.constraints import SpectralBall
from withstand.domains import DomainName, UnsupportedOperationError
from withstand.evaluation.meter import Meter
from withstand.evaluation.meters import (
    Attacks,
    Corruptions,
    NoiseCurve,
    RandomizedSmoothing,
    Uncertainty,
)
from withstand.evaluation.model_report.bench import EPSILON, Bench, held_still, seconds
from withstand.evaluation.model_report.report_parts import Verdict
from withstand.objectives import (
    Adversarial,
    Certified,
    CrossEntropy,
    EveryLayer,
    GaussianExpectation,
    NoisyCrossEntropy,
    Objective,
    Variational,
)
from withstand.penalties import (
    DeformationStability,
    InputGradient,
    SpectralNorm,
    VirtualAdversarial,
)
from withstand.training import TrainingSettings
from withstand.training.trainable import require_trainable
from withstand.types import Batch, ModelError, WithstandError

Step = Callable[[Batch], object]
"""One step of training on a batch."""

_Result = TypeVar("_Result")
_SOURCE = Path(__file__).parents[2]
_LONGEST = 400  # characters of an error that is not ours
_STD = 0.1
_ENOUGH = 0.4  # seconds of repetitions
_MOST_REPETITIONS = 7
_SLOW = 0.3  # seconds, of a step that is not repeated
_SIZES = (2, 8, 32, 128)  # images a step
_QUICK_STEP = 0.05  # seconds that a plain step may take


@dataclass(frozen=True)
class Family:
    """A way to train.

    Attributes:
        name: As the report has it.
        make: From the bench to a step.
        settles: Whether its first step takes longer than later ones, since norms or graphs are found in it.
    """

    name: str
    make: Callable[[Bench], Step]
    settles: bool = False


@dataclass(frozen=True)
class Measure:
    """Something to measure.

    Attributes:
        name: As the report has it.
        run: Tries it on two images, or a meter that does.
    """

    name: str
    run: Callable[[Bench], object] | Meter

    def of(self, bench: Bench) -> object:
        """Tries it."""
        return bench.evaluate(self.run) if isinstance(self.run, Meter) else self.run(bench)


def _plain(bench: Bench) -> Step:
    objective = CrossEntropy()
    require_trainable(bench.model, objective, bench.few, TrainingSettings(batch_size=len(bench.few)))
    return _stepping(bench.model, objective)


def _minimising(make: Callable[[], Objective]) -> Callable[[Bench], Step]:
    return lambda bench: _stepping(bench.model, make())


def _variational(bench: Bench) -> Step:
    return _stepping(bench.random_model, Variational(bench.num_data))


def _certified(norm: float, domain: DomainName) -> Callable[[Bench], Step]:
    def make(bench: Bench) -> Step:
        objective = Certified(norm, EPSILON, domain=domain)
        objective.operator_norms = bench.estimates  # so that all of them find the norms once
        return _stepping(bench.model, objective)

    return make


def _constrained(bench: Bench) -> Step:
    constraint, step = SpectralBall(1.0), _stepping(bench.model, CrossEntropy())
    constraint.prepare(bench.info.shape)

    def constrained(batch: Batch) -> None:
        step(batch)
        constraint.project_(bench.model)

    return constrained


def _stepping(model: nn.Module, objective: Objective) -> Step:
    def step(batch: Batch) -> None:
        model.train()
        model.zero_grad(set_to_none=True)
        loss = objective(model, *batch).loss
        loss.backward()
        if not loss.isfinite():
            raise ModelError("Its loss is NaN or infinite on these images with the weights as they are.")

    return step


NOISE = Family("Gaussian noise, drawn", _minimising(lambda: NoisyCrossEntropy(_STD)))
ADVERSARIAL = Family(
    "adversarial, PGD of 5 steps", _minimising(lambda: Adversarial(PGD(epsilon=EPSILON, num_steps=5)))
)
GRADIENT = Family("penalty: gradient", _minimising(lambda: CrossEntropy() + InputGradient()))
DEFORMATIONS = Family(
    "penalty: deformations, 1 an image",
    _minimising(lambda: CrossEntropy() + DeformationStability(num_deformations=1)),
)
CERTIFIED = Family("certified: ball", _certified(2.0, "ball"), settles=True)
FAMILIES = (
    Family("plain", _plain),
    NOISE,
    ADVERSARIAL,
    GRADIENT,
    Family("penalty: virtual adversarial", _minimising(lambda: CrossEntropy() + VirtualAdversarial(EPSILON))),
    DEFORMATIONS,
    Family("penalty: spectral norms", _minimising(lambda: CrossEntropy() + SpectralNorm()), settles=True),
    Family("constraint: spectral ball, each step", _constrained),
    Family("certified: box (IBP)", _certified(math.inf, "box"), settles=True),
    CERTIFIED,
    Family("certified: box and ball (BCP)", _certified(2.0, "box_ball")),
    Family("certified: linear (CROWN-IBP)", _certified(math.inf, "linear")),
    Family(
        "Gaussian moments: first activation", _minimising(lambda: GaussianExpectation(_STD)), settles=True
    ),
    Family(
        "Gaussian moments: every layer",
        _minimising(lambda: GaussianExpectation(_STD, propagation=EveryLayer())),
    ),
    Family("Bayesian (variational)", _variational),
)
"""Plain training first, by which the costs of the others are measured."""

METERS = (
    Measure("clean accuracy, calibration, classes", Bench.evaluate),
    Measure("attacks: PGD, Suite, AutoAttack", Attacks([PGD(num_steps=2)], epsilons=[EPSILON])),
    Measure("certificates, l1", lambda bench: bench.prove(1.0)),
    Measure("certificates, l2", lambda bench: bench.prove(2.0)),
    Measure("certificates, linf", lambda bench: bench.prove(math.inf)),
    Measure("randomised smoothing", RandomizedSmoothing(num_selection=2, num_estimation=10)),
    Measure("Gaussian noise (NoiseCurve)", NoiseCurve(num_levels=2)),
    Measure("corruptions", Corruptions(severities=[1])),
    Measure("moments under noise (MomentCheck)", Bench.moments),
    Measure("kernel norms (KernelNorms)", lambda bench: bench.lipschitz),
    Measure("uncertainty, of random weights", Uncertainty(num_samples=2)),
)


def try_families(bench: Bench) -> tuple[list[Verdict], int]:
    """Takes a step of each family on two images, and times some more.

    Args:
        bench: What is tried.

    Returns:
        A verdict each, and how many images a timed step had.
    """
    plain, size, verdicts = 0.0, _SIZES[0], list[Verdict]()
    for family in FAMILIES:
        if verdicts and not verdicts[0].works:  # what cannot be trained at all
            verdicts.append(Verdict(family.name, works=False, note=verdicts[0].note))
            continue
        with held_still(bench.model):
            attempt = _attempt(partial(_first_step, family, bench), bench)
            if attempt.result is None:
                verdicts.append(Verdict(family.name, works=False, note=attempt.note))
                continue
            step, took = attempt.result
            size = size if plain else _size_of(step, bench)
            repeats = family.settles or took < _SLOW or size > _SIZES[0]
            cost = _typical(step, bench, size) if repeats else took
        plain = plain or cost
        verdicts.append(Verdict(family.name, works=True, cost=cost / plain, note=attempt.note))
    return verdicts, size


def try_meters(bench: Bench) -> list[Verdict]:
    """Measures two images in each way.

    Args:
        bench: What is tried.
    """
    easy = [measure.run for measure in METERS if isinstance(measure.run, Meter) and _is_for_any(measure.run)]
    with held_still(bench.model):
        all_at_once = _attempt(lambda: (bench.evaluate(*easy),), bench)
    verdicts = []
    for measure in METERS:
        with held_still(bench.model):
            is_done = all_at_once.result is not None and measure.run in easy
            attempt = all_at_once if is_done else _attempt(lambda m=measure: (m.of(bench),), bench)  # type: ignore[misc]
        verdicts.append(Verdict(measure.name, works=attempt.result is not None, note=attempt.note))
    return verdicts


def _is_for_any(meter: Meter) -> bool:
    return not (meter.needs.random_weights or meter.needs.fixed_weights)


class _Attempt(NamedTuple, Generic[_Result]):
    """What came of a try.

    Attributes:
        result: None where it failed.
        note: Why, or what was warned of.
    """

    result: _Result | None
    note: str


def _attempt(run: Callable[[], _Result], bench: Bench) -> _Attempt[_Result]:
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            result = run()
        except UnsupportedOperationError as error:
            return _Attempt(None, _faults(bench) or str(error))
        except (Exception, SystemExit) as error:
            return _Attempt(None, text_of_error(error))
    own = [str(warning.message) for warning in warned if _SOURCE in Path(warning.filename).parents]
    return _Attempt(result, "\n".join(dict.fromkeys(own)))


def text_of_error(error: BaseException) -> str:
    """In one line; one that is not of this package with its kind."""
    text = " ".join(str(error).split())
    return (
        text if isinstance(error, WithstandError) and text else f"{type(error).__name__}: {text}"[:_LONGEST]
    )


def _faults(bench: Bench) -> str:
    """All that keeps sets from passing, not only the first; nothing where that is not known either."""
    try:
        return bench.faults
    except Exception:
        return ""


def _first_step(family: Family, bench: Bench) -> tuple[Step, float]:
    step, batch = family.make(bench), bench.batch()
    return step, seconds(lambda: step(batch), bench.images.device)


def _size_of(step: Step, bench: Bench) -> int:
    """As many images as a plain step has time for."""
    batch = bench.batch()
    an_image = min(seconds(lambda: step(batch), bench.images.device) for _ in range(3)) / len(batch.labels)
    return max(size for size in _SIZES if size == _SIZES[0] or size * an_image <= _QUICK_STEP)


def _typical(step: Step, bench: Bench, size: int) -> float:
    """The median time of a step."""
    batch, taken = bench.batch(size), list[float]()
    while not taken or (len(taken) < _MOST_REPETITIONS and sum(taken) < _ENOUGH):
        taken.append(seconds(lambda: step(batch), bench.images.device))
    return median(taken)
