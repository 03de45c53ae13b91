"""Rules of activations, sorting, and of what does nothing when it is evaluated."""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.graph.bilinear import Multiplication
from withstand.graph.capture import SOFTSHRINK, SOFTSIGN
from withstand.graph.domain import Domain, Region
from withstand.graph.powers import EXP, LOG
from withstand.graph.primitives import (
    CONCAVE,
    CONVEX,
    RISING_S,
    Curvature,
    Elementwise,
    SortGroups,
    Unimodal,
)
from withstand.graph.rule_registry import Operator, Site, register
from withstand.graph.rules.pieces import applied, cut, scaled
from withstand.graph.rules.sizes import on_channels
from withstand.models.layers import GROUP_SORT, MIN_MAX
from withstand.moments import RECTIFIER, Hinges

__all__ = ["ABS"]

_ATEN = torch.ops.aten

# To all digits of float64; slopes are rounded up and least values down, so that both bound.
_GELU = Unimodal(
    F.gelu,
    1.128904145185155,
    -0.7517915246935645,
    -0.1699712074799037,
    curvature=Curvature(is_convex=False, turns=(-math.sqrt(2), math.sqrt(2))),
)
_GELU_TANH = Unimodal(
    partial(F.gelu, approximate="tanh"),
    1.128993068658772,
    -0.7524614220710163,
    -0.1700407505712541,
    curvature=Curvature(is_convex=False, turns=(-1.4185040087908284, 1.4185040087908284)),
)
_SILU = Unimodal(
    F.silu,
    1.099839320128867,
    -1.278464542761074,
    -0.2784645427610738,
    curvature=Curvature(is_convex=False, turns=(-2.3993572805154677, 2.3993572805154677)),
)
_MISH = Unimodal(
    F.mish,
    1.088498161251728,
    -1.192431214515495,
    -0.3088434130172505,
    curvature=Curvature(is_convex=False, turns=(-2.2563763963607931, 1.4905711794854285)),
)
_HARDSWISH = Unimodal(F.hardswish, 1.5, -1.5, -0.375, curvature=Curvature(is_convex=False, turns=(-3.0, 3.0)))
_TANH = Elementwise(torch.tanh, curvature=RISING_S)
_SIGMOID = Elementwise(torch.sigmoid, 0.25, curvature=RISING_S)
ABS = Unimodal(torch.abs, 1.0, 0.0, 0.0, Hinges((0.0,), (2.0,), slope=-1.0))


def _register_elementwise(function: Elementwise | Unimodal, *operators: Operator) -> None:
    """One rule for the spellings of an activation without settings."""

    @register(*operators)
    def rule(site: Site, input: Domain) -> Domain:
        return applied(input, function)


_register_elementwise(Elementwise(F.relu, hinges=RECTIFIER), _ATEN.relu)
_register_elementwise(Elementwise(F.relu6, hinges=Hinges((0.0, 6.0), (1.0, -1.0))), _ATEN.relu6)
_register_elementwise(_TANH, _ATEN.tanh)
_register_elementwise(_SIGMOID, _ATEN.sigmoid)
_register_elementwise(Elementwise(F.logsigmoid, curvature=CONCAVE), _ATEN.log_sigmoid)
_register_elementwise(Elementwise(F.softsign, curvature=RISING_S), SOFTSIGN)
_register_elementwise(Elementwise(F.selu, 1.758099340847377, curvature=RISING_S), _ATEN.selu)
_register_elementwise(
    Elementwise(F.hardsigmoid, 1 / 6, hinges=Hinges((-3.0, 3.0), (1 / 6, -1 / 6))), _ATEN.hardsigmoid
)
_register_elementwise(Elementwise(torch.erf, 2 / math.sqrt(math.pi), curvature=RISING_S), _ATEN.erf)
_register_elementwise(Elementwise(torch.atan, curvature=RISING_S), _ATEN.atan)
_register_elementwise(Elementwise(torch.asinh, curvature=RISING_S), _ATEN.asinh)
_register_elementwise(EXP, _ATEN.exp)
_register_elementwise(LOG, _ATEN.log)
_register_elementwise(_SILU, _ATEN.silu)
_register_elementwise(_MISH, _ATEN.mish)
_register_elementwise(_HARDSWISH, _ATEN.hardswish)
_register_elementwise(ABS, _ATEN.abs)


