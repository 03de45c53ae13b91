"""Sums and products of linear operators that are one operator of a known kind again, with its true norm.

The norm of the whole is at most the sum, or the product, of the norms of its parts, and often far below: that
of x + conv(x), or of x - x.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.operators.linear_operators import Convolution, Dense, Diagonal, LinearOperator, Shape


def product(second: LinearOperator, first: LinearOperator, shape: Shape) -> LinearOperator | None:
    """X -> second (first x), where that is one operator of a known kind.

    Args:
        second: What is applied to what the first gives.
        first: What is applied to an example.
        shape: Of what the first gives.
    """
    match second, first:
        case Diagonal(), Diagonal():
            return Diagonal(second.scale * first.scale)
        case Dense(), Dense() if len(shape) == 1:
            return Dense(second.weight @ first.weight)
        case Dense(), Diagonal() if len(shape) == 1:
            return Dense(second.weight * _per_coordinate(first, shape))
        case Diagonal(), Dense() if len(shape) == 1:
            return Dense(_per_coordinate(second, shape)[:, None] * first.weight)
        case Diagonal(), Convolution():
            factors = _per_channel(second, shape)
            return None if factors is None else replace(first, weight=_on_first(factors, first.weight))
        case Convolution(), Diagonal() if first.scale.numel() == 1:
            return replace(second, weight=second.weight * first.scale.reshape(()))
        case Convolution(), Diagonal():
            factors = _per_channel(first, shape)
            if factors is None or second.groups > 1:
                return None
            return replace(second, weight=_on_first(factors, second.weight.transpose(0, 1)).transpose(0, 1))
    return None


def total(one: LinearOperator, other: LinearOperator, shape: Shape) -> LinearOperator | None:
    """X -> one x + other x, where that is one operator of a known kind.

    Args:
        one: An operator.
        other: One that gives what has the same shape.
        shape: Of an example that both are applied to.
    """
    if isinstance(one, Diagonal) and isinstance(other, Diagonal):
        return Diagonal(one.scale + other.scale)
    pair = _dense_pair(one, other, shape) or _convolution_pair(one, other, shape)
    if pair is None:
        return None
    return replace(pair[0], weight=pair[0].weight + pair[1].weight)


def beside(one: LinearOperator, other: LinearOperator, shape: Shape) -> LinearOperator | None:
    """X -> one x, and after it other x along the channels, where that is one operator of a known kind.

    Args:
        one: An operator.
        other: Another one.
        shape: Of an example that both are applied to.
    """
    pair = _dense_pair(one, other, shape) or _convolution_pair(one, other, shape)
    if pair is None or (isinstance(pair[0], Convolution) and pair[0].groups > 1):
        return None
    return replace(pair[0], weight=torch.cat([pair[0].weight, pair[1].weight]))


def _per_coordinate(operator: Diagonal, shape: Shape) -> Tensor:
    return operator.scale.expand(1, *shape).reshape(-1)


def _per_channel(operator: Diagonal, shape: Shape) -> Tensor | None:
    """The factors, one a channel; None where they differ within one."""
    scale = operator.scale.reshape((1,) * (len(shape) + 1 - operator.scale.dim()) + operator.scale.shape)
    return scale.expand(1, shape[0], *scale.shape[2:]).reshape(-1) if scale[0, 0].numel() == 1 else None


def _on_first(factors: Tensor, weight: Tensor) -> Tensor:
    return factors.reshape(-1, *[1] * (weight.dim() - 1)) * weight


def _dense_pair(one: LinearOperator, other: LinearOperator, shape: Shape) -> tuple[Dense, Dense] | None:
    if len(shape) != 1 or not (isinstance(one, Dense) or isinstance(other, Dense)):
        return None
    parts = [
        Dense(torch.diag(_per_coordinate(part, shape))) if isinstance(part, Diagonal) else part
        for part in (one, other)
    ]
    first, second = parts
    return (first, second) if isinstance(first, Dense) and isinstance(second, Dense) else None


def _convolution_pair(
    one: LinearOperator, other: LinearOperator, shape: Shape
) -> tuple[Convolution, Convolution] | None:
    """Both as convolutions of one geometry, of which the kernels alone differ."""
    like = one if isinstance(one, Convolution) else other
    if not isinstance(like, Convolution):
        return None
    parts = [_as_convolution(part, like, shape) for part in (one, other)]
    first, second = parts
    if first is None or second is None:
        return None
    if _reach(second) > _reach(first):
        wide = _widened(first, second)
        return None if wide is None else (wide, second)
    wide = _widened(second, first)
    return None if wide is None else (first, wide)


def _as_convolution(operator: LinearOperator, like: Convolution, shape: Shape) -> Convolution | None:
    """A multiplication of each channel as the convolution by a kernel of one tap; others as they are."""
    if isinstance(operator, Convolution):
        return operator
    factors = _per_channel(operator, shape) if isinstance(operator, Diagonal) else None
    rank = len(shape) - 1
    if factors is None or any(step != 1 for step in like.stride) or rank != len(like.stride):
        return None
    channels, per_group = shape[0], shape[0] // like.groups
    weight = factors.new_zeros(channels, per_group, *[1] * rank)
    places = torch.arange(channels, device=factors.device)
    weight = weight.index_put((places, places % per_group), factors.reshape(-1, *[1] * rank))
    return Convolution(weight, [1] * rank, [0] * rank, [*like.dilation], like.groups)


def _reach(operator: Convolution) -> list[int]:
    return [*operator.weight.shape[2:]]


def _widened(operator: Convolution, like: Convolution) -> Convolution | None:
    """The same with taps of 0 around it, so that its geometry is that of another; None where it cannot be."""
    same = (operator.groups, [*operator.stride], operator.weight.shape[1]) == (
        like.groups,
        [*like.stride],
        like.weight.shape[1],
    )
    margins: list[int] = []
    sides = zip(
        _reach(operator),
        operator.padding,
        operator.dilation,
        _reach(like),
        like.padding,
        like.dilation,
        strict=True,
    )
    for own, padding, dilation, size, other_padding, other_dilation in sides:
        missing = size - own
        # With taps on both sides as many, the window begins so much earlier.
        fits = missing % 2 == 0 and missing >= 0 and other_padding - padding == missing // 2 * other_dilation
        if not fits or (own > 1 and dilation != other_dilation):
            return None
        margins = [missing // 2, missing // 2, *margins]
    if not same:
        return None
    return replace(
        operator, weight=F.pad(operator.weight, margins), padding=[*like.padding], dilation=[*like.dilation]
    )
