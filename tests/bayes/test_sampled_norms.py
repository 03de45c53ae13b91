from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from withstand.bayes.sampled_norms import (
    confidence_bound,
    drawn_operators,
    estimated_norm,
    noise_lipschitz,
)
from withstand.operators import Convolution, Dense, Shape, upper_bound


def _generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _dense(*shape: int, seed: int = 0) -> Dense:
    return Dense(torch.randn(shape, generator=_generator(seed), dtype=torch.float64))


def _convolution() -> Convolution:
    weight = torch.randn(3, 2, 3, 3, generator=_generator(4), dtype=torch.float64)
    return Convolution(weight, [1, 1], [1, 1], [1, 1])


def _norm(operator: Convolution) -> float:
    images = operator.apply(torch.eye(2 * 25, dtype=torch.float64).view(50, 2, 5, 5)).flatten(1)
    norm: float = torch.linalg.matrix_norm(images, ord=2).item()
    return norm


def _norms(
    means: Dense | Convolution, stds: Tensor, shape: Shape, num_draws: int, generator: torch.Generator
) -> Tensor:
    drawn = drawn_operators(means, stds, num_draws, generator)
    return torch.stack([upper_bound(operator, shape) for operator in drawn])


def test_sampled_norms_draw_mean_and_noise_of_the_generator() -> None:
    means, stds = _dense(3, 4), torch.full((3, 4), 0.5)
    first, second = drawn_operators(means, stds, 2, _generator(9))
    generator = _generator(9)
    for drawn in (first, second):
        noise = torch.randn(3, 4, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(drawn.weight, means.weight + 0.5 * noise)
    with pytest.raises(ValueError, match="at least 1"):
        next(drawn_operators(means, stds, 0, _generator()))


def test_sampled_norms_bound_those_of_the_draws_from_above() -> None:
    means, stds = _dense(6, 4), torch.full((6, 4), 0.3)
    norms = _norms(means, stds, (4,), 3, _generator(1))
    exact = torch.stack(
        [
            torch.linalg.matrix_norm(drawn.weight, ord=2)
            for drawn in drawn_operators(means, stds, 3, _generator(1))
        ]
    )
    assert (norms >= exact).all()
    torch.testing.assert_close(norms, exact, rtol=1e-5, atol=0)
    kernel = _convolution()
    (norm,) = _norms(kernel, torch.zeros_like(kernel.weight), (2, 5, 5), 1, _generator())
    assert _norm(kernel) <= norm <= _norm(kernel) * (1 + 1e-5)


def test_sampled_norms_estimates_are_near() -> None:
    means = _dense(6, 4)
    exact = torch.linalg.matrix_norm(means.weight, ord=2).item()
    assert estimated_norm(means, (4,)) == pytest.approx(exact, rel=1e-5)
    assert estimated_norm(_convolution(), (2, 5, 5)) == pytest.approx(_norm(_convolution()), rel=1e-2)


def test_lipschitz_constant_bounds_how_much_the_norm_changes() -> None:
    matrix = Dense(_dense(5, 4).weight.abs())
    assert noise_lipschitz(matrix) == matrix.weight.max()
    kernel = _convolution().entrywise(torch.abs)
    lipschitz = noise_lipschitz(kernel)
    most = kernel.weight.amax(dim=(0, 1)).flatten()
    assert lipschitz == pytest.approx(most.square().sum().sqrt().item())
    # The steepest directions: the largest entry alone, and the largest of each tap together.
    unit = torch.where(kernel.weight == kernel.weight.amax(dim=(0, 1)), kernel.weight, 0.0)
    for noise in (torch.ones_like(kernel.weight), unit):
        direction = noise / noise.norm()
        assert _norm(replace(kernel, weight=kernel.weight * direction)) <= lipschitz


def test_lipschitz_constant_is_reached_by_one_tap() -> None:
    kernel = Convolution(torch.tensor([[[[0.7]], [[0.2]]]]), [1, 1], [0, 0], [1, 1])
    assert noise_lipschitz(kernel) == pytest.approx(0.7)


def test_confidence_bound_adds_a_margin_that_draws_shrink() -> None:
    norms = torch.full((4,), 3.0, dtype=torch.float64)
    expected = 3 + 0.5 * math.sqrt(2 * math.log(100) / 4)
    assert confidence_bound(norms, 0.5, 0.99) == pytest.approx(expected)
    assert confidence_bound(norms, 0.5, 0) == pytest.approx(3.0)
    for bad in (-0.1, 1.0, 1.5):
        with pytest.raises(ValueError, match="confidence"):
            confidence_bound(norms, 0.5, bad)


def test_confidence_bound_holds_as_often_as_it_says() -> None:
    # Of one entry, the least concentrated case: E |0.1 + g|, by the folded normal's mean.
    means, stds = Dense(torch.full((1, 1), 0.1)), torch.ones(1, 1)
    truth = math.sqrt(2 / math.pi) * math.exp(-0.005) + 0.1 * math.erf(0.1 / math.sqrt(2))
    generator = _generator(3)
    held = [confidence_bound(_norms(means, stds, (1,), 3, generator), 1.0, 0.6) >= truth for _ in range(200)]
    assert sum(held) / len(held) >= 0.6
