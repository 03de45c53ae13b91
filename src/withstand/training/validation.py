"""How an epoch is scored, on validation data and never on test data, and what follows of scores that stay.

What follows is read from the training log, so that nothing else has to be stored: a training that was
interrupted, or rolled back, goes on as if it had not been.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from withstand import bayes
from withstand.attacks import Attack
from withstand.core.answers import NO_ANSWER, predicted
from withstand.core.batch_shares import own_share, taking
from withstand.core.contract import adapted
from withstand.core.modes import eval_mode
from withstand.core.processes import from_all
from withstand.core.setting_rules import PROBABILITY, Whole, settle
from withstand.data import Split, batches, few
from withstand.training.checkpoint import ACCURACY, ROBUST_ACCURACY, Row
from withstand.training.measure import Measure

# Columns of the training log.
NO_ANSWER_SHARE = "validation_no_answer"
"""The share of images, clean or attacked, for which the model answers NaN; where there are any."""

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
    robust = {} if attack is None else {ROBUST_ACCURACY: predictions(model, split, attack)}
    answers = robust | {ACCURACY: predictions(model, split)}
    shares = {name: float((answers[name] == split.labels).double().mean()) for name in sorted(answers)}
    none = max(float((given == NO_ANSWER).double().mean()) for given in answers.values())
    return shares | ({NO_ANSWER_SHARE: none} if none else {})


def no_accuracies(attack: Attack | None) -> dict[str, str]:
    """The same columns, empty, of an epoch that is not validated: it differs from there being no data."""
    return dict.fromkeys([ACCURACY] if attack is None else [ACCURACY, ROBUST_ACCURACY], "")


def is_validated(row: Row) -> bool:
    """Whether an epoch of the training log has a score, if any has."""
    return row.get(ACCURACY) != ""


def predictions(model: nn.Module, split: Split, attack: Attack | None = None) -> Tensor:
    """The model's classes of a split, clean or under an attack; ``answers.NO_ANSWER`` where there is none.

    Of a model with random weights the mean probability over a few draws is asked, and attacked. Processes
    share the images.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); its modes stay as they were.
        split: Not empty, on the device of the model.
        attack: At its final strength.

    Returns:
        int64 tensor (examples,).
    """
    model = adapted(model, next(batches(split, _BATCH_SIZE)).images)
    predictor, batch_size = model, _BATCH_SIZE
    if bayes.is_stochastic(model):
        predictor, batch_size = bayes.Predictor(model, _NUM_SAMPLES), _BATCH_SIZE // _NUM_SAMPLES
    answers = []
    with eval_mode(model), torch.no_grad():
        for number, (images, labels) in enumerate(batches(split, batch_size, share_of=own_share)):
            share = own_share(min(batch_size, len(split) - number * batch_size))
            with taking(share):
                inputs = images if attack is None else attack.perturb(predictor, images, labels)
                own = predicted(predictor(inputs))
            answers.append(own if share is None else torch.cat(from_all(own.cpu())).to(own.device))
    return torch.cat(answers)


def measured(
    measures: Sequence[Measure], model: nn.Module, split: Split, num_images: int
) -> dict[str, float]:
    """What several measures say of a model, in columns of the training log.

    Args:
        measures: Each is asked once.
        model: As it is.
        split: Of which each sees a sample; on the device of the model.
        num_images: How many.
    """
    if not len(split):  # without training data there is no training
        return {}
    images = few(split, num_images).images
    return {name: value for measure in measures for name, value in measure.of(model, images).items()}


@dataclass(frozen=True)
class Plateau:
    """Multiply the learning rate by ``factor`` where the validation score rises no more.

    After more than ``patience`` validations in a row without a better score than ever before, as
    ``torch.optim.lr_scheduler.ReduceLROnPlateau`` with a threshold of 0 does; then it counts anew.

    Args:
        factor: In (0, 1).
        patience: Validations without a better score that are put up with, at least 0.

    Raises:
        ValueError: an argument is out of its range.
    """

    factor: float = 0.5
    patience: int = 5

    def __post_init__(self) -> None:
        settle(self, factor=PROBABILITY, patience=Whole(least=0))

    def factor_after(self, values: Sequence[float]) -> float:
        """What the learning rate is multiplied by after validations of these scores, in (0, 1]."""
        best, num_bad, num_cuts = -math.inf, 0, 0
        for value in values:
            best, num_bad = (value, 0) if value > best else (best, num_bad + 1)
            if num_bad > self.patience:
                num_cuts, num_bad = num_cuts + 1, 0
        return self.factor**num_cuts


def num_bad_epochs(values: Sequence[float]) -> int:
    """How many validations there were since the best score, the first of those that are as good."""
    best = max(values, default=-math.inf)
    return len(values) if best == -math.inf else len(values) - 1 - values.index(best)


def scores(rows: Sequence[Row], num_epochs: int) -> list[float]:
    """The score of each validated epoch by which the best is chosen.

    Args:
        rows: The training log; of an epoch that was rolled back and done again the last row counts.
        num_epochs: Epochs done; a later one in the log was rolled back.

    Returns:
        Validation accuracy, that under attack where there is one; -inf of a collapsed epoch, and of a score
        that is NaN, which are never the best.
    """
    lasting = {int(row["epoch"]): row for row in rows}
    done = [lasting[epoch] for epoch in range(1, num_epochs + 1)]
    return [_score(row) for row in done if is_validated(row)]


def _score(row: Mapping[str, float | int | str]) -> float:
    score = float(row.get(ROBUST_ACCURACY, row[ACCURACY]))
    return -math.inf if row["collapsed"] or math.isnan(score) else score
