"""Rules of linear layers: dense, convolution, normalisation, average pooling, means, factors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.graph.domain import Domain
from withstand.graph.primitives import Rearrange, moved
from withstand.graph.rule_registry import Site, of_layers, register
from withstand.graph.rules.sizes import (
    Numbers,
    batch_norm_factors,
    on_channels,
    per_dimension,
    require_fit,
    scaled,
)
from withstand.models import Normalize
from withstand.operators import Convolution, Dense, Diagonal, Separable

__all__: list[str] = []

_AVERAGED = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")


@of_layers(nn.Linear, settings=["weight", "bias"])
@register(F.linear)
def _linear(site: Site, input: Any, weight: Any, bias: Any = None) -> Domain:
    if not isinstance(input, Domain) or isinstance(weight, Domain) or isinstance(bias, Domain):
        raise site.refusal("knows a constant weight and bias, but here they depend on the input.")
    return input.affine(Dense(weight), bias, site.norm)


@register(operator.matmul, torch.matmul, Tensor.matmul)
def _matmul(site: Site, input: Any, other: Any) -> Domain:
    if isinstance(other, Domain) or other.dim() != 2:
        raise site.refusal("knows products x @ A by a constant matrix A alone; write it so.")
    return _linear(site, input, other.T)


@register(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _conv_layer(site: Site, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, input: Domain) -> Domain:
    if layer.padding_mode != "zeros":
        raise site.refusal(
            f"knows padding by zeros, but got {layer.padding_mode!r}; build it with padding_mode='zeros'."
        )
    return _conv(
        site, input, layer.weight, layer.bias, layer.stride, layer.padding, layer.dilation, layer.groups
    )


@register(F.conv1d, F.conv2d, F.conv3d)
def _conv(
    site: Site,
    input: Domain,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers | str = 0,
    dilation: Numbers = 1,
    groups: int = 1,
) -> Domain:
    rank, value = weight.dim() - 2, input
    steps, spread = per_dimension(stride, rank), per_dimension(dilation, rank)
    if padding == "valid":
        margins: Sequence[int] = [0] * rank
    elif isinstance(padding, str):
        reach = [spread[dim] * (weight.shape[2 + dim] - 1) for dim in range(rank)]
        margins = [length // 2 for length in reach]
        odd = [size for length in reversed(reach) for size in (0, length % 2)]  # one more at the far side
        if any(odd):
            value = input.monotone(Rearrange(partial(F.pad, pad=odd)))
    else:
        margins = per_dimension(padding, rank)
    convolution = Convolution(weight, steps, margins, spread, groups)
    return value.affine(convolution, None if bias is None else on_channels(bias, rank), site.norm)


@register(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def _batch_norm(site: Site, layer: nn.BatchNorm2d, input: Domain) -> Domain:
    scale, bias = batch_norm_factors(layer, input.center)
    return input.affine(Diagonal(scale), bias, site.norm)


@register(Normalize)
def _normalize(site: Site, layer: Normalize, input: Domain) -> Domain:
    require_fit(site, input, layer.std)
    scale = 1 / layer.std
    return input.affine(Diagonal(scale), -layer.mean * scale, site.norm)


@of_layers(nn.AvgPool1d, settings=_AVERAGED)
@of_layers(nn.AvgPool2d, nn.AvgPool3d, settings=[*_AVERAGED, "divisor_override"])
@register(F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)
def _avg_pool(
    site: Site,
    input: Domain,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Domain:
    if divisor_override is not None:
        raise site.refusal("knows no divisor_override; multiply the result by a constant instead.")
    rank = len(input.shape) - 2
    kernel, margins = per_dimension(kernel_size, rank), per_dimension(padding, rank)
    steps = per_dimension(stride, rank) if stride else kernel
    # Windows that the border cuts short have weights that are products, as whole ones have.
    pools = [
        partial(
            F.avg_pool1d,
            kernel_size=kernel[dim],
            stride=steps[dim],
            padding=margins[dim],
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
        )
        for dim in range(rank)
    ]
    return _pool(site, input, pools)


@of_layers(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d, settings=["output_size"])
@register(F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
def _adaptive_avg_pool(site: Site, input: Domain, output_size: int | Sequence[int | None] | None) -> Domain:
    sides = input.shape[2:]
    wanted = output_size if isinstance(output_size, Sequence) else [output_size] * len(sides)
    sizes = [side if size is None else size for side, size in zip(sides, wanted, strict=True)]
    return _pool(site, input, [partial(F.adaptive_avg_pool1d, output_size=size) for size in sizes])


@register(torch.mean, Tensor.mean)
def _mean(site: Site, input: Domain, dim: int | Sequence[int] | None = None, keepdim: bool = False) -> Domain:
    rank = len(input.shape)
    chosen = range(rank) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = sorted(index % rank for index in chosen)
    if 0 in dims:
        raise site.refusal(
            "takes each example by itself, but here the batch is averaged; give dim without 0."
        )
    rows = [input.center.new_full((1, input.shape[index]), 1 / input.shape[index]) for index in dims]
    averaged = input.affine(Separable(dims, rows), None, site.norm)
    return averaged if keepdim else averaged.monotone(moved(lambda x: x.squeeze(tuple(dims))))


@register(operator.mul, torch.mul, torch.multiply, Tensor.mul, Tensor.mul_, Tensor.multiply)
def _multiply(site: Site, input: Any, other: Any) -> Domain:
    value, factor = (input, other) if isinstance(input, Domain) else (other, input)
    if isinstance(factor, Domain):
        raise site.refusal("knows products by a constant, but here both factors depend on the input.")
    require_fit(site, value, factor)
    return scaled(site, value, factor)


@register(
    operator.truediv, torch.div, torch.divide, torch.true_divide, Tensor.div, Tensor.div_, Tensor.divide
)
def _divide(site: Site, input: Any, other: Any) -> Domain:
    if isinstance(other, Domain):
        raise site.refusal("knows quotients by a constant, but here the divisor depends on the input.")
    if not isinstance(other, Tensor) and other == 0:
        raise site.refusal("knows quotients by a constant other than 0.")
    # A tensor's own precision may be less than that in which the bounds are computed.
    return _multiply(site, input, 1 / (other.to(input.center) if isinstance(other, Tensor) else other))


@register(operator.neg, torch.neg, torch.negative, Tensor.neg, Tensor.neg_)
def _negate(site: Site, input: Domain) -> Domain:
    return _multiply(site, input, -1.0)


def _pool(site: Site, input: Domain, pools: Sequence[Callable[[Tensor], Tensor]]) -> Domain:
    """A pooling that is linear, from what it does along each dimension."""
    sides, like = input.shape[2:], input.center
    units = [torch.eye(side, dtype=like.dtype, device=like.device)[None] for side in sides]
    factors = [pool(unit).squeeze(0).T for pool, unit in zip(pools, units, strict=True)]
    return input.affine(Separable(range(2, 2 + len(sides)), factors), None, site.norm)
