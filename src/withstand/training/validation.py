"""How an epoch is scored, on validation data and never on test data, and what follows of scores that stay.

What follows is read from the training log, so that nothing else has to be stored: a training that was
interrupted, or rolled back, goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from withstand import bayes
from withstand.attacks import Attack
from withstand.core.modes import eval_mode
from withstand.core.setting_rules import PROBABILITY, Whole, settle
from withstand.data import Split, batches
from withstand.training.checkpoint import Row
from withstand.training.measure import Measure

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
    """The share of a split that the model classifies correctly, clean or under an attack.

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
            inputs = images if attack is None else attack.perturb(predictor, images, labels)
            correct += (predictor(inputs).argmax(dim=1) == labels).sum()
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


@dataclass(frozen=True)
class Plateau:
    """Multiply the learning rate by ``factor`` where the validation score rises no more.

    After more than ``patience`` epochs in a row without a better score than ever before, as
    ``torch.optim.lr_scheduler.ReduceLROnPlateau`` with a threshold of 0 does; then it counts anew.

    Args:
        factor: In (0, 1).
        patience: Epochs without a better score that are put up with, at least 0.

    Raises:
        ValueError: an argument is out of its range.
    """

    factor: float = 0.5
    patience: int = 5

    def __post_init__(self) -> None:
        settle(self, factor=PROBABILITY, patience=Whole(least=0))

    def factor_after(self, values: Sequence[float]) -> float:
        """What the learning rate is multiplied by after epochs of these scores, in (0, 1]."""
        best, num_bad, num_cuts = -math.inf, 0, 0
        for value in values:
            best, num_bad = (value, 0) if value > best else (best, num_bad + 1)
            if num_bad > self.patience:
                num_cuts, num_bad = num_cuts + 1, 0
        return self.factor**num_cuts


def num_bad_epochs(values: Sequence[float]) -> int:
    """How many epochs have gone by since the best score, the first of those that are as good."""
    best = max(values, default=-math.inf)
    return len(values) if best == -math.inf else len(values) - 1 - values.index(best)


def scores(rows: Sequence[Row], num_epochs: int) -> list[float]:
    """The score of each epoch by which the best is chosen.

    Args:
        rows: The training log; of an epoch that was rolled back and done again the last row counts.
        num_epochs: Epochs done; a later one in the log was rolled back.

    Returns:
        Validation accuracy, that under attack where there is one; -inf of a collapsed epoch, which is never
        the best.
    """
    lasting = {int(row["epoch"]): row for row in rows}
    return [_score(lasting[epoch]) for epoch in range(1, num_epochs + 1)]


def _score(row: Mapping[str, float | int | str]) -> float:
    return -math.inf if row["collapsed"] else float(row.get(ROBUST_ACCURACY, row[ACCURACY]))
