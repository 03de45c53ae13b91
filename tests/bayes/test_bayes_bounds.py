from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from withstand import bayes
from withstand.bayes.expected_norm_bounds import (
    domination_bound,
    expected_norm_bound,
    frobenius_bound,
    kernel_bound,
    moment_bound,
    noise_bounds,
    series_bound,
    tap_bound,
)
from withstand.operators import Convolution, Dense, Shape


def _stds(*shape: int, spread: float = 0.5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.08 * torch.exp(spread * torch.randn(shape, generator=generator, dtype=torch.float64))


def _matrix(operator: Dense | Convolution, input_shape: Shape) -> Tensor:
    size = math.prod(input_shape)
    units = torch.eye(size, dtype=torch.float64).view(size, *input_shape)
    return operator.apply(units).flatten(1).T


def _mean_norm(operator: Dense | Convolution, stds: Tensor, input_shape: Shape, num_draws: int) -> float:
    """The mean norm of the true operator's matrix, drawn around the given means; rounded down by 3 errors."""
    generator = torch.Generator().manual_seed(7)
    norms = torch.stack(
        [
            torch.linalg.matrix_norm(_matrix(replace(operator, weight=weight), input_shape), ord=2)
            for weight in (
                operator.weight + stds * torch.randn(stds.shape, generator=generator, dtype=torch.float64)
                for _ in range(num_draws)
            )
        ]
    )
    return (norms.mean() - 3 * norms.std() / math.sqrt(num_draws)).item()


CONVOLUTIONS: list[tuple[Convolution, Shape]] = [
    (Convolution(_stds(4, 3, 3, 3), [1, 1], [1, 1], [1, 1]), (3, 6, 6)),
    (Convolution(_stds(4, 3, 3, 2), [2, 1], [0, 2], [1, 1]), (3, 7, 5)),
    (Convolution(_stds(6, 2, 3, 3, spread=1.0), [1, 1], [2, 2], [2, 2], 2), (4, 6, 6)),
    (Convolution(_stds(4, 1, 3), [3], [1], [1], 4), (4, 11)),
    (Convolution(_stds(5, 4, 1, 1), [1, 1], [0, 0], [1, 1]), (4, 4, 4)),
]


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (30, 1), (12, 12), (40, 15), (5, 60)])
@pytest.mark.parametrize("spread", [0.0, 0.5, 1.5])
def test_noise_bounds_are_all_above_matrices(shape: tuple[int, int], spread: float) -> None:
    stds = _stds(*shape, spread=spread)
    zero = Dense(torch.zeros_like(stds))
    mean = _mean_norm(zero, stds, (shape[1],), 300)
    bounds = noise_bounds(Dense(stds), (shape[1],))
    assert set(bounds) == {"frobenius", "series", "domination", "moments"}
    for name, bound in bounds.items():
        assert mean <= bound, name
        assert math.isfinite(bound)


@pytest.mark.parametrize(("stds", "input_shape"), CONVOLUTIONS)
def test_noise_bounds_are_all_above_convolutions(stds: Convolution, input_shape: Shape) -> None:
    zero = replace(stds, weight=torch.zeros_like(stds.weight))
    mean = _mean_norm(zero, stds.weight, input_shape, 200)
    bounds = noise_bounds(stds, input_shape)
    assert set(bounds) == {"frobenius", "series", "taps", "kernel"}
    for name, bound in bounds.items():
        assert mean <= bound, name
        assert math.isfinite(bound)


@pytest.mark.parametrize(("stds", "input_shape"), CONVOLUTIONS)
def test_noise_bounds_frobenius_and_series_are_those_of_the_matrix(
    stds: Convolution, input_shape: Shape
) -> None:
    matrix = _matrix(stds, input_shape)
    assert frobenius_bound(stds, input_shape) == pytest.approx(matrix.norm().item(), rel=1e-7)
    variance = max(matrix.norm(dim=0).max().item(), matrix.norm(dim=1).max().item()) ** 2
    expected = math.sqrt(2 * variance * math.log(sum(matrix.shape)))
    assert series_bound(stds, input_shape) == pytest.approx(expected, rel=1e-7)


