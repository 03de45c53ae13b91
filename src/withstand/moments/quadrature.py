"""Moments of any function of a normal variable, by Gauss-Hermite quadrature."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from withstand.moments.normal import std_of

_NUM_NODES = 16


@cache
def nodes_and_weights(num_nodes: int) -> tuple[Sequence[float], Sequence[float]]:
    """Of the standard normal distribution; the weights add up to 1.

    Args:
        num_nodes: Polynomials of degree 2 num_nodes - 1 are integrated exactly.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_nodes)
    return nodes.tolist(), (weights / math.sqrt(2 * math.pi)).tolist()


def quadrature(
    function: Callable[[Tensor], Tensor], mean: Tensor, variance: Tensor, *, num_nodes: int = _NUM_NODES
) -> tuple[Tensor, Tensor]:
    """Mean and variance of a function of a normal z: to rounding where it is smooth, near where it bends.

    Args:
        function: Elementwise.
        mean: Of z.
        variance: Of z, nowhere negative; broadcasts to the mean.
        num_nodes: At how many points the function is computed.

    Returns:
        Two tensors like ``mean``.
    """
    std, center = std_of(variance), function(mean)
    nodes, weights = nodes_and_weights(num_nodes)
    changes = [function(mean + std * node) - center for node in nodes]  # so that constants cancel exactly
    shift, spread = torch.zeros_like(center), torch.zeros_like(center)
    for weight, change in zip(weights, changes, strict=True):
        shift = shift + weight * change
    for weight, change in zip(weights, changes, strict=True):
        spread = spread + weight * (change - shift).square()
    return center + shift, spread


def quadrature_gain(
    function: Callable[[Tensor], Tensor], mean: Tensor, variance: Tensor, *, num_nodes: int = _NUM_NODES
) -> Tensor:
    """E f'(z) = Cov(f(z), z) / Var z (Stein, 1981), by which f(z) covaries with what is normal with z.

    Args:
        function: f, elementwise.
        mean: Of z.
        variance: Of z, nowhere negative; broadcasts to the mean.
        num_nodes: At how many points the function is computed.

    Returns:
        A tensor like ``mean``.
    """
    std, center = std_of(variance), function(mean)
    tilted = torch.zeros_like(center)
    for node, weight in zip(*nodes_and_weights(num_nodes), strict=True):
        tilted = tilted + weight * node * (function(mean + std * node) - center)
    return tilted / std
