"""Rules of activations, sorting, max pooling, and of what does nothing when it is evaluated."""

from __future__ import annotations

import math
import operator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.graph.domain import Domain, Region
from withstand.graph.primitives import Elementwise, MaxPool, SortGroups, Unimodal
from withstand.graph.rule_registry import Site, of_layers, register
from withstand.graph.rules.sizes import Numbers, on_channels, per_dimension
from withstand.models import GroupSort, MinMax
from withstand.moments import RECTIFIER, Hinges

__all__: list[str] = []

# To all digits of float64; slopes are rounded up and least values down, so that both bound.
_GELU = Unimodal(F.gelu, 1.128904145185155, -0.7517915246935645, -0.1699712074799037)
_GELU_TANH = Unimodal(
    partial(F.gelu, approximate="tanh"), 1.128993068658772, -0.7524614220710163, -0.1700407505712541
)
_SILU = Unimodal(F.silu, 1.099839320128867, -1.278464542761074, -0.2784645427610738)
_MISH = Unimodal(F.mish, 1.088498161251728, -1.192431214515495, -0.3088434130172505)
_ABS = Unimodal(torch.abs, 1.0, 0.0, 0.0, Hinges((0.0,), (2.0,), slope=-1.0))


def _register_elementwise(function: Elementwise | Unimodal, *operations: Any) -> None:
    """One rule for all spellings of an activation without settings but ``inplace``."""

    @of_layers(*(operation for operation in operations if _is_layer(operation)))
    @register(*(operation for operation in operations if not _is_layer(operation)))
    def rule(site: Site, input: Domain, inplace: bool = False) -> Domain:
        return input.unimodal(function) if isinstance(function, Unimodal) else input.monotone(function)


def _is_layer(operation: Any) -> bool:
    return isinstance(operation, type) and issubclass(operation, nn.Module)


_register_elementwise(
    Elementwise(F.relu, hinges=RECTIFIER),
    *(nn.ReLU, F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_),
)
_register_elementwise(Elementwise(F.relu6, hinges=Hinges((0.0, 6.0), (1.0, -1.0))), nn.ReLU6, F.relu6)
_register_elementwise(Elementwise(torch.tanh), nn.Tanh, torch.tanh, Tensor.tanh, Tensor.tanh_)
_register_elementwise(
    Elementwise(torch.sigmoid, 0.25), nn.Sigmoid, torch.sigmoid, Tensor.sigmoid, Tensor.sigmoid_
)
_register_elementwise(Elementwise(F.logsigmoid), nn.LogSigmoid, F.logsigmoid)
_register_elementwise(Elementwise(F.softsign), nn.Softsign, F.softsign)
_register_elementwise(Elementwise(F.selu, 1.758099340847377), nn.SELU, F.selu, torch.selu)
_register_elementwise(
    Elementwise(F.hardsigmoid, 1 / 6, hinges=Hinges((-3.0, 3.0), (1 / 6, -1 / 6))),
    *(nn.Hardsigmoid, F.hardsigmoid),
)
_register_elementwise(_SILU, nn.SiLU, F.silu)
_register_elementwise(_MISH, nn.Mish, F.mish)
_register_elementwise(_ABS, operator.abs, torch.abs, Tensor.abs, Tensor.abs_)


@of_layers(nn.GELU, settings=["approximate"])
@register(F.gelu)
def _gelu(site: Site, input: Domain, approximate: str = "none") -> Domain:
    return input.unimodal(_GELU_TANH if approximate == "tanh" else _GELU)


@of_layers(nn.LeakyReLU, settings=["negative_slope"])
@register(F.leaky_relu, F.leaky_relu_)
def _leaky_relu(site: Site, input: Domain, negative_slope: float = 0.01, inplace: bool = False) -> Domain:
    function = partial(F.leaky_relu, negative_slope=negative_slope)
    hinges = Hinges((0.0,), (1 - negative_slope,), slope=negative_slope)
    if negative_slope < 0:
        return input.unimodal(Unimodal(function, max(1.0, -negative_slope), 0.0, 0.0, hinges))
    return input.monotone(Elementwise(function, max(1.0, negative_slope), hinges=hinges))


@of_layers(nn.PReLU, settings=["weight"])
@register(F.prelu)
def _prelu(site: Site, input: Domain, weight: Tensor) -> Domain:
    function = partial(F.prelu, weight=weight)
    if not isinstance(input, Region):  # moments take it as it is, and learnt slopes may fall below 0
        slopes = on_channels(weight, len(input.shape) - 2)
        return input.unimodal(Unimodal(function, 1.0, 0.0, 0.0, Hinges((0.0,), (1 - slopes,), slope=slopes)))
    if bool((weight < 0).any()):
        raise site.refusal(
            "needs slopes of at least 0, but some are negative; keep them from there, or take a LeakyReLU."
        )
    return input.monotone(Elementwise(function, weight.max().clamp_min(1)))