def test_noise_bounds_series_of_one_kernel_entry_is_diagonal_either_way() -> None:
    for stds, input_shape in CONVOLUTIONS:
        for index in range(stds.weight.numel()):
            one = torch.zeros_like(stds.weight).flatten()
            one[index] = 1.0
            matrix = _matrix(replace(stds, weight=one.view_as(stds.weight)), input_shape)
            for square in (matrix @ matrix.T, matrix.T @ matrix):
                assert torch.equal(square, square.diag().diag())


def test_noise_bounds_of_constant_deviations_have_closed_forms() -> None:
    stds = torch.full((30, 20), 0.25)
    assert domination_bound(stds) == pytest.approx(0.25 * (math.sqrt(30) + math.sqrt(20)))
    assert frobenius_bound(Dense(stds), (20,)) == pytest.approx(0.25 * math.sqrt(600))
    assert series_bound(Dense(stds), (20,)) == pytest.approx(0.25 * math.sqrt(60 * math.log(50)))


def test_domination_bound_takes_rows_or_columns() -> None:
    rows = torch.tensor([[1.0], [0.1], [0.1]]).expand(3, 4)
    expected = 1.0 * math.sqrt(4) + math.sqrt(1.02)
    assert domination_bound(rows) == pytest.approx(expected)
    assert domination_bound(rows.T) == pytest.approx(expected)
    blocks = torch.stack([rows, rows])
    joined = torch.cat([F.pad(rows, (0, 4)), F.pad(rows, (4, 0))])
    assert domination_bound(blocks) == pytest.approx(math.sqrt(8) + math.sqrt(2.04))
    assert moment_bound(blocks) == pytest.approx(moment_bound(joined))


def test_moment_bound_is_the_comparison_for_the_best_power() -> None:
    stds = torch.full((50, 40), 0.5)

    def bound(p: int) -> float:
        height, width = 51 + p - 1, 41 + p - 1  # one more each, for rounding
        share = min(50 / height, 40 / width) * width
        deviation = math.pow(2**p * math.factorial(p), 1 / (2 * p))
        return 0.5 * math.pow(share, 1 / (2 * p)) * (math.sqrt(height) + math.sqrt(width) + deviation)

    assert moment_bound(stds) == pytest.approx(min(map(bound, range(1, 40))), rel=1e-6)
    assert moment_bound(stds) == moment_bound(8 * stds) / 8


def test_moment_bound_notices_that_few_entries_are_large() -> None:
    identity = torch.eye(2000)
    assert moment_bound(identity) < 0.5 * domination_bound(identity)
    assert moment_bound(identity) > math.sqrt(2 * math.log(2000))  # about what E max |g| is


def test_kernel_bound_counts_how_often_inputs_and_outputs_share() -> None:
    weight = torch.full((4, 3, 3, 3), 0.1, dtype=torch.float64)
    matrix = 0.1 * (math.sqrt(4) + math.sqrt(27))
    added = 0.1 * (math.sqrt(36) + math.sqrt(3))
    dense = Convolution(weight, [1, 1], [1, 1], [1, 1])
    assert kernel_bound(dense, (3, 8, 8)) == pytest.approx(3 * matrix, rel=1e-6)
    apart = Convolution(weight, [3, 3], [0, 0], [1, 1])
    assert kernel_bound(apart, (3, 9, 9)) == pytest.approx(matrix, rel=1e-6)
    one_place = Convolution(weight, [1, 1], [1, 1], [1, 1])
    assert kernel_bound(one_place, (3, 1, 1)) == pytest.approx(min(matrix, added), rel=1e-6)
    of_a_tap = min(0.1 * (2 + math.sqrt(3)), 0.1 * math.sqrt(12), 0.1 * math.sqrt(2 * 4 * math.log(7)))
    assert tap_bound(dense) == pytest.approx(9 * of_a_tap, rel=1e-6)


