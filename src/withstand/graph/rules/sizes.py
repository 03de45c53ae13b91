"""Sizes and factors as torch takes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from withstand.graph.domain import Domain
from withstand.graph.rule_registry import Site
from withstand.operators import Diagonal

Numbers: TypeAlias = int | Sequence[int]


def per_dimension(numbers: Numbers, rank: int) -> Sequence[int]:
    """One number for each of ``rank`` dimensions."""
    given = [numbers] if isinstance(numbers, int) else [*numbers]
    return given * rank if len(given) == 1 else given


def on_channels(values: Tensor, rank: int) -> Tensor:
    """One value a channel, shaped to broadcast over images of that rank."""
    return values.reshape(-1, *[1] * rank)


def require_fit(site: Site, value: Domain, constant: Any) -> None:
    """Refuses a constant that sets would be repeated to fit: what is repeated counts several times.

    Args:
        site: Where.
        value: The sets.
        constant: A tensor that must broadcast to their shape; numbers do.

    Raises:
        UnsupportedOperationError: the sets' shape would have to grow.
    """
    if isinstance(constant, Tensor):
        shape = torch.broadcast_shapes(value.shape, constant.shape)  # type: ignore[no-untyped-call]
        if shape != value.shape:
            raise site.refusal(
                f"keeps the shape of what depends on the input, {tuple(value.shape)}, but the constant, "
                f"{tuple(constant.shape)}, would have it grow to {tuple(shape)}; repeat nothing."
            )


def scaled(site: Site, value: Domain, factor: Tensor | float) -> Domain:
    """The image under a multiplication by a constant that fits."""
    like = value.center  # a number is not to be rounded to torch's default precision on the way
    scale = factor.to(like) if isinstance(factor, Tensor) else like.new_full((), factor)
    return value.affine(Diagonal(scale), None, site.norm)


def batch_norm_factors(layer: _BatchNorm, like: Tensor) -> tuple[Tensor, Tensor]:
    """By what a BatchNorm multiplies, and what it adds, as it stands: ``scale * x + bias``.

    Args:
        layer: In train mode, or without running statistics, it goes by those of ``like``.
        like: What it is called with, (batch, channels, …).

    Returns:
        Two tensors that broadcast to one example.
    """
    rank = like.dim() - 2
    if layer.training or layer.running_mean is None or layer.running_var is None:
        dims = [0, *range(2, rank + 2)]
        mean, variance = like.mean(dims), like.var(dims, unbiased=False)
    else:
        mean, variance = layer.running_mean, layer.running_var
    scale = (variance + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight
    bias = -mean * scale if layer.bias is None else layer.bias - mean * scale
    return on_channels(scale, rank), on_channels(bias, rank)
