"""Rules of sums, means, lengths and deviations along dimensions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from withstand.graph.coupled import Largest, Length, LogSoftmax, LogSumExp, Softmax
from withstand.graph.domain import Domain, Moments
from withstand.graph.powers import SQUARE, power
from withstand.graph.primitives import moved
from withstand.graph.rule_registry import Site, register
from withstand.graph.rules.activation_rules import ABS
from withstand.graph.rules.pieces import along, applied, scaled

__all__: list[str] = []

_ATEN = torch.ops.aten


@register(_ATEN.mean)
def _mean(
    site: Site, input: Domain, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Domain:
    _require_precision(site)
    means = along(site, input, dict.fromkeys(site.dims(dim), partial(torch.mean, dim=-1, keepdim=True)))
    return site.fitted(means)


@register(_ATEN.sum)
def _sum(
    site: Site, input: Domain, dim: Any = None, keepdim: bool = False, *, dtype: torch.dtype | None = None
) -> Domain:
    _require_precision(site)
    return site.fitted(_summed(site, input, site.dims(dim)))


@register(_ATEN.softmax, _ATEN._softmax, _ATEN._safe_softmax)
def _softmax(site: Site, input: Domain, dim: int, dtype: object = None) -> Domain:
    _require_precision(site)
    return input.coupled(Softmax(site.dim(dim)))


@register(_ATEN.log_softmax, _ATEN._log_softmax)
def _log_softmax(site: Site, input: Domain, dim: int, dtype: object = None) -> Domain:
    _require_precision(site)
    return input.coupled(LogSoftmax(site.dim(dim)))


@register(_ATEN.logsumexp)
def _logsumexp(site: Site, input: Domain, dim: Any, keepdim: bool = False) -> Domain:
    value = input
    for place in site.dims(dim):
        value = value.coupled(LogSumExp(place, keepdim=True))
    return site.fitted(value)


@register(_ATEN.linalg_vector_norm)
def _vector_norm(
    site: Site, input: Domain, ord: float = 2, dim: Any = None, keepdim: bool = False, *, dtype: object = None
) -> Domain:
    _require_precision(site)
    dims = site.dims(dim)
    match ord:
        case 2:
            return site.fitted(_length(site, input, dims))
        case 1:
            return site.fitted(_summed(site, input.unimodal(ABS), dims))
        case math.inf:
            return site.fitted(input.unimodal(ABS).coupled(Largest(dims, keepdim=True)))
    raise site.refusal(f"knows norms 1, 2 and inf, but got {ord:g}.")


@register(_ATEN.norm)
def _norm(
    site: Site,
    input: Domain,
    p: float | None = 2,
    dim: Any = None,
    keepdim: bool = False,
    *,
    dtype: object = None,
) -> Domain:
    return _vector_norm(site, input, 2 if p is None else p, dim, keepdim)


@register(_ATEN.var)
def _var(
    site: Site,
    input: Domain,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Domain:
    centered, dims, divisor = _centered(site, input, dim, unbiased if correction is None else correction)
    return site.fitted(scaled(site, _sum_of_squares(site, centered, dims), 1 / divisor))


@register(_ATEN.std)
def _std(
    site: Site,
    input: Domain,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: float | None = None,
) -> Domain:
    centered, dims, divisor = _centered(site, input, dim, unbiased if correction is None else correction)
    return site.fitted(scaled(site, _length(site, centered, dims), 1 / math.sqrt(divisor)))


def _centered(site: Site, input: Domain, dim: Any, correction: float) -> tuple[Domain, list[int], float]:
    """The dimensions as one, at the end, and the mean along it taken away; that dimension; the divisor."""
    dims = site.dims(dim)
    last = len(input.shape) - len(dims)
    value = input.monotone(moved(lambda x: x.movedim(dims, [*range(-len(dims), 0)]).flatten(last)))
    centered = along(site, value, {last: lambda x: x - x.mean(-1, keepdim=True)})
    return centered, [last], value.shape[last] - correction


def _length(site: Site, value: Domain, dims: Sequence[int]) -> Domain:
    """The l2 norm along dimensions, which stay. Distributions have the root of the sum of squares."""
    if isinstance(value, Moments):
        return applied(_sum_of_squares(site, value, dims), power(0.5))
    return value.coupled(Length(dims, keepdim=True))


def _sum_of_squares(site: Site, value: Domain, dims: Sequence[int]) -> Domain:
    """Along dimensions, which stay. Of sets it is the square of the length, which is bounded better."""
    if isinstance(value, Moments):
        return _summed(site, value.unimodal(SQUARE), dims)
    return _length(site, value, dims).unimodal(SQUARE)


def _summed(site: Site, value: Domain, dims: Sequence[int]) -> Domain:
    return along(site, value, dict.fromkeys(dims, partial(torch.sum, dim=-1, keepdim=True)))


def _require_precision(site: Site) -> None:
    if not site.keeps_precision:
        raise site.refusal(
            "does not know how its rounding acts, but it changes the precision; leave out dtype."
        )
