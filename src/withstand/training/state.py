"""What the steps of a training change, apart from how far it has come."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from withstand.constraints import Constraint
from withstand.training.checkpoint import rng_state, set_rng_state
from withstand.training.weight_average import Average
from withstand.training.whole_weights import Weights

if TYPE_CHECKING:
    from lightning_fabric.plugins.precision import Precision


@dataclass(frozen=True)
class State:
    """All that a checkpoint holds beside the position, its epoch and what the training is made of.

    Attributes:
        model: What is trained.
        weights: Of the model.
        average: Of the weights.
        objective: What is minimised.
        constraints: What holds the weights.
        optimizer: Of the weights.
        precision: Which scales the loss of fp16.
    """

    model: nn.Module
    weights: Weights
    average: Average
    objective: nn.Module
    constraints: Sequence[Constraint]
    optimizer: torch.optim.Optimizer
    precision: Precision

    def after_step_(self, step: int, progress: float) -> None:
        """Constrains the weights that the optimiser has changed, and averages them.

        Args:
            step: Steps done, from 1.
            progress: Epochs done before the step.
        """
        if self.constraints:
            with self.weights.whole():
                for constraint in self.constraints:
                    constraint.after_step_(self.model, step=step, progress=progress)
        self.average.update(progress)

    def project_(self, progress: float) -> None:
        """Puts the weights, which are whole, into the sets of all constraints."""
        for constraint in self.constraints:
            constraint.project_(self.model, progress=progress)

    @contextmanager
    def averaged(self, progress: float) -> Iterator[None]:
        """Has in the model what is scored and saved: the average of its weights, where there is one.

        An average of members of a convex set is a member, but for rounding and for a set that shrinks.
        """
        with self.average.in_model():
            if self.average.is_begun:
                for constraint in copy.deepcopy(
                    self.constraints
                ):  # what they keep is of the weights themselves
                    constraint.project_(self.model, progress=progress)
            yield

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds of it, and of random generators; all processes ask for it at once."""
        optimizer, average = self.weights.state_of(self.optimizer), self.average.state()
        with self.weights.whole():
            return {
                "model": self.model.state_dict(),
                "average": average,
                "objective": self.objective.state_dict(),
                "constraints": nn.ModuleList(self.constraints).state_dict(),
                "optimizer": optimizer,
                "precision": self.precision.state_dict(),
                "rng": rng_state(),
            }

    def restore_(self, content: Mapping[str, Any]) -> None:
        """Takes what ``content`` gave, or an older version that knew less; weights are whole."""
        self.average.load_(content.get("average", {}))  # by way of the model
        self.model.load_state_dict(content["model"])
        self.objective.load_state_dict(content["objective"])
        nn.ModuleList(self.constraints).load_state_dict(content.get("constraints", {}))
        self.weights.load_into_(self.optimizer, content["optimizer"])
        self.precision.load_state_dict(content.get("precision", {}))
        set_rng_state(content["rng"])
