"""How an epoch is scored: on validation data, never on test data."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from withstand import bayes
from withstand.attacks import Attack
from withstand.data import Split, batches
from withstand.measures import Measure
from withstand.modes import eval_mode

__all__ = ["ACCURACY", "ROBUST_ACCURACY", "accuracies", "accuracy", "measured"]

# Columns of the training log.
ACCURACY, ROBUST_ACCURACY = "validation_accuracy", "validation_robust_accuracy"

_BATCH_SIZE = 1000
_NUM_SAMPLES = 8  # draws of random weights that a prediction averages, and an attack's gradient


def accuracies(model: nn.Module, split: Split, attack: Attack | None) -> dict[str, float]:
    """What the training log says of an epoch: clean accuracy, and that under an attack where there is one.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); its modes stay as they were.
        split: On the device of the model; of an empty one there is nothing to say.
        attack: At its final strength.

    Returns:
        Column -> a share in [0, 1].
    """
    if not len(split):
        return {}
    robust = {} if attack is None else {ROBUST_ACCURACY: accuracy(model, split, attack)}
    return {ACCURACY: accuracy(model, split)} | robust


def accuracy(model: nn.Module, split: Split, attack: Attack | None = None) -> float:
    """The share of a split that the model gets right, clean or under an attack.

    Of a model with random weights the mean probability over a few draws is scored, and attacked.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); its modes stay as they were.
        split: Not empty, on the device of the model.
        attack: At its final strength.

    Returns:
        A share in [0, 1].
    """
    correct = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    predictor, batch_size = model, _BATCH_SIZE
    if bayes.is_stochastic(model):
        predictor, batch_size = bayes.Predictor(model, _NUM_SAMPLES), _BATCH_SIZE // _NUM_SAMPLES
    with eval_mode(model), torch.no_grad():
        for images, labels in batches(split, batch_size):
            seen = images if attack is None else attack.perturb(predictor, images, labels)
            correct += (predictor(seen).argmax(dim=1) == labels).sum()
    return int(correct) / len(split)


def measured(
    measures: Sequence[Measure], model: nn.Module, split: Split, num_images: int
) -> dict[str, float]:
    """What several measures say of a model, in columns of the training log.

    Args:
        measures: Each is asked once.
        model: As it is.
        split: Of which each sees the first images; on the device of the model.
        num_images: How many.
    """
    few = next((batch.images for batch in batches(split, num_images)), None)
    if few is None:  # without training data there is no training
        return {}
    return {name: value for measure in measures for name, value in measure.of(model, few).items()}
