"""Who says whether an answer is right: one look at a model, or several at one that draws its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand import bayes


@dataclass(frozen=True)
class Answer:
    """What a predictor says of a batch.

    Attributes:
        prediction: The class of the largest mean probability (batch,).
        confidence: That probability (batch,).
        right: At how many repeats the prediction is right: int64 (batch,).
    """

    prediction: Tensor
    confidence: Tensor
    right: Tensor


class CorrectCounts(NamedTuple):
    """How right the predictions of a batch are.

    Attributes:
        right: float64 tensor (batch,). The whole part is at how many repeats they are right. What is beyond
            it tells apart images that are right equally often, where answers are drawn: half the mean
            probability of the true class.
        prediction: The class of the largest mean probability (batch,).
    """

    right: Tensor
    prediction: Tensor


@dataclass(frozen=True)
class Predictor:
    """Scores answers; a model without random weights is its own predictor, asked once.

    Args:
        model: Maps images in [0, 1] to logits, or to log-probabilities, (batch, classes).
        attack_model: What attacks differentiate: the same model, of as many draws as a gradient needs.
        num_repeats: How often each image is predicted.
        is_random: Whether the predictor draws its answers.
    """

    model: nn.Module
    attack_model: nn.Module
    num_repeats: int = 1
    is_random: bool = False

    @staticmethod
    def of(model: nn.Module) -> Predictor:
        """The predictor of a model without random weights."""
        return Predictor(model, model)

    @torch.no_grad()
    def answer(self, images: Tensor, labels: Tensor) -> Answer:
        """What the model says of images.

        Args:
            images: Float tensor (batch, …) in [0, 1].
            labels: int64 tensor (batch,).
        """
        repeats = [self.model(images).softmax(dim=1) for _ in range(self.num_repeats)]
        right = torch.stack([_is_right(each, labels) for each in repeats]).sum(dim=0)
        confidence, prediction = torch.stack(repeats).mean(dim=0).max(dim=1)
        return Answer(prediction, confidence, right)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The classes (batch,) of images (batch, …), asked once."""
        logits: Tensor = self.model(images)
        return logits.argmax(dim=1)

    @torch.no_grad()
    def count_correct(self, images: Tensor, labels: Tensor) -> CorrectCounts:
        """How right the predictions are, and which class they say.

        Args:
            images: Float tensor (batch, …) in [0, 1].
            labels: int64 tensor (batch,).
        """
        if not self.is_random:
            logits = self.model(images)
            return CorrectCounts(_is_right(logits, labels).double() * self.num_repeats, logits.argmax(dim=1))
        right = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        repeats = []
        for _ in range(self.num_repeats):
            repeats.append(self.model(images).softmax(dim=1))
            right += _is_right(repeats[-1], labels)
        mean = torch.stack(repeats).mean(dim=0)
        truth = mean.gather(1, labels[:, None]).squeeze(1).double()
        return CorrectCounts(right + truth / 2, mean.argmax(dim=1))

    def recount_correct(self, images: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        """Counts by predictions that chose nothing: float64 (batch,), as ``CorrectCounts`` has them.

        Images that were chosen since few of their predictions were right would have been right more often
        than that. Only where answers are drawn are they asked for again.

        Args:
            images: Float tensor (batch, …) in [0, 1].
            labels: int64 tensor (batch,).
            counted: What was found of these images.
        """
        return self.count_correct(images, labels).right if self.is_random else counted

    def share(self, right: Tensor) -> Tensor:
        """What a row holds of a count: 0 or 1 where there is one repeat, else the share of the repeats."""
        return right.int() if self.num_repeats == 1 else right.double() / self.num_repeats


def _is_right(outputs: Tensor, labels: Tensor) -> Tensor:
    """Whether the true class has the largest output (batch,); where one is no number, none is right."""
    return (outputs.argmax(dim=1) == labels) & ~outputs.isnan().any(dim=1)


def random_predictor(
    model: nn.Module, *, num_samples: int, num_repeats: int, attack_samples: int
) -> Predictor:
    """The predictor of a model with random weights.

    Args:
        model: Draws its weights for each answer.
        num_samples: Draws that a prediction averages.
        num_repeats: How often each image is predicted.
        attack_samples: Draws that an attack's gradient averages.
    """
    predictor, target = (bayes.Predictor(model, draws) for draws in (num_samples, attack_samples))
    return Predictor(predictor, target, num_repeats, is_random=True)
