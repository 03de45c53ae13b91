"""The published form: exact through the first activation, linearised at the mean after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.domains import Call, Program
from withstand.noise import GaussianNoise
from withstand.objectives.onset import Onset
from withstand.objectives.propagation import (
    NoisyLoss,
    Propagation,
    input_moments,
    normalised,
    of_onset,
    training_batch_norm,
)

__all__ = ["FirstActivation"]


@final
@dataclass(frozen=True)
class FirstActivation(Propagation):
    """The cross-entropy of the mean logits, to first order in what follows the first activation.

    The expected output of the first activation is exact where nothing but linear layers comes before
    it; the rest of the network takes it for the output itself (Alfadly, Bibi, Ghanem, arXiv 1904.11005).
    That rest is passed once, with the images as they are in the same batch.
    """

    @override
    def __call__(self, program: Program, images: Tensor, noise: GaussianNoise, labels: Tensor) -> NoisyLoss:
        logits, expected = self.logits(program, images, noise)
        return NoisyLoss(logits, F.cross_entropy(expected, labels))

    def logits(self, program: Program, images: Tensor, noise: GaussianNoise) -> tuple[Tensor, Tensor]:
        """Without noise, and the mean under noise.

        Args:
            program: Of the network.
            images: Float tensor (batch, …), in [0, 1].
            noise: What is added to them.

        Returns:
            Two tensors (batch, classes).

        Raises:
            ModelError: something up to the first activation cannot be passed through.
        """
        reached = program.walk(Onset(input_moments(images, noise)), _result)
        if isinstance(reached, Onset):  # a linear network, of which noise leaves the mean as it is
            return reached.center, reached.center
        logits, expected = reached.tensor.chunk(2)
        return logits, expected


@dataclass(frozen=True, eq=False)
class _Both:
    """A tensor without noise and the one expected under noise, one after the other: (2 batch, …)."""

    tensor: Tensor


def _result(call: Call) -> Any:
    if call.takes(_Both):
        return _of_both(call.mapped(_both))
    result = of_onset(call, _of_bent)
    if result is None:
        # A size, or the like, which is to be that of both.
        return call.mapped(_room_for_both).compute()
    return result


def _of_both(call: Call) -> Any:
    layer = training_batch_norm(call)
    if layer is None:
        return _wrapped(call.compute())
    clean, noisy = call.input.chunk(2)
    return _Both(torch.cat([layer(clean), normalised(layer, clean, noisy)]))


def _of_bent(onset: Onset) -> _Both:
    return _Both(onset.clean_and_mean)


def _wrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Both(value)
    return [_wrapped(each) for each in value] if isinstance(value, list | tuple) else value


def _both(value: Any) -> Any:
    if isinstance(value, Onset):
        return torch.cat([value.center, value.center])
    return value.tensor if isinstance(value, _Both) else value


def _room_for_both(value: Any) -> Any:
    return value.center.repeat(2, *[1] * (value.center.dim() - 1)) if isinstance(value, Onset) else value
