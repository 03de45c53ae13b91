"""Covariances of nonlinear functions of jointly normal variables.

For max(x, 0) and max(y, 0): the derivative of E f(x) g(y) in the covariance is E f'(x) g'(y) (Price, 1958),
here P(x > 0, y > 0), whose derivative in the correlation is the density at 0 (Plackett, 1954). With
h = E x / std x, k = E y / std y, and φ₂ and Φ₂ of the standard normal pair with correlation r:

    Cov / (std x · std y) = ∫₀^ρ Φ₂(h, k; r) dr = ρ Φ(h) Φ(k) + ∫₀^ρ (ρ - r) φ₂(h, k; r) dr,

and r = sin t takes the 1 / √(1 - r²) out of φ₂. Nothing cancels, whatever the means. Other functions are
expanded in Hermite polynomials (Mehler, 1866).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from withstand.moments.hinges import RECTIFIER, Hinges
from withstand.moments.normal import cdf, pdf, rectified, std_of
from withstand.moments.quadrature import nodes_and_weights

_NUM_NODES = 12
_NODES = [
    ((1 + node) / 2, weight / 2)
    for node, weight in zip(*np.polynomial.legendre.leggauss(_NUM_NODES), strict=True)
]


def rectified_covariance(means: Tensor, covariance: Tensor) -> Tensor:
    """The covariance matrix of max(z, 0), elementwise, of a normal vector z.

    Args:
        means: Of z, (batch, n).
        covariance: Of z, (batch, n, n), or (1, n, n) where it is the same for all examples, which saves
            much of the work. Symmetric and positive semi-definite.

    Returns:
        Tensor (batch, n, n), symmetric, which can be differentiated once; its diagonal is the variance
        in closed form, for the rest see ``cross_rectified_covariance``. Rows of variance 0 are 0.
    """
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    crossed = cross_rectified_covariance(
        means[:, :, None], means[:, None, :], variance[:, :, None], variance[:, None, :], covariance
    )
    _, spread = rectified(means, variance)
    return crossed.diagonal_scatter(spread, dim1=-2, dim2=-1)


def cross_rectified_covariance(
    mean_a: Tensor, mean_b: Tensor, var_a: Tensor, var_b: Tensor, covariance: Tensor
) -> Tensor:
    """Cov(max(a, 0), max(b, 0)) of jointly normal a and b, with any means.

    By quadrature at 12 points. Divided by std_a std_b, the result is wrong by less than 1e-12 for
    correlations to 0.9, 2e-8 to 0.99, 3e-7 to 0.999, and 8e-7 up to ±1; its gradient in the covariance
    by 1e-11, 4e-7, 3e-5 and, at ±1 where the means are nearly alike, 1e-3. No tensor is larger than the
    result.

    Args:
        mean_a: Of a.
        mean_b: Of b.
        var_a: Of a, nowhere negative.
        var_b: Of b, nowhere negative.
        covariance: Of a and b; a correlation beyond ±1, by rounding, counts as ±1.

    Returns:
        A tensor of the shape to which all five broadcast, which can be differentiated once; exactly 0
        where a variance is.
    """
    crossed: Tensor = _Cross.apply(  # type: ignore[no-untyped-call]
        mean_a, mean_b, var_a, var_b, covariance
    )
    return crossed


def hinged_covariance(mean: Tensor, covariance: Tensor, hinges: Hinges) -> Tensor:
    """The covariance matrix of a piecewise linear function, elementwise, of a normal tensor z.

    Args:
        mean: Of z, (batch, …), n numbers an example.
        covariance: Of z, (batch, n, n) or (1, n, n).
        hinges: The function.

    Returns:
        Tensor (batch, n, n), which can be differentiated once; as near as ``cross_rectified_covariance``,
        and so also on the diagonal, but for the rectifier.
    """
    means, variance = mean.flatten(1), covariance.diagonal(dim1=-2, dim2=-1)
    if hinges is RECTIFIER:
        return rectified_covariance(means, covariance)
    slope, bends = _flat(hinges.slope, mean), [_flat(bend, mean) for bend in hinges.bends]
    shifted, std = [means - position for position in hinges.positions], std_of(variance)
    gain = torch.zeros_like(means)
    for bend, part in zip(bends, shifted, strict=True):
        gain = gain + bend * cdf(part / std)
    along = slope[:, :, None] * (slope / 2 + gain)[:, None, :]  # Cov(x, max(y, 0)) = Cov(x, y) Φ(k)
    total = covariance * (along + along.mT)
    for index, (bend, part) in enumerate(zip(bends, shifted, strict=True)):
        for other_bend, other in zip(bends[: index + 1], shifted, strict=False):
            crossed = cross_rectified_covariance(
                part[:, :, None], other[:, None, :], variance[:, :, None], variance[:, None, :], covariance
            )
            crossed = crossed * (bend[:, :, None] * other_bend[:, None, :])
            total = total + (crossed if other is part else crossed + crossed.mT)
    return total


def product_covariance(
    mean_x: Tensor, mean_y: Tensor, covariance_x: Tensor, covariance_y: Tensor, between: Tensor
) -> Tensor:
    """The covariance matrix of x · y, elementwise, of jointly normal vectors x and y (Isserlis, 1918).

    Args:
        mean_x: Of x, (batch, n).
        mean_y: Of y, (batch, n).
        covariance_x: Of x, (batch or 1, n, n).
        covariance_y: Of y, (batch or 1, n, n).
        between: Cov(x_i, y_j), (batch or 1, n, n).

    Returns:
        Tensor (batch, n, n); exact. The mean is mean_x · mean_y and the diagonal of ``between``.
    """
    mixed = mean_y[:, :, None] * mean_x[:, None, :] * between
    of_x = mean_y[:, :, None] * mean_y[:, None, :] * covariance_x
    of_y = mean_x[:, :, None] * mean_x[:, None, :] * covariance_y
    return of_x + of_y + (mixed + mixed.mT) + (covariance_x * covariance_y + between * between.mT)


def correlation_of(covariance: Tensor) -> Tensor:
    """The correlations of a covariance matrix, in [-1, 1]; 0 where a variance is 0.

    Args:
        covariance: Tensor (…, n, n).

    Returns:
        A tensor like it; its gradient is finite everywhere.
    """
    std = std_of(covariance.diagonal(dim1=-2, dim2=-1))
    return (covariance / (std[..., :, None] * std[..., None, :])).clamp(-1, 1)


def hermite_coefficients(
    function: Callable[[Tensor], Tensor], mean: Tensor, variance: Tensor, degree: int, *, num_nodes: int = 32
) -> Tensor:
    """What a function of a normal z is made of: c_n = E f(z) He_n((z - mean) / std) / √n!.

    Args:
        function: f, elementwise and smooth.
        mean: Of z.
        variance: Of z, nowhere negative; broadcasts to the mean.
        degree: The largest n.
        num_nodes: Of the Gauss-Hermite quadrature; exact where f is a polynomial and its degree and n
            add up to less than 2 num_nodes.

    Returns:
        Tensor (degree + 1, *mean.shape): c_0 is the mean of f, and the sum of the other squares its
        variance, but for the terms left out.
    """
    std, center = std_of(variance), function(mean)
    terms = [torch.zeros_like(center) for _ in range(degree + 1)]
    for node, weight in zip(*nodes_and_weights(num_nodes), strict=True):
        change = function(mean + std * node) - center  # so that constants cancel exactly
        for order, value in enumerate(_hermite(node, degree)):
            terms[order] = terms[order] + (weight * value) * change
    return torch.stack([terms[0] + center, *terms[1:]])


def expanded_covariance(coefficients: Tensor, correlation: Tensor) -> Tensor:
    """The covariance matrix of f(z), elementwise: Cov(f_i, f_j) = Σ_{n ≥ 1} ρ_ijⁿ c_n(i) c_n(j).

    Args:
        coefficients: Of ``hermite_coefficients``, (degree + 1, batch, n).
        correlation: Of z, (batch, n, n) or (1, n, n).

    Returns:
        Tensor (batch, n, n). What the expansion leaves out is at most |ρ|^(degree + 1) times the root of
        the two variances left out, so least far from the diagonal.
    """
    total = torch.zeros_like(coefficients[0, :, :, None] * correlation)
    for term in reversed(coefficients[1:].unbind()):
        total = correlation * (total + term[:, :, None] * term[:, None, :])
    return total


def _flat(number: float | Tensor, like: Tensor) -> Tensor:
    """What broadcasts to an example, written out, (1, n)."""
    value = number if isinstance(number, Tensor) else like.new_full((), number)
    return value.broadcast_to(1, *like.shape[1:]).flatten(1)


def _hermite(node: float, degree: int) -> list[float]:
    """He_n(node) / √n! for n = 0 … degree."""
    values = [1.0]
    for order in range(degree):
        former = math.sqrt(order) * values[order - 1] if order else 0.0
        values.append((node * values[order] - former) / math.sqrt(order + 1))
    return values


class _Pair(NamedTuple):
    """Two normal variables: deviations, means divided by them, and the correlation, 0 where one is fixed."""

    std_a: Tensor
    std_b: Tensor
    h: Tensor
    k: Tensor
    rho: Tensor

    @classmethod
    def of(cls, mean_a: Tensor, mean_b: Tensor, var_a: Tensor, var_b: Tensor, covariance: Tensor) -> _Pair:
        std_a, std_b = std_of(var_a), std_of(var_b)
        rho = (covariance / (std_a * std_b)).clamp(-1, 1)
        is_random = (var_a > 0) & (var_b > 0)
        return cls(std_a, std_b, mean_a / std_a, mean_b / std_b, torch.where(is_random, rho, 0))


def _integrals(pair: _Pair) -> tuple[Tensor, Tensor]:
    """∫₀^ρ φ₂ dr = Φ₂ - Φ Φ, and ∫₀^ρ (ρ - r) φ₂ dr."""
    angle = torch.asin(pair.rho)
    apart, together = (pair.h - pair.k).square() / 4, (pair.h + pair.k).square() / 4
    mass = torch.zeros_like(apart + angle)
    moment = torch.zeros_like(mass)
    for node, weight in _NODES:
        sine = torch.sin(angle * node)  # never ±1: no node is at an end
        density = torch.exp(-(apart / (1 - sine) + together / (1 + sine)))
        mass.add_(density, alpha=weight)
        moment.addcmul_(density, pair.rho - sine, value=weight)
    scale = angle / (2 * math.pi)
    return mass * scale, moment * scale


class _Cross(torch.autograd.Function):
    """With closed forms for its gradient, which takes no second quadrature and is finite everywhere."""

    @staticmethod
    @override
    def forward(
        ctx: Any, mean_a: Tensor, mean_b: Tensor, var_a: Tensor, var_b: Tensor, covariance: Tensor
    ) -> Tensor:
        pair = _Pair.of(mean_a, mean_b, var_a, var_b, covariance)
        mass, moment = _integrals(pair)
        ctx.save_for_backward(mean_a, mean_b, var_a, var_b, covariance, mass)
        return pair.std_a * pair.std_b * (pair.rho * (cdf(pair.h) * cdf(pair.k)) + moment)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, mass = ctx.saved_tensors
        pair = _Pair.of(*inputs)
        other = _Pair(pair.std_b, pair.std_a, pair.k, pair.h, pair.rho)
        gradients: list[Tensor | None] = [None] * len(inputs)
        (gradients[0], gradients[2]), (gradients[1], gradients[3]) = (
            _slopes(pair, mass, ctx.needs_input_grad[0], ctx.needs_input_grad[2]),
            _slopes(other, mass, ctx.needs_input_grad[1], ctx.needs_input_grad[3]),
        )
        if ctx.needs_input_grad[4]:
            gradients[4] = cdf(pair.h) * cdf(pair.k) + mass
        return tuple(
            None if slope is None else (upstream * slope).sum_to_size(value.shape)
            for value, slope in zip(inputs, gradients, strict=True)
        )


def _slopes(
    pair: _Pair, mass: Tensor, needs_mean: bool, needs_variance: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Derivatives in the mean and in the variance of a; ``mass`` is Φ₂ - Φ Φ.

    They are Cov(1[a > 0], max(b, 0)), and half the density of a at 0 times what max(b, 0) then expects
    more than it does without.
    """
    if not (needs_mean or needs_variance):
        return None, None
    _, std_b, h, k, rho = pair
    std = ((1 - rho) * (1 + rho)).clamp_min(torch.finfo(rho.dtype).eps).sqrt()  # of b given a, over std_b
    at_zero = k - rho * h  # E b given a = 0, over std_b
    share = cdf(at_zero / std)
    for_mean = for_variance = None
    if needs_mean:
        steep = rho * pdf(h) * share + pdf(k) * (cdf((h - rho * k) / std) - cdf(h))
        for_mean = std_b * (k * mass + steep)
    if needs_variance:
        gain = (at_zero * share + std * pdf(at_zero / std)) - (k * cdf(k) + pdf(k))
        for_variance = (pdf(h) / pair.std_a) * (std_b / 2) * gain
    return for_mean, for_variance
