"""Layers: what prepares images, and activations that sort, which keep the length of gradients ReLU halves.

Normalisation is a layer, so that whoever calls the model speaks in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.suggest import nearest
from withstand.types import ModelError

ActivationName: TypeAlias = Literal["relu", "minmax", "leaky-relu", "elu", "gelu", "softplus", "tanh"]
"""What the builders' option ``activation`` may be."""


def _group_sort(x: Tensor, group_size: int) -> Tensor:
    groups = torch.unflatten(x, 1, (x.shape[1] // group_size, group_size))
    return torch.sort(groups, dim=2).values.flatten(1, 2)


def _min_max(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=1)
    return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=1)


# Operators of their own, so that a captured graph has each as one step, whose rule knows that it sorts. Made
# of torch's own, they have all derivatives.
_LIBRARY: Any = torch.library.Library("withstand", "FRAGMENT")
_LIBRARY.define("group_sort(Tensor x, int group_size) -> Tensor")
_LIBRARY.impl("group_sort", _group_sort, "CompositeImplicitAutograd")
_LIBRARY.define("min_max(Tensor x) -> Tensor")
_LIBRARY.impl("min_max", _min_max, "CompositeImplicitAutograd")
GROUP_SORT = torch.ops.withstand.group_sort
MIN_MAX = torch.ops.withstand.min_max


class GroupSort(nn.Module):
    """Sorts groups of neighbouring channels (Anil et al., ICML 2019): 1-Lipschitz in every norm.

    Args:
        group_size: Channels that are sorted together, ascending.

    Raises:
        ModelError: the size is below 2.
    """

    def __init__(self, group_size: int) -> None:
        super().__init__()
        if group_size < 2:
            raise ModelError(
                f"GroupSort sorts groups of at least 2 channels, but got group_size={group_size}."
            )
        self.group_size = group_size

    @override
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % self.group_size:
            raise ModelError(
                f"GroupSort cannot split {x.shape[1]} channels into groups of {self.group_size}; "
                "choose a width that it divides."
            )
        result: Tensor = GROUP_SORT(x, self.group_size)
        return result

    @override
    def extra_repr(self) -> str:
        return f"group_size={self.group_size}"


class MinMax(nn.Module):
    """Sorts pairs: channel k of the first half with channel k of the second.

    Which channels make a pair is without effect on what a network can express; halves are faster
    than neighbours.
    """

    @override
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] % 2:
            raise ModelError(f"MinMax pairs channels, but got {x.shape[1]} of them; choose an even width.")
        result: Tensor = MIN_MAX(x)
        return result


_NAMED: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "relu": nn.ReLU,
        "minmax": MinMax,
        "leaky-relu": nn.LeakyReLU,
        "elu": nn.ELU,
        "gelu": nn.GELU,
        "softplus": nn.Softplus,
        "tanh": nn.Tanh,
    }
)


def activation_named(name: str) -> Callable[[], nn.Module]:
    """What makes the activation of that name.

    Raises:
        ModelError: there is none.
    """
    if name not in _NAMED:
        raise ModelError(f"there is no activation {name!r}; {nearest(str(name), _NAMED)}")
    return _NAMED[name]


class Normalize(nn.Module):
    """``(images - mean) / std``, channel by channel, or feature by feature of vectors.

    Mean and deviation are buffers: they move with the model and are saved with its weights.
    With one channel any shape is taken; with more, batches (batch, channels, …) of any number of axes.

    Args:
        mean: Per channel, in the units of the images.
        std: Per channel, in the units of the images, positive.

    Raises:
        ModelError: there is no channel, the lengths differ, a value is not finite, or a
            deviation is not positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        _require_statistics(mean, std)
        # As saved since the first version, for weights that lie about; forward brings them to other shapes.
        shape = (1,) if len(mean) == 1 else (len(mean), 1, 1)
        self.register_buffer("mean", torch.tensor(list(mean), dtype=torch.float32).reshape(shape))
        self.register_buffer("std", torch.tensor(list(std), dtype=torch.float32).reshape(shape))

    @override
    def forward(self, images: Tensor) -> Tensor:
        if self.mean.numel() == 1 or images.dim() == 4:
            return (images - self.mean) / self.std
        shape = (-1, *[1] * (images.dim() - 2))
        return (images - self.mean.view(shape)) / self.std.view(shape)

    @override
    def extra_repr(self) -> str:
        if self.mean.is_meta:
            return f"channels={len(self.mean)}"
        return f"mean={_rounded(self.mean)}, std={_rounded(self.std)}"


class Resize(nn.Module):
    """Images in another size, by bilinear interpolation; smoothed before where they become smaller.

    Args:
        size: (height, width) afterwards.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    @override
    def forward(self, images: Tensor) -> Tensor:
        shrinks = min(after - before for after, before in zip(self.size, images.shape[-2:], strict=True)) < 0
        return F.interpolate(images, self.size, mode="bilinear", antialias=shrinks)

    @override
    def extra_repr(self) -> str:
        return f"size={self.size}"


class GreyToColour(nn.Module):
    """Images (batch, 1, height, width) as ones of several equal channels.

    Args:
        channels: How many.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels

    @override
    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, self.channels, -1, -1)

    @override
    def extra_repr(self) -> str:
        return f"channels={self.channels}"


class ReverseChannels(nn.Module):
    """Red, green and blue as blue, green and red."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return images.flip(1)


def _require_statistics(mean: Sequence[float], std: Sequence[float]) -> None:
    if not len(mean) or len(mean) != len(std):
        raise ModelError(
            "Normalize needs as many means as deviations, and at least one, "
            f"but got mean {list(mean)} and std {list(std)}."
        )
    if not all(map(math.isfinite, mean)) or not all(0 < value < math.inf for value in std):
        raise ModelError(
            "Normalize needs finite means and positive finite deviations, "
            f"but got mean {list(mean)} and std {list(std)}."
        )


def _rounded(values: Tensor) -> list[float]:
    return [round(value, 4) for value in values.flatten().tolist()]
