"""Rules of layer, group, instance and root-mean-square normalisation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from withstand.graph.coupled import Normalization
from withstand.graph.domain import Domain
from withstand.graph.primitives import moved
from withstand.graph.rule_registry import Site, register
from withstand.graph.rules.norm_rules import batch_norm
from withstand.graph.rules.pieces import scaled_and_shifted
from withstand.graph.rules.sizes import on_channels

__all__: list[str] = []

_ATEN = torch.ops.aten


@register(_ATEN.layer_norm)
def _layer_norm(
    site: Site,
    input: Domain,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Domain:
    dims = site.dims([*range(-len(normalized_shape), 0)])
    return scaled_and_shifted(site, input.coupled(Normalization(dims, eps)), weight, bias)


@register(_ATEN.native_layer_norm)
def _native_layer_norm(
    site: Site,
    input: Domain,
    normalized_shape: Sequence[int],
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
) -> list[Domain | None]:
    return [_layer_norm(site, input, normalized_shape, weight, bias, eps), None, None]


@register(_ATEN.rms_norm)
def _rms_norm(
    site: Site,
    input: Domain,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Domain:
    dims = site.dims([*range(-len(normalized_shape), 0)])
    added = torch.finfo(input.center.dtype).eps if eps is None else eps
    return scaled_and_shifted(site, input.coupled(Normalization(dims, added, centered=False)), weight, None)


@register(_ATEN.group_norm)
def _group_norm(
    site: Site,
    input: Domain,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Domain:
    if not site.layouts[0].is_plain:
        raise site.refusal("knows (batch, channels, …), but the batch is not the first dimension.")
    groups = input.monotone(moved(lambda x: torch.unflatten(x, 1, (num_groups, -1))))
    function = Normalization([*range(2, len(groups.shape))], eps)
    value = groups.coupled(function).monotone(moved(lambda x: x.flatten(1, 2)))
    rank = len(input.shape) - 2
    factors = (None if values is None else on_channels(values, rank) for values in (weight, bias))
    return scaled_and_shifted(site, value, *factors)


@register(_ATEN.native_group_norm)
def _native_group_norm(
    site: Site,
    input: Domain,
    weight: Tensor | None,
    bias: Tensor | None,
    batch: int,
    channels: int,
    area: int,
    group: int,
    eps: float,
) -> list[Domain | None]:
    return [_group_norm(site, input, group, weight, bias, eps), None, None]


@register(_ATEN.instance_norm)
def _instance_norm(
    site: Site,
    input: Domain,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Domain:
    if use_input_stats or running_mean is None or running_var is None:
        return _group_norm(site, input, input.shape[1], weight, bias, eps)
    return batch_norm(site, input, weight, bias, running_mean, running_var, False, momentum, eps)
