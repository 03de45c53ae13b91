"""How the noise of the images gets to the logits: the interface, and what its ways share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from withstand.core.noise import GaussianNoise
from withstand.domains import Call, Domain, FactoredGaussian, Gaussian, Moments, Program
from withstand.graph.layout import Layout
from withstand.graph.rules.norm_rules import BatchNorm
from withstand.objectives.onset import Onset
from withstand.operators import Diagonal, GuaranteedNorms, LinearOperator, Shape
from withstand.types import ModelError

_NORMS = GuaranteedNorms()  # which moments never ask for
_Noisy = TypeVar("_Noisy", Tensor, Domain)


class NoisyLoss(NamedTuple):
    """What one walk through the network gives.

    Attributes:
        logits: Of the images as they are, (batch, classes).
        expected: The loss under noise, scalar.
    """

    logits: Tensor
    expected: Tensor


class Propagation(ABC):
    """The interface of a way to take moments of noisy images through a network."""

    @abstractmethod
    def __call__(self, program: Program, images: Tensor, noise: GaussianNoise, labels: Tensor) -> NoisyLoss:
        """The logits without noise, and the loss under it, of one walk through the network.

        BatchNorm layers in train mode go by the statistics of the images without noise, and update
        their running ones by those alone.

        Args:
            program: Of the network.
            images: Float tensor (batch, …), in [0, 1].
            noise: What is added to them.
            labels: Integer tensor (batch,).

        Raises:
            ModelError: something in the network cannot be passed through.
        """

    @abstractmethod
    def verify_capture(self, program: Program, images: Tensor) -> None:
        """Makes sure, once for a program, that its steps compute what the network does.

        Args:
            program: Of the network, in eval mode.
            images: Float tensor (batch, …), in [0, 1].

        Raises:
            ModelError: they do not, or something in the network cannot be passed through.
        """


def input_moments(images: Tensor, noise: GaussianNoise) -> Gaussian | FactoredGaussian:
    """The distribution of noisy images.

    Args:
        images: Float tensor (batch, …).
        noise: What is added to them.
    """
    if noise.blur:
        return FactoredGaussian(images, noise.factors(images)[:, None])
    return Gaussian(images, noise.std_like(images).square())


def require_own_statistics(call: Call) -> None:
    """Refuses what would mix the statistics of the images without noise with those under it.

    Raises:
        ModelError: what keeps the statistics of its batch is no batch normalisation.
    """
    if call.node.target is torch.ops.aten.instance_norm.default:
        (_, _, _, running_mean, _, is_by_batch, *_), _ = call.resolved(batch=1)
        if is_by_batch and running_mean is not None:
            raise ModelError(
                f"{call.step.operation} in train mode would take the statistics of images with and without "
                "noise together. Build InstanceNorm without running statistics."
            )


def of_onset(call: Call, of_bent: Callable[[Onset, Layout], Any]) -> Any:
    """What an operation gives as long as noise has left the means alone.

    Args:
        call: Of which each value is an ``Onset``.
        of_bent: Makes what is to follow of an onset to which a function has been applied, and its layout.

    Returns:
        The result: an onset, or what follows it, or lists of them.
    """

    def opened(onset: Onset, layout: Layout) -> Any:
        return onset if onset.is_affine else of_bent(onset, layout)

    layer = BatchNorm.of(call)
    if layer is not None:
        clean = call.compute_on_centers()  # which updates its running statistics
        return in_place_of_first(clean, normalised(layer, call.input.center, call.input))
    result, layouts = rule_of_moments(call), call.step.outputs
    if isinstance(result, list):
        return [opened(*pair) for pair in zip(result, layouts, strict=True)]
    return opened(result, layouts[0])


def in_place_of_first(result: Any, value: Any) -> Any:
    """A value; with all but the first of several results, where an operation gives several."""
    return [value, *result[1:]] if isinstance(result, list | tuple) else value


def required_logits(logits: object) -> Tensor:
    """The same, if they are logits.

    Raises:
        ModelError: they are not (batch, classes).
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise _not_logits(logits)
    return logits


def _not_logits(output: object) -> ModelError:
    what = f"{('batch', *output.shape[1:])}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
    return ModelError(
        f"Expected one output, logits (batch, classes), but the model gives {what}; flatten or pool "
        "before its last layer, or wrap it in a module that returns the logits alone."
    )


def rule_of_moments(call: Call) -> Any:
    """What the rule of an operation makes of moments.

    Raises:
        UnsupportedOperationError: there is no rule.
    """
    return call.apply_rule(_NORMS)


def through_every_layer(program: Program, value: Moments) -> Moments:
    """The image of moments under a network.

    Args:
        program: Of the network.
        value: Moments of its inputs.

    Raises:
        ModelError: there is no rule for an operation, or more than one output.
    """
    reached = program.walk(value, rule_of_moments)
    if not isinstance(reached, Moments):
        raise _not_logits(reached)
    return reached


def normalised(layer: BatchNorm, clean: Tensor, noisy: _Noisy) -> _Noisy:
    """Batch-normalises what is under noise, by the statistics of what is without.

    Args:
        layer: Goes by the statistics of its batch.
        clean: What the layer is called with without noise, (batch, channels, …).
        noisy: The same under noise: a tensor or its moments.
    """
    scale, bias = layer.factors(clean)
    if isinstance(noisy, Tensor):
        return noisy * scale + bias
    return noisy.affine(Diagonal(scale), bias, _no_norm)


def _no_norm(operator: LinearOperator, input_shape: Shape) -> Tensor:
    raise NotImplementedError("Moments need no operator norms.")
