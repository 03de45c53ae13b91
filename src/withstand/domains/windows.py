"""The windows of a max pooling, taken apart: along one dimension after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial

from torch import Tensor
from torch.nn import functional as F

from withstand.domains.operations import MaxPool, Rearrange

__all__ = ["window_places"]

# Stands for the -inf of padding; far below any activation, and its square is still a float32.
_PADDED = -1e9


def window_places(pool: MaxPool, sides: Sequence[int]) -> Iterator[Sequence[Rearrange]]:
    """What picks out the first of each window, the second, and so on; for each dimension in turn.

    The maximum over a window is that over its columns of the maximum over each column. Padding is given
    a value far below all others.

    Args:
        pool: The pooling.
        sides: Of the images, (…) without batch and channels.

    Yields:
        For each dimension one ``Rearrange`` a place in the window, of tensors whose former dimensions
        have been pooled already.
    """
    for index, side in enumerate(sides):
        kernel, stride, padding, dilation = (
            each[index] for each in (pool.kernel, pool.stride, pool.padding, pool.dilation)
        )
        count = _num_windows(side, kernel, stride, padding, dilation, ceil_mode=pool.ceil_mode)
        reach = (count - 1) * stride + dilation * (kernel - 1) + 1
        after = max(reach - side - padding, 0)
        yield [
            Rearrange(
                partial(
                    _picked,
                    dim=2 + index,
                    margins=(padding, after),
                    start=place * dilation,
                    stride=stride,
                    count=count,
                ),
                sets_constants=bool(padding or after),
            )
            for place in range(kernel)
        ]


def _num_windows(side: int, kernel: int, stride: int, padding: int, dilation: int, *, ceil_mode: bool) -> int:
    left = side + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return left // stride + 1
    count = -(-left // stride) + 1
    # A window may not begin in the padding at the far end.
    return count - 1 if (count - 1) * stride >= side + padding else count


def _picked(x: Tensor, dim: int, margins: tuple[int, int], start: int, stride: int, count: int) -> Tensor:
    if any(margins):
        x = F.pad(x, [*[0] * (2 * (x.dim() - 1 - dim)), *margins], value=_PADDED)
    return x.narrow(dim, start, (count - 1) * stride + 1)[(slice(None),) * dim + (slice(None, None, stride),)]
