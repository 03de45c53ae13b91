"""Decides whether an answer is correct: one look at a model, or several at one that draws its answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand import bayes
from withstand.core.answers import is_correct, predicted


@dataclass(frozen=True)
class Answer:
    """A predictor's answers to a batch.

    Attributes:
        prediction: The class of the largest mean probability (batch,); ``answers.NO_ANSWER`` where none is.
        confidence: That probability (batch,), NaN where there is none.
        correct: At how many repeats the prediction is correct: int64 (batch,).
    """

    prediction: Tensor
    confidence: Tensor
    correct: Tensor


class CorrectCounts(NamedTuple):
    """How often the predictions of a batch are correct.

    Attributes:
        correct: float64 tensor (batch,). The whole part is at how many repeats they are correct. What is
            beyond it tells apart images that are correct equally often, where answers are drawn: half the
            mean probability of the true class.
        prediction: The class of the largest mean probability (batch,).
    """

    correct: Tensor
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
        """The model's answers to images.

        Args:
            images: Float tensor (batch, …) in [0, 1].
            labels: int64 tensor (batch,).
        """
        repeats = [self.model(images).softmax(dim=1) for _ in range(self.num_repeats)]
        correct = torch.stack([is_correct(probabilities, labels) for probabilities in repeats]).sum(dim=0)
        mean = torch.stack(repeats).mean(dim=0)
        return Answer(predicted(mean), mean.amax(dim=1), correct)

    @torch.no_grad()
    def predict(self, images: Tensor) -> Tensor:
        """The classes (batch,) of images (batch, …), asked once; ``answers.NO_ANSWER`` where none is."""
        return predicted(self.model(images))

    @torch.no_grad()
    def count_correct(self, images: Tensor, labels: Tensor) -> CorrectCounts:
        """How often the predictions are correct, and which class they are.

        Args:
            images: Float tensor (batch, …) in [0, 1].
            labels: int64 tensor (batch,).
        """
        if not self.is_random:
            logits = self.model(images)
            return CorrectCounts(is_correct(logits, labels).double() * self.num_repeats, predicted(logits))
        correct = torch.zeros(len(labels), dtype=torch.float64, device=labels.device)
        repeats = []
        for _ in range(self.num_repeats):
            repeats.append(self.model(images).softmax(dim=1))
            correct += is_correct(repeats[-1], labels)
        mean = torch.stack(repeats).mean(dim=0)
        truth = mean.gather(1, labels[:, None]).squeeze(1).double()
        return CorrectCounts(correct + truth.nan_to_num(0.0) / 2, predicted(mean))

    def recount_correct(self, images: Tensor, labels: Tensor, counted: Tensor) -> Tensor:
        """Counts by predictions that chose nothing: float64 (batch,), as ``CorrectCounts`` has them.

        Images that were chosen since few of their predictions were correct would have been correct more often
        than that. Only where answers are drawn are they asked for again.

        Args:
            images: Float tensor (batch, …) in [0, 1].
            labels: int64 tensor (batch,).
            counted: What was counted of these images.
        """
        return self.count_correct(images, labels).correct if self.is_random else counted

    def share(self, num_correct: Tensor) -> Tensor:
        """What a row holds of a count: 0 or 1 where there is one repeat, else the share of the repeats."""
        return num_correct.int() if self.num_repeats == 1 else num_correct.double() / self.num_repeats


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
