"""Rules of what moves, picks, joins or adds values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from withstand.domains.base import Domain
from withstand.domains.operations import Rearrange
from withstand.domains.registry import Site, UnsupportedOperationError, register
from withstand.spectral import Diagonal

__all__: list[str] = []


@register(nn.Flatten)
def _flatten_layer(site: Site, layer: nn.Flatten, input: Domain) -> Domain:
    return _flatten(site, input, layer.start_dim, layer.end_dim)


@register(torch.flatten, Tensor.flatten)
def _flatten(site: Site, input: Domain, start_dim: int = 0, end_dim: int = -1) -> Domain:
    if start_dim % len(input.shape) == 0:
        raise _moves_batch(site, "flattens the batch as well; give start_dim=1")
    return input.monotone(Rearrange(lambda x: x.flatten(start_dim, end_dim)))


@register(nn.Unflatten)
def _unflatten_layer(site: Site, layer: nn.Unflatten, input: Domain) -> Domain:
    if not isinstance(layer.dim, int) or layer.dim % len(input.shape) == 0:
        raise _moves_batch(site, "unflattens the batch, or names its dimension; give dim as a number from 1")
    return input.monotone(Rearrange(layer.forward))


@register(torch.reshape, Tensor.reshape, Tensor.view)
def _reshape(site: Site, input: Domain, *shape: Any) -> Domain:
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], Sequence) else shape
    if input.center.reshape(tuple(sizes)).shape[0] != input.shape[0]:
        raise _moves_batch(site, "moves the batch; keep it as the first dimension")
    return input.monotone(Rearrange(lambda x: x.reshape(x.shape[0], *tuple(sizes)[1:])))


@register(torch.permute, Tensor.permute)
def _permute(site: Site, input: Domain, *dims: Any) -> Domain:
    order = dims[0] if len(dims) == 1 and isinstance(dims[0], Sequence) else dims
    if order[0] % len(input.shape) != 0:
        raise _moves_batch(site, "moves the batch; keep it as the first dimension")
    return input.monotone(Rearrange(lambda x: x.permute(*order)))


@register(torch.transpose, Tensor.transpose)
def _transpose(site: Site, input: Domain, dim0: int, dim1: int) -> Domain:
    if 0 in (dim0 % len(input.shape), dim1 % len(input.shape)):
        raise _moves_batch(site, "moves the batch; keep it as the first dimension")
    return input.monotone(Rearrange(lambda x: x.transpose(dim0, dim1)))


@register(torch.unsqueeze, Tensor.unsqueeze)
def _unsqueeze(site: Site, input: Domain, dim: int) -> Domain:
    if dim % (len(input.shape) + 1) == 0:
        raise _moves_batch(site, "puts a dimension before the batch")
    return input.monotone(Rearrange(lambda x: x.unsqueeze(dim)))


@register(torch.squeeze, Tensor.squeeze)
def _squeeze(site: Site, input: Domain, dim: int | Sequence[int] | None = None) -> Domain:
    rank = len(input.shape)
    chosen = range(1, rank) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = tuple(each % rank for each in chosen)
    if 0 in dims:
        raise _moves_batch(site, "squeezes the batch")
    return input.monotone(Rearrange(lambda x: x.squeeze(dims)))


@register(operator.getitem)
def _getitem(site: Site, input: Domain, index: Any) -> Domain:
    first, *rest = index if isinstance(index, tuple) else (index,)
    whole = first == slice(None) or first is Ellipsis
    picks_batch = not whole or (first is Ellipsis and len(rest) >= len(input.shape))
    if picks_batch or any(isinstance(part, Tensor | list) for part in rest):
        raise UnsupportedOperationError(
            f"There is no rule for the indexing {index!r} at {site.name!r}; index by `:` first and then by "
            "numbers and slices."
        )
    return input.monotone(Rearrange(lambda x: x[index]))


@register(torch.chunk, Tensor.chunk)
def _chunk(site: Site, input: Domain, chunks: int, dim: int = 0) -> list[Domain]:
    return _pieces(site, input, lambda x: x.chunk(chunks, dim), dim)


@register(torch.split, Tensor.split)
def _split(site: Site, input: Domain, split_size: int | list[int], dim: int = 0) -> list[Domain]:
    return _pieces(site, input, lambda x: torch.split(x, split_size, dim), dim)


@register(torch.cat, torch.concat)
def _cat(site: Site, tensors: Sequence[Domain | Tensor], dim: int = 0) -> Domain:
    values = [value for value in tensors if isinstance(value, Domain)]
    if len(values) != len(tensors):
        raise UnsupportedOperationError(f"There is no rule for joining constants at {site.name!r}.")
    if dim % len(values[0].shape) == 0:
        raise _moves_batch(site, "joins along the batch; give dim=1")
    return values[0].cat(values[1:], dim)


@register(operator.add, operator.iadd, torch.add, Tensor.add, Tensor.add_)
def _add(site: Site, input: Any, other: Any, *, alpha: float = 1) -> Domain:
    if isinstance(other, Domain) and alpha != 1:
        other = _scaled(site, other, alpha)
    elif not isinstance(other, Domain):
        other = other * alpha
    if isinstance(input, Domain) and isinstance(other, Domain):
        _require_same_shape(site, input, other)
        return input.add(other)
    value, constant = (input, other) if isinstance(input, Domain) else (other, input)
    shifted: Domain = value.shift(constant)
    return shifted


@register(operator.sub, operator.isub, torch.sub, Tensor.sub, Tensor.sub_)
def _subtract(site: Site, input: Any, other: Any, *, alpha: float = 1) -> Domain:
    return _add(site, input, other, alpha=-alpha)


@register(getattr)
def _attribute(site: Site, input: Domain, name: str) -> Any:
    if name != "shape":
        raise UnsupportedOperationError(f"There is no rule for the attribute {name!r} at {site.name!r}.")
    return input.shape


@register(Tensor.size)
def _size(site: Site, input: Domain, dim: int | None = None) -> Any:
    return input.shape if dim is None else input.shape[dim]


@register(Tensor.dim)
def _dim(site: Site, input: Domain) -> int:
    return len(input.shape)


@register(Tensor.contiguous, Tensor.clone, torch.clone)
def _same(site: Site, input: Domain, memory_format: Any = None) -> Domain:
    return input


def _scaled(site: Site, value: Domain, factor: float) -> Domain:
    return value.affine(Diagonal(torch.as_tensor(factor).to(value.center)), None, site.norm)


def _pieces(site: Site, input: Domain, cut: Callable[[Tensor], Sequence[Tensor]], dim: int) -> list[Domain]:
    if dim % len(input.shape) == 0:
        raise _moves_batch(site, "cuts the batch; give dim=1")
    count = len(cut(input.center))
    return [input.monotone(Rearrange(partial(_piece, cut, index))) for index in range(count)]


def _piece(cut: Callable[[Tensor], Sequence[Tensor]], index: int, x: Tensor) -> Tensor:
    return cut(x)[index]


def _require_same_shape(site: Site, input: Domain, other: Domain) -> None:
    if input.shape != other.shape:
        raise UnsupportedOperationError(
            f"There is no rule for a sum of shapes {tuple(input.shape)} and {tuple(other.shape)} "
            f"({site.name!r}); bring both to one shape first."
        )


def _moves_batch(site: Site, what: str) -> UnsupportedOperationError:
    return UnsupportedOperationError(f"The operation {site.name!r} {what}: sets stand one an example.")
