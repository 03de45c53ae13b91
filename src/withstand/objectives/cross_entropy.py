"""Plain training, and training on noisy copies: what analytic moments are held against."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from withstand.core.answers import is_correct
from withstand.core.noise import GaussianNoise, one_or_a_channel
from withstand.core.schedules import Schedule, value_at
from withstand.core.setting_rules import AT_LEAST_0, Whole, flag, settle
from withstand.loss.passes import Pass, logits_of
from withstand.loss.terms import OnePass
from withstand.objectives.label_loss import LabelLoss, WithLabelLoss
from withstand.types import LossTerms


class CrossEntropy(WithLabelLoss, OnePass):
    """The mean cross-entropy of the images as they are.

    Args:
        label_smoothing: Share of a label that is spread over all classes, at least 0 and below 1.
        class_weights: How much an example counts by its class, one number for each; only their ratios count
            (``LabelLoss``).

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.label_loss = LabelLoss(label_smoothing, class_weights)

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        logits = passed.logits
        loss = self.label_loss(logits, labels)
        accuracy = is_correct(logits, labels).float().mean()
        return LossTerms(loss, {"cross_entropy": loss.detach(), "accuracy": accuracy})


def noise_at(noise_std: float | Sequence[float] | Schedule, blur: float, progress: float) -> GaussianNoise:
    """The noise after so many epochs.

    Args:
        noise_std: One for all channels, one a channel, or a schedule of one for all.
        blur: Width of its filter in pixels.
        progress: Epochs done.

    Raises:
        ValueError: a number is out of its range.
    """
    std = list(noise_std) if isinstance(noise_std, Sequence) else value_at(noise_std, progress)
    return GaussianNoise(std, blur)


class NoisyCrossEntropy(WithLabelLoss, OnePass):
    """The mean cross-entropy of each image and of noisy copies of it, drawn anew at every step.

    ``num_copies`` is what the literature calls folds: with 20, a step costs 21. With ``keeps_clean=False``
    and one copy it is plain training on fresh noise, at the cost of a plain step.

    Args:
        noise_std: Of the noise at each pixel, in [0, 1] units: one for all channels (a float or a
            schedule), or one a channel.
        num_copies: Noisy copies of each image; at least 1, or 0 with ``keeps_clean``.
        keeps_clean: Whether the image as it is counts too, as much as one copy.
        blur: Width in pixels of the filter through which the noise is seen; 0 leaves it white.
        label_smoothing: As of ``CrossEntropy``.
        class_weights: As of ``CrossEntropy``.

    Raises:
        ValueError: a number is out of its range, or there is nothing to train on.
    """

    def __init__(
        self,
        noise_std: float | Sequence[float] | Schedule,
        num_copies: int = 1,
        *,
        keeps_clean: bool = True,
        blur: float = 0.0,
        label_smoothing: float = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.label_loss = LabelLoss(label_smoothing, class_weights)
        self.noise_std = noise_std
        self.num_copies = num_copies
        self.keeps_clean = keeps_clean
        self.blur = blur
        settle(self, noise_std=one_or_a_channel, num_copies=Whole(least=0), keeps_clean=flag, blur=AT_LEAST_0)
        if not (num_copies or keeps_clean):
            raise ValueError(
                "Expected at least one image a step, but got num_copies=0 and keeps_clean=False."
            )

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        images = passed.images
        if not self.num_copies:
            logits = passed.logits
        else:
            repeated = images.repeat(self.num_copies, *[1] * (images.dim() - 1))
            noisy = repeated + noise_at(self.noise_std, self.blur, progress).draw(repeated)
            # In one batch, so that BatchNorm sees what a larger data set would show it.
            logits = logits_of(passed.model, torch.cat([images, noisy]) if self.keeps_clean else noisy)
        copies = len(logits) // len(images)
        losses = self.label_loss.example_losses(logits, labels.repeat(copies)).view(copies, -1).mean(1)
        accuracies = is_correct(logits, labels.repeat(copies)).view(copies, -1).float().mean(1)
        first_noisy = int(self.keeps_clean)
        terms: dict[str, Tensor] = {}
        if self.keeps_clean:
            terms |= {"cross_entropy": losses[0].detach(), "accuracy": accuracies[0]}
        if self.num_copies:
            noisy = losses[first_noisy:].mean().detach()
            terms |= {"noisy": noisy, "noisy_accuracy": accuracies[first_noisy:].mean()}
        return LossTerms(losses.mean(), terms)

    @override
    def extra_repr(self) -> str:
        return (
            f"noise_std={self.noise_std}, num_copies={self.num_copies}, keeps_clean={self.keeps_clean}, "
            f"blur={self.blur:g}"
        )
