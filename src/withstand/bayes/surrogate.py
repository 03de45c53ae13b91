"""The surrogate of the expected spectral norm of a random weight, as SEBR penalises it.

For a matrix with independent normal entries of means M and standard deviations A, and G = W - M,

    E ||W|| <= ||M|| + c (max_i ||A_i:|| + max_j ||A_:j|| + E max |G_ij|)

with a universal constant c (Zhang et al., CVPR 2021, theorem 2). The surrogate takes c = 1, as published:
it estimates well and proves nothing. ``withstand.bayes`` has the proven bounds beside it.

Of a convolution it takes the true operator: rows and columns of its matrix, whose entries are those of the
kernel, each many times over. Entries that repeat are not independent, so there it is a surrogate twice over.
"""

from __future__ import annotations

import torch
from torch import Tensor

from withstand.bayes.estimators import root
from withstand.bayes.expected_maximum import expected_maximum
from withstand.spectral import Convolution, Dense, Shape


def fluctuation(stds: Dense | Convolution, input_shape: Shape) -> Tensor:
    """max_i ||A_i:|| + max_j ||A_:j|| + E max |G_ij|: the surrogate of E ||G|| with c = 1.

    Published code draws ten whole matrices for the last term, with the largest signed entry where the theorem
    has the largest magnitude; here it is computed, without a draw (``expected_maximum``).

    Args:
        stds: The operator whose weight holds the standard deviations A, at least 0.
        input_shape: Shape of one example.

    Returns:
        Scalar tensor with gradient, once differentiable.
    """
    weight = stds.weight
    rows = _largest_dense(weight, 1) if isinstance(stds, Dense) else _largest_row(stds, input_shape)
    columns = _largest_dense(weight, 0) if isinstance(stds, Dense) else _largest_column(stds, input_shape)
    return rows + columns + expected_maximum(weight)


def _largest_dense(weight: Tensor, dim: int) -> Tensor:
    """The largest norm of the rows (1) or columns (0), of which alone the gradient is not 0."""
    with torch.no_grad():
        where = torch.linalg.vector_norm(weight, dim=dim).argmax()
    return root(weight.index_select(1 - dim, where[None]).square().sum())


def _largest_row(stds: Convolution, input_shape: Shape) -> Tensor:
    squares = stds.entrywise(torch.square).apply(stds.weight.new_ones((1, *input_shape)))
    return root(squares.max())


def _largest_column(stds: Convolution, input_shape: Shape) -> Tensor:
    squares = stds.entrywise(torch.square)
    with torch.no_grad():
        outputs = squares.apply(stds.weight.new_zeros((1, *input_shape)))
        sums = squares.adjoint(torch.ones_like(outputs), input_shape)
        one = torch.zeros_like(sums).flatten()
        one.scatter_(0, sums.flatten().argmax()[None], 1.0)  # by an index it would wait for the device
    return root(squares.apply(one.view_as(sums)).sum())