@of_layers(nn.ELU, settings=["alpha"])
@register(F.elu, F.elu_)
def _elu(site: Site, input: Domain, alpha: float = 1.0, inplace: bool = False) -> Domain:
    _require_positive(site, alpha, "alpha")
    return input.monotone(Elementwise(partial(F.elu, alpha=alpha), max(1.0, alpha)))


@of_layers(nn.CELU, settings=["alpha"])
@register(F.celu, F.celu_)
def _celu(site: Site, input: Domain, alpha: float = 1.0, inplace: bool = False) -> Domain:
    _require_positive(site, alpha, "alpha")
    return input.monotone(Elementwise(partial(F.celu, alpha=alpha)))


@of_layers(nn.Softplus, settings=["beta", "threshold"])
@register(F.softplus)
def _softplus(site: Site, input: Domain, beta: float = 1.0, threshold: float = 20.0) -> Domain:
    _require_positive(site, beta, "beta")
    # At the threshold torch goes over to the identity, which lies lower: a jump down.
    jump = float(F.softplus(torch.tensor(-threshold, dtype=torch.float64), threshold=math.inf)) / beta
    return input.monotone(Elementwise(partial(F.softplus, beta=beta, threshold=threshold), jump=jump))


@of_layers(nn.Hardtanh, settings=["min_val", "max_val"])
@register(F.hardtanh)
def _hardtanh(
    site: Site, input: Domain, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Domain:
    return _clamp(site, input, min_val, max_val)


@register(torch.clamp, torch.clip, Tensor.clamp, Tensor.clip, Tensor.clamp_, Tensor.clip_)
def _clamp(site: Site, input: Domain, min: float | None = None, max: float | None = None) -> Domain:
    if any(isinstance(bound, Tensor | Domain) for bound in (min, max)):
        raise site.refusal("knows bounds that are numbers, but one is a tensor; write it in numbers.")
    ends = [(bound, bend) for bound, bend in ((min, 1.0), (max, -1.0)) if bound is not None]
    # Below its lower end it is constant; without one it is the identity there.
    hinges = Hinges(
        [bound for bound, _ in ends],
        [bend for _, bend in ends],
        slope=1.0 if min is None else 0.0,
        intercept=0.0 if min is None else min,
    )
    return input.monotone(Elementwise(partial(torch.clamp, min=min, max=max), hinges=hinges))


@register(torch.clamp_min, Tensor.clamp_min, Tensor.clamp_min_)
def _clamp_min(site: Site, input: Domain, min: float) -> Domain:
    return _clamp(site, input, min)


@register(torch.clamp_max, Tensor.clamp_max, Tensor.clamp_max_)
def _clamp_max(site: Site, input: Domain, max: float) -> Domain:
    return _clamp(site, input, None, max)


@register(MinMax)
def _min_max(site: Site, layer: MinMax, input: Domain) -> Domain:
    return input.monotone(SortGroups(layer.forward, partial(torch.chunk, chunks=2, dim=1), lambda x: x))


@register(GroupSort)
def _group_sort(site: Site, layer: GroupSort, input: Domain) -> Domain:
    def split(x: Tensor) -> tuple[Tensor, ...]:
        return torch.unflatten(x, 1, (-1, layer.group_size)).unbind(2)

    def arrange(x: Tensor) -> Tensor:
        return torch.unflatten(x, 1, (layer.group_size, -1)).transpose(1, 2).flatten(1, 2)

    return input.monotone(SortGroups(layer.forward, split, arrange))


@of_layers(
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    settings=["kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"],
)
@register(F.max_pool1d, F.max_pool2d, F.max_pool3d, torch.max_pool1d, torch.max_pool2d, torch.max_pool3d)
def _max_pool(
    site: Site,
    input: Domain,
    kernel_size: Numbers,
    stride: Numbers | None = None,
    padding: Numbers = 0,
    dilation: Numbers = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Domain:
    if return_indices:
        raise site.refusal("bounds what is pooled, but not the indices; set return_indices=False.")
    rank = len(input.shape) - 2
    kernel = per_dimension(kernel_size, rank)
    steps = per_dimension(stride, rank) if stride else kernel
    pool = MaxPool(kernel, steps, per_dimension(padding, rank), per_dimension(dilation, rank), ceil_mode)
    return input.monotone(pool)


@register(nn.Identity)
def _identity(site: Site, layer: nn.Identity, input: Domain) -> Domain:
    return input


@of_layers(
    *(nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout),
    settings=["p", "training"],
)
@register(F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout)
def _dropout(
    site: Site, input: Domain, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Domain:
    if training and p > 0:
        raise site.refusal(
            "needs it to be at rest, but it is active, so there is no one function to bound; call eval() on "
            "the model, or train without dropout."
        )
    return input


def _require_positive(site: Site, value: float, name: str) -> None:
    if value <= 0:
        raise site.refusal(f"needs a positive {name}, but got {value:g}.")
