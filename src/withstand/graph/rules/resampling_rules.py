"""Rules of pooling and of interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.graph.domain import Domain
from withstand.graph.primitives import MaxPool, moved
from withstand.graph.rule_registry import Site, register
from withstand.graph.rules.pieces import along_last, scaled
from withstand.graph.rules.sizes import Numbers, per_dimension, rank_of, require_images

__all__: list[str] = []

_ATEN = torch.ops.aten


@register(_ATEN.avg_pool1d, _ATEN.avg_pool2d, _ATEN.avg_pool3d)
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
    rank = rank_of(site)
    kernel, margins = per_dimension(kernel_size, rank), per_dimension(padding, rank)
    steps = per_dimension(stride, rank) if stride else kernel
    # Windows that the border cuts short have weights that are products, as whole ones have.
    pools = [
        partial(
            _mean_or_sum,
            settings=(size, step, margin),
            ceil_mode=ceil_mode,
            count_include_pad=count_include_pad,
            is_sum=divisor_override is not None,
        )
        for size, step, margin in zip(kernel, steps, margins, strict=True)
    ]
    return scaled(site, along_last(site, input, pools), 1 / (divisor_override or 1))


def _mean_or_sum(
    x: Tensor, settings: Sequence[int], ceil_mode: bool, count_include_pad: bool, is_sum: bool
) -> Tensor:
    """Average pooling of a tensor (n, side), or the sums in its windows."""
    kernel, stride, padding = ((first, number) for first, number in zip((1, 1, 0), settings, strict=True))
    pooled = F.avg_pool2d(
        x[:, None, None], kernel, stride, padding, ceil_mode, count_include_pad, 1 if is_sum else None
    )
    return pooled[:, 0, 0]


@register(
    *(_ATEN.adaptive_avg_pool1d, _ATEN.adaptive_avg_pool2d, _ATEN.adaptive_avg_pool3d),
    *(_ATEN._adaptive_avg_pool2d, _ATEN._adaptive_avg_pool3d),
)
def _adaptive_avg_pool(site: Site, input: Domain, output_size: Numbers) -> Domain:
    sizes = per_dimension(output_size, rank_of(site))
    return along_last(site, input, [partial(F.adaptive_avg_pool1d, output_size=size) for size in sizes])


@register(_ATEN.max_pool1d, _ATEN.max_pool2d, _ATEN.max_pool3d)
def _max_pool(
    site: Site,
    input: Domain,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
) -> Domain:
    rank = rank_of(site)
    kernel = per_dimension(kernel_size, rank)
    steps = per_dimension(stride, rank) if stride else kernel
    pool = MaxPool(kernel, steps, per_dimension(padding, rank), per_dimension(dilation, rank), ceil_mode)
    missing = rank + 2 - len(input.shape)
    if missing > 1 or not site.layouts[0].is_plain:
        raise site.refusal("pools over the batch; give it images (batch, channels, …).")
    if not missing:
        return input.monotone(pool)
    return site.fitted(input.monotone(moved(lambda x: x.unsqueeze(1))).monotone(pool))


@register(_ATEN.max_pool1d_with_indices, _ATEN.max_pool2d_with_indices, _ATEN.max_pool3d_with_indices)
def _max_pool_with_indices(site: Site, input: Domain, *settings: Any) -> list[Domain | None]:
    return [_max_pool(site, input, *settings), None]


@register(_ATEN.adaptive_max_pool1d, _ATEN.adaptive_max_pool2d, _ATEN.adaptive_max_pool3d)
def _adaptive_max_pool(site: Site, input: Domain, output_size: Numbers) -> list[Domain | None]:
    sizes = per_dimension(output_size, rank_of(site))
    kernel = [side // size for side, size in zip(input.shape[-len(sizes) :], sizes, strict=True)]
    if [side * size for side, size in zip(kernel, sizes, strict=True)] != [*input.shape[-len(sizes) :]]:
        raise site.refusal("knows windows of one size alone; take a size that divides that of the images.")
    return [_max_pool(site, input, kernel), None]


def _register_upsampling(operator: Any, num_options: int) -> None:
    """A rule of interpolation.

    Args:
        operator: Such as ``aten.upsample_bilinear2d``.
        num_options: How many arguments are between sizes and factors: ``align_corners``, where it has one.
    """

    @register(operator.vec)
    def rule(site: Site, input: Domain, output_size: Sequence[int] | None, *settings: Any) -> Domain:
        options, (factors,) = settings[:num_options], settings[num_options:]
        require_images(site, rank := rank_of(site))

        def along_one(x: Tensor, place: int) -> Tensor:
            """What it makes of a tensor (n, side), repeated along the others: torch errs at size 1."""

            def alone(size: Any, other: Any) -> list[Any]:
                return [size if dim == place else other for dim in range(rank)]

            sizes = None if output_size is None else alone(output_size[place], 2)
            scales = None if factors is None else alone(factors[place], 1.0)
            images = x.reshape(len(x), 1, *alone(-1, 1)).expand(-1, -1, *alone(-1, 2))
            resized: Tensor = operator.vec(images.contiguous(), sizes, *options, scales)
            return resized.movedim(2 + place, -1).flatten(1, -2)[:, 0]

        return along_last(site, input, [partial(along_one, place=place) for place in range(rank)])


for _operator in (
    *(_ATEN.upsample_nearest1d, _ATEN.upsample_nearest2d, _ATEN.upsample_nearest3d),
    *(_ATEN._upsample_nearest_exact1d, _ATEN._upsample_nearest_exact2d, _ATEN._upsample_nearest_exact3d),
):
    _register_upsampling(_operator, 0)
for _operator in (
    *(
        _ATEN.upsample_linear1d,
        _ATEN.upsample_bilinear2d,
        _ATEN.upsample_trilinear3d,
        _ATEN.upsample_bicubic2d,
    ),
    *(_ATEN._upsample_bilinear2d_aa, _ATEN._upsample_bicubic2d_aa),
):
    _register_upsampling(_operator, 1)
