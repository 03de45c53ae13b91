"""Where the weights of a model are applied, and the linear operators that they are there."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from typing_extensions import override

from withstand.core.modes import eval_mode
from withstand.core.wrappers import unwrapped
from withstand.operators.layer_weights import Weight, weights
from withstand.operators.linear_operators import Convolution, Dense, Shape
from withstand.types import ModelError


@dataclass(frozen=True, eq=False)
class Place:
    """A weight and the size of what it is applied to.

    Args:
        name: One of its own in the model: the weight's, numbered where it has several.
        weight: The weight.
        input_shape: What the operator takes, without the batch.
    """

    name: str
    weight: Weight
    input_shape: Shape

    @property
    def operator(self) -> Dense | Convolution:
        """The true linear map of the layer, with the weight as it is now.

        That of a transposed convolution is its adjoint, which has the same singular values; it has an output
        more, and so no smaller ones, where the output padding reaches the stride. That of a bilinear layer
        takes the products of both inputs' entries.

        Raises:
            ModelError: the layer pads by other than zeros.
        """
        return self.operator_of(self.weight.tensor)

    def operator_of(self, tensor: Tensor) -> Dense | Convolution:
        """The operator with other entries, such as standard deviations, in place of the weight's.

        Args:
            tensor: Of the shape of the layer's parameter.

        Raises:
            ModelError: the layer pads by other than zeros.
        """
        layer, value = self.weight.layer, self.weight.of(tensor)
        if not isinstance(layer, _ConvNd):
            return Dense(value.flatten(1))
        return Convolution(
            value, layer.stride, _margins(self.weight.name, layer), layer.dilation, layer.groups
        )


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
        weight.identity: weight
        for weight in weights(model)
        if is_included is None or is_included(weight.layer)
    }
    met = _met(unwrapped(model), images[:1])
    result = []
    for key, weight in included.items():
        if not isinstance(weight.layer, _ConvNd):
            result.append(Place(weight.name, weight, (weight.matrix.shape[1],)))
            continue
        uses = {
            (_margins(use.name, layer), layer.stride, layer.dilation, layer.groups, shape): (use, shape)
            for use, layer, shape in met
            if use.identity == key
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
        inner = unwrapped(model)
        is_known = self._model is not None and self._model() is inner
        if not is_known or self._shape != images.shape[1:]:
            self._places = places(inner, images, self._is_included)
            self._model, self._shape = weakref.ref(inner), images.shape[1:]
        return self._places

    @override
    def __reduce__(self) -> tuple[type[LayerInputCache], tuple[Callable[[nn.Module], bool] | None]]:
        return LayerInputCache, (self._is_included,)


def _met(model: nn.Module, image: Tensor) -> list[tuple[Weight, _ConvNd, Shape]]:
    """The convolutions in the order in which the model runs them, with the shapes of their operators."""
    met: list[tuple[Weight, _ConvNd, Shape]] = []

    def listen(name: str, layer: _ConvNd) -> Any:
        def note(_: nn.Module, args: tuple[Tensor, ...], options: dict[str, Tensor], output: Tensor) -> None:
            value = args[0] if args else options["input"]
            # The operator of a transposed convolution leads from its output to its input.
            shape = (output if isinstance(layer, _ConvTransposeNd) else value).shape
            met.append((Weight(name, layer), layer, tuple(shape[-1 - len(layer.kernel_size) :])))

        return layer.register_forward_hook(note, with_kwargs=True)

    hooks = [listen(name, layer) for name, layer in model.named_modules() if isinstance(layer, _ConvNd)]
    try:
        with eval_mode(model), torch.no_grad():
            model(image)
    finally:
        for hook in hooks:
            hook.remove()
    return met


def _margins(name: str, layer: _ConvNd) -> Sequence[int]:
    """Zeros on either side of the input, one number a dimension."""
    if layer.padding_mode != "zeros":
        raise ModelError(
            f"The operator form knows padding by zeros, but {name!r} has {layer.padding_mode!r}; "
            "use padding_mode='zeros', or a kernel form where there is one."
        )
    if layer.padding == "valid":
        return (0,) * len(layer.stride)
    if isinstance(layer.padding, str):
        reach = [step * (taps - 1) for step, taps in zip(layer.dilation, layer.kernel_size, strict=True)]
        if any(length % 2 for length in reach):
            raise ModelError(
                f"{name!r} pads one side more than the other ('same' with an even kernel), which the "
                "operator form does not know; use the kernel form, or give its padding as numbers."
            )
        return tuple(length // 2 for length in reach)
    return layer.padding
