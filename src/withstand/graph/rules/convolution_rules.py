"""Rules of convolutions, transposed or not."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.graph.domain import Domain
from withstand.graph.primitives import Rearrange
from withstand.graph.rule_registry import Site, register
from withstand.graph.rules.sizes import Numbers, on_channels, per_dimension, require_images
from withstand.operators import Convolution, TransposedConvolution

__all__: list[str] = []

_ATEN = torch.ops.aten


@register(_ATEN.conv1d, _ATEN.conv2d, _ATEN.conv3d)
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
    rank, value = _rank(site, weight, bias), input
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


@register(_ATEN.conv_transpose1d, _ATEN.conv_transpose2d, _ATEN.conv_transpose3d)
def _conv_transpose(
    site: Site,
    input: Domain,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Numbers = 1,
    padding: Numbers = 0,
    output_padding: Numbers = 0,
    groups: int = 1,
    dilation: Numbers = 1,
) -> Domain:
    rank = _rank(site, weight, bias)
    steps, margins, extra, spread = (
        per_dimension(numbers, rank) for numbers in (stride, padding, output_padding, dilation)
    )
    operator = TransposedConvolution(weight, steps, margins, extra, spread, groups)
    return input.affine(operator, None if bias is None else on_channels(bias, rank), site.norm)


@register(_ATEN.convolution)
def _convolution(
    site: Site,
    input: Domain,
    weight: Tensor,
    bias: Tensor | None,
    stride: Numbers,
    padding: Numbers,
    dilation: Numbers,
    transposed: bool,
    output_padding: Numbers,
    groups: int,
) -> Domain:
    if transposed:
        return _conv_transpose(site, input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _conv(site, input, weight, bias, stride, padding, dilation, groups)


def _rank(site: Site, weight: Any, bias: Any) -> int:
    """How many dimensions its images have."""
    if isinstance(weight, Domain) or isinstance(bias, Domain):
        raise site.refusal("knows a constant weight and bias, but here they depend on the input.")
    rank: int = weight.dim() - 2
    require_images(site, rank)
    return rank
