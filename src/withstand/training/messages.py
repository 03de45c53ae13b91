"""What makes the result of a training doubtful, in words."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn import functional as F

from withstand.attacks.attack import Attack
from withstand.core.contract import adapted
from withstand.core.modes import eval_mode
from withstand.core.run_folder import RunFolder
from withstand.core.schedules import Schedule
from withstand.core.writing import percent
from withstand.data import Dataset, few, sample
from withstand.loss.terms import Objective
from withstand.objectives.adversarial import LOSS_TERM
from withstand.training.checkpoint import TrainingResult
from withstand.training.collapse import commonest
from withstand.training.settings import TrainingSettings
from withstand.training.validation import NO_ANSWER_SHARE
from withstand.types import NonFiniteLossError

_FEW = 100  # images to look at
_MOST_EPOCHS = 10_000  # that are looked through for the end of a schedule


def cut_schedules(objective: Objective, epochs: int) -> list[str]:
    """The warnings of a training that is to begin: epsilons that will not reach what is meant.

    Args:
        objective: With all its terms.
        epochs: How many it is trained for.
    """
    texts = []
    for epsilon in _epsilons(objective):
        reached, meant = _at_the_end(epsilon, epochs), epsilon(math.inf)
        if reached < meant and not math.isclose(reached, meant):
            later = range(epochs + 1, _MOST_EPOCHS)
            needed = next((end for end in later if math.isclose(_at_the_end(epsilon, end), meant)), None)
            takes = "" if needed is None else f", which takes {needed} epochs"
            number = "1 epoch reaches" if epochs == 1 else f"{epochs} epochs reach"
            texts.append(
                f"The schedule of epsilon ends after the training: {number} {reached:.4g}, and "
                f"{meant:.4g} is meant{takes}. Train longer by training.epochs, or shorten the schedule."
            )
    return texts


def late_average(settings: TrainingSettings) -> list[str]:
    """The warning of a training that ends before the average of its weights begins; none of another."""
    average, epochs = settings.average, settings.epochs
    if average is None or average.begin < epochs:
        return []
    return [
        f"No weights will be averaged: the average begins after {average.begin:g} epochs, and the training "
        f"has {epochs}. Begin earlier by training.average.begin, or train longer by training.epochs."
    ]


def no_epochs(settings: TrainingSettings) -> list[str]:
    """The warning of a training of no epochs; none of another."""
    if settings.epochs:
        return []
    return ["Nothing is trained, as training.epochs is 0: the network stays as it begins."]


def _at_the_end(epsilon: Callable[[float], float], epochs: int) -> float:
    """Of the last step, which comes before all epochs are done."""
    return epsilon(math.nextafter(epochs, 0))


def _epsilons(objective: Objective) -> Iterator[Callable[[float], float]]:
    """Every epsilon of an objective as a function of the epochs done."""
    for term in objective.modules():
        for name, value in vars(term).items():
            if isinstance(value, Attack):
                yield value.epsilon_at
            elif name == "epsilon" and isinstance(value, Schedule):
                yield value


def warnings_of(model: nn.Module, dataset: Dataset, result: TrainingResult) -> list[str]:
    """The warnings of a training that has ended; none where all is well.

    Args:
        model: As it was left.
        dataset: What it was trained on.
        result: Of the training.
    """
    is_adversarial = bool(result.rows) and LOSS_TERM in result.rows[-1]
    return [
        *_collapse(result),
        *_no_answers(result),
        *_no_better(result, dataset),
        *(_gradients(model, dataset) if is_adversarial else []),
    ]


def _collapse(result: TrainingResult) -> list[str]:
    collapsed = [int(row["epoch"]) for row in result.rows if row["collapsed"]]
    if not collapsed:
        return []
    epochs = f"{'epoch' if len(collapsed) == 1 else 'epochs'} {', '.join(map(str, collapsed[:5]))}"
    epochs += f" and {len(collapsed) - 5} more" if len(collapsed) > 5 else ""
    if not result.has_collapsed:
        return [f"Training collapsed at times, to one answer for all images: {epochs}. It has recovered."]
    place = "best_weights of the result" if result.folder is None else "model.safetensors"
    kept = f"The weights of the best epoch before are in {place}. "
    return [
        f"Training collapsed: the model gives one answer to nearly all images ({epochs}). "
        f"{kept if result.best_score > -1 else ''}Raise epsilon in smaller steps (schedules.Linear, or "
        "training.rollback, which halves a step that was too large), or lower the learning rate."
    ]


def _no_answers(result: TrainingResult) -> list[str]:
    share = float(result.rows[-1].get(NO_ANSWER_SHARE) or 0) if result.rows else 0.0
    if not share:
        return []
    return [
        f"No answer: for {percent(share)} of the validation images the model answers NaN or infinity at the "
        "end; they count as wrong. A root, a logarithm or a quotient in the model may do this."
    ]


def _gradients(model: nn.Module, dataset: Dataset) -> list[str]:
    """Of adversarial training, whose attacks follow them; asked of a few training images."""
    device = next(model.parameters()).device
    images, labels = few(sample(dataset.train, _FEW).to(device), _FEW)
    images.requires_grad_()
    with eval_mode(model), torch.enable_grad():
        logits = adapted(model, images)(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, images)
    number = int((~gradient.isfinite()).flatten(1).any(dim=1).sum())
    if not number:
        return []
    return [
        f"Gradients: at {number} of {len(labels)} training images the gradient with respect to the image "
        "is NaN or infinite, so the attack that was trained against lost its way. A root, a power or a "
        "logarithm of pixels that are 0 does this: keep its input away from 0 by a clamp."
    ]


def _no_better(result: TrainingResult, dataset: Dataset) -> list[str]:
    """Of a training that has not collapsed; a constant answer is as good."""
    labels = dataset.validation.labels
    if result.has_collapsed or result.best_score < 0 or not len(labels):
        return []
    share = commonest(labels)
    if share == 1 or result.best_score > share:
        return []
    return [
        f"The best validation score, {percent(result.best_score)}, is no better than always answering the "
        f"commonest class, which {percent(share)} of the validation images are of. Train longer, with "
        "another learning rate, or at a smaller epsilon."
    ]


def non_finite(out: RunFolder, epoch: int, what: str) -> NonFiniteLossError:
    """The error of a loss or of weights that are no numbers any more.

    Args:
        out: Where the training is.
        epoch: From 1.
        what: What happened.
    """
    best = out.best_weights
    start = f" training.initial_weights={best} starts from the best epoch so far." if best.exists() else ""
    return NonFiniteLossError(
        f"The training {what} in epoch {epoch}. {out.checkpoints} keeps the last good checkpoint. Lower the "
        f"learning rate or the strength of the objective and train into another --out.{start}"
    )
