"""The expected largest magnitude of independent centred normals, without drawing any.

With standard deviations a_i and standard normals e_i, P(max |a_i e_i| <= t) = P(t) = prod_i F(t / a_i)
with F(z) = erf(z / sqrt 2), and so E max = integral_0^inf (1 - P(t)) dt. The derivative by a_i is the
integral of P(t) h(t / a_i) / a_i, with h(z) = z F'(z) / F(z): it depends on the other entries through P
alone.

Two things make that cheap for millions of entries. First, all is in units of the largest entry m, and
each entry is moved to the nearest of ``NODES`` + 1 even nodes 0, m/NODES, ..., m: it is the counts of the
nodes that matter. Second, the grid of t is fixed as well in units of m, so that log F at each node and
each t is a table that never changes, and log P is one product of that table with the counts; the
derivative at the nodes is another, and each entry looks its own up. The grid is even in log t, since the
step of F^n is as wide in log t wherever it lies (about 1 / (2 log n)); the trapezoid rule on it converges
geometrically.

How far that is from the truth: E max changes by at most the largest move times E max |e_i|, so that
moving to the nodes costs at most m E max |e_i| / (2 NODES). E max is at least m sqrt(2 / pi), and E max
|e_i| <= 5.6 for 10 million entries: a relative error below 1e-3 whatever the entries are, and in practice
far below, as moves up and down cancel. Constant entries, and a single one, are nodes themselves: there
the error is that of the grid.

On it goes the surrogate of the expected spectral norm of a random weight, as SEBR penalises it. For a matrix
with independent normal entries of means M and standard deviations A, and G = W - M,

    E ||W|| <= ||M|| + c (max_i ||A_i:|| + max_j ||A_:j|| + E max |G_ij|)

with a universal constant c (Zhang et al., CVPR 2021, theorem 2). The surrogate takes c = 1, as published:
it estimates well and proves nothing. ``withstand.bayes`` has the proven bounds beside it.

Of a convolution it takes the true operator: rows and columns of its matrix, whose entries are those of the
kernel, each many times over. Entries that repeat are not independent, so there it is a surrogate twice over.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from withstand.bayes.estimators import root
from withstand.operators import Convolution, Dense, Shape

NODES = 4096
POINTS = 256  # of t: spaced by less than the width of the step of 10 million equal entries
FIRST, LAST = 2e-3, 9.0  # of t, in units of the largest entry; beyond LAST even 10 million entries have P = 1


def expected_maximum(stds: Tensor) -> Tensor:
    """E max_i |stds_i e_i| over independent standard normals e_i; nothing is drawn.

    Args:
        stds: standard deviations, of any shape, >= 0 (what is negative counts as zero); 1 to 10 million.

    Returns:
        Scalar in the dtype of ``stds``, differentiable once, relative error below 1e-3. Zero where all are
        zero, with a gradient of zero there, where the function has a kink. NaN, with a NaN gradient, where an
        entry is NaN or infinite.

    Raises:
        ValueError: ``stds`` is empty.
    """
    if stds.numel() == 0:
        raise ValueError("expected_maximum got no standard deviations: give at least one")
    maximum: Tensor = _ExpectedMaximum.apply(stds)  # type: ignore[no-untyped-call]
    return maximum


class _ExpectedMaximum(torch.autograd.Function):
    """The integral over the table, and each entry's derivative looked up at its node."""

    @staticmethod
    @override
    def forward(ctx: Any, stds: Tensor) -> Tensor:
        dtype = torch.promote_types(stds.dtype, torch.float32)
        largest = stds.amax().clamp_min(0).to(dtype)
        nodes = _nearest_nodes(stds, largest)
        log_cdf, _, steps = _tables(dtype, stds.device)
        below = torch.exp(_product(log_cdf, _counts(nodes).to(dtype)))
        weights = below * steps
        # before the first t, P is as good as linear: no more than F of the largest entry
        maximum = largest * (FIRST + steps.sum() - weights.sum() - below[0] * FIRST / 2)
        ctx.save_for_backward(nodes, below, largest)
        return torch.where(largest.isfinite(), maximum, math.nan).to(stds.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        nodes, below, largest = ctx.saved_tensors
        _, slopes, steps = _tables(below.dtype, below.device)
        weights = below * steps
        weights[0] += below[0] * FIRST / 2
        by_node = torch.where(largest.isfinite(), _product(weights, slopes), math.nan)
        scaled: Tensor = (gradient * by_node).to(gradient.dtype)
        return scaled.index_select(0, nodes.flatten()).view(nodes.shape)


def _product(left: Tensor, right: Tensor) -> Tensor:
    """A matrix product in the dtype of its factors, whatever precision is cast to around it."""
    with torch.autocast(left.device.type, enabled=False):
        return left @ right


def _nearest_nodes(stds: Tensor, largest: Tensor) -> Tensor:
    """The node of each entry: int32, 0 to ``NODES``, also where an entry is NaN."""
    step = (largest / NODES).clamp_min(torch.finfo(largest.dtype).tiny)
    return (stds / step).add_(0.5).to(torch.int32).clamp_(0, NODES)


def _counts(nodes: Tensor) -> Tensor:
    """The number of entries at each node."""
    if nodes.device.type == "cpu":
        return torch.bincount(nodes.flatten(), minlength=NODES + 1)
    # bincount would have to wait for an accelerator, to learn the largest node
    counts = torch.zeros(NODES + 1, dtype=torch.int32, device=nodes.device)
    return counts.index_add_(0, nodes.flatten(), torch.ones_like(nodes).flatten())


@cache
def _tables(dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The log of F, minus its derivative by the entry (points, nodes + 1), and the trapezoid's (points,)."""
    with torch.inference_mode(mode=False):
        logs = torch.linspace(math.log(FIRST), math.log(LAST), POINTS, dtype=torch.float64)
        times = logs.exp()
        steps = times * (logs[1] - logs[0])
        steps[[0, -1]] /= 2
        entries = torch.arange(1, NODES + 1, dtype=torch.float64) / NODES
        z = times[:, None] / entries
        log_cdf = torch.log1p(-torch.erfc(z / math.sqrt(2)))
        density = math.sqrt(2 / math.pi) * torch.exp(-(z**2) / 2)
        slopes = density * torch.exp(-log_cdf) * z / entries
        zero = torch.zeros(
            POINTS, 1, dtype=torch.float64
        )  # an entry of zero is never above t, however it moves
        log_cdf, slopes = torch.cat([zero, log_cdf], dim=1), torch.cat([zero, slopes], dim=1)
        return log_cdf.to(device, dtype), slopes.to(device, dtype), steps.to(device, dtype)


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
