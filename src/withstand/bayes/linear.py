"""The linear layer with random weights."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.bayes.estimators import BlockwiseMap, draw, estimator_of
from withstand.bayes.layer import Drawing, VariationalLayer
from withstand.bayes.posterior import Estimator

__all__ = ["Linear"]


class Linear(VariationalLayer, nn.Linear):
    """``torch.nn.Linear`` whose weight and bias are normal variables.

    Args:
        in_features: Size of each input.
        out_features: Size of each output.
        bias: Whether there is a bias, random too.
        posterior: Of weight and bias.
        **options: ``device`` and ``dtype``, as of ``torch.nn.Linear``.
    """

    @override
    def draw(self, x: Tensor, how: Drawing) -> Tensor:
        # Several vectors an example meet the same weight, which independent outputs would deny.
        exact: Estimator = "local" if x.dim() == 2 else "flipout"
        return draw(_MATRIX, estimator_of(self.posterior, exact), x, self.normals(), how)


class _Matrix(BlockwiseMap):
    @override
    def apply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.linear(x, weight, bias)

    @override
    def apply_blocks(self, x: Tensor, weights: Tensor) -> Tensor:
        blocks = x.reshape(len(weights), -1, x.shape[-1])
        return torch.bmm(blocks, weights.mT).reshape(*x.shape[:-1], weights.shape[1])

    @property
    @override
    def channel_dim(self) -> int:
        return -1


_MATRIX = _Matrix()
