"""Signs of false robustness that accuracies under attack do not show by themselves."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD, cross_entropy, margin
from withstand.core import norms
from withstand.core.setting_rules import settle
from withstand.data import batches, sample
from withstand.evaluation.meter import Gathered, Meter, Needs, PartResult, Subject, Summary
from withstand.evaluation.plans import norm_name
from withstand.evaluation.predictor import Predictor
from withstand.results.measurements import (
    LARGE_EPSILON,
    NON_FINITE_GRADIENTS,
    VANISHING_GRADIENTS,
    Measurement,
)
from withstand.types import Batch

LARGE_EPSILON_EXAMPLES = 200
"""Test examples on which a budget that makes all images alike is tried, the first ones."""

LARGEST_CLASS = "largest class"
"""Beside it in the table: the share of the largest class, above which none can be robust."""

_STEPS = 50
_LOSSES = {"cross-entropy": cross_entropy, "margin": margin}


@dataclass(frozen=True)
class VanishingGradients(Meter):
    """Counts the correctly classified examples at which a loss has no gradient with respect to the image.

    A gradient counts as none where no pixel's is a normal number of the images' precision: its sign and its
    direction are those of rounding then (Carlini and Wagner, 2016; Athalye et al., ICML 2018). Those at which
    it is NaN or infinite at a pixel are counted apart. It is measured wherever something is attacked.
    """

    name = "gradients"

    @override
    def score(self, predictor: Predictor, batch: Batch, prediction: Tensor, *, seed: int) -> PartResult:
        is_correct = prediction == batch.labels
        counts = {"right": np.array([int(is_correct.sum())])}
        for name, loss in _LOSSES.items():
            largest = _largest(predictor.attack_model, batch, loss)
            is_none = largest < torch.finfo(largest.dtype).tiny  # not of NaN
            for key, shows in ((name, is_none), (f"{name} not finite", ~largest.isfinite())):
                counts[key] = np.array([int((shows & is_correct).sum())])
        return PartResult({}, counts)

    @override
    def summary(self, gathered: Gathered) -> Summary:
        num_correct = int(gathered.counts["right"][0])
        measurements = []
        for name in _LOSSES:
            for measure, key in ((VANISHING_GRADIENTS, name), (NON_FINITE_GRADIENTS, f"{name} not finite")):
                number = int(gathered.counts[key][0])
                value = number / num_correct if num_correct else 0.0
                measurements.append(
                    Measurement(measure, name, value=value, correct=number, total=num_correct)
                )
        return Summary(measurements)


def _largest(model: nn.Module, batch: Batch, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The largest entry of the loss's gradient (batch,): 0 where there is no gradient, NaN where any is."""
    with torch.enable_grad():
        images = batch.images.detach().clone().requires_grad_()
        value = loss(model(images), batch.labels).sum()
        if not value.requires_grad:
            return images.new_zeros(len(images))
        (gradient,) = torch.autograd.grad(value, images)
    return norms.norm(gradient, math.inf)


def large_epsilon(norm: float, num_pixels: int) -> float:
    """A budget within which every image can be turned into the same grey one.

    Args:
        norm: 1, 2 or inf.
        num_pixels: Of an image, with its channels.
    """
    return float(norms.norm(torch.full((1, num_pixels), 0.5, dtype=torch.float64), norm)[0])


@dataclass(frozen=True)
class LargeEpsilon(Meter):
    """How many examples are robust under PGD at epsilon 0.5 of linf, or the like of another norm.

    No classifier can truly be correct on more than the largest class there, since all images can be made
    alike. It is measured beside each suite of attacks.

    Args:
        norm: 1, 2 or inf.
    """

    needs = Needs(batches=False)
    norm: float

    def __post_init__(self) -> None:
        settle(self, norm=norms.norm_rule)

    @property
    @override
    def name(self) -> str:
        return f"large-epsilon-{norms.label(self.norm)}"

    @override
    def measure(self, subject: Subject) -> Any:
        """``epsilon``, and the counts ``robust``, ``total`` and ``largest_class``."""
        test, predictor = subject.test, subject.predictor
        few = sample(test, LARGE_EPSILON_EXAMPLES)
        epsilon = large_epsilon(self.norm, few.images[0].numel())
        attacks = [
            PGD(norm=self.norm, epsilon=epsilon, num_steps=_STEPS, loss=loss) for loss in _LOSSES.values()
        ]
        forms = [
            attack.for_random_answers() if predictor.is_random else attack.for_evaluation()
            for attack in attacks
        ]
        torch.manual_seed(subject.seed)
        robust = 0
        for batch in batches(few, subject.batch_size):
            is_robust = predictor.predict(batch.images) == batch.labels
            for form in forms:
                is_robust &= predictor.predict(form(predictor.attack_model, *batch)) == batch.labels
            robust += int(is_robust.sum())
        largest = int(few.labels.bincount().max())
        return {"epsilon": epsilon, "robust": robust, "total": len(few), "largest_class": largest}

    @override
    def summary(self, gathered: Gathered) -> Summary:
        once, norm = gathered.once, norm_name(self.norm)
        epsilon, total = once["epsilon"], once["total"]
        measurements = [
            Measurement(LARGE_EPSILON, by, norm, epsilon, once[key] / total, correct=once[key], total=total)
            for by, key in (
                (f"pgd-{_STEPS}-{norms.label(self.norm)}", "robust"),
                (LARGEST_CLASS, "largest_class"),
            )
        ]
        return Summary(measurements)
