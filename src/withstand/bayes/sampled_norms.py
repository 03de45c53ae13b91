"""The expected spectral norm of a layer with random weights, from draws of them.

The norm ||M + G|| is a function of the standard normals g behind G = A g, Lipschitz with a constant L: so
(Gaussian concentration) the mean of K independent ones exceeds its expectation, and falls short of it, by t
with probability at most exp(-K t² / (2 L²)). For a matrix L is the largest standard deviation, as ||A g||
<= ||A g||_F <= max A ||g||. For a convolution it is the root of the sum over taps of the largest squared
standard deviation at that tap: for unit u and v, with S_t what the tap t does to positions, the derivative
of uᵀ G v by the entry g of output o, input i and tap t is A_oit <u_o, S_t v_i>, whose squares sum up to at
most sum_t max A_t² sum_oi |u_o|² |v_i|² = sum_t max A_t², since no S_t stretches.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from withstand.core.checks import require_at_least
from withstand.core.setting_rules import Number, optional
from withstand.operators import Convolution, Dense, PowerIteration, Shape, upper_bound

_NUM_ITERATIONS = 50


def drawn_operators(
    means: Dense | Convolution, stds: Tensor, num_draws: int, generator: torch.Generator
) -> Iterator[Dense | Convolution]:
    """Operators of a layer with drawn weights, in float64.

    Args:
        means: The operator of the means.
        stds: The standard deviations, in the shape of its weight.
        num_draws: How many, at least 1.
        generator: On the CPU; the same numbers are drawn whatever the layer's device and precision.

    Raises:
        ValueError: there are none to draw.
    """
    require_at_least(1, num_draws=num_draws)
    center, spread = means.weight.detach().double(), stds.detach().double()
    for _ in range(num_draws):
        noise = torch.randn(spread.shape, generator=generator, dtype=torch.float64)
        yield replace(means, weight=torch.addcmul(center, noise.to(spread.device), spread))


def estimated_norm(operator: Dense | Convolution, input_shape: Shape) -> float:
    """The norm of a matrix to 1e-6, that of a convolution by 50 power iterations, from below.

    Args:
        operator: The linear map.
        input_shape: Shape of one example.
    """
    if isinstance(operator, Dense):
        return upper_bound(operator, input_shape).item()
    with torch.no_grad():
        return PowerIteration(_NUM_ITERATIONS).of(operator, input_shape, "").item()


def noise_lipschitz(stds: Dense | Convolution) -> float:
    """By how much the norm of a layer can change with the standard normals behind it, by l2 distance.

    Args:
        stds: The operator whose weight holds the standard deviations, >= 0.
    """
    weight = stds.weight.detach().double()
    if isinstance(stds, Dense):
        return weight.max().item()
    return weight.flatten(2).amax(dim=(0, 1)).square().sum().sqrt().item() * (1 + 1e-12)


def confidence_bound(norms: Tensor, lipschitz: float, confidence: float) -> float:
    """An upper bound of the expected norm, which holds with at least this probability over the draws.

    Args:
        norms: Upper bounds of the norms of independent draws, (num_draws,).
        lipschitz: See ``noise_lipschitz``.
        confidence: In [0, 1).

    Raises:
        ValueError: the confidence is out of its range.
    """
    require_confidence(confidence)
    margin = lipschitz * math.sqrt(2 * -math.log1p(-confidence) / len(norms))
    return (norms.mean().item() + margin) * (1 + 1e-12)


def require_confidence(confidence: float | None) -> None:
    """Accepts None, and what is in [0, 1).

    Raises:
        ValueError: it is neither.
    """
    optional(Number(least=0.0, below=1.0))("confidence", confidence)
