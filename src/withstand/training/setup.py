"""What a training is made of: its optimiser, and the words by which a resumed one is recognised."""

from __future__ import annotations

import re

import torch
from torch import nn

from withstand.data import Dataset
from withstand.terms import Objective
from withstand.training.settings import TrainingSettings
from withstand.types import RecipeError

__all__ = ["describe_run", "make_optimizer"]


def describe_run(
    model: nn.Module,
    dataset: Dataset,
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    settings: TrainingSettings,
) -> dict[str, str]:
    """What must be the same for a checkpoint to be gone on with, in words for an error."""
    # Only where there are any, so that a run begun before there were constraints can be gone on with.
    constraints = {"constraints": _words(*settings.constraints)} if settings.constraints else {}
    words = constraints | {
        "batch size": str(settings.batch_size),
        "training data": dataset.fingerprint[:16],
        "parameters": str(sum(parameter.numel() for parameter in model.parameters())),
        "objective": _words(objective),
        "optimizer": f"{type(optimizer).__name__} {optimizer.defaults}",
        "learning rate factor": str(settings.lr_factor),
        "augmentation": str(settings.augment),
    }
    # Where in memory an object without words of its own lies is another place each time.
    return {name: re.sub(r" at 0x[0-9a-fA-F]+", "", text) for name, text in words.items()}


def make_optimizer(settings: TrainingSettings, model: nn.Module) -> torch.optim.Optimizer:
    """The optimiser of the settings for a model.

    Raises:
        RecipeError: its own settings do not fit, or it needs more than one pass a step.
    """
    try:
        optimizer = settings.optimizer(model.parameters())
    except (TypeError, ValueError) as error:
        raise RecipeError(f"The optimiser of the recipe cannot be made: {error}") from error
    if isinstance(optimizer, torch.optim.LBFGS):
        raise RecipeError("LBFGS needs several passes a step, which training does not do. Take Adam or SGD.")
    return optimizer


def _words(*modules: nn.Module) -> str:
    return " ".join(" ".join(str(module).split()) for module in modules)