@pytest.mark.parametrize(("like", "input_shape"), CONVOLUTIONS)
def test_expected_norm_bound_is_above_convolutions(like: Convolution, input_shape: Shape) -> None:
    generator = torch.Generator().manual_seed(2)
    weight = 0.2 * torch.randn(like.weight.shape, generator=generator, dtype=torch.float64)
    means = replace(like, weight=weight)
    bound = expected_norm_bound(means, like.weight, input_shape)
    norm = torch.linalg.matrix_norm(_matrix(means, input_shape), ord=2).item()
    assert _mean_norm(means, like.weight, input_shape, 200) <= bound
    assert norm <= bound <= norm * (1 + 1e-5) + min(noise_bounds(like, input_shape).values()) + 1e-9


def test_expected_norm_bound_of_a_vector_is_the_root_of_all_squares() -> None:
    means, stds = torch.full((1, 40), 0.3), torch.full((1, 40), 0.4)
    assert expected_norm_bound(Dense(means), stds, (40,)) == pytest.approx(0.5 * math.sqrt(40), rel=1e-6)


@given(height=st.integers(1, 8), width=st.integers(1, 8), spread=st.floats(0, 3), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_expected_norm_bound_is_above_matrices(height: int, width: int, spread: float, seed: int) -> None:
    stds = _stds(height, width, spread=spread, seed=seed)
    means = Dense(_stds(height, width, seed=seed + 1) - 0.08)
    assert _mean_norm(means, stds, (width,), 200) <= expected_norm_bound(means, stds, (width,))


def test_expected_norm_bound_without_noise_is_the_norm() -> None:
    means = Dense(_stds(12, 9))
    norm = torch.linalg.matrix_norm(means.weight, ord=2).item()
    assert norm <= expected_norm_bound(means, torch.zeros(12, 9), (9,)) <= norm * (1 + 1e-6)
    nothing = replace(CONVOLUTIONS[0][0], weight=torch.zeros(4, 3, 3, 3))
    assert set(noise_bounds(nothing, (3, 6, 6)).values()) == {0.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_noise_bounds_of_what_is_not_finite_are_not_finite(bad: float) -> None:
    stds = _stds(6, 5)
    stds[2, 3] = bad
    assert set(noise_bounds(Dense(stds), (5,)).values()) == {math.inf}
    assert expected_norm_bound(Dense(_stds(6, 5)), stds, (5,)) == math.inf
    assert expected_norm_bound(Dense(stds), _stds(6, 5), (5,)) == math.inf
    kernel = CONVOLUTIONS[0][0].entrywise(lambda weight: weight.clone())
    kernel.weight[1, 1, 1, 1] = bad
    assert set(noise_bounds(kernel, (3, 6, 6)).values()) == {math.inf}


@pytest.mark.parametrize(("shape", "published"), [((784, 1200), 15.0), ((1200, 10), 13.8)])
def test_noise_bounds_of_large_matrices_rank_as_published(shape: tuple[int, int], published: float) -> None:
    stds = _stds(*shape).float()
    generator = torch.Generator().manual_seed(0)
    sampled = torch.linalg.matrix_norm(stds * torch.randn(shape, generator=generator), ord=2).item()
    bounds = noise_bounds(Dense(stds), (shape[1],))
    surrogate = bayes.fluctuation(Dense(stds), (shape[1],)).item()
    assert sampled < surrogate < min(bounds.values())
    assert bounds["series"] == pytest.approx(published, rel=0.06)


@pytest.mark.parametrize("bound", [domination_bound, moment_bound])
def test_noise_bounds_grow_with_each_deviation(bound: Callable[[Tensor], float]) -> None:
    stds = _stds(7, 5)
    assert bound(stds) <= bound(stds * 1.5)
    larger = stds.clone()
    larger[3, 2] = 5.0
    assert bound(stds) < bound(larger)
