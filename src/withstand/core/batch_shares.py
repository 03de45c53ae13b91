"""What a part of a batch needs to give what the whole batch would.

A batch is divided among processes, or into parts that follow each other where memory is short. Each part
draws the random numbers of the whole batch and keeps those of its own rows: so all generators stay in step,
and what is drawn for an example does not depend on who computes it. What is largest over the batch is found
among all processes, and so are the statistics of the batch where that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from typing_extensions import override

from withstand.core.processes import exchanging, num_processes, rank


@dataclass(frozen=True)
class Share:
    """Some consecutive rows of a batch.

    Args:
        start: The first of them.
        stop: One after the last.
        total: How many rows the whole batch has.
    """

    start: int
    stop: int
    total: int

    @property
    def size(self) -> int:
        """How many rows it has."""
        return self.stop - self.start

    def part(self, number: int, of: int) -> Share:
        """One of so many parts of it that follow each other, as ``torch.tensor_split`` makes them."""
        start = self.start + number * (self.size // of) + min(number, self.size % of)
        return Share(start, start + self.size // of + (number < self.size % of), self.total)


class _State:
    """What holds in the block under way; a global object's attributes, which ``torch.compile`` can follow."""

    share: Share | None = None
    meets = False
    joins_statistics = False


_state = _State()


def own_share(total: int) -> Share | None:
    """The rows of this process; None where there are too few for each, or one process alone, which has all.

    Args:
        total: Rows of the batch.
    """
    number = num_processes()
    if number == 1 or total < number:
        return None
    return Share(0, total, total).part(rank(), number)


def current() -> Share | None:
    """The rows that are computed; None where a batch is whole."""
    return _state.share


@contextmanager
def taking(share: Share | None) -> Iterator[None]:
    """Draws for the rows of a share inside; as without any where it is None.

    Args:
        share: Of the batch that is computed.
    """
    with _set(share, _state.meets, _state.joins_statistics):
        yield


@contextmanager
def meeting(*, joins_statistics: bool = False) -> Iterator[None]:
    """Computes inside what the other processes compute in such blocks of their own, each of its rows.

    Args:
        joins_statistics: Whether statistics of a batch are those of the whole; needs a share.
    """
    is_shared = num_processes() > 1
    with _set(_state.share, is_shared, is_shared and joins_statistics):
        yield


@contextmanager
def alone() -> Iterator[None]:
    """Computes inside what is of no batch, such as a network's graph: all of it, without other processes."""
    with _set(None, False, False):
        yield


@contextmanager
def _set(share: Share | None, meets: bool, joins_statistics: bool) -> Iterator[None]:
    former = _state.share, _state.meets, _state.joins_statistics
    _state.share, _state.meets, _state.joins_statistics = share, meets, joins_statistics
    try:
        yield
    finally:
        _state.share, _state.meets, _state.joins_statistics = former


def meets() -> bool:
    """Whether other processes compute rows of the same batch."""
    return _state.meets


def filled(like: Tensor, fill: Callable[[Tensor], Tensor]) -> Tensor:
    """Random numbers for each row of a batch, or of several copies of it one after another.

    Args:
        like: Tensor (rows, …).
        fill: Draws into a tensor (any number of rows, …) in place, such as ``Tensor.normal_``.

    Returns:
        A tensor like it.
    """
    share = _state.share
    if share is None or len(like) % share.size:
        # Not in the order in which memory lies, or images of channels_last would have other draws.
        return fill(torch.empty_like(like, memory_format=torch.contiguous_format))
    copies = len(like) // share.size
    whole = fill(like.new_empty((copies * share.total, *like.shape[1:])))
    own = whole.view(copies, share.total, *like.shape[1:])[:, share.start : share.stop]
    return own.reshape(like.shape)


def statistics(batch: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (biased) of each channel over a batch; over the whole one where processes join them.

    Args:
        batch: Tensor (rows, channels, …).

    Returns:
        Two tensors (channels,), which can be differentiated twice; so all processes must do that too.
    """
    dims = [0, *range(2, batch.dim())]
    mean, variance = batch.mean(dims), batch.var(dims, unbiased=False)
    share = _state.share
    if share is None or not _state.joins_statistics:
        return mean, variance
    weight = share.size / share.total
    of_all: Tensor = _Added.apply(weight * mean)  # type: ignore[no-untyped-call]
    spread = weight * (variance + (mean - of_all).square())
    return of_all, _Added.apply(spread)  # type: ignore[no-untyped-call]


def largest_of_all(values: Tensor, *items: Tensor) -> tuple[Tensor, ...]:
    """Of what is largest in each process, that which is largest in all.

    Args:
        values: By which it is chosen, (groups, candidates); NaN counts as the largest.
        *items: What is chosen, (groups, candidates, …) each, without gradient.

    Returns:
        Of each group as many as there are candidates, the largest first where processes met; the items
        alone, and in any other case as they are.
    """
    if not _state.meets:
        return items
    everywhere = [torch.cat(_gathered(part), dim=1) for part in (values, *items)]
    chosen = everywhere[0].topk(values.shape[1], dim=1).indices
    rows = torch.arange(len(chosen), device=chosen.device)[:, None]
    return tuple(part[rows, chosen] for part in everywhere[1:])


def _gathered(part: Tensor) -> list[Tensor]:
    parts = [torch.empty_like(part, memory_format=torch.contiguous_format) for _ in range(num_processes())]
    with exchanging():
        dist.all_gather(parts, part.detach().contiguous())
    return parts


class _Added(torch.autograd.Function):
    """The sum over all processes; so its gradient is one as well, and can be differentiated again."""

    @staticmethod
    @override
    def forward(ctx: Any, part: Tensor) -> Tensor:
        total = part.clone(memory_format=torch.contiguous_format)
        with exchanging():
            dist.all_reduce(total)
        return total

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total: Tensor = _Added.apply(gradients[0])  # type: ignore[no-untyped-call]
        return total
