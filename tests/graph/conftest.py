"""Exact operator norms, and the check that an operation is bounded exactly, or soundly."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core import norms
from withstand.domains import Ball, Box, BoxBall, Linear, Program, Region
from withstand.domains.linear.linear_inputs import Interval
from withstand.graph.primitives import moved
from withstand.operators import GuaranteedNorms, LinearOperator, OperatorNorms, Shape


class Function(nn.Module):
    """A function as a model."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    @override
    def forward(self, x: Tensor) -> Any:
        return self.function(x)


class ExactNorms(OperatorNorms):
    """The largest singular value of the matrix, written out."""

    @override
    def of(self, operator: LinearOperator, input_shape: Shape, key: str) -> Tensor:
        unit = torch.eye(math.prod(input_shape)).to(operator.entries).reshape(-1, *input_shape)
        norm: Tensor = torch.linalg.matrix_norm(operator.apply(unit).flatten(1), ord=2)
        closed = operator.norm(input_shape)
        if closed is not None:
            torch.testing.assert_close(closed, norm)
        return norm


def _sets(center: Tensor, halfwidth: Tensor, radius: Tensor) -> tuple[Box, Ball, BoxBall, Linear]:
    box, ball = Box(center - halfwidth, center + halfwidth), Ball(center, radius)
    return box, ball, BoxBall(ball, box), Linear.of(Interval(*box.ends), box)


def _around(shape: Shape, size: float) -> tuple[Tensor, Tensor, Tensor]:
    """Centers, half-widths and radii of two sets."""
    generator = torch.Generator().manual_seed(0)
    center = torch.randn(2, *shape, generator=generator, dtype=torch.float64)
    halfwidth = size * torch.rand(2, *shape, generator=generator, dtype=torch.float64)
    return (
        center,
        halfwidth,
        size * math.sqrt(math.prod(shape)) * torch.tensor([0.2, 0.6], dtype=torch.float64),
    )


def _model_of(function: Callable[[Tensor], Any]) -> nn.Module:
    return function if isinstance(function, nn.Module) else Function(function)


def _assert_exact(function: Callable[[Tensor], Tensor], shape: Shape) -> None:
    """The image of each set under a linear model is that of the matrix, written out."""
    model = _model_of(function).double().eval()
    center, halfwidth, radius = _around(shape, 0.5)
    with torch.no_grad():
        zero = model(torch.zeros(1, *shape, dtype=torch.float64))
        unit = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
        matrix = (model(unit) - zero).flatten(1).T
        image, program = model(center), Program(model, center)
        of_box, of_ball, of_both, of_linear = _sets(center, halfwidth, radius)
        box, linear = program.run(of_box, ExactNorms()), program.run(of_linear, ExactNorms())
        ball, both = program.run(of_ball, ExactNorms()), program.run(of_both, ExactNorms())
        guaranteed = program.run(Ball(center, radius), GuaranteedNorms())
    reach = (matrix.abs() @ halfwidth.flatten(1).T).T.reshape(image.shape)
    norm = torch.linalg.matrix_norm(matrix, ord=2)
    for exact in (box, linear):
        _assert_close(exact.ends, (image - reach, image + reach))
    weight, gains = _gains(linear)
    _assert_close((gains,), ((norms.flat(halfwidth) @ (weight @ matrix).abs().T),))
    _assert_close((ball.center, ball.radius), (image, radius * norm))
    assert bool((guaranteed.radius >= radius * norm * (1 - 1e-13)).all())
    assert bool((guaranteed.radius <= radius * norm * (1 + 1e-5)).all())
    rows = matrix.norm(dim=1).reshape(image.shape[1:])
    reach = torch.minimum(reach, _per_example(radius, image) * rows)
    lower, upper = both.ends
    # Where a rule needs no operator the box is not cut to the ball: a move, say.
    assert bool((lower <= image - reach + 1e-12).all() and (upper >= image + reach - 1e-12).all())


def _assert_close(actual: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def _per_example(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (like.dim() - 1))


def _members(center: Tensor, halfwidth: Tensor, radius: Tensor, count: int) -> Iterator[tuple[int, Tensor]]:
    """Which sets hold them (box and linear, ball, both), and some members of them, (batch, …)."""
    generator = torch.Generator().manual_seed(1)
    for index in range(count):
        noise = torch.randn(center.shape, generator=generator, dtype=center.dtype)
        corner = halfwidth * noise.sign()
        inside = halfwidth * (2 * torch.rand(center.shape, generator=generator, dtype=center.dtype) - 1)
        length = _per_example(noise.flatten(1).norm(dim=1), center)
        on_sphere = noise / length * _per_example(radius, center)
        of_box = center + (corner if index % 2 else inside)
        yield 0, of_box
        yield 3, of_box
        yield 1, center + on_sphere
        yield 2, center + on_sphere.clamp(-halfwidth, halfwidth)


def _assert_sound(
    function: Callable[[Tensor], Tensor], shape: Shape, size: float = 0.05, count: int = 30
) -> None:
    """Each set's image holds those of its members, and is the model's output where the set is a point."""
    model = _model_of(function).double().eval()
    around = _around(shape, size)
    with torch.no_grad():
        program = Program(model, around[0])
        images = [program.run(value, GuaranteedNorms()) for value in _sets(*around)]
        points = [
            program.run(value, GuaranteedNorms()) for value in _sets(around[0], *(0 * x for x in around[1:]))
        ]
        expected = model(around[0])
        for point in points:
            _assert_close(point.ends, (expected, expected))
        assert all(end.isfinite().all() for image in images for end in image.ends)
        gains = [_gains(image) for image in images]
        for index, members in _members(*around, count):
            _assert_holds(images[index], gains[index], model(members))


def _gains(region: Region) -> tuple[Tensor, Tensor]:
    """Directions (directions, values), the first one 0, and how far from the center members get."""
    flat = region.monotone(moved(norms.flat))
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, flat.shape[1], generator=generator, dtype=torch.float64)
    weight[0] = 0
    return weight, flat.worst_differences(weight, torch.zeros(len(flat.center), dtype=torch.int64))


def _assert_holds(region: Region, worst: tuple[Tensor, Tensor], outputs: Tensor) -> None:
    lower, upper = region.ends
    slack = 1e-9 * (1 + outputs.abs())
    assert bool((lower <= outputs + slack).all() and (outputs <= upper + slack).all())
    weight, gains = worst
    along = norms.flat(outputs - region.center) @ weight.T
    assert bool(
        (along <= gains + 1e-9 * (1 + weight.norm(dim=1) * (1 + norms.norm(outputs, 2.0)[:, None]))).all()
    )
    ball = region if isinstance(region, Ball) else region.ball if isinstance(region, BoxBall) else None
    if ball is not None:
        distance = (outputs - ball.center).reshape(len(outputs), -1).norm(dim=1)
        assert bool((distance <= ball.radius * (1 + 1e-9) + 1e-9).all())


@pytest.fixture
def exactly() -> Callable[..., None]:
    """Checks a function, or model, that is linear."""
    return _assert_exact


@pytest.fixture
def soundly() -> Callable[..., None]:
    """Checks any function or model."""
    return _assert_sound


@pytest.fixture
def model_of() -> Callable[..., nn.Module]:
    """Makes a model of a function."""
    return _model_of
