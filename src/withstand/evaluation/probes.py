"""Looks for the signs of false robustness that accuracies under attack do not show by themselves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import norms
from withstand.attacks import PGD, cross_entropy, margin
from withstand.data import Split, batches
from withstand.evaluation.judge import Judge
from withstand.evaluation.meter import Counts, Found, Meter
from withstand.types import Batch

__all__ = [
    "GREY_EXAMPLES",
    "GradientMeter",
    "GradientProbe",
    "draws_answers",
    "grey_radius",
    "withstand_grey",
]

GREY_EXAMPLES = 200
"""Test examples on which a budget that allows everything is tried, the first ones."""

_GREY_STEPS = 50
_SAME_ANSWER = 1e-3  # of the largest logit: what the order of additions may change


@torch.no_grad()
def draws_answers(model: nn.Module, images: Tensor) -> bool:
    """Whether a model in eval mode answers differently when it is asked twice.

    Args:
        model: In eval mode; maps images in [0, 1] to logits (batch, classes).
        images: Float tensor (batch, …) in [0, 1].
    """
    first, second = model(images), model(images)
    largest = first.abs().max().clamp_min(1e-12)
    return bool(((first - second).abs().max() > _SAME_ANSWER * largest).item())


@dataclass(frozen=True)
class GradientProbe:
    """At which losses to look for gradients that vanish: those that attacks climb."""


class GradientMeter(Meter):
    """Counts the right examples at which a loss has no gradient at all with respect to the image.

    A gradient counts as none where no pixel's is a normal number of the images' precision: its sign and its
    direction are those of rounding then (Carlini and Wagner, 2016; Athalye et al., ICML 2018).
    """

    @property
    @override
    def entry(self) -> str:
        return "gradients"

    @property
    @override
    def settings(self) -> GradientProbe:
        return GradientProbe()

    @override
    def score(self, judge: Judge, batch: Batch, prediction: Tensor, *, seed: int) -> Found:
        is_right = prediction == batch.labels
        vanished = {
            "cross_entropy": _vanishes(judge.target, batch, cross_entropy),
            "margin": _vanishes(judge.target, batch, margin),
        }
        counts = {name: np.array([int((each & is_right).sum())]) for name, each in vanished.items()}
        return Found({}, {"right": np.array([int(is_right.sum())]), **counts})

    @override
    def summary(self, rows: pd.DataFrame, counts: Counts) -> dict[str, Any]:
        right = int(counts["right"][0])
        shares = {
            name: int(counts[name][0]) / right if right else 0.0 for name in ("cross_entropy", "margin")
        }
        return {"num_examples": right, **shares}


def _vanishes(model: nn.Module, batch: Batch, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Where the loss has no gradient: bools (batch,)."""
    with torch.enable_grad():
        images = batch.images.detach().clone().requires_grad_()
        value = loss(model(images), batch.labels).sum()
        if not value.requires_grad:
            return torch.ones_like(batch.labels, dtype=torch.bool)
        (gradient,) = torch.autograd.grad(value, images)
    return gradient.abs().flatten(1).amax(dim=1) < torch.finfo(gradient.dtype).tiny


def grey_radius(norm: float, num_pixels: int) -> float:
    """A budget within which every image can be turned into the same grey one.

    Args:
        norm: 1, 2 or inf.
        num_pixels: Of an image, with its channels.
    """
    return float(norms.norm(torch.full((1, num_pixels), 0.5, dtype=torch.float64), norm)[0])


def withstand_grey(judge: Judge, test: Split, norm: float, *, batch_size: int, seed: int) -> dict[str, Any]:
    """How many examples withstand an attack at a budget that allows everything.

    No classifier can truly be right on more than the largest class there, since all images can be made alike.

    Args:
        judge: Of a model in eval mode.
        test: Of these the first ``GREY_EXAMPLES``, on the model's device.
        norm: 1, 2 or inf.
        batch_size: Examples a batch.
        seed: Of the attack's random starts.

    Returns:
        ``norm``, ``epsilon``, the counts ``standing``, ``total`` and ``largest_class``, and ``attack`` in
        words.
    """
    few = test.subset(torch.arange(min(GREY_EXAMPLES, len(test))))
    epsilon = grey_radius(norm, few.images[0].numel())
    attacks = [
        PGD(norm=norm, epsilon=epsilon, num_steps=_GREY_STEPS, loss=loss) for loss in (cross_entropy, margin)
    ]
    forms = [each.for_random_answers() if judge.is_random else each.for_evaluation() for each in attacks]
    torch.manual_seed(seed)
    standing = 0
    for batch in batches(few, batch_size):
        stands = judge.predict(batch.images) == batch.labels
        for form in forms:
            stands &= judge.predict(form(judge.target, *batch)) == batch.labels
        standing += int(stands.sum())
    return {
        "norm": f"{norm:g}",
        "epsilon": epsilon,
        "standing": standing,
        "total": len(few),
        "largest_class": int(few.labels.bincount().max()),
        "attack": " and ".join(form.describe() for form in forms),
    }
