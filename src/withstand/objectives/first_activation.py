"""The published form: exact through the first activation, linearised at the mean after it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.noise import GaussianNoise
from withstand.domains import Call, Program
from withstand.objectives import propagation
from withstand.objectives.onset import Onset
from withstand.objectives.propagation import NoisyLoss, Propagation

_VERIFIED_STD = 0.1  # any; what is compared is what comes without noise


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

    @override
    def verify_capture(self, program: Program, images: Tensor) -> None:
        noise = GaussianNoise(_VERIFIED_STD)
        program.verify_capture(images, lambda points: self.logits(program, points, noise)[0])

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
        reached = program.walk(Onset(propagation.input_moments(images, noise)), _result)
        if isinstance(reached, Onset):  # a linear network, of which noise leaves the mean as it is
            logits = propagation.required_logits(reached.center)
            return logits, logits
        halves = reached.tensor.chunk(2) if isinstance(reached, _Both) else (reached, reached)
        return propagation.required_logits(halves[0]), propagation.required_logits(halves[1])


@dataclass(frozen=True, eq=False)
class _Both:
    """A tensor without noise and the one expected under noise, one after the other: (2 batch, …)."""

    tensor: Tensor


@dataclass(frozen=True, eq=False)
class _Sized:
    """What depends on the size of a batch alone: of the one without noise, and of both together."""

    one: Any
    both: Any


def _result(call: Call) -> Any:
    if call.takes(_Both):
        result = _of_both(call.mapped(_both))
    elif call.takes(_Sized) and not call.takes(Onset):
        result = None
    else:
        result = propagation.of_onset(call.mapped(_unsized), lambda onset: _Both(onset.clean_and_mean))
    return _Sized(call.mapped(_one).compute(), call.mapped(_both).compute()) if result is None else result


def _of_both(call: Call) -> Any:
    propagation.require_own_statistics(call)
    layer = propagation.training_batch_norm(call)
    if layer is None:
        return _wrapped(call.compute())
    clean, noisy = call.input.chunk(2)
    return _Both(torch.cat([layer(clean), propagation.normalised(layer, clean, noisy)]))


def _wrapped(value: Any) -> Any:
    if isinstance(value, Tensor):
        return _Both(value)
    has_tensors = isinstance(value, list | tuple) and any(isinstance(item, Tensor) for item in value)
    return [_wrapped(item) for item in value] if has_tensors else None


def _both(value: Any) -> Any:
    match value:
        case Onset():
            return torch.cat([value.center, value.center])
        case _Both():
            return value.tensor
        case _Sized():
            return value.both
    return value


def _one(value: Any) -> Any:
    match value:
        case Onset():
            return value.center
        case _Both():
            return value.tensor.chunk(2)[0]
    return _unsized(value)


def _unsized(value: Any) -> Any:
    return value.one if isinstance(value, _Sized) else value
