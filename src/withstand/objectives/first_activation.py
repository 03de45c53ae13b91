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
from withstand.graph.layout import Layout
from withstand.graph.rules.norm_rules import BatchNorm
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


def _result(call: Call) -> Any:
    if not call.takes(_Both):
        return propagation.of_onset(call, lambda onset, layout: _Both(layout.unstored(onset.clean_and_mean)))
    propagation.require_own_statistics(call)
    tensors = {node: _tensor(value, call.step.layouts[node]) for node, value in call.values.items()}
    of_both = call._replace(values=tensors)
    layer = BatchNorm.of(call)
    if layer is None:
        return _wrapped(of_both.compute())
    clean, noisy = of_both.input.chunk(2)
    result = of_both.mapped(lambda tensor: tensor.chunk(2)[0]).compute()  # updates its running statistics
    first = result[0] if isinstance(result, list | tuple) else result
    both = _Both(torch.cat([first, propagation.normalised(layer, clean, noisy)]))
    return propagation.in_place_of_first(result, both)


def _wrapped(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_wrapped(item) for item in value]
    return _Both(value) if isinstance(value, Tensor) else value


def _tensor(value: Any, layout: Layout) -> Tensor:
    """Both at once, as the graph has them."""
    if isinstance(value, _Both):
        return value.tensor
    return layout.unstored(torch.cat([value.center, value.center]))
