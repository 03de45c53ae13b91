"""Rules of what is larger or smaller, of masks, and of functions that jump."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.graph.coupled import Largest
from withstand.graph.domain import Domain, Moments
from withstand.graph.primitives import CONVEX, Elementwise, moved
from withstand.graph.rule_registry import Site, register
from withstand.graph.rules.pieces import scaled, with_constants
from withstand.moments import RECTIFIER

__all__: list[str] = []

_ATEN = torch.ops.aten
_RELU = Elementwise(F.relu, hinges=RECTIFIER)


@register(_ATEN.maximum, _ATEN.fmax, _ATEN.max.other)
def maximum(site: Site, input: Any, other: Any) -> Domain:
    """The larger of two, of which at least one depends on the input."""
    if isinstance(input, Domain) and isinstance(other, Domain):
        return site.spread(input).larger(site.spread(other))
    value, bound = (input, other) if isinstance(input, Domain) else (other, input)
    value = site.spread(value)
    if isinstance(
        value, Moments
    ):  # they change the order of a function and max pooling, so one for all places
        return value.shift(-bound).monotone(_RELU).shift(bound)
    curvature = CONVEX if torch.as_tensor(bound).numel() == 1 else None  # else one of each coordinate's own
    return value.monotone(Elementwise(lambda x: torch.maximum(x, _like(x, bound)), curvature=curvature))


@register(_ATEN.minimum, _ATEN.fmin, _ATEN.min.other)
def minimum(site: Site, input: Any, other: Any) -> Domain:
    """The smaller of two."""
    negated = (scaled(site, part, -1.0) if isinstance(part, Domain) else -part for part in (input, other))
    return scaled(site, maximum(site, *negated), -1.0)


@register(_ATEN.clamp.Tensor, _ATEN.clip.Tensor)
def _clamp(site: Site, input: Domain, min: Tensor | None = None, max: Tensor | None = None) -> Domain:
    value = input if min is None else maximum(site, input, min)
    return value if max is None else minimum(site, value, max)


@register(_ATEN.clamp_min.Tensor)
def _clamp_min(site: Site, input: Domain, min: Tensor) -> Domain:
    return maximum(site, input, min)


@register(_ATEN.clamp_max.Tensor)
def _clamp_max(site: Site, input: Domain, max: Tensor) -> Domain:
    return minimum(site, input, max)


@register(_ATEN.where)
def _where(site: Site, condition: Any, input: Any, other: Any) -> Domain:
    if isinstance(condition, Domain):
        raise site.refusal("needs a constant mask, but here it depends on the input.")
    if isinstance(input, Domain) and isinstance(other, Domain):
        first, second = (_stacked(site, value) for value in (input, other))
        return first.cat([second], 1).monotone(moved(lambda x: torch.where(condition, x[:, 0], x[:, 1])))
    if isinstance(input, Domain):
        return with_constants(site.spread(input), lambda x: torch.where(condition, x, _like(x, other)))
    return with_constants(site.spread(other), lambda x: torch.where(condition, _like(x, input), x))


@register(_ATEN.masked_fill)
def _masked_fill(site: Site, input: Any, mask: Any, value: Any) -> Domain:
    return _where(site, mask, value, input)


@register(_ATEN.threshold)
def _threshold(site: Site, input: Domain, threshold: float, value: float) -> Domain:
    if threshold != value:
        raise site.refusal("jumps where its threshold is not the value below it; take a ReLU or clamp.")
    return maximum(site, input, threshold)


@register(
    *(_ATEN.hardshrink, _ATEN.sign, _ATEN.sgn, _ATEN.heaviside, _ATEN.floor, _ATEN.ceil, _ATEN.round),
    *(_ATEN.trunc, _ATEN.frac, _ATEN.floor_divide, _ATEN.remainder, _ATEN.fmod),
)
def _jumping(site: Site, input: Any, *others: Any, **options: Any) -> Domain:
    raise site.refusal(
        "does not exist, since it jumps; take a continuous function, such as softshrink or tanh."
    )


@register(_ATEN.amax)
def largest(site: Site, input: Domain, dim: Any = (), keepdim: bool = False) -> Domain:
    """The largest along some dimensions, all but the batch's where none are named."""
    return site.fitted(input.coupled(Largest(site.dims(dim or None), keepdim=True)))


@register(_ATEN.amin)
def _smallest(site: Site, input: Domain, dim: Any = (), keepdim: bool = False) -> Domain:
    return scaled(site, largest(site, scaled(site, input, -1.0), dim, keepdim), -1.0)


@register(_ATEN.max.dim)
def _max(site: Site, input: Domain, dim: int, keepdim: bool = False) -> list[Domain | None]:
    return [largest(site, input, [dim], keepdim), None]


@register(_ATEN.min.dim)
def _min(site: Site, input: Domain, dim: int, keepdim: bool = False) -> list[Domain | None]:
    return [_smallest(site, input, [dim], keepdim), None]


def _stacked(site: Site, value: Domain) -> Domain:
    return site.spread(value).monotone(moved(lambda x: x.unsqueeze(1)))


def _like(x: Tensor, constant: Any) -> Tensor:
    return torch.as_tensor(constant, dtype=x.dtype, device=x.device)
