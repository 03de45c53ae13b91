"""The weights of a model, as matrices and as the operators that its layers apply."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from typing_extensions import override

from withstand.core.modes import eval_mode, uncompiled
from withstand.operators.linear_operators import Convolution, Dense, Shape
from withstand.types import ModelError

Layer: TypeAlias = nn.Linear | _ConvNd


@dataclass(frozen=True, eq=False)
class Weight:
    """The weight of a linear layer or a convolution, transposed ones included.

    Args:
        name: Path of the layer in its model; that of the first one where several share the weight.
        layer: The layer.
    """

    name: str
    layer: Layer

    @property
    def value(self) -> Tensor:
        """The weight as it is now, with its gradient; computed anew where it is parametrised.

        Raises:
            ModelError: a hook computes it that is none of torch's.
        """
        if not self._is_of_hook:
            return self.layer.weight
        # What stands there was computed before the last forward, and its graph may be gone.
        for hook in self.layer._forward_pre_hooks.values():
            if isinstance(hook, WeightNorm) and hook.name == "weight":
                normalised: Tensor = hook.compute_weight(self.layer)
                return normalised
            if isinstance(hook, SpectralNorm) and hook.name == "weight":
                return _divided_by_its_norm(self.layer, hook)
        raise ModelError(
            f"The weight of {self.name!r} is no parameter, and what computes it is unknown. Compute it by "
            "torch.nn.utils.parametrize.register_parametrization."
        )

    @property
    def matrix(self) -> Tensor:
        """The kernel form, tensor (out, in · taps), as arXiv 1810.00363 takes it.

        That of a transposed convolution is (in, out · taps): the matrix of the convolution which
        it is the adjoint of.
        """
        return self.value.flatten(1)

    @property
    def parametrised(self) -> bool:
        """Whether the weight is computed from other parameters, so that it cannot be written to."""
        return parametrize.is_parametrized(self.layer, "weight") or self._is_of_hook

    @property
    def _is_of_hook(self) -> bool:
        """Whether a hook computes it before each forward, as the older forms of weight normalisation do."""
        return "weight" not in self.layer._parameters and not parametrize.is_parametrized(
            self.layer, "weight"
        )


@dataclass(frozen=True, eq=False)
class Place:
    """A weight and the size of what it is applied to.

    Args:
        name: One of its own in the model: the layer's path, numbered where a weight has several.
        weight: The weight.
        input_shape: What the operator takes, without the batch.
    """

    name: str
    weight: Weight
    input_shape: Shape

    @property
    def operator(self) -> Dense | Convolution:
        """The true linear map of the layer, with the weight as it is now.

        That of a transposed convolution is its adjoint, which has the same singular values.

        Raises:
            ModelError: the layer pads by other than zeros.
        """
        layer = self.weight.layer
        if isinstance(layer, nn.Linear):
            return Dense(self.weight.value)
        return Convolution(
            self.weight.value, layer.stride, _margins(self.weight), layer.dilation, layer.groups
        )


def weights(model: nn.Module) -> list[Weight]:
    """The weights of all linear layers and convolutions, at whatever depth; shared ones once.

    Args:
        model: Any module, also one that went through ``torch.compile``.

    Returns:
        The weights in the order of the modules, at least one.

    Raises:
        ModelError: there is none.
    """
    by_identity: dict[int, Weight] = {}
    for name, layer in uncompiled(model).named_modules():
        if isinstance(layer, nn.Linear | _ConvNd):
            by_identity.setdefault(_identity(layer), Weight(name, layer))
    if not by_identity:
        raise ModelError(
            f"{type(model).__name__} has no linear layer and no convolution; their weights are meant here."
        )
    return list(by_identity.values())


def places(
    model: nn.Module, images: Tensor, is_included: Callable[[nn.Module], bool] | None = None
) -> list[Place]:
    """Where the weights are applied: each with the sizes that it meets when the model runs on one image.

    The model runs once, in eval mode and without gradients; only the first image is looked at.
    A weight used at several sizes, or by layers that differ, has one place for each.

    Args:
        model: Any module, also one that went through ``torch.compile``.
        images: Tensor (batch, …), as the model takes them.
        is_included: Of which layers; of all where None.

    Returns:
        The places in the order of ``weights``.

    Raises:
        ModelError: there is no weight, an included convolution takes no part, or pads by other than
            zeros.
    """
    included = {
        _identity(weight.layer): weight
        for weight in weights(model)
        if is_included is None or is_included(weight.layer)
    }
    met = _met(uncompiled(model), images[:1])
    result = []
    for key, weight in included.items():
        if isinstance(weight.layer, nn.Linear):
            result.append(Place(weight.name, weight, (weight.layer.in_features,)))
            continue
        uses = {
            (_margins(use), use.layer.stride, use.layer.dilation, use.layer.groups, shape): (use, shape)
            for use, shape in met
            if _identity(use.layer) == key
        }
        if not uses:
            raise ModelError(
                f"The convolution {weight.name!r} takes no part when the model runs in eval mode, "
                "so its operator is not known; use a kernel form where there is one, or remove it."
            )
        for number, (use, shape) in enumerate(uses.values()):
            result.append(Place(f"{weight.name}-{number}" if number else weight.name, use, shape))
    return result


class LayerInputCache:
    """The places of a model (see ``places``), determined once for each size of the images.

    A copy begins anew: it is for another model than that whose layers are held here.

    Args:
        is_included: Of which layers; of all where None.
    """

    def __init__(self, is_included: Callable[[nn.Module], bool] | None = None) -> None:
        self._is_included = is_included
        self._places: list[Place] = []
        self._model: weakref.ref[nn.Module] | None = None
        self._shape: Sequence[int] = ()

    def of(self, model: nn.Module, images: Tensor) -> list[Place]:
        """As ``places``; the model runs only where it, or the size of its images, is another than before."""
        inner = uncompiled(model)
        is_known = self._model is not None and self._model() is inner
        if not is_known or self._shape != images.shape[1:]:
            self._places = places(inner, images, self._is_included)
            self._model, self._shape = weakref.ref(inner), images.shape[1:]
        return self._places

    @override
    def __reduce__(self) -> tuple[type[LayerInputCache], tuple[Callable[[nn.Module], bool] | None]]:
        return LayerInputCache, (self._is_included,)


def _identity(layer: Layer) -> int:
    """Tells one weight from another; a parametrised one, which is a new tensor each time, by its layer."""
    return id(layer if Weight("", layer).parametrised else layer.weight)


def _divided_by_its_norm(layer: Layer, hook: SpectralNorm) -> Tensor:
    """What the hook makes of its weight, with vectors that its next forward does not overwrite."""
    weight, left, right = (getattr(layer, f"weight_{part}") for part in ("orig", "u", "v"))
    norm = left.clone() @ (hook.reshape_weight_to_matrix(weight) @ right.clone())
    divided: Tensor = weight / norm
    return divided


def _met(model: nn.Module, image: Tensor) -> list[tuple[Weight, Shape]]:
    """The convolutions in the order in which the model runs them, with the shapes of their operators."""
    met: list[tuple[Weight, Shape]] = []

    def listen(name: str, layer: Layer) -> Any:
        def note(_: nn.Module, args: tuple[Tensor, ...], options: dict[str, Tensor], output: Tensor) -> None:
            value = args[0] if args else options["input"]
            # The operator of a transposed convolution leads from its output to its input.
            shape = (output if isinstance(layer, _ConvTransposeNd) else value).shape
            met.append((Weight(name, layer), tuple(shape[1 - layer.weight.dim() :])))

        return layer.register_forward_hook(note, with_kwargs=True)

    hooks = [listen(name, layer) for name, layer in model.named_modules() if isinstance(layer, _ConvNd)]
    try:
        with eval_mode(model), torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return met


def _margins(weight: Weight) -> Sequence[int]:
    """Zeros on either side of the input, one number a dimension."""
    layer = weight.layer
    if isinstance(layer, nn.Linear):
        return ()
    if layer.padding_mode != "zeros":
        raise ModelError(
            f"The operator form knows padding by zeros, but {weight.name!r} has {layer.padding_mode!r}; "
            "use padding_mode='zeros', or a kernel form where there is one."
        )
    if layer.padding == "valid":
        return (0,) * len(layer.stride)
    if isinstance(layer.padding, str):
        reach = [step * (taps - 1) for step, taps in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(length % 2 for length in reach):
            raise ModelError(
                f"{weight.name!r} pads one side more than the other ('same' with an even kernel), which the "
                "operator form does not know; use the kernel form, or give its padding as numbers."
            )
        return tuple(length // 2 for length in reach)
    return layer.padding
