"""Rules of what moves, picks, joins or adds values."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from functools import partial
from types import EllipsisType
from typing import Any

import torch
from torch import Tensor, nn

from withstand.graph.domain import Domain
from withstand.graph.primitives import Rearrange, moved
from withstand.graph.rule_registry import Site, UnsupportedOperationError, of_layers, register
from withstand.graph.rules.sizes import require_fit, scaled

__all__: list[str] = []

_ATTRIBUTES = ("shape", "ndim", "dtype", "device")
_PICKS = (int, slice, EllipsisType)


@of_layers(nn.Flatten, settings=["start_dim", "end_dim"])
@register(torch.flatten, Tensor.flatten)
def _flatten(site: Site, input: Domain, start_dim: int = 0, end_dim: int = -1) -> Domain:
    if start_dim % len(input.shape) == 0:
        raise _moves_batch(site, "is flattened too; give start_dim=1")
    return input.monotone(moved(lambda x: x.flatten(start_dim, end_dim)))


@of_layers(nn.Unflatten, settings=["dim", "unflattened_size"])
@register(torch.unflatten, Tensor.unflatten)
def _unflatten(site: Site, input: Domain, dim: int, sizes: Sequence[int]) -> Domain:
    if not isinstance(dim, int) or dim % len(input.shape) == 0:
        raise _moves_batch(site, "takes it apart or names a dimension; give dim as a number from 1 on")
    return input.monotone(moved(lambda x: torch.unflatten(x, dim, tuple(sizes))))


@register(torch.reshape)
def _reshape(site: Site, input: Domain, shape: Sequence[int]) -> Domain:
    result = input.center.reshape(tuple(shape)).shape
    if result[:1] != input.shape[:1]:
        raise _moves_batch(site, f"becomes {tuple(result)}; keep it as the first dimension")
    return input.monotone(moved(lambda x: x.reshape(x.shape[0], *result[1:])))


@register(Tensor.reshape, Tensor.view)
def _view(site: Site, input: Domain, *shape: Any) -> Domain:
    return _reshape(site, input, _flat(shape))


@register(torch.permute)
def _permute(site: Site, input: Domain, dims: Sequence[int]) -> Domain:
    if dims[0] % len(input.shape) != 0:
        raise _moves_batch(site, "is moved; keep it as the first dimension")
    return input.monotone(moved(lambda x: x.permute(*dims)))


@register(Tensor.permute)
def _permute_method(site: Site, input: Domain, *dims: Any) -> Domain:
    return _permute(site, input, _flat(dims))


@register(torch.transpose, Tensor.transpose)
def _transpose(site: Site, input: Domain, dim0: int, dim1: int) -> Domain:
    if 0 in (dim0 % len(input.shape), dim1 % len(input.shape)):
        raise _moves_batch(site, "is moved; keep it as the first dimension")
    return input.monotone(moved(lambda x: x.transpose(dim0, dim1)))


@register(torch.unsqueeze, Tensor.unsqueeze)
def _unsqueeze(site: Site, input: Domain, dim: int) -> Domain:
    if dim % (len(input.shape) + 1) == 0:
        raise _moves_batch(site, "is put behind another; keep it as the first dimension")
    return input.monotone(moved(lambda x: x.unsqueeze(dim)))


@register(torch.squeeze, Tensor.squeeze)
def _squeeze(site: Site, input: Domain, dim: int | Sequence[int] | None = None) -> Domain:
    rank = len(input.shape)
    chosen = range(1, rank) if dim is None else [dim] if isinstance(dim, int) else dim
    dims = tuple(index % rank for index in chosen)
    if 0 in dims:
        raise _moves_batch(site, "is squeezed; give dim without 0")
    return input.monotone(moved(lambda x: x.squeeze(dims)))


@register(operator.getitem)
def _getitem(site: Site, input: Any, index: Any) -> Any:
    if not isinstance(input, Domain):  # one of several pieces
        return input[index]
    first, *rest = index if isinstance(index, tuple) else (index,)
    takes_all = (isinstance(first, slice) and first == slice(None)) or (
        first is Ellipsis and len(rest) < len(input.shape)
    )
    # Tensors and lists may pick one coordinate several times.
    if not takes_all or not all(part is None or isinstance(part, _PICKS) for part in rest):
        raise site.refusal(f"knows `:` first and then numbers and slices, but got [{index!r}].")
    return input.monotone(moved(lambda x: x[index]))


@register(torch.chunk, Tensor.chunk)
def _chunk(site: Site, input: Domain, chunks: int, dim: int = 0) -> list[Domain]:
    return _pieces(site, input, lambda x: x.chunk(chunks, dim), dim)


@register(torch.split, Tensor.split)
def _split(site: Site, input: Domain, split_size: int | list[int], dim: int = 0) -> list[Domain]:
    return _pieces(site, input, lambda x: torch.split(x, split_size, dim), dim)


@register(torch.cat, torch.concat, torch.concatenate)
def _cat(site: Site, tensors: Sequence[Domain | Tensor], dim: int = 0) -> Domain:
    values = [value for value in tensors if isinstance(value, Domain)]
    if len(values) != len(tensors):
        raise site.refusal("knows no constants among what it joins; torch.nn.functional.pad may do instead.")
    if dim % len(values[0].shape) == 0:
        raise _moves_batch(site, "is joined with another; give dim from 1 on")
    return values[0].cat(values[1:], dim)


@register(nn.ConstantPad1d, nn.ConstantPad2d, nn.ConstantPad3d, nn.ZeroPad1d, nn.ZeroPad2d, nn.ZeroPad3d)
def _pad_layer(site: Site, layer: nn.ConstantPad2d, input: Domain) -> Domain:
    return _pad(site, input, layer.padding, value=layer.value)


@register(nn.functional.pad)
def _pad(
    site: Site, input: Domain, pad: Sequence[int], mode: str = "constant", value: float | None = None
) -> Domain:
    if mode != "constant":
        raise site.refusal(f"knows padding by a constant, but got mode={mode!r}.")
    if len(pad) > 2 * (len(input.shape) - 1):
        raise _moves_batch(site, "is padded too; give fewer numbers")
    return input.monotone(Rearrange(lambda x: nn.functional.pad(x, list(pad), value=value)))


@register(operator.add, torch.add, Tensor.add, Tensor.add_)
def _add(site: Site, input: Any, other: Any, *, alpha: float = 1) -> Domain:
    if isinstance(other, Domain) and alpha != 1:
        other = scaled(site, other, alpha)
    elif not isinstance(other, Domain):
        other = other * alpha
    if isinstance(input, Domain) and isinstance(other, Domain):
        _require_same_shape(site, input, other)
        return input.add(other)
    value, constant = (input, other) if isinstance(input, Domain) else (other, input)
    require_fit(site, value, constant)
    shifted: Domain = value.shift(constant)
    return shifted


@register(operator.sub, torch.sub, torch.subtract, Tensor.sub, Tensor.sub_, Tensor.subtract)
def _subtract(site: Site, input: Any, other: Any, *, alpha: float = 1) -> Domain:
    return _add(site, input, other, alpha=-alpha)


@register(getattr)
def _attribute(site: Site, input: Domain, name: str) -> Any:
    if name not in _ATTRIBUTES:
        raise site.refusal(f"knows the attributes {', '.join(_ATTRIBUTES)}, but got {name!r}.")
    return getattr(input.center, name)


@register(Tensor.size)
def _size(site: Site, input: Domain, dim: int | None = None) -> Any:
    return input.shape if dim is None else input.shape[dim]


@register(Tensor.dim)
def _dim(site: Site, input: Domain) -> int:
    return len(input.shape)


@register(Tensor.contiguous, Tensor.clone, torch.clone)
def _same(site: Site, input: Domain, memory_format: Any = None) -> Domain:
    return input


def _pieces(site: Site, input: Domain, cut: Callable[[Tensor], Sequence[Tensor]], dim: int) -> list[Domain]:
    if dim % len(input.shape) == 0:
        raise _moves_batch(site, "is cut; give dim from 1 on")
    count = len(cut(input.center))
    return [input.monotone(moved(partial(_piece, cut, index))) for index in range(count)]


def _piece(cut: Callable[[Tensor], Sequence[Tensor]], index: int, x: Tensor) -> Tensor:
    return cut(x)[index]


def _require_same_shape(site: Site, input: Domain, other: Domain) -> None:
    if input.shape != other.shape:
        raise site.refusal(
            f"knows sums of one shape, but got {tuple(input.shape)} and {tuple(other.shape)}; bring both "
            "to one."
        )


def _flat(numbers: tuple[Any, ...]) -> Sequence[int]:
    """``(2, 3)`` of a method that was given 2, 3, or one sequence of them."""
    is_wrapped = len(numbers) == 1 and isinstance(numbers[0], Sequence)
    return numbers[0] if is_wrapped else numbers


def _moves_batch(site: Site, what: str) -> UnsupportedOperationError:
    return site.refusal(f"needs the batch as it is, one example after another, but it {what}.")