@register(_ATEN.gelu)
def _gelu(site: Site, input: Domain, *, approximate: str = "none") -> Domain:
    return input.unimodal(_GELU_TANH if approximate == "tanh" else _GELU)


@register(_ATEN.leaky_relu)
def _leaky_relu(site: Site, input: Domain, negative_slope: float = 0.01) -> Domain:
    function = partial(F.leaky_relu, negative_slope=negative_slope)
    hinges = Hinges((0.0,), (1 - negative_slope,), slope=negative_slope)
    if negative_slope < 0:
        return input.unimodal(Unimodal(function, max(1.0, -negative_slope), 0.0, 0.0, hinges))
    return input.monotone(Elementwise(function, max(1.0, negative_slope), hinges=hinges))


@register(_ATEN.prelu)
def _prelu(site: Site, input: Domain, weight: Tensor) -> Domain:
    place = site.dim(1) if weight.numel() > 1 else 1
    slopes = on_channels(weight, len(input.shape) - 1 - place)

    def function(x: Tensor) -> Tensor:
        return torch.where(x > 0, x, x * slopes)

    hinges = Hinges((0.0,), (1 - slopes,), slope=slopes)
    if not isinstance(input, Region):  # moments take it as it is, and learnt slopes may fall below 0
        return input.unimodal(Unimodal(function, 1.0, 0.0, 0.0, hinges))
    if bool((weight < 0).any()):
        raise site.refusal(
            "needs slopes of at least 0, but some are negative; keep them from there, or take a LeakyReLU."
        )
    return input.monotone(Elementwise(function, weight.max().clamp_min(1), hinges=hinges))


@register(_ATEN.elu)
def _elu(
    site: Site, input: Domain, alpha: float = 1.0, scale: float = 1.0, input_scale: float = 1.0
) -> Domain:
    for name, value in {"alpha": alpha, "scale": scale, "input_scale": input_scale}.items():
        _require_positive(site, value, name)
    function = partial(torch.ops.aten.elu, alpha=alpha, scale=scale, input_scale=input_scale)
    # From the left it meets 0 with the slope alpha · input_scale · scale.
    curvature = CONVEX if alpha * input_scale <= 1 else RISING_S
    slope = scale * max(1.0, alpha * input_scale)
    return input.monotone(Elementwise(function, slope, curvature=curvature))


@register(_ATEN.celu)
def _celu(site: Site, input: Domain, alpha: float = 1.0) -> Domain:
    _require_positive(site, alpha, "alpha")
    return input.monotone(Elementwise(partial(F.celu, alpha=alpha), curvature=CONVEX))


@register(_ATEN.softplus)
def _softplus(site: Site, input: Domain, beta: float = 1.0, threshold: float = 20.0) -> Domain:
    _require_positive(site, beta, "beta")
    # At the threshold torch goes over to the identity, which lies lower: a jump down.
    jump = float(F.softplus(torch.tensor(-threshold, dtype=torch.float64), threshold=math.inf)) / beta
    function = partial(F.softplus, beta=beta, threshold=threshold)
    return input.monotone(Elementwise(function, jump=jump, curvature=CONVEX))


@register(_ATEN.softshrink, SOFTSHRINK)
def _softshrink(site: Site, input: Domain, lambd: float = 0.5) -> Domain:
    hinges = Hinges((-lambd, lambd), (-1.0, 1.0), slope=1.0, intercept=lambd)
    return input.monotone(Elementwise(partial(F.softshrink, lambd=lambd), hinges=hinges))


@register(_ATEN.log1p)
def _log1p(site: Site, input: Domain) -> Domain:
    return input.shift(1.0).monotone(LOG)


@register(_ATEN.expm1)
def _expm1(site: Site, input: Domain) -> Domain:
    return input.monotone(EXP).shift(-1.0)


