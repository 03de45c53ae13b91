"""The exponential moving average of the weights of a training."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from withstand.core.setting_rules import AT_LEAST_0, PROBABILITY, settle
from withstand.training.whole_batch import running_statistics
from withstand.training.whole_weights import Weights


@dataclass(frozen=True)
class WeightAverage:
    """Average the weights exponentially over the steps of training (Polyak and Juditsky, 1992).

    After each step the average moves to ``d * average + (1 - d) * weights``, where ``d`` is the smaller of
    ``decay`` and ``(1 + n) / (10 + n)`` after ``n`` steps of averaging: so the average forgets the first
    weights soon, and looks back over the last tenth of the steps until it looks back over 1 / (1 - decay).
    The first weights that are averaged are those after the first step from ``begin`` on.

    Args:
        decay: In (0, 1).
        begin: Epochs done before which there is no average, at least 0; with adversarial training that ramps
            epsilon up, the end of the ramp. Until then the weights themselves are scored.

    Raises:
        ValueError: a number is out of its range.
    """

    decay: float = 0.999
    begin: float = 0.0

    def __post_init__(self) -> None:
        settle(self, decay=PROBABILITY, begin=AT_LEAST_0)

    def decay_after(self, steps: int) -> float:
        """What the average keeps of itself when so many steps are averaged already."""
        return min(self.decay, (1 + steps) / (10 + steps))


class Average:
    """The average of the weights of one training, which takes one more copy of them.

    Parameters are averaged, also those behind a parametrisation and those that standard deviations of random
    weights are made of, and the running statistics of BatchNorm; what else a network keeps stays as it is.

    Args:
        how: None averages nothing.
        model: On its device.
        weights: Of the model; where they are divided among processes, so is their average.
    """

    def __init__(self, how: WeightAverage | None, model: nn.Module, weights: Weights) -> None:
        self._how, self._model, self._weights = how, model, weights
        parameters: list[Tensor] = [part for part in weights.parameters if part.is_floating_point()]
        # By kind: parameters may be parts, statistics are whole.
        self._values = [kind for kind in (parameters, running_statistics(model)) if kind]
        self._means: list[list[Tensor]] = []
        self._steps = 0

    @property
    def is_begun(self) -> bool:
        """Whether there is an average."""
        return self._steps > 0

    @torch.no_grad()
    def _begin(self) -> None:
        self._means = [[value.clone() for value in kind] for kind in self._values]

    @torch.no_grad()
    def update(self, progress: float) -> None:
        """Takes the weights after a step, without waiting for the device.

        Args:
            progress: Epochs done before the step.
        """
        if self._how is None or progress < self._how.begin:
            return
        if self._steps == 0:
            self._begin()
        else:
            share = 1 - self._how.decay_after(self._steps)
            for means, values in zip(self._means, self._values, strict=True):
                torch._foreach_lerp_(means, values, share)  # as torch.optim.swa_utils does
        self._steps += 1

    @torch.no_grad()
    def swap_(self) -> None:
        """Exchanges the model's weights and their average, in all processes at once.

        Nothing happens where there is no average yet.
        """
        if not self.is_begun:
            return
        with self._weights.in_parts():
            for means, values in zip(self._means, self._values, strict=True):
                for mean, value in zip(means, values, strict=True):
                    former = value.clone()
                    value.copy_(mean)
                    mean.copy_(former)

    @contextmanager
    def in_model(self) -> Iterator[None]:
        """Has the average in the model inside; what is changed of it there stays changed."""
        self.swap_()
        yield
        self.swap_()  # not after an error: it ends the training, and other processes may not get here

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of it, with whole weights; all processes ask for it at once."""
        if not self.is_begun:
            return {}
        with self.in_model(), self._weights.whole():
            return {"steps": self._steps, "model": copy.deepcopy(self._model.state_dict())}

    def load_(self, state: Mapping[str, Any]) -> None:
        """Takes what ``state`` gave; the model, whose weights are whole, is left with other weights."""
        self._steps = state.get("steps", 0)
        if self.is_begun:
            self._model.load_state_dict(state["model"])
            with self._weights.in_parts():
                self._begin()
