"""The norm of each layer, as published of its reshaped kernel and as its operator truly has it."""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from withstand.spectral import Dense, GuaranteedNorms, LinearOperator, Shape, places, weights
from withstand.types import ModelError

__all__ = ["LayerNorms", "layer_norms"]


class LayerNorms(NamedTuple):
    """Two norms of a layer's weight, each bounded from above; None where there is no finite bound.

    Attributes:
        name: Where the layer stands in the model, such as ``layers.0``.
        kernel_norm: Of the weight reshaped to (outputs, inputs times taps), as arXiv 1810.00363 takes
            it, to 1e-6. Of a convolution this says little of how far it can stretch.
        operator_norm: Of the linear map itself, at its true input size and stride; None
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
        return [LayerNorms(each.name, _kernel_norm(each.matrix, each.name), None) for each in found]
    return [
        LayerNorms(
            each.name,
            _kernel_norm(each.weight.matrix, each.name),
            _norm(each.operator, each.input_shape, each.name),
        )
        for each in known
    ]


def _kernel_norm(matrix: Tensor, name: str) -> float | None:
    return _norm(Dense(matrix), (matrix.shape[1],), name)


def _norm(operator: LinearOperator, input_shape: Shape, name: str) -> float | None:
    bound = float(GuaranteedNorms().of(operator, input_shape, name))
    return bound if math.isfinite(bound) else None
