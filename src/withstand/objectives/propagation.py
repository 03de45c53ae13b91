"""How the noise of the images gets to the logits: the interface, and what its ways share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from torch import Tensor
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from withstand.core.noise import GaussianNoise
from withstand.domains import Call, Domain, FactoredGaussian, Gaussian, Moments, Program, batch_norm_factors
from withstand.graph.rule_registry import name_of
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
        ModelError: what goes by the statistics of its batch, or keeps them, is no BatchNorm layer.
    """
    layer = call.layer
    is_functional = call.operation is F.batch_norm and bool(
        call.options.get("training", call.arguments[5] if len(call.arguments) > 5 else False)
    )
    is_instance = isinstance(layer, _InstanceNorm) and layer.track_running_stats and layer.training
    if is_functional or is_instance:
        raise ModelError(
            f"{name_of(call.operation)} in train mode would take the statistics of images with and without "
            "noise together. Write batch normalisation as a torch.nn.BatchNorm layer, and InstanceNorm "
            "without running statistics."
        )


def of_onset(call: Call, of_bent: Callable[[Onset], Any]) -> Any:
    """What an operation gives as long as noise has left the means alone.

    Args:
        call: Of which no value is any more than an ``Onset``.
        of_bent: Makes what is to follow of an onset to which a function has been applied.

    Returns:
        The result: an onset, or what follows it, or lists of them; None where it is none of these, but
        depends on a value's size.
    """

    def opened(onset: Onset) -> Any:
        return onset if onset.function is None else of_bent(onset)

    if not call.takes(Onset):
        return call.compute()
    layer = training_batch_norm(call)
    if layer is not None:
        call.compute_on_centers()  # which updates its running statistics
        return normalised(layer, call.input.center, call.input)
    result = rule_of_moments(call)
    if isinstance(result, list):
        return [opened(onset) for onset in result]
    return opened(result) if isinstance(result, Onset) else None


def required_logits(logits: object) -> Tensor:
    """The same, if they are logits.

    Raises:
        ModelError: they are not (batch, classes).
    """
    if not isinstance(logits, Tensor) or logits.dim() != 2:
        raise _not_logits(logits)
    return logits


def _not_logits(output: object) -> ModelError:
    what = f"{tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
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
    reached = program.walk(value, lambda call: rule_of_moments(call) if call.takes_domain else call.compute())
    if not isinstance(reached, Moments):
        raise _not_logits(reached)
    return reached


def training_batch_norm(call: Call) -> _BatchNorm | None:
    """The layer of a call, where it is a BatchNorm that goes by the statistics of its batch."""
    layer = call.layer
    if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
        return layer
    return None


def normalised(layer: _BatchNorm, clean: Tensor, noisy: _Noisy) -> _Noisy:
    """Batch-normalises what is under noise, by the statistics of what is without.

    Args:
        layer: Goes by the statistics of its batch.
        clean: What the layer is called with without noise, (batch, channels, …).
        noisy: The same under noise: a tensor or its moments.
    """
    scale, bias = batch_norm_factors(layer, clean)
    if isinstance(noisy, Tensor):
        return noisy * scale + bias
    return noisy.affine(Diagonal(scale), bias, _no_norm)


def _no_norm(operator: LinearOperator, input_shape: Shape) -> Tensor:
    raise NotImplementedError("Moments need no operator norms.")
