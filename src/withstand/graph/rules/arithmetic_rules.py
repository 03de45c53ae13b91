"""Rules of sums, products, quotients and powers, of two values or of one and a constant."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from withstand.graph.bilinear import Multiplication
from withstand.graph.domain import Domain
from withstand.graph.powers import EXP, power
from withstand.graph.rule_registry import Site, register
from withstand.graph.rules.pieces import applied, scaled

__all__ = ["add"]

_ATEN = torch.ops.aten


@register(_ATEN.add)
def add(site: Site, input: Any, other: Any, *, alpha: float = 1) -> Domain:
    """The sum of two, of which at least one depends on the input; the second one alpha times."""
    other = scaled(site, other, alpha) if isinstance(other, Domain) else other * alpha
    if isinstance(input, Domain) and isinstance(other, Domain):
        return site.spread(input).add(site.spread(other))
    value, constant = (input, other) if isinstance(input, Domain) else (other, input)
    return site.spread(value).shift(constant)


@register(_ATEN.sub, _ATEN.subtract)
def _subtract(site: Site, input: Any, other: Any, *, alpha: float = 1) -> Domain:
    return add(site, input, other, alpha=-alpha)


@register(_ATEN.rsub)
def _subtract_from(site: Site, input: Any, other: Any, alpha: float = 1) -> Domain:
    return add(site, other, input, alpha=-alpha)


@register(_ATEN.mul, _ATEN.multiply)
def _multiply(site: Site, input: Any, other: Any) -> Domain:
    if isinstance(input, Domain) and isinstance(other, Domain):
        return site.aligned(input).product(site.aligned(other), Multiplication())
    value, factor = (input, other) if isinstance(input, Domain) else (other, input)
    return scaled(site, site.spread(value), factor)


@register(_ATEN.div, _ATEN.divide, _ATEN.true_divide)
def _divide(site: Site, input: Any, other: Any, *, rounding_mode: str | None = None) -> Domain:
    if rounding_mode is not None:
        raise site.refusal("knows quotients that are not rounded.")
    if isinstance(other, Domain):
        return _multiply(site, input, _reciprocal(site, other))
    if not isinstance(other, Tensor) and other == 0:
        raise site.refusal("knows quotients by a constant other than 0.")
    # A tensor's own precision may be less than that in which the bounds are computed.
    return _multiply(site, input, 1 / (other.to(input.center) if isinstance(other, Tensor) else other))


@register(_ATEN.neg, _ATEN.negative)
def _negate(site: Site, input: Domain) -> Domain:
    return scaled(site, input, -1.0)


@register(_ATEN.reciprocal)
def _reciprocal(site: Site, input: Domain) -> Domain:
    return applied(input, power(-1))


@register(_ATEN.sqrt)
def _sqrt(site: Site, input: Domain) -> Domain:
    return applied(input, power(0.5))


@register(_ATEN.rsqrt)
def _rsqrt(site: Site, input: Domain) -> Domain:
    return applied(input, power(-0.5))


@register(_ATEN.square)
def _square(site: Site, input: Domain) -> Domain:
    return applied(input, power(2))


@register(_ATEN.pow)
def _pow(site: Site, input: Any, exponent: Any) -> Domain:
    if isinstance(input, Domain) and isinstance(exponent, Domain):
        raise site.refusal("needs a constant base or exponent; write it as exp(y * log(x)).")
    if isinstance(exponent, Domain):  # aᵇ is exp(b log a)
        base = torch.as_tensor(input, dtype=exponent.center.dtype, device=exponent.center.device)
        if bool((base <= 0).any()):
            raise site.refusal("needs a base above 0.")
        return scaled(site, site.spread(exponent), base.log()).monotone(EXP)
    exponents = torch.as_tensor(exponent, dtype=torch.float64).flatten()
    number = exponents[0].item()
    if number == 0 or bool((exponents != number).any()):
        raise site.refusal("needs the same exponent for all numbers, other than 0.")
    value = site.spread(input)
    return value if number == 1 else applied(value, power(number))


@register(_ATEN.addcmul)
def _add_product(site: Site, input: Any, one: Any, other: Any, *, value: float = 1) -> Domain:
    is_constant = isinstance(one, Tensor) and isinstance(other, Tensor)
    return add(site, input, one * other if is_constant else _multiply(site, one, other), alpha=value)


@register(_ATEN.addcdiv)
def _add_quotient(site: Site, input: Any, one: Any, other: Any, *, value: float = 1) -> Domain:
    is_constant = isinstance(one, Tensor) and isinstance(other, Tensor)
    return add(site, input, one / other if is_constant else _divide(site, one, other), alpha=value)


@register(_ATEN.lerp)
def _lerp(site: Site, input: Any, end: Any, weight: Any) -> Domain:
    if isinstance(weight, Domain):
        raise site.refusal("needs a constant weight; write it as a + (b - a) * w.")
    first, second = (
        _multiply(site, part, share) if isinstance(part, Domain) else part * share
        for part, share in ((input, 1 - weight), (end, weight))
    )
    return add(site, first, second)