@register(_ATEN.log2)
def _log2(site: Site, input: Domain) -> Domain:
    return scaled(site, input.monotone(LOG), 1 / math.log(2))


@register(_ATEN.log10)
def _log10(site: Site, input: Domain) -> Domain:
    return scaled(site, input.monotone(LOG), 1 / math.log(10))


@register(_ATEN.exp2)
def _exp2(site: Site, input: Domain) -> Domain:
    return scaled(site, input, math.log(2)).monotone(EXP)


@register(_ATEN.rrelu)
def _rrelu(
    site: Site, input: Domain, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False
) -> Domain:
    if training:
        raise site.refusal("needs slopes that are not drawn at random; call eval() on the model.")
    return _leaky_relu(site, input, (lower + upper) / 2)


@register(_ATEN.glu)
def _glu(site: Site, input: Domain, dim: int = -1) -> Domain:
    place = site.dim(dim)
    value, gate = cut(input, lambda x: x.chunk(2, place))
    return value.product(gate.monotone(_SIGMOID), Multiplication())


@register(_ATEN.hardtanh)
def _hardtanh(site: Site, input: Domain, min_val: float = -1.0, max_val: float = 1.0) -> Domain:
    return _clamp(site, input, min_val, max_val)


@register(_ATEN.clamp, _ATEN.clip)
def _clamp(site: Site, input: Domain, min: float | None = None, max: float | None = None) -> Domain:
    ends = [(bound, bend) for bound, bend in ((min, 1.0), (max, -1.0)) if bound is not None]
    # Below its lower end it is constant; without one it is the identity there.
    hinges = Hinges(
        [bound for bound, _ in ends],
        [bend for _, bend in ends],
        slope=1.0 if min is None else 0.0,
        intercept=0.0 if min is None else min,
    )
    return input.monotone(Elementwise(partial(torch.clamp, min=min, max=max), hinges=hinges))


@register(_ATEN.clamp_min)
def _clamp_min(site: Site, input: Domain, min: float) -> Domain:
    return _clamp(site, input, min)


@register(_ATEN.clamp_max)
def _clamp_max(site: Site, input: Domain, max: float) -> Domain:
    return _clamp(site, input, None, max)


@register(MIN_MAX)
def _min_max(site: Site, x: Domain) -> Domain:
    return x.monotone(SortGroups(MIN_MAX, partial(torch.chunk, chunks=2, dim=1), lambda y: y))


@register(GROUP_SORT)
def _group_sort(site: Site, x: Domain, group_size: int) -> Domain:
    def split(y: Tensor) -> tuple[Tensor, ...]:
        return torch.unflatten(y, 1, (-1, group_size)).unbind(2)

    def arrange(y: Tensor) -> Tensor:
        return torch.unflatten(y, 1, (group_size, -1)).transpose(1, 2).flatten(1, 2)

    function = partial(GROUP_SORT, group_size=group_size)
    return x.monotone(SortGroups(function, split, arrange))


@register(_ATEN.dropout, _ATEN.feature_dropout, _ATEN.alpha_dropout, _ATEN.feature_alpha_dropout)
def _dropout(site: Site, input: Domain, p: float, train: bool) -> Domain:
    if train and p > 0:
        raise site.refusal(
            "needs it to be at rest, but it is active, so there is no one function to bound; call eval() on "
            "the model, or train without dropout."
        )
    return input


@register(_ATEN.native_dropout)
def _native_dropout(site: Site, input: Domain, p: float, train: bool | None) -> list[Domain | None]:
    return [_dropout(site, input, p, train is not False), None]


@register(_ATEN.alias, _ATEN.clone, _ATEN.contiguous, _ATEN.detach, _ATEN.lift_fresh_copy, _ATEN.positive)
def _same(site: Site, input: Domain, *, memory_format: object = None) -> Domain:
    return input


def _require_positive(site: Site, value: float, name: str) -> None:
    if value <= 0:
        raise site.refusal(f"needs a positive {name}, but got {value:g}.")
