"""How an epoch is scored: on validation data, never on test data."""

from __future__ import annotations

import torch
from torch import nn

from withstand.attacks import Attack
from withstand.data import Split, batches
from withstand.modes import eval_mode

__all__ = ["ACCURACY", "ROBUST_ACCURACY", "accuracies", "accuracy"]

# Columns of the training log.
ACCURACY, ROBUST_ACCURACY = "validation_accuracy", "validation_robust_accuracy"

_BATCH_SIZE = 1000


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

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); its modes stay as they were.
        split: Not empty, on the device of the model.
        attack: At its final strength.

    Returns:
        A share in [0, 1].
    """
    correct = torch.zeros((), dtype=torch.int64, device=split.labels.device)
    with eval_mode(model), torch.no_grad():
        for images, labels in batches(split, _BATCH_SIZE):
            seen = images if attack is None else attack.perturb(model, images, labels)
            correct += (model(seen).argmax(dim=1) == labels).sum()
    return int(correct) / len(split)
