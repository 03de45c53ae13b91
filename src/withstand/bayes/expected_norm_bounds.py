"""Proven bounds of the expected spectral norm E ||W|| of a layer with random weights.

The entries of its weight are independent, W = M + G with means M and G_k = a_k g_k of standard deviations
a_k and standard normals g_k; W is the layer's true operator, in which a convolution repeats its entries.
Then E ||W|| <= ||M|| + E ||G||, and E ||G|| is at most each of these:

* ``frobenius_bound``: E ||G|| <= E ||G||_F <= sqrt(E ||G||_F²), by Jensen.
* ``series_bound``: G = sum_k g_k B_k is a matrix Gaussian series, so E ||G|| <= sqrt(2 v log(d1 + d2)) for
  a d1 x d2 operator and v the larger norm of sum_k B_k B_kᵀ and sum_k B_kᵀ B_k (Tropp, "User-friendly tail
  bounds for sums of random matrices", 2012, theorem 4.1.1 of his 2015 monograph). B_k of a matrix is one
  entry. That of a kernel's entry joins each output position to one input position, and no two outputs to
  the same one: it is a_k times a partial permutation. So B_k B_kᵀ and B_kᵀ B_k are diagonal either way, and
  v is the largest sum of squared standard deviations in a row or a column of the operator.
* ``domination_bound``, of a matrix: where A_ij <= r_i c_j, more noise makes G a matrix r_i c_j g_ij
  (conditional Jensen), and Chevet's inequality bounds that by max r ||c|| + max c ||r||. Taken are r the
  largest entries of the rows beside c = 1, and the same of the columns. For constant A this is Gordon's a
  (sqrt m + sqrt n).
* ``moment_bound``, of a matrix: the comparison of moments of Bandeira and van Handel ("Sharp nonasymptotic
  bounds on the norm of random matrices with independent entries", 2016), whose own constants are worse.
  Scaled so that the largest a is 1, let s1² and s2² be the largest sums of squares in a row and in a
  column. E tr (G Gᵀ)^p is a sum over closed walks of 2p steps between rows and columns that take each edge
  an even number of times. Walks are alike that differ by a renaming; those of a shape with k rows and l
  columns contribute at most C m s1^(2 l) s2^(2 (k - 1)): m for the first row, a sum of squares for each
  vertex when it is met first, 1 for all edges else; C = prod E g^(times) is the shape's own. A standard
  normal Y of r1 = ceil(s2²) + p - 1 rows and r2 = ceil(s1²) + p - 1 columns has C r1 (r1 - 1) … (r1 - k +
  1) r2 … (r2 - l + 1) of the same shape, with k, l <= p: at least C r1 s2^(2 (k - 1)) s1^(2 l). So E tr (G
  Gᵀ)^p <= (m / r1) E tr (Y Yᵀ)^p, likewise with n / r2, and E tr (Y Yᵀ)^p <= min(r1, r2) E ||Y||^2p. As
  ||Y|| is 1-Lipschitz of mean at most sqrt r1 + sqrt r2, its 2p-norm is at most sqrt r1 + sqrt r2 + (2^p
  p!)^(1/2p). The smallest of many p is taken.
* ``tap_bound``, of a convolution: it is a sum over taps of what one tap does, a matrix at each position,
  from inputs to outputs of which no two share one; so its norm is at most the sum over taps of the
  matrices' norms.
* ``kernel_bound``, of a convolution: it gathers patches and applies the kernel as a matrix (outputs, inputs
  · taps) to each, and gathering has norm sqrt(most patches that an input is in). Or it applies the kernel
  as (outputs · taps, inputs) at each input and adds up, which has norm sqrt(most taps that an output sees).

What rounding takes of sums of positive numbers in float64 is added.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from withstand.operators import Convolution, Dense, Shape, upper_bound

_ROUNDED_UP = 1 + 1e-9  # sums of up to a million terms in float64
_MOST_MOMENTS = 64


def expected_norm_bound(means: Dense | Convolution, stds: Tensor, input_shape: Shape) -> float:
    """A proven upper bound of E ||W||: that of ||M|| and the smallest of E ||G||, or Jensen's of both.

    Args:
        means: The operator of the means M.
        stds: The standard deviations, >= 0, in the shape of its weight.
        input_shape: Shape of one example.

    Returns:
        The bound; infinite where a number is not finite.
    """
    means = means.entrywise(torch.Tensor.double)
    noise = min(noise_bounds(replace(means, weight=stds), input_shape).values())
    squares = replace(means, weight=means.weight**2 + stds.double() ** 2)
    jensen = _root(_row_sums(squares, input_shape).sum())
    return min(upper_bound(means, input_shape).item() + noise, jensen)


def noise_bounds(stds: Dense | Convolution, input_shape: Shape) -> dict[str, float]:
    """All proven upper bounds of E ||G||, by name.

    Args:
        stds: The operator whose weight holds the standard deviations, >= 0.
        input_shape: Shape of one example.

    Returns:
        Name of the bound -> its value; infinite where a number is not finite.
    """
    bounds = {"frobenius": frobenius_bound(stds, input_shape), "series": series_bound(stds, input_shape)}
    if isinstance(stds, Dense):
        bounds["domination"] = domination_bound(stds.weight)
        bounds["moments"] = moment_bound(stds.weight)
    else:
        bounds["taps"] = tap_bound(stds)
        bounds["kernel"] = kernel_bound(stds, input_shape)
    return bounds


def frobenius_bound(stds: Dense | Convolution, input_shape: Shape) -> float:
    """The root of the sum of squares over the whole operator; arguments as of ``noise_bounds``."""
    return _root(_row_sums(_squares(stds), input_shape).sum())


def series_bound(stds: Dense | Convolution, input_shape: Shape) -> float:
    """sqrt(2 v log(d1 + d2)), that of a matrix Gaussian series; arguments as of ``noise_bounds``."""
    squares = _squares(stds)
    rows = _row_sums(squares, input_shape)
    if isinstance(squares, Dense):
        columns = squares.weight.sum(dim=0)
    else:
        columns = squares.adjoint(torch.ones_like(rows), input_shape)
    return _series(rows, columns)


def domination_bound(stds: Tensor) -> float:
    """The bound of a matrix by one with more noise, of entries r_i c_j g_ij.

    Args:
        stds: Tensor (m, n), or (groups, m, n) of the blocks along the diagonal of a matrix; >= 0.
    """
    blocks = stds.double()
    rows, columns = blocks.amax(dim=-1).flatten(), blocks.amax(dim=-2).flatten()
    largest = blocks.max()
    by_rows = largest * math.sqrt(len(columns)) + rows.square().sum().sqrt()
    by_columns = largest * math.sqrt(len(rows)) + columns.square().sum().sqrt()
    return _finite(torch.minimum(by_rows, by_columns))


def moment_bound(stds: Tensor) -> float:
    """The bound of a matrix by the moments of a smaller standard normal one.

    Args:
        stds: As of ``domination_bound``.
    """
    blocks = stds.double()
    largest = blocks.max().item()
    if not 0 < largest < math.inf:
        return 0.0 if largest == 0 else math.inf
    squares = (blocks / largest).square()
    rows, columns = squares.sum(dim=-1).flatten(), squares.sum(dim=-2).flatten()
    of_row, of_column = (math.ceil(sums.max().item() * _ROUNDED_UP) for sums in (rows, columns))

    def bound(p: int) -> float:
        height, width = of_column + p - 1, of_row + p - 1
        excess = min(len(rows) / height, len(columns) / width) * min(height, width)
        deviation = math.exp((p * math.log(2) + math.lgamma(p + 1)) / (2 * p))
        return math.exp(math.log(excess) / (2 * p)) * (math.sqrt(height) + math.sqrt(width) + deviation)

    return largest * min(map(bound, range(1, _MOST_MOMENTS + 1))) * _ROUNDED_UP


def tap_bound(stds: Convolution) -> float:
    """The sum over the taps of a kernel of the bounds of their matrices; arguments as of ``noise_bounds``."""
    return sum(map(_matrix_bound, _blocks(stds).unbind(dim=-1))) * _ROUNDED_UP


def kernel_bound(stds: Convolution, input_shape: Shape) -> float:
    """That of the kernel as a matrix, times how often inputs or outputs share; as of ``noise_bounds``."""
    blocks = _blocks(stds)
    one = replace(
        stds, weight=torch.ones_like(blocks[:1, :1, :1]).view(1, 1, *stds.weight.shape[2:]), groups=1
    )
    plane = (1, *input_shape[1:])
    taps = one.apply(blocks.new_ones((1, *plane)))
    patches = one.adjoint(torch.ones_like(taps), plane)
    gathered = _root(patches.max()) * _matrix_bound(blocks.flatten(2))
    added = _root(taps.max()) * _matrix_bound(blocks.movedim(-1, 2).flatten(1, 2))
    return min(gathered, added)


def _matrix_bound(blocks: Tensor) -> float:
    """The smallest bound of a matrix of blocks (groups, m, n) along its diagonal."""
    squares = blocks.square()
    bounds: list[Callable[[], float]] = [
        lambda: _root(squares.sum()),
        lambda: _series(squares.sum(dim=-1), squares.sum(dim=-2)),
        lambda: domination_bound(blocks),
        lambda: moment_bound(blocks),
    ]
    return min(bound() for bound in bounds)


def _blocks(stds: Convolution) -> Tensor:
    """The kernel, tensor (groups, outputs, inputs, taps) of each group, in float64."""
    kernel = stds.weight.double().flatten(2)
    return kernel.view(stds.groups, -1, *kernel.shape[1:])


def _squares(stds: Dense | Convolution) -> Dense | Convolution:
    return stds.entrywise(lambda weight: weight.double().square())


def _row_sums(operator: Dense | Convolution, input_shape: Shape) -> Tensor:
    if isinstance(operator, Dense):
        return operator.weight.sum(dim=1)
    return operator.apply(operator.weight.new_ones((1, *input_shape)))


def _series(rows: Tensor, columns: Tensor) -> float:
    """From the sums of squares in all rows and in all columns."""
    variance = torch.maximum(rows.max(), columns.max())
    return _root(2 * variance * math.log(rows.numel() + columns.numel()))


def _root(square: Tensor) -> float:
    return _finite(square.sqrt())


def _finite(bound: Tensor) -> float:
    """The bound, rounded up; infinite where it is NaN, which nothing would be smaller than."""
    value = bound.item() * _ROUNDED_UP
    return math.inf if math.isnan(value) else value
