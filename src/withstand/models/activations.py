"""Activations that sort: they keep the length of gradients, where ReLU halves it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.types import ModelError

__all__ = ["GroupSort", "MinMax"]


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
        groups = x.reshape(x.shape[0], -1, self.group_size, *x.shape[2:])
        return torch.sort(groups, dim=2).values.flatten(1, 2)

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
        first, second = x.chunk(2, dim=1)
        return torch.cat([torch.minimum(first, second), torch.maximum(first, second)], dim=1)
