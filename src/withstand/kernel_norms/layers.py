"""The norm of each layer, as published of its reshaped kernel and as its operator truly has it."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand.spectral import GuaranteedNorms
from withstand.spectral.layers import Place, places, weights
from withstand.types import ModelError

__all__ = ["LayerNorms", "layer_norms"]


class LayerNorms(NamedTuple):
    """Two norms of a layer's weight; None where there is no finite one.

    Attributes:
        name: Where the layer stands in the model, such as ``layers.0``.
        kernel_norm: The largest singular value of the weight reshaped to (outputs, inputs times taps),
            as arXiv 1810.00363 takes it. Of a convolution this says little of how far it can stretch.
        operator_norm: An upper bound of that of the linear map, at its true input size and stride; None
            of all layers where one has no such bound.
    """

    name: str
    kernel_norm: float | None
    operator_norm: float | None


def layer_norms(model: nn.Module, image: Tensor) -> list[LayerNorms]:
    """Both norms of each linear layer and each convolution, in order; none where there are no such layers.

    Args:
        model: A float64 model in eval mode.
        image: Tensor (1, …), one of its inputs; it tells the size of each layer's.
    """
    try:
        found = weights(model)
    except ModelError:
        return []
    try:
        known = places(model, image)
    except ModelError:
        return [LayerNorms(each.name, _kernel_norm(each.matrix), None) for each in found]
    return [LayerNorms(each.name, _kernel_norm(each.weight.matrix), _operator_norm(each)) for each in known]


def _kernel_norm(matrix: Tensor) -> float | None:
    if not matrix.isfinite().all():  # of such a matrix, torch refuses to compute singular values
        return None
    return float(torch.linalg.matrix_norm(matrix.detach(), ord=2))


def _operator_norm(place: Place) -> float | None:
    bound = float(GuaranteedNorms().of(place.operator, place.input_shape, place.name))
    return bound if math.isfinite(bound) else None
