"""Rules of what moves, picks, joins or replaces values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from withstand.graph.domain import Domain
from withstand.graph.primitives import Rearrange, moved
from withstand.graph.rule_registry import Site, register
from withstand.graph.rules.pieces import cut
from withstand.graph.rules.sizes import Numbers

__all__: list[str] = []

_ATEN = torch.ops.aten
_END = 2**63 - 1  # what torch writes for the end of a slice that takes all


@register(
    *(_ATEN.view, _ATEN.reshape, _ATEN.view_copy, _ATEN._unsafe_view, _ATEN.flatten, _ATEN.unflatten),
    *(_ATEN.squeeze, _ATEN.unsqueeze, _ATEN.view_as, _ATEN.reshape_as),
)
def _reshape(site: Site, input: Domain, *shape: Any) -> Domain:
    return site.fitted(input)  # all of these keep the order of an example's numbers


@register(_ATEN.permute)
def _permute(site: Site, input: Domain, dims: Sequence[int]) -> Domain:
    rank = len(dims)
    return site.rearranged(input, lambda x: x.permute(0, *(1 + dim % rank for dim in dims)))


@register(_ATEN.transpose, _ATEN.swapaxes, _ATEN.swapdims)
def _transpose(site: Site, input: Domain, dim0: int, dim1: int) -> Domain:
    first, second = (_counted(site, dim) for dim in (dim0, dim1))
    return site.rearranged(input, lambda x: x.transpose(first, second))


@register(_ATEN.t, _ATEN.numpy_T)
def _t(site: Site, input: Domain) -> Domain:
    return _transpose(site, input, 0, -1)


@register(_ATEN.mT, _ATEN.mH, _ATEN.adjoint)
def _matrix_t(site: Site, input: Domain) -> Domain:
    return _transpose(site, input, -2, -1)


@register(_ATEN.movedim, _ATEN.moveaxis)
def _movedim(site: Site, input: Domain, source: Numbers, destination: Numbers) -> Domain:
    ends = [
        [_counted(site, dim) for dim in ([dims] if isinstance(dims, int) else dims)]
        for dims in (source, destination)
    ]
    return site.rearranged(input, lambda x: x.movedim(*ends))


@register(_ATEN.select)
def _select(site: Site, input: Domain, dim: int, index: int) -> Domain:
    place = site.dim(dim)
    return site.fitted(input.monotone(moved(lambda x: x.select(place, index))))


@register(_ATEN.slice)
def _slice(
    site: Site, input: Domain, dim: int = 0, start: int | None = None, end: int | None = None, step: int = 1
) -> Domain:
    if not start and (end is None or end >= _END) and step == 1:
        return input
    place = site.dim(dim)
    before = (slice(None),) * place
    return input.monotone(moved(lambda x: x[(*before, slice(start, end, step))]))


@register(_ATEN.narrow)
def _narrow(site: Site, input: Domain, dim: int, start: int, length: int) -> Domain:
    place = site.dim(dim)
    return input.monotone(moved(lambda x: x.narrow(place, start, length)))


@register(_ATEN.expand, _ATEN.expand_copy, _ATEN.broadcast_to, _ATEN.expand_as)
def _expand(site: Site, input: Domain, size: object, *, implicit: bool = False) -> Domain:
    return site.spread(input)


@register(_ATEN.flip)
def _flip(site: Site, input: Domain, dims: Sequence[int]) -> Domain:
    places = site.dims(dims)
    return input.monotone(moved(lambda x: x.flip(places)))


@register(_ATEN.chunk)
def _chunk(site: Site, input: Domain, chunks: int, dim: int = 0) -> list[Domain]:
    place = site.dim(dim)
    return cut(input, lambda x: x.chunk(chunks, place))


@register(_ATEN.split, _ATEN.split_with_sizes)
def _split(site: Site, input: Domain, split_size: int | list[int], dim: int = 0) -> list[Domain]:
    place = site.dim(dim)
    return cut(input, lambda x: torch.split(x, split_size, place))


@register(_ATEN.unbind)
def _unbind(site: Site, input: Domain, dim: int = 0) -> list[Domain]:
    place, shape = site.dim(dim), site.outputs[0].stored
    return cut(input, lambda x: [part.reshape(len(x), *shape) for part in x.unbind(place)])


@register(_ATEN.cat, _ATEN.concat, _ATEN.concatenate)
def _cat(site: Site, tensors: Sequence[Domain | Tensor], dim: int = 0) -> Domain:
    return _joined(site, tensors, dim)


@register(_ATEN.stack)
def _stack(site: Site, tensors: Sequence[Domain | Tensor], dim: int = 0) -> Domain:
    place = _output_dim(site, dim)
    shape = [*site.outputs[0].stored]
    shape[place - 1] = 1
    parts = [
        part.monotone(moved(lambda x: x.reshape(len(x), *shape)))
        if isinstance(part, Domain)
        else part.unsqueeze(dim)
        for part in tensors
    ]
    return _joined(site, parts, dim)


@register(_ATEN.fill)
def _fill(site: Site, input: Domain, value: Tensor | float) -> Domain:
    if isinstance(value, Domain):
        raise site.refusal(
            "knows constants to fill with, but here it depends on the input; expand it instead."
        )
    return input.monotone(Rearrange(lambda x: torch.zeros_like(x) + value))


@register(_ATEN.zero)
def _zero(site: Site, input: Domain) -> Domain:
    return _fill(site, input, 0.0)


@register(_ATEN.copy)
def _copy(site: Site, input: Any, src: Any, non_blocking: bool = False) -> Domain:
    return site.spread(src) if isinstance(src, Domain) else _fill(site, input, src)


@register(_ATEN.slice_scatter)
def _slice_scatter(
    site: Site,
    input: Any,
    src: Any,
    dim: int = 0,
    start: int | None = None,
    end: int | None = None,
    step: int = 1,
) -> Domain:
    if not start and (end is None or end >= _END) and step == 1 and isinstance(src, Domain):
        return src
    return _scattered(site, input, src, dim, slice(start, end, step))


@register(_ATEN.select_scatter)
def _select_scatter(site: Site, input: Any, src: Any, dim: int, index: int) -> Domain:
    return _scattered(site, input, src, dim, index)


@register(_ATEN.to, _ATEN._to_copy, _ATEN.type_as)
def _to(site: Site, input: Domain, *target: Any, **options: Any) -> Domain:
    if not site.keeps_precision:
        raise site.refusal(
            "does not know how its rounding acts, but it changes the precision; take the weights' own, "
            "x.to(weight.dtype), or leave it out."
        )
    return input


def _scattered(site: Site, input: Any, src: Any, dim: int, where: slice | int) -> Domain:
    """A value with another one, or a constant, at some places along a dimension."""
    layout, place = site.outputs[0], _output_dim(site, dim)
    size = layout.sizes[dim % len(layout.sizes)]
    every = torch.arange(size)
    written = every[where].reshape(-1)
    rest = every[~torch.isin(every, written)]
    before = (slice(None),) * place

    def with_constant(x: Tensor) -> Tensor:
        y: Tensor = x.clone()
        y[(*before, where)] = src.to(x)
        return y

    def in_constant(x: Tensor) -> Tensor:
        y: Tensor = input.to(x).expand(len(x), *layout.stored).clone()
        y[(*before, where)] = x
        return y

    if not isinstance(src, Domain):
        kept_rest: Domain = input.monotone(Rearrange(with_constant))
        return kept_rest
    if not isinstance(input, Domain):
        return src.monotone(Rearrange(in_constant))
    shape = (*layout.stored[: place - 1], len(written), *layout.stored[place:])
    source = src.monotone(moved(lambda x: x.reshape(len(x), *shape)))
    if not len(rest):
        return source
    kept = input.monotone(moved(lambda x: x.index_select(place, rest.to(x.device))))
    back = torch.cat([rest, written]).argsort()
    return kept.cat([source], place).monotone(moved(lambda x: x.index_select(place, back.to(x.device))))


def _joined(site: Site, parts: Sequence[Domain | Tensor], dim: int) -> Domain:
    """Values and constants, one after another."""
    place, rank = _output_dim(site, dim), len(site.outputs[0].stored)
    values = [part for part in parts if isinstance(part, Domain)]
    joined = values[0].cat(values[1:], place)
    if len(values) == len(parts):
        return joined
    sizes = [value.shape[place] for value in values]

    def between_constants(x: Tensor) -> Tensor:
        pieces = iter(torch.split(x, sizes, place))
        return torch.cat(
            [next(pieces) if isinstance(part, Domain) else constant(x, part) for part in parts], place
        )

    def constant(x: Tensor, part: Tensor) -> Tensor:
        return part.to(x).reshape(1, *part.shape[part.dim() - rank :]).expand(len(x), *[-1] * rank)

    return joined.monotone(Rearrange(between_constants))


def _output_dim(site: Site, dim: int) -> int:
    """A dimension of what the operator gives, as the domain has it."""
    place = site.outputs[0].dimension(dim)
    if place is None:
        raise site.refusal("joins or replaces images of a batch; nothing is known of one image then.")
    return place


def _counted(site: Site, dim: int) -> int:
    """A dimension as it is counted where an example's first is 1."""
    return 1 + dim % len(site.layouts[0].sizes)
