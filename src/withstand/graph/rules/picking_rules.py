"""Rules of padding, indices, rolls and what else moves or repeats coordinates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.graph.domain import Domain
from withstand.graph.primitives import Rearrange
from withstand.graph.rule_registry import Site, register
from withstand.graph.rules.pieces import picked
from withstand.graph.rules.sizes import Numbers, require_images

__all__: list[str] = []

_ATEN = torch.ops.aten


@register(_ATEN.constant_pad_nd)
def _constant_pad(site: Site, input: Domain, pad: Sequence[int], value: float = 0) -> Domain:
    return _pad(site, input, pad, value=value)


@register(_ATEN.pad)
def _pad(
    site: Site, input: Domain, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Domain:
    for dim in range(1, len(pad) // 2 + 1):
        if any(pad[2 * dim - 2 : 2 * dim]):
            site.dim(-dim)
    if mode != "constant":
        return picked(site, input, lambda x: F.pad(x, [*pad], mode))
    return site.rearranged(input, lambda x: F.pad(x, [*pad], value=value), sets_constants=True)


@register(_ATEN.roll)
def _roll(site: Site, input: Domain, shifts: Numbers, dims: Numbers = ()) -> Domain:
    if dims == [] or dims == ():
        raise site.refusal("needs to know along which dimensions, else it mixes the images of a batch.")
    site.dims(dims)
    return picked(site, input, lambda x: _ATEN.roll(x, shifts, dims))


@register(_ATEN.repeat, _ATEN.tile)
def _repeat(site: Site, input: Domain, repeats: Sequence[int]) -> Domain:
    batch = site.layouts[0].batch
    times = [1] * (len(site.layouts[0].sizes) - len(repeats)) + [*repeats]
    if batch is None or times[len(times) - len(site.layouts[0].sizes) + batch] != 1:
        raise site.refusal("repeats the images of a batch; nothing is known of one image then.")
    return picked(site, input, lambda x: x.repeat(times))


@register(_ATEN.repeat_interleave.self_int)
def _repeat_interleave(
    site: Site, input: Domain, repeats: int, dim: int, *, output_size: int | None = None
) -> Domain:
    site.dim(dim)
    return picked(site, input, lambda x: x.repeat_interleave(repeats, dim))


@register(_ATEN.index_select)
def _index_select(site: Site, input: Domain, dim: int, index: Any) -> Domain:
    _require_constant(site, index)
    site.dim(dim)
    return picked(site, input, lambda x: x.index_select(dim, index))


@register(_ATEN.gather)
def _gather(site: Site, input: Domain, dim: int, index: Any, *, sparse_grad: bool = False) -> Domain:
    _require_constant(site, index)
    site.dim(dim)
    return picked(site, input, lambda x: x.gather(dim, index))


@register(_ATEN.index)
def _index(site: Site, input: Domain, indices: Sequence[Any]) -> Domain:
    _require_constant(site, *indices)
    dim = 0
    for index in indices:
        span = index.dim() if isinstance(index, Tensor) and index.dtype == torch.bool else 1
        if index is not None:
            site.dims([*range(dim, dim + span)])
        dim += span
    return picked(site, input, lambda x: _ATEN.index(x, [*indices]))


@register(_ATEN.unfold)
def _unfold(site: Site, input: Domain, dimension: int, size: int, step: int) -> Domain:
    site.dim(dimension)
    return picked(site, input, lambda x: x.unfold(dimension, size, step))


@register(_ATEN.im2col)
def _im2col(
    site: Site,
    input: Domain,
    kernel_size: Numbers,
    dilation: Numbers,
    padding: Numbers,
    stride: Numbers,
) -> Domain:
    if any(padding) if not isinstance(padding, int) else padding:
        raise site.refusal("knows patches without padding; call torch.nn.functional.pad before.")
    require_images(site, 2)
    return picked(site, input, lambda x: _ATEN.im2col(x, kernel_size, dilation, [0, 0], stride))


@register(_ATEN.diagonal)
def _diagonal(site: Site, input: Domain, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Domain:
    site.dims([dim1, dim2])
    return picked(site, input, lambda x: x.diagonal(offset, dim1, dim2))


@register(_ATEN.tril)
def _tril(site: Site, input: Domain, diagonal: int = 0) -> Domain:
    site.dims([-2, -1])
    return input.monotone(Rearrange(lambda x: x.tril(diagonal)))


@register(_ATEN.triu)
def _triu(site: Site, input: Domain, diagonal: int = 0) -> Domain:
    site.dims([-2, -1])
    return input.monotone(Rearrange(lambda x: x.triu(diagonal)))


@register(_ATEN.rot90)
def _rot90(site: Site, input: Domain, k: int = 1, dims: Sequence[int] = (0, 1)) -> Domain:
    site.dims(dims)
    return picked(site, input, lambda x: x.rot90(k, [*dims]))


@register(_ATEN.pixel_shuffle)
def _pixel_shuffle(site: Site, input: Domain, upscale_factor: int) -> Domain:
    site.dims([-3, -2, -1])
    return picked(site, input, lambda x: F.pixel_shuffle(x, upscale_factor))


@register(_ATEN.pixel_unshuffle)
def _pixel_unshuffle(site: Site, input: Domain, downscale_factor: int) -> Domain:
    site.dims([-3, -2, -1])
    return picked(site, input, lambda x: F.pixel_unshuffle(x, downscale_factor))


@register(_ATEN.channel_shuffle, _ATEN.native_channel_shuffle)
def _channel_shuffle(site: Site, input: Domain, groups: int) -> Domain:
    site.dim(1)
    return picked(site, input, lambda x: F.channel_shuffle(x, groups))


def _require_constant(site: Site, *indices: Any) -> None:
    if any(isinstance(index, Domain) for index in indices):
        raise site.refusal("needs constant indices, but here they depend on the input.")
