"""Paths that are affine in the same value, and meet: bounded as the one operator that they are together."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.domains import Ball, Box, BoxBall, Program
from withstand.operators import GuaranteedNorms, PowerIteration, Shape

Make = Callable[[], "Met"]


class Met(nn.Module):
    """An activation, and paths that meet after it."""

    def __init__(self, compute: Callable[[Any, Tensor], Tensor], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            setattr(self, name, layer)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.after(torch.tanh(x))

    def after(self, x: Tensor) -> Tensor:
        """What comes after the activation."""
        return self.compute(self, x)


def _conv(channels: int, out: int, size: int, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(channels, out, size, **{"padding": size // 2, **options})


ONE_OPERATOR: Mapping[str, tuple[Make, Shape]] = {
    "itself": (lambda: Met(lambda _, x: x - x), (4,)),
    "difference of two": (lambda: Met(lambda net, x: net.a(x) - net.a(x), a=nn.Linear(4, 3)), (4,)),
    "residual": (lambda: Met(lambda net, x: x + net.a(x), a=_conv(2, 2, 3)), (2, 4, 5)),
    "residual of groups": (lambda: Met(lambda net, x: x - net.a(x), a=_conv(4, 4, 3, groups=2)), (4, 4, 4)),
    "residual with normalisation": (
        lambda: Met(
            lambda net, x: 0.5 * x - net.norm(net.a(x)),
            a=_conv(2, 2, 3, dilation=2, padding=2),
            norm=nn.BatchNorm2d(2),
        ),
        (2, 5, 5),
    ),
    "two kernels": (
        lambda: Met(
            lambda net, x: net.a(x) + net.b(x), a=_conv(2, 3, 3, stride=2), b=_conv(2, 3, 1, stride=2)
        ),
        (2, 5, 5),
    ),
    "dense": (
        lambda: Met(lambda net, x: net.a(x) + 2 * x - net.b(x), a=nn.Linear(4, 4), b=nn.Linear(4, 4)),
        (4,),
    ),
    "joined": (
        lambda: Met(lambda net, x: torch.cat([net.a(x), x, -x], 1), a=nn.Linear(4, 3)),
        (4,),
    ),
    "joined images": (lambda: Met(lambda net, x: torch.cat([net.a(x), x], 1), a=_conv(2, 3, 3)), (2, 4, 4)),
}


def _made(name: str) -> tuple[Met, Tensor]:
    make, shape = ONE_OPERATOR[name]
    model = make().double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_var is not None:
            module.running_var.uniform_(0.5, 2.0)
    return model, torch.randn(3, *shape, dtype=torch.float64)


def _matrix(model: Met, images: Tensor) -> Tensor:
    unit = torch.eye(images[0].numel(), dtype=images.dtype).reshape(-1, *images.shape[1:])
    return (model.after(unit) - model.after(torch.zeros_like(unit))).flatten(1).T


@pytest.mark.parametrize("name", ONE_OPERATOR)
def test_join_has_the_norm_of_the_one_operator(name: str) -> None:
    model, images = _made(name)
    radius = torch.tensor([0.0, 0.1, 2.0], dtype=torch.float64)
    with torch.no_grad():
        ball = Program(model, images).run(Ball(images, radius), GuaranteedNorms())
        matrix = _matrix(model, images)
        torch.testing.assert_close(ball.midpoint, model(images))
    expected = radius * torch.linalg.matrix_norm(matrix, ord=2)
    torch.testing.assert_close(ball.radius, expected, rtol=2e-6, atol=1e-12)
    assert (ball.radius >= expected * (1 - 1e-12)).all()


@pytest.mark.parametrize("name", ONE_OPERATOR)
def test_join_has_the_box_of_the_one_operator(name: str) -> None:
    model, images = _made(name)
    with torch.no_grad():
        box = Program(model, images).run(Box(images - 0.2, images + 0.3), GuaranteedNorms())
        lower, upper = torch.tanh(images - 0.2), torch.tanh(images + 0.3)
        middle, half = (lower + upper) / 2, ((upper - lower) / 2).flatten(1)
        reach = (half @ _matrix(model, images).abs().T).reshape(box.shape)
        torch.testing.assert_close(box.lower, model.after(middle) - reach)
        torch.testing.assert_close(box.upper, model.after(middle) + reach)


@pytest.mark.parametrize("name", ONE_OPERATOR)
def test_join_of_both_sets_holds_all_members(name: str) -> None:
    model, images = _made(name)
    radius = torch.full((3,), 0.5, dtype=torch.float64)
    with torch.no_grad():
        reached = Program(model, images).run(BoxBall(Ball(images, radius)), GuaranteedNorms())
        lower, upper = reached.ends
        for _ in range(50):
            direction = torch.randn_like(images)
            length = torch.linalg.vector_norm(direction.flatten(1), dim=1)
            moved = model(images + 0.5 * direction / length.reshape(-1, *[1] * (images.dim() - 1)))
            assert ((lower - 1e-12 <= moved) & (moved <= upper + 1e-12)).all()
            away = torch.linalg.vector_norm((moved - reached.center).flatten(1), dim=1)
            assert (away <= reached.ball.radius + 1e-12).all()


def test_join_of_estimated_norms_has_gradients_to_all_weights() -> None:
    model, images = _made("residual with normalisation")
    ball = Program(model, images).run(Ball(images, torch.ones(3).double()), PowerIteration())
    for gradient in torch.autograd.grad(ball.radius.sum(), list(model.parameters())[:1]):
        assert gradient.isfinite().all()
        assert gradient.any()


def test_join_of_what_is_no_one_operator_is_as_its_parts() -> None:
    model = Met(lambda net, x: (x + net.a(net.b(x))).flatten(1), a=_conv(2, 2, 3), b=_conv(2, 2, 3)).double()
    images, norms = torch.randn(3, 2, 4, 4, dtype=torch.float64), GuaranteedNorms()
    with torch.no_grad():
        ball = Program(model, images).run(Ball(images, torch.ones(1).double()), norms)
        parts = [
            Program(part, images).run(Ball(images, torch.ones(1).double()), norms)
            for part in model.children()
        ]
    expected = 1 + math.prod(float(part.radius) for part in parts)
    assert float(ball.radius[0]) == pytest.approx(expected)


def test_join_by_the_statistics_of_a_batch_is_as_its_parts() -> None:
    model = (
        Met(lambda net, x: x + net.norm(net.a(x)), a=_conv(2, 2, 3), norm=nn.BatchNorm2d(2)).double().train()
    )
    images = torch.randn(3, 2, 4, 4, dtype=torch.float64)
    ball = Program(model, images).run(Ball(images, torch.ones(1).double()), GuaranteedNorms())
    torch.testing.assert_close(ball.midpoint, model(images))
    assert (ball.radius > 1).all()
