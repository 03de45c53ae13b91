"""Normalisation with random scale and shift.

What normalises, the statistics of a batch or of an example, is as in torch; scale and shift are drawn for
each example, or once a sample for all of them where the posterior's estimator is ``shared``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from withstand.bayes.layer import Drawing, VariationalLayer
from withstand.bayes.posterior import Normal
from withstand.types import ModelError


class _Normalization(VariationalLayer, ABC):
    """The interface of what normalises; scale and shift are drawn here."""

    redraws_means = False

    @abstractmethod
    def normalized(self, x: Tensor) -> Tensor:
        """What the layer makes of its input before scale and shift."""

    @override
    def draw(self, how: Drawing, input: Tensor) -> Tensor:
        """Those of channels lie in dimension 1, others in the last ones."""
        normalized = self.normalized(input)
        rows, dims = len(normalized), normalized.dim()
        how, normals = how.of_rows(rows), self.normals()
        if dims <= normals["weight"].mean.dim():
            raise ModelError(
                f"{type(self).__name__} with random scale takes batches, but got shape "
                f"{tuple(normalized.shape)}. Put the batch first."
            )
        shared = self.posterior.estimator == "shared"

        def drawn(normal: Normal) -> Tensor:
            draws = how.num_samples if shared else rows
            noise = torch.randn(draws, *normal.mean.shape, dtype=normalized.dtype, device=normalized.device)
            values = torch.addcmul(normal.mean, noise, normal.std)
            if shared:
                values = values.repeat_interleave(rows // draws, dim=0)
            missing = [1] * (dims - values.dim())
            if isinstance(self, nn.LayerNorm | nn.RMSNorm):
                return values.reshape(rows, *missing, *normal.mean.shape)
            return values.reshape(*values.shape, *missing)

        output = normalized * drawn(normals["weight"])
        return output + drawn(normals["bias"]) if "bias" in normals else output


class _BatchNormalization(_Normalization, _BatchNorm):
    """By the statistics of a batch, or by running ones."""

    @override
    def normalized(self, x: Tensor) -> Tensor:
        """As torch normalises, its running statistics included."""
        self._check_input_dim(x)  # type: ignore[no-untyped-call]
        factor = 0.0 if self.momentum is None else self.momentum
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            if self.momentum is None:
                factor = 1.0 / float(self.num_batches_tracked)
        uses_running_statistics = not self.training or self.track_running_stats
        mean, variance = (self.running_mean, self.running_var) if uses_running_statistics else (None, None)
        of_batch = self.training or (self.running_mean is None and self.running_var is None)
        return F.batch_norm(x, mean, variance, None, None, of_batch, factor, self.eps)


class BatchNorm1d(_BatchNormalization, nn.BatchNorm1d):
    """``torch.nn.BatchNorm1d`` whose scale and shift are normal variables.

    Args:
        num_features: Channels.
        posterior: Of scale and shift.
        **options: Those of ``torch.nn.BatchNorm1d``, but for ``affine``.
    """


class BatchNorm2d(_BatchNormalization, nn.BatchNorm2d):
    """``torch.nn.BatchNorm2d`` whose scale and shift are normal variables.

    Args:
        num_features: Channels.
        posterior: Of scale and shift.
        **options: Those of ``torch.nn.BatchNorm2d``, but for ``affine``.
    """


class BatchNorm3d(_BatchNormalization, nn.BatchNorm3d):
    """``torch.nn.BatchNorm3d`` whose scale and shift are normal variables.

    Args:
        num_features: Channels.
        posterior: Of scale and shift.
        **options: Those of ``torch.nn.BatchNorm3d``, but for ``affine``.
    """


class GroupNorm(_Normalization, nn.GroupNorm):
    """``torch.nn.GroupNorm`` whose scale and shift are normal variables.

    Args:
        num_groups: Groups of channels.
        num_channels: Channels.
        posterior: Of scale and shift.
        **options: Those of ``torch.nn.GroupNorm``, but for ``affine``.
    """

    @override
    def normalized(self, x: Tensor) -> Tensor:
        return F.group_norm(x, self.num_groups, eps=self.eps)


class LayerNorm(_Normalization, nn.LayerNorm):
    """``torch.nn.LayerNorm`` whose scale and shift are normal variables.

    Args:
        normalized_shape: The last dimensions of the input, which are normalised together.
        posterior: Of scale and shift.
        **options: Those of ``torch.nn.LayerNorm``, but for ``elementwise_affine``.
    """

    @override
    def normalized(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, self.normalized_shape, eps=self.eps)


class RMSNorm(_Normalization, nn.RMSNorm):
    """``torch.nn.RMSNorm`` whose scale is a normal variable.

    Args:
        normalized_shape: The last dimensions of the input, which are normalised together.
        posterior: Of the scale.
        **options: Those of ``torch.nn.RMSNorm``, but for ``elementwise_affine``.
    """

    @override
    def normalized(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.normalized_shape, eps=self.eps)
