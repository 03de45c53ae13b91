"""Exponential, logarithm and powers: functions of each coordinate whose slope has no bound everywhere.

Where an interval leaves what they are defined on, their bounds are infinite or NaN.
"""

from __future__ import annotations

import math
from functools import partial

import torch
from torch import Tensor

from withstand.graph.primitives import CONCAVE, CONVEX, Curvature, Elementwise, Unimodal
from withstand.moments import EXPONENTIAL, LOGARITHM, SQUARED, power_moments


def power(exponent: float) -> Elementwise | Unimodal:
    """x^p, and so the square root, its inverse and the reciprocal.

    Args:
        exponent: p, any number but 0. Where it is negative, an interval that holds 0 has no bounds; where it
            is no integer, neither has one that holds a negative number.

    Raises:
        ValueError: the exponent is 0.
    """
    if exponent == 0:
        raise ValueError("The power 0 is the constant 1, but power() needs another exponent.")
    if exponent in (-1, 2):
        return SQUARE if exponent == 2 else RECIPROCAL
    function, slope = partial(torch.pow, exponent=exponent), partial(_power_slope, exponent)
    is_whole, curvature = float(exponent).is_integer(), _power_curvature(exponent)
    if exponent < 0:  # on either side of 0 it falls all along, or rises; no interval with both has bounds
        moments = power_moments(exponent)
        return Unimodal(function, slope, math.inf, 0.0, moments=moments, pole=0.0, curvature=curvature)
    if not is_whole:
        return Elementwise(function, slope, moments=power_moments(exponent), curvature=curvature)
    if exponent % 2:
        return Elementwise(function, slope, curvature=curvature)
    return Unimodal(function, slope, 0.0, 0.0, curvature=curvature)


def _power_curvature(exponent: float) -> Curvature:
    """On x > 0, and on x < 0 where it is defined there."""
    if exponent == 1:
        return CONVEX
    if exponent % 2 == 1:
        return Curvature(is_convex=False, turns=(0.0,))
    return CONCAVE if 0 < exponent < 1 else CONVEX


def _power_slope(exponent: float, lower: Tensor, upper: Tensor) -> Tensor:
    """The slope's size grows, or shrinks, all along |x|: it is largest at an end."""
    steepest = abs(exponent) * torch.maximum(
        lower.pow(exponent - 1).abs(),
        upper.pow(exponent - 1).abs(),
    )
    return torch.where((lower <= 0) & (upper >= 0), math.inf, steepest) if exponent < 0 else steepest


def _exp_slope(lower: Tensor, upper: Tensor) -> Tensor:
    return upper.exp()


def _log_slope(lower: Tensor, upper: Tensor) -> Tensor:
    return torch.where(lower > 0, 1 / lower, math.inf)


EXP = Elementwise(torch.exp, _exp_slope, moments=EXPONENTIAL, curvature=CONVEX)
LOG = Elementwise(torch.log, _log_slope, moments=LOGARITHM, curvature=CONCAVE)
SQUARE = Unimodal(torch.square, partial(_power_slope, 2), 0.0, 0.0, moments=SQUARED, curvature=CONVEX)
RECIPROCAL = Unimodal(
    torch.reciprocal,
    partial(_power_slope, -1),
    math.inf,
    0.0,
    moments=power_moments(-1),
    pole=0.0,
    curvature=_power_curvature(-1),
)
