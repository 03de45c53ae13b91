"""Rules of batch normalisation, by running statistics or by those of the batch."""

from __future__ import annotations

from typing import NamedTuple, Self

import torch
from torch import Tensor

from withstand.core.batch_shares import statistics
from withstand.graph.calls import Call
from withstand.graph.domain import Domain
from withstand.graph.rule_registry import Site, register
from withstand.graph.rules.sizes import on_channels
from withstand.operators import Diagonal

__all__ = ["BatchNorm", "batch_norm"]

_ATEN = torch.ops.aten
_BY_BATCH = (_ATEN.batch_norm.default, _ATEN._native_batch_norm_legit_functional.default)


class BatchNorm(NamedTuple):
    """A batch normalisation that goes by the statistics of its batch.

    Attributes:
        weight: By what it multiplies, (channels,); 1 where None.
        bias: What it adds, (channels,); 0 where None.
        epsilon: What it adds to the variance.
    """

    weight: Tensor | None
    bias: Tensor | None
    epsilon: float

    @classmethod
    def of(cls, call: Call) -> Self | None:
        """That of a call, where it is one."""
        if call.node.target not in _BY_BATCH:
            return None
        (_, weight, bias, _, _, training, _, epsilon, *_), _ = call.resolved(batch=1)
        return cls(weight, bias, epsilon) if training else None

    def factors(self, like: Tensor) -> tuple[Tensor, Tensor]:
        """By what it multiplies, and what it adds, where it goes by the statistics of a batch.

        Args:
            like: The batch, (batch, channels, …).

        Returns:
            Two tensors that broadcast to one example.
        """
        return _factors(*statistics(like), self, like.dim() - 2)


@register(_ATEN.batch_norm)
def batch_norm(
    site: Site,
    input: Domain,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool = False,
) -> Domain:
    """Multiplies and adds, by running statistics or by those of the batch."""
    rank, layer = len(input.shape) - 2, BatchNorm(weight, bias, eps)
    if not site.layouts[0].is_plain:
        raise site.refusal("knows (batch, channels, …), but the batch is not the first dimension.")
    if not training and running_mean is not None and running_var is not None:
        scale, shift = _factors(running_mean, running_var, layer, rank)
    elif not site.is_training:
        raise site.refusal(
            "goes by the statistics of the batch although the model is in eval mode, so that no image has "
            "logits of its own; build it with track_running_stats=True."
        )
    else:
        scale, shift = layer.factors(input.center)
    return input.affine(Diagonal(scale), shift, site.norm)


@register(_ATEN._native_batch_norm_legit_functional)
def _functional_batch_norm(
    site: Site,
    input: Domain,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    training: bool,
    momentum: float,
    eps: float,
) -> list[Domain | None]:
    args = weight, bias, running_mean, running_var, training, momentum, eps
    return [batch_norm(site, input, *args), None, None, None, None]


@register(_ATEN._native_batch_norm_legit_no_training)
def _resting_batch_norm(
    site: Site,
    input: Domain,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor,
    running_var: Tensor,
    momentum: float,
    eps: float,
) -> list[Domain | None]:
    args = weight, bias, running_mean, running_var, False, momentum, eps
    return [batch_norm(site, input, *args), None, None]


def _factors(mean: Tensor, variance: Tensor, layer: BatchNorm, rank: int) -> tuple[Tensor, Tensor]:
    scale = (variance + layer.epsilon).rsqrt()
    if layer.weight is not None:
        scale = scale * layer.weight
    bias = -mean * scale if layer.bias is None else layer.bias - mean * scale
    return on_channels(scale, rank), on_channels(bias, rank)
