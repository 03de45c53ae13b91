"""How one example lies in a value of a graph: which of its dimensions holds the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from withstand.operators import Shape
from withstand.types import ModelError


class Layout(NamedTuple):
    """The sizes of a value of the graph, for a batch of one.

    Attributes:
        sizes: One a dimension. Of attention's (tokens, batch, channels) they are (tokens, 1, channels), and
            of its (tokens, batch · heads, channels) they are (tokens, heads, channels).
        batch: The dimension that holds the batch; None where none does.
        share: How many times the batch that dimension is.
    """

    sizes: Shape
    batch: int | None
    share: int

    @property
    def is_plain(self) -> bool:
        """Whether it is (batch, …)."""
        return self.batch == 0 and self.share == 1

    @property
    def stored(self) -> Shape:
        """The shape of one example in domains: they keep the batch first, whatever the graph does."""
        return self.sizes[1:] if self.is_plain else self.sizes

    def dimension(self, dim: int) -> int | None:
        """Where a dimension of the value lies in domains; None for the batch's.

        Args:
            dim: From 0, or negative from the end.
        """
        index = dim % max(len(self.sizes), 1)
        if index == self.batch:
            return None
        return index if self.is_plain else index + 1

    def stored_of(self, tensor: Tensor) -> Tensor:
        """A tensor of the graph as domains keep it, (batch, …); a merged batch is taken to come first."""
        if self.is_plain or self.batch is None:
            return tensor
        return torch.unflatten(tensor, self.batch, (-1, self.share)).movedim(self.batch, 0)

    def unstored(self, tensor: Tensor) -> Tensor:
        """What ``stored_of`` was given."""
        if self.is_plain or self.batch is None:
            return tensor
        return tensor.movedim(0, self.batch).flatten(self.batch, self.batch + 1)


def layout_of(value: Tensor) -> Layout:
    """The layout of a traced tensor.

    Args:
        value: With a symbol for the batch.

    Raises:
        ModelError: its shape depends on the batch in another way than one dimension that it multiplies.
    """
    sizes = [size_at(size, 1) for size in value.shape]
    doubled = [size_at(size, 2) for size in value.shape]
    grown = [dim for dim, (one, two) in enumerate(zip(sizes, doubled, strict=True)) if one != two]
    if len(grown) > 1 or any(doubled[dim] != 2 * sizes[dim] for dim in grown):
        raise ModelError(
            f"The model makes a value of shape {tuple(map(str, value.shape))} of its batch, so it mixes the "
            "images of a batch; nothing can be proven of one image then."
        )
    batch = grown[0] if grown else None
    return Layout(tuple(sizes), batch, 1 if batch is None else sizes[batch])


def size_at(size: Any, batch: int) -> int:
    """What a traced size is for a batch.

    Args:
        size: A number, or one that depends on the batch.
        batch: Number of examples.
    """
    if not isinstance(size, torch.SymInt):
        return int(size)
    expression = size.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, batch)))


def shape_at(sizes: Sequence[Any], batch: int) -> Shape:
    """Traced sizes for a batch."""
    return tuple(size_at(size, batch) for size in sizes)
