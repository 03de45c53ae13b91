"""Normalisation layers whose scale and shift are random.

What normalises, the statistics of a batch or of an example, is as in torch; scale and shift are drawn for
each example, or once a sample for all of them where the posterior's estimator is ``shared``.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.bayes.layer import Drawing, VariationalLayer
from withstand.bayes.posterior import Normal, Posterior
from withstand.types import ModelError

__all__ = ["BatchNorm1d", "BatchNorm2d", "GroupNorm", "LayerNorm"]


class BatchNorm1d(VariationalLayer, nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` whose scale and shift are normal variables.

    Args:
        num_features: Channels.
        posterior: Of scale and shift.
        **options: Those of ``torch.nn.BatchNorm1d``, but for ``affine``.
    """

    redraws_means = False

    def __init__(self, num_features: int, *, posterior: Posterior = Posterior(), **options: Any) -> None:
        nn.BatchNorm1d.__init__(self, num_features, **options)
        self.make_random(posterior)

    @override
    def draw(self, x: Tensor, how: Drawing) -> Tensor:
        self._check_input_dim(x)
        return _scaled(self, _by_batch(self, x), how)


class BatchNorm2d(VariationalLayer, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` whose scale and shift are normal variables.

    Args:
        num_features: Channels.
        posterior: Of scale and shift.
        **options: Those of ``torch.nn.BatchNorm2d``, but for ``affine``.
    """

    redraws_means = False

    def __init__(self, num_features: int, *, posterior: Posterior = Posterior(), **options: Any) -> None:
        nn.BatchNorm2d.__init__(self, num_features, **options)
        self.make_random(posterior)

    @override
    def draw(self, x: Tensor, how: Drawing) -> Tensor:
        self._check_input_dim(x)
        return _scaled(self, _by_batch(self, x), how)


class GroupNorm(VariationalLayer, nn.GroupNorm):
    """``torch.nn.GroupNorm`` whose scale and shift are normal variables.

    Args:
        num_groups: Groups of channels.
        num_channels: Channels.
        posterior: Of scale and shift.
        **options: Those of ``torch.nn.GroupNorm``, but for ``affine``.
    """

    redraws_means = False

    def __init__(
        self, num_groups: int, num_channels: int, *, posterior: Posterior = Posterior(), **options: Any
    ) -> None:
        nn.GroupNorm.__init__(self, num_groups, num_channels, **options)
        self.make_random(posterior)

    @override
    def draw(self, x: Tensor, how: Drawing) -> Tensor:
        return _scaled(self, F.group_norm(x, self.num_groups, eps=self.eps), how)


class LayerNorm(VariationalLayer, nn.LayerNorm):
    """``torch.nn.LayerNorm`` whose scale and shift are normal variables.

    Args:
        normalized_shape: The last dimensions of the input, which are normalised together.
        posterior: Of scale and shift.
        **options: Those of ``torch.nn.LayerNorm``, but for ``elementwise_affine``.
    """

    redraws_means = False

    def __init__(
        self, normalized_shape: int | list[int], *, posterior: Posterior = Posterior(), **options: Any
    ) -> None:
        nn.LayerNorm.__init__(self, normalized_shape, **options)
        self.make_random(posterior)

    @override
    def draw(self, x: Tensor, how: Drawing) -> Tensor:
        return _scaled(self, F.layer_norm(x, self.normalized_shape, eps=self.eps), how)


def _scaled(layer: VariationalLayer, normalized: Tensor, how: Drawing) -> Tensor:
    """Scale and shift of each row; those of channels stand in dimension 1, others in the last ones."""
    rows, dims = len(normalized), normalized.dim()
    normals = layer.normals()
    if dims <= normals["weight"].mean.dim():
        raise ModelError(
            f"{type(layer).__name__} with random scale takes batches, but got shape "
            f"{tuple(normalized.shape)}. Put the batch first."
        )
    shared = layer.posterior.estimator == "shared"

    def drawn(normal: Normal) -> Tensor:
        draws = how.num_samples if shared else rows
        noise = torch.randn(draws, *normal.mean.shape, dtype=normalized.dtype, device=normalized.device)
        values = torch.addcmul(normal.mean, noise, normal.std)
        if shared:
            values = values.repeat_interleave(rows // draws, dim=0)
        missing = [1] * (dims - values.dim())
        if isinstance(layer, nn.LayerNorm):
            return values.reshape(rows, *missing, *normal.mean.shape)
        return values.reshape(*values.shape, *missing)

    output = normalized * drawn(normals["weight"])
    return output + drawn(normals["bias"]) if "bias" in normals else output


def _by_batch(layer: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """As torch normalises, its running statistics included."""
    factor = 0.0 if layer.momentum is None else layer.momentum
    if layer.training and layer.track_running_stats and layer.num_batches_tracked is not None:
        layer.num_batches_tracked.add_(1)
        if layer.momentum is None:
            factor = 1.0 / float(layer.num_batches_tracked)
    kept = not layer.training or layer.track_running_stats
    mean, variance = (layer.running_mean, layer.running_var) if kept else (None, None)
    of_batch = layer.training or (layer.running_mean is None and layer.running_var is None)
    return F.batch_norm(x, mean, variance, None, None, of_batch, factor, layer.eps)
