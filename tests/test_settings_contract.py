"""Every public class of settings: a number of the wrong type or range is refused when the object is made."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterator
from typing import Any

import pytest

import withstand as ws
from withstand.evaluation import Sampling
from withstand.recipes import schema

ROOMS = (
    ws.attacks,
    ws.constraints,
    ws.corruptions,
    ws.data,
    ws.evaluation,
    ws.meters,
    ws.objectives,
    ws.penalties,
    ws.schedules,
    ws.smoothing,
    ws.training,
    ws.bayes,
    schema,
)
REQUIRED: dict[str, dict[str, Any]] = {
    "Adversarial": {"attack": ws.attacks.PGD()},
    "Attacks": {"attacks": [ws.attacks.PGD()], "epsilons": [0.1]},
    "Certificate": {"norm": 2.0, "epsilons": [0.1]},
    "Certified": {"norm": 2.0, "epsilon": 0.1},
    "Constant": {"value": 0.1},
    "Continuation": {"end": 1.0},
    "Exponential": {"start": 0.1, "end": 0.2, "epochs": 3.0},
    "GaussianExpectation": {"noise_std": 0.1},
    "LargeEpsilon": {"norm": 2.0},
    "Linear": {"start": 0.1, "end": 0.2, "epochs": 3.0},
    "MART": {"attack": ws.attacks.PGD()},
    "NoisyCrossEntropy": {"noise_std": 0.1},
    "Patch": {"top": 0, "left": 0, "height": 1, "width": 1},
    "Published": {"measure": "clean", "accuracy": 0.5, "source": "here"},
    "Slowed": {"schedule": 0.1, "at": 1.0},
    "SpectralBall": {"radius": 1.0, "every": 2},
    "StepDecay": {"factor": 0.5, "epochs": 3.0},
    "Suite": {"level": "fast", "epsilons": [0.1]},
    "SymmetricCrossEntropy": {"share": 0.5},
    "TRADES": {"attack": ws.attacks.PGD()},
    "WeightPerturbation": {"objective": ws.objectives.CrossEntropy()},
    "TrainedPrior": {"weights": "model.safetensors"},
    "Weighted": {"term": ws.objectives.CrossEntropy(), "weight": 0.1},
}
# No settings of users, but what the library itself makes: results, plans, layers.
MADE_INSIDE = {
    *("DatasetInfo", "Drawing", "MultiheadAttention", "Predictor", "Subject", "TrainingResult", "_Noisy"),
    *("Benchmark", "Number", "Orthogonal", "Whole"),
}
MAY_BE_NEGATIVE = {
    ("Linear", "start"),
    ("Linear", "end"),
    ("Constant", "value"),
    ("Continuation", "end"),
    ("Slowed", "schedule"),
}


def _classes() -> Iterator[type]:
    for room in ROOMS:
        for cls in vars(room).values():
            is_own = inspect.isclass(cls) and cls.__module__.startswith("withstand.")
            is_made = is_own and not (inspect.isabstract(cls) or issubclass(cls, Exception | tuple))
            if is_made and cls.__name__ not in MADE_INSIDE:
                yield cls


def _numbers(cls: type) -> Iterator[tuple[str, str]]:
    """Its settings that are numbers: name and annotation."""
    for name, parameter in inspect.signature(cls).parameters.items():
        parts = [part.strip() for part in str(parameter.annotation).split("|")]
        if {"int", "float", "float | None"} & set(parts):
            yield name, str(parameter.annotation)


CASES = sorted(
    {
        (cls.__name__, name, annotation, cls)
        for cls in {*_classes(), Sampling}
        for name, annotation in _numbers(cls)
    },
    key=lambda case: case[:2],
)


def _wrong(cls: str, name: str, annotation: str) -> Iterator[Any]:
    yield from ("x", math.nan, True, [], object())
    if "None" not in annotation:
        yield None
    if "float" not in annotation:
        yield 1.5
    if (cls, name) not in MAY_BE_NEGATIVE:
        yield -1


@pytest.mark.parametrize(("name", "setting", "annotation", "cls"), CASES, ids=lambda part: str(part)[:30])
def test_settings_refuse_numbers_of_the_wrong_type_or_range(
    name: str, setting: str, annotation: str, cls: type
) -> None:
    required = REQUIRED.get(name, {})
    cls(**required)  # is right as it is
    accepted = [value for value in _wrong(name, setting, annotation) if _is_accepted(cls, setting, value)]
    assert accepted == []


def _is_accepted(cls: type, setting: str, value: Any) -> bool:
    try:
        cls(**{**REQUIRED.get(cls.__name__, {}), setting: value})
    except (TypeError, ValueError) as error:
        return setting.split("_")[-1] not in str(error) or "\n" in str(error)
    return True


def test_settings_contract_covers_the_settings_of_all_rooms() -> None:
    names = {name for name, *_ in CASES}
    assert {"PGD", "TrainingSettings", "Certificate", "Smoothing", "Linear", "Deform", "Posterior"} <= names
    assert len(CASES) > 100
