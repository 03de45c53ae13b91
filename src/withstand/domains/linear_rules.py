"""Rules of linear layers: dense, convolution, normalisation, average pooling, means, factors."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.domains.base import Domain
from withstand.domains.operations import Rearrange
from withstand.domains.registry import Site, UnsupportedOperationError, register
from withstand.domains.sizes import Numbers, each
from withstand.models import Normalize
from withstand.spectral import Convolution, Dense, Diagonal, Separable

__all__: list[str] = []


@register(nn.Linear)
def _linear_layer(site: Site, layer: nn.Linear, input: Domain) -> Domain:
    return _linear(site, input, layer.weight, layer.bias)


@register(F.linear)
def _linear(site: Site, input: Domain, weight: Tensor, bias: Tensor | None = None) -> Domain:
    return input.affine(Dense(weight), bias, site.norm)


@register(nn.Conv1d, nn.Conv2d, nn.Conv3d)
def _conv_layer(site: Site, layer: nn.Conv1d | nn.Conv2d | nn.Conv3d, input: Domain) -> Domain:
    if layer.padding_mode != "zeros":
        raise UnsupportedOperationError(
            f"The convolution {site.path!r} pads by {layer.padding_mode!r}, but bounds know padding by zeros "
            "only; build it with padding_mode='zeros'."
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
    rank = weight.dim() - 2
    steps, spread = each(stride, rank), each(dilation, rank)
    if padding == "valid":
        margins: Sequence[int] = [0] * rank
    elif isinstance(padding, str):
        reach = [spread[dim] * (weight.shape[2 + dim] - 1) for dim in range(rank)]
        if any(length % 2 for length in reach):
            raise UnsupportedOperationError(
                f"The convolution {site.path!r} pads by 'same' with an even kernel, which is not symmetric; "
                "give padding as numbers."
            )
        margins = [length // 2 for length in reach]
    else:
        margins = each(padding, rank)
    convolution = Convolution(weight, steps, margins, spread, groups)
    return input.affine(convolution, None if bias is None else _on_channels(bias, rank), site.norm)


@register(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
def _batch_norm(site: Site, layer: nn.BatchNorm2d, input: Domain) -> Domain:
    rank = len(input.shape) - 2
    if layer.training or layer.running_mean is None or layer.running_var is None:
        dims = [0, *range(2, rank + 2)]
        mean, variance = input.center.mean(dims), input.center.var(dims, unbiased=False)
    else:
        mean, variance = layer.running_mean, layer.running_var
    scale = (variance + layer.eps).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight
    bias = -mean * scale if layer.bias is None else layer.bias - mean * scale
    return input.affine(Diagonal(_on_channels(scale, rank)), _on_channels(bias, rank), site.norm)


@register(Normalize)
def _normalize(site: Site, layer: Normalize, input: Domain) -> Domain:
    scale = 1 / layer.std
    return input.affine(Diagonal(scale), -layer.mean * scale, site.norm)


@register(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
def _avg_pool_layer(site: Site, layer: nn.AvgPool2d, input: Domain) -> Domain:
    return _avg_pool(
        site,
        input,
        layer.kernel_size,
        layer.stride,
        layer.padding,
        layer.ceil_mode,
        layer.count_include_pad,
        getattr(layer, "divisor_override", None),
    )


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
        raise UnsupportedOperationError(
            f"The average pooling {site.path!r} has a divisor_override, for which there is no rule; "
            "multiply its result by a constant instead."
        )
    rank = len(input.shape) - 2
    kernel, margins = each(kernel_size, rank), each(padding, rank)
    steps = kernel if stride is None else each(stride, rank)
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


@register(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d)
def _adaptive_layer(site: Site, layer: nn.AdaptiveAvgPool2d, input: Domain) -> Domain:
    return _adaptive_avg_pool(site, input, layer.output_size)


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
    dims = sorted(each % rank for each in chosen)
    if 0 in dims:
        raise UnsupportedOperationError(
            f"The mean at {site.name!r} is also taken over the batch; give dim without 0."
        )
    rows = [_like(input, 1, input.shape[each]) / input.shape[each] for each in dims]
    averaged = input.affine(Separable(dims, rows), None, site.norm)
    return averaged if keepdim else averaged.monotone(Rearrange(lambda x: x.squeeze(tuple(dims))))


@register(operator.mul, operator.imul, torch.mul, Tensor.mul, Tensor.mul_)
def _multiply(site: Site, input: Domain | Tensor | float, other: Domain | Tensor | float) -> Domain:
    value, factor = (input, other) if isinstance(input, Domain) else (other, input)
    if isinstance(factor, Domain) or not isinstance(value, Domain):
        raise UnsupportedOperationError(
            f"There is no rule for the product of two values that both depend on the input ({site.name!r})."
        )
    scale = torch.as_tensor(factor).to(value.center)
    return value.affine(Diagonal(scale), None, site.norm)


@register(operator.truediv, operator.itruediv, torch.div, Tensor.div, Tensor.div_)
def _divide(site: Site, input: Domain | Tensor | float, other: Domain | Tensor | float) -> Domain:
    if isinstance(other, Domain):
        raise UnsupportedOperationError(
            f"There is no rule for a division by what depends on the input ({site.name!r})."
        )
    return _multiply(site, input, 1 / other)


@register(operator.neg, torch.neg, Tensor.neg)
def _negate(site: Site, input: Domain) -> Domain:
    return _multiply(site, input, -1.0)


def _pool(site: Site, input: Domain, pools: Sequence[Callable[[Tensor], Tensor]]) -> Domain:
    """A pooling that is linear, from what it does along each dimension."""
    sides = input.shape[2:]
    factors = [
        pool(_identity(input, side)[None]).squeeze(0).T for pool, side in zip(pools, sides, strict=True)
    ]
    return input.affine(Separable(range(2, 2 + len(sides)), factors), None, site.norm)


def _identity(input: Domain, side: int) -> Tensor:
    return torch.eye(side, dtype=input.center.dtype, device=input.center.device)


def _like(input: Domain, *shape: int) -> Tensor:
    return torch.ones(shape, dtype=input.center.dtype, device=input.center.device)


def _on_channels(values: Tensor, rank: int) -> Tensor:
    """One value a channel, shaped to broadcast over images of that rank."""
    return values.reshape(-1, *[1] * rank)
