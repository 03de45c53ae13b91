"""CROWN as in the textbooks, on matrices written out: what the linear domain is held against.

Zhang et al., "Efficient neural network robustness certification with general activation functions", NeurIPS
2018, with the slopes of Singh et al., "An abstract domain for certifying neural networks", POPL 2019. One
example at a time, every layer a matrix, every bound by a full backward pass: slow, and easy to read.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand.operators import Shape


class Bounds(NamedTuple):
    """What each coordinate lies between, (width,) each."""

    lower: Tensor
    upper: Tensor


class InputSet(NamedTuple):
    """All x with ‖x - center‖ ≤ epsilon, and 0 ≤ x ≤ 1 where ``clip``; of a center (features,) in [0, 1]."""

    center: Tensor
    norm: float
    epsilon: float
    clip: bool = False

    @property
    def box(self) -> Bounds:
        """The smallest box around the set."""
        lower, upper = self.center - self.epsilon, self.center + self.epsilon
        return Bounds(lower.clamp_min(0), upper.clamp_max(1)) if self.clip else Bounds(lower, upper)

    def least(self, weight: Tensor) -> Tensor:
        """The exact minimum of each weight[r] · x over the set, (rows,), of weight (rows, features)."""
        # A coordinate moves against its weight, by room at most.
        room = torch.full_like(weight, math.inf)
        if self.clip:
            room = torch.where(weight > 0, self.center, 1 - self.center)
        if self.norm == math.inf:
            moves = room.clamp(max=self.epsilon)
        else:
            moves = (
                self._moves_l1(weight.abs(), room) if self.norm == 1 else self._moves_l2(weight.abs(), room)
            )
        return weight @ self.center - (weight.abs() * moves).sum(1)

    def _moves_l1(self, size: Tensor, room: Tensor) -> Tensor:
        """A fractional knapsack: the heaviest coordinates first, each as far as there is room."""
        order = size.argsort(descending=True)
        sorted_room = room.gather(1, order).clamp(max=self.epsilon)
        before = sorted_room.cumsum(1) - sorted_room
        moves = torch.minimum(sorted_room, (self.epsilon - before).clamp_min(0))
        return torch.zeros_like(room).scatter(1, order, moves)

    def _moves_l2(self, size: Tensor, room: Tensor) -> Tensor:
        """Stationarity gives moves min(t · size, room); t by bisection, so that they are epsilon long."""
        low = size.new_zeros(len(size), 1)
        high = low + 1e12
        for _ in range(150):
            middle = (low + high) / 2
            length = torch.minimum(middle * size, room).norm(dim=1, keepdim=True)
            low, high = (
                torch.where(length <= self.epsilon, middle, low),
                torch.where(length <= self.epsilon, high, middle),
            )
        return torch.minimum(low * size, room)


class Affine(NamedTuple):
    """x -> matrix x + bias, of (outputs, inputs) and (outputs,)."""

    matrix: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x @ self.matrix.T + self.bias


class Leaky(NamedTuple):
    """x where x > 0 and slope · x elsewhere, 0 ≤ slope < 1: ReLU at 0."""

    slope: float

    def __call__(self, x: Tensor) -> Tensor:
        return torch.maximum(x, self.slope * x)


Layers = Sequence[Affine | Leaky]


def layers_of(model: nn.Module, shape: Shape) -> list[Affine | Leaky]:
    """A sequential model as matrices, of its own outputs at unit vectors, and activations between them.

    Args:
        model: In eval mode, float64; each part ReLU, LeakyReLU or affine.
        shape: Of one input.
    """
    result: list[Affine | Leaky] = []
    for part in model if isinstance(model, nn.Sequential) else [model]:
        if isinstance(part, nn.ReLU | nn.LeakyReLU):
            result.append(Leaky(getattr(part, "negative_slope", 0.0)))
            continue
        size = math.prod(shape)
        with torch.no_grad():
            zero = part(torch.zeros(1, *shape, dtype=torch.float64))
            unit = part(torch.eye(size, dtype=torch.float64).reshape(size, *shape))
        shape = tuple(zero.shape[1:])
        result.append(Affine((unit - zero).flatten(1).T, zero.flatten()))
    return result


def crown(
    layers: Layers,
    inputs: InputSet,
    *,
    slopes: Sequence[Tensor] | None = None,
    box: Bounds | None = None,
) -> list[Bounds]:
    """Bounds of what goes into each activation, and of what comes out at the end.

    Args:
        layers: Affine ones and activations; an affine one first, last, and between two activations.
        inputs: The set.
        slopes: Of the lower lines of unstable neurons, (width,) for each activation; adaptive where None: 1
            where the upper bound is the farther one from 0, else the activation's least slope.
        box: What holds the set. Where given, intervals go along from it: coordinates of which they leave the
            sign open are bounded by CROWN too, and what is within both counts. Textbooks have none.
    """
    result: list[Bounds] = []
    for index, layer in enumerate(layers):
        if isinstance(layer, Leaky):
            box = box and Bounds(*(layer(end) for end in box))
            continue
        box = box and _interval(layer, box)
        if isinstance(next(iter(layers[index + 1 :]), None), Affine):
            continue
        unit = torch.eye(len(layer.bias), dtype=torch.float64)
        ends = (_backward(sign * unit, layers[: index + 1], result, inputs, slopes) for sign in (1, -1))
        bounds = Bounds(next(ends), -next(ends))
        if box is not None:
            bounds = box = _met(box, bounds)
        result.append(bounds)
    return result


def least(
    weight: Tensor,
    layers: Layers,
    inputs: InputSet,
    *,
    slopes: Sequence[Tensor] | None = None,
    box: Bounds | None = None,
) -> Tensor:
    """A lower bound of each weight[r] · output, (rows,).

    Args:
        weight: Tensor (rows, outputs).
        layers: As of ``crown``.
        inputs: As of ``crown``.
        slopes: As of ``crown``.
        box: As of ``crown``; the larger one of both bounds counts.
    """
    last = layers[-1]
    assert isinstance(last, Affine)
    folded = [*layers[:-1], Affine(weight @ last.matrix, weight @ last.bias)]
    bounds = crown(folded, inputs, slopes=slopes, box=box)
    if box is None:
        return bounds[-1].lower
    bare = _backward(torch.eye(len(weight)).double(), folded, bounds, inputs, slopes)
    return torch.maximum(bounds[-1].lower, bare)


def _backward(
    rows: Tensor,
    layers: Layers,
    bounds: Sequence[Bounds],
    inputs: InputSet,
    slopes: Sequence[Tensor] | None,
) -> Tensor:
    """rows · output ≥ rows · (line), layer by layer, down to the inputs."""
    constant = rows.new_zeros(len(rows))
    number = sum(isinstance(layer, Leaky) for layer in layers)
    for layer in reversed(layers):
        if isinstance(layer, Affine):
            constant = constant + rows @ layer.bias
            rows = rows @ layer.matrix
            continue
        number -= 1
        given = None if slopes is None else slopes[number]
        below, above, intercept = _lines(layer.slope, bounds[number], given)
        positive, negative = rows.clamp_min(0), rows.clamp_max(0)
        constant = constant + negative @ intercept
        rows = positive * below + negative * above
    return constant + inputs.least(rows)


def _lines(slope: float, bounds: Bounds, given: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Slope below (through 0), slope above, and intercept above: the chord from lower to upper."""
    lower, upper = bounds
    least = torch.full_like(lower, slope)
    one = torch.ones_like(lower)
    chosen = torch.where(upper > -lower, one, least) if given is None else given
    is_on, is_off = lower >= 0, upper <= 0
    chord = (upper - slope * lower) / (upper - lower).clamp_min(torch.finfo(lower.dtype).tiny)
    below = torch.where(is_on, one, torch.where(is_off, least, chosen))
    above = torch.where(is_on, one, torch.where(is_off, least, chord))
    intercept = torch.where(is_on | is_off, 0.0, upper * (1 - chord))
    return below, above, intercept


def _interval(layer: Affine, box: Bounds) -> Bounds:
    middle, half = (box.lower + box.upper) / 2, (box.upper - box.lower) / 2
    image, reach = layer(middle), layer.matrix.abs() @ half
    return Bounds(image - reach, image + reach)


def _met(box: Bounds, other: Bounds) -> Bounds:
    """What is in both, of coordinates of which the box leaves the sign open; else the box."""
    is_open = (box.lower < 0) & (box.upper > 0)
    return Bounds(
        torch.where(is_open, torch.maximum(box.lower, other.lower), box.lower),
        torch.where(is_open, torch.minimum(box.upper, other.upper), box.upper),
    )
