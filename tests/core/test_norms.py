from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import optimize, stats
from torch import Tensor

from withstand.core import norms

Vector = NDArray[np.float64]
NORMS = [1.0, 2.0, math.inf]
SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple)
DTYPES = st.sampled_from([torch.float32, torch.float64])
RADII = st.one_of(st.just(0.0), st.floats(1e-3, 10.0))


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _batch(shape: tuple[int, ...], seed: int, dtype: torch.dtype, size: int = 3) -> Tensor:
    return torch.randn(size, *shape, generator=_generator(seed), dtype=dtype)


def _tolerance(dtype: torch.dtype) -> float:
    return 1e-5 if dtype == torch.float32 else 1e-12


# What a norm is


@pytest.mark.parametrize(
    ("p", "name", "dual"), [(1.0, "l1", math.inf), (2, "l2", 2.0), (math.inf, "linf", 1)]
)
def test_norms_have_a_label_and_a_dual(p: float, name: str, dual: float) -> None:
    assert norms.label(p) == name
    assert norms.dual(p) == dual
    assert norms.dual(norms.dual(p)) == p
    assert isinstance(norms.as_norm(p), float)


@pytest.mark.parametrize("p", [0.0, 3.0, -1.0, -math.inf, math.nan])
def test_norms_other_than_1_2_and_inf_are_refused_everywhere(p: float) -> None:
    x = torch.ones(1, 2)
    calls: list[Callable[[], object]] = [
        lambda: norms.as_norm(p),
        lambda: norms.label(p),
        lambda: norms.dual(p),
        lambda: norms.norm(x, p),
        lambda: norms.project(x, p, 1.0),
        lambda: norms.steepest(x, p),
        lambda: norms.random_in_ball(x, p, 1.0),
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"Expected a norm of 1, 2 or inf, but got"):
            call()


@pytest.mark.parametrize(("p", "expected"), [(1.0, [7.0, 0.0]), (2.0, [5.0, 0.0]), (math.inf, [4.0, 0.0])])
def test_norm_of_small_vectors(p: float, expected: list[float]) -> None:
    x = torch.tensor([[[3.0], [-4.0]], [[0.0], [0.0]]])
    torch.testing.assert_close(norms.norm(x, p), torch.tensor(expected))


@pytest.mark.parametrize("p", NORMS)
def test_norm_has_a_finite_gradient_at_zero(p: float) -> None:
    x = torch.zeros(2, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(norms.norm(x, p).sum(), x)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("p", NORMS)
def test_norms_take_an_empty_batch(p: float) -> None:
    x = torch.zeros(0, 2, 3)
    assert norms.norm(x, p).shape == (0,)
    assert norms.project(x, p, 1.0).shape == x.shape
    assert norms.steepest(x, p).shape == x.shape
    assert norms.random_in_ball(x, p, 1.0).shape == x.shape


# Projection


@pytest.mark.parametrize(
    ("p", "radius", "delta", "expected"),
    [
        (1.0, 1.0, [3.0, -1.0], [1.0, 0.0]),  # 2 off each, and one is gone
        (1.0, 5.0, [5.0, -2.0], [4.0, -1.0]),  # 1 off each
        (1.0, 2.0, [2.0, -2.0], [1.0, -1.0]),
        (2.0, 1.0, [3.0, -4.0], [0.6, -0.8]),
        (math.inf, 2.0, [3.0, -1.0], [2.0, -1.0]),
        (1.0, 0.0, [3.0, -1.0], [0.0, 0.0]),
        (2.0, 0.0, [3.0, -1.0], [0.0, 0.0]),
        (math.inf, 0.0, [3.0, -1.0], [0.0, 0.0]),
        (1.0, 1.0, [0.0, 0.0], [0.0, 0.0]),
        (2.0, 1.0, [0.0, 0.0], [0.0, 0.0]),
    ],
)
def test_projection_of_small_vectors(
    p: float, radius: float, delta: list[float], expected: list[float]
) -> None:
    torch.testing.assert_close(norms.project(torch.tensor([delta]), p, radius), torch.tensor([expected]))


@given(
    shape=SHAPES, p=st.sampled_from(NORMS), radius=RADII, dtype=DTYPES, seed=st.integers(0, 99), scale=RADII
)
@example(shape=(2,), p=1.0, radius=0.0, dtype=torch.float32, seed=0, scale=0.0)
@settings(max_examples=80, deadline=None)
def test_projection_is_the_nearest_point_of_the_ball(
    shape: tuple[int, ...], p: float, radius: float, dtype: torch.dtype, seed: int, scale: float
) -> None:
    delta = scale * _batch(shape, seed, dtype)
    result = norms.project(delta, p, radius)
    slack = _tolerance(dtype) * (1 + radius + float(delta.abs().sum()))
    assert result.shape == delta.shape
    assert result.dtype == dtype
    assert (norms.norm(result, p) <= radius + slack).all()
    torch.testing.assert_close(norms.project(result, p, radius), result, rtol=0, atol=slack)
    # Nearest, by the variational inequality: nothing of the ball lies further along delta - found.
    away = (delta - result).flatten(1)
    others = norms.random_in_ball(delta, p, radius, generator=_generator(seed))
    corners = radius * norms.steepest(delta - result, p)  # the hardest point of all
    for other in (others, corners, torch.zeros_like(delta)):
        gain = (away * (other - result).flatten(1)).sum(dim=1)
        assert (gain <= slack * (1 + away.abs().sum())).all()


@given(
    shape=SHAPES, p=st.sampled_from(NORMS), dtype=DTYPES, seed=st.integers(0, 99), slack=st.floats(1.001, 9)
)
@settings(max_examples=40, deadline=None)
def test_projection_leaves_what_is_inside_exactly_as_it_is(
    shape: tuple[int, ...], p: float, dtype: torch.dtype, seed: int, slack: float
) -> None:
    delta = _batch(shape, seed, dtype)
    radius = slack * float(norms.norm(delta, p).max())
    assert torch.equal(norms.project(delta, p, radius), delta)


@pytest.mark.parametrize("p", NORMS)
def test_projection_agrees_with_a_general_solver(p: float) -> None:
    delta = 2 * _batch((4,), 7, torch.float64, size=3)
    result = norms.project(delta, p, 1.3)
    solved = np.stack([_nearest_by_solver(row, p, 1.3) for row in delta.numpy()])
    np.testing.assert_allclose(result.numpy(), solved, atol=1e-5)


def _nearest_by_solver(row: Vector, p: float, radius: float) -> Vector:
    half = len(row)

    def point(z: Vector) -> Vector:
        return z[:half] - z[half:]  # two parts, each at least 0, make every ball smooth

    def distance(z: Vector) -> float:
        return float(((point(z) - row) ** 2).sum())

    def room(z: Vector) -> list[float]:
        return [radius - float(z.sum()) if p == 1.0 else radius**2 - float((point(z) ** 2).sum())]

    bounds = [(0.0, radius)] * (2 * half)  # all that linf asks
    ball: Sequence[optimize.NonlinearConstraint] = (
        [] if math.isinf(p) else [optimize.NonlinearConstraint(room, 0, np.inf)]
    )
    solved = optimize.minimize(
        distance,
        np.full(2 * half, 0.1),
        method="SLSQP",
        bounds=bounds,
        constraints=ball,
        options={"ftol": 1e-12, "maxiter": 500},
    )
    assert solved.success
    return point(solved.x)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("radius_dtype", [torch.float32, torch.float64])
def test_projection_with_a_radius_an_example_is_one_call_an_example(
    p: float, radius_dtype: torch.dtype
) -> None:
    delta = _batch((2, 3, 1), 3, torch.float32, size=4)
    radii = torch.tensor([0.0, 0.5, 2.0, 100.0], dtype=radius_dtype)
    together = norms.project(delta, p, radii)
    alone = torch.cat([norms.project(row[None], p, float(r)) for row, r in zip(delta, radii, strict=True)])
    assert together.dtype == delta.dtype
    torch.testing.assert_close(together, alone)
    drawn = norms.random_in_ball(delta, p, radii, generator=_generator(0))
    assert drawn.dtype == delta.dtype
    assert (norms.norm(drawn, p) <= radii * (1 + 1e-6)).all()
    assert not drawn[0].any()
    assert drawn[1:].flatten(1).any(dim=1).all()


# Steepest step


@pytest.mark.parametrize(
    ("p", "expected"), [(1.0, [0.0, -1.0, 0.0]), (2.0, [0.6, -0.8, 0.0]), (math.inf, [1.0, -1.0, 0.0])]
)
def test_steepest_step_of_a_small_gradient(p: float, expected: list[float]) -> None:
    torch.testing.assert_close(norms.steepest(torch.tensor([[3.0, -4.0, 0.0]]), p), torch.tensor([expected]))


def test_steepest_l1_step_takes_the_first_of_equal_coordinates() -> None:
    assert norms.steepest(torch.tensor([[-2.0, 2.0]]), 1.0).tolist() == [[-1.0, 0.0]]


@given(
    shape=SHAPES,
    p=st.sampled_from(NORMS),
    dtype=DTYPES,
    seed=st.integers(0, 99),
    exponent=st.integers(-37, 30),
)
@settings(max_examples=80, deadline=None)
def test_steepest_step_attains_the_dual_norm(
    shape: tuple[int, ...], p: float, dtype: torch.dtype, seed: int, exponent: int
) -> None:
    unit = _batch(shape, seed, dtype)
    gradient = unit * 10.0**exponent
    step = norms.steepest(gradient, p)
    assert step.shape == gradient.shape
    assert step.dtype == dtype
    assert (norms.norm(step, p) <= 1 + _tolerance(dtype)).all()
    gain = (unit * step).flatten(1).sum(dim=1)
    torch.testing.assert_close(gain, norms.norm(unit, norms.dual(p)), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("value", [1e-30, 1e-37, 1e-42])
def test_steepest_step_of_tiny_gradients_is_whole_and_of_none_is_none(p: float, value: float) -> None:
    gradient = torch.zeros(2, 2, 2)
    gradient[0] = value
    assert gradient.dtype == torch.float32
    assert gradient[0].all()
    lengths = norms.norm(norms.steepest(gradient, p), p)
    torch.testing.assert_close(lengths, torch.tensor([1.0, 0.0]))


# Random points


@given(shape=SHAPES, p=st.sampled_from(NORMS), radius=RADII, dtype=DTYPES, seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_random_points_are_in_the_ball(
    shape: tuple[int, ...], p: float, radius: float, dtype: torch.dtype, seed: int
) -> None:
    like = torch.zeros(3, *shape, dtype=dtype)
    drawn = norms.random_in_ball(like, p, radius, generator=_generator(seed))
    assert drawn.shape == like.shape
    assert drawn.dtype == dtype
    assert drawn.isfinite().all()
    assert (norms.norm(drawn, p) <= radius * (1 + _tolerance(dtype))).all()
    assert not like.any()


@pytest.mark.parametrize("p", NORMS)
@pytest.mark.parametrize("dim", [1, 2, 7])
def test_random_points_are_uniform_over_the_volume(p: float, dim: int) -> None:
    drawn = norms.random_in_ball(torch.zeros(4000, dim), p, 2.0, generator=_generator(1)) / 2
    # The volume within distance r grows as r to the power dim.
    volumes = norms.norm(drawn, p).double().numpy() ** dim
    assert stats.kstest(volumes, "uniform").pvalue > 0.01
    # A coordinate t has density proportional to (1 - |t|^p)^((dim - 1) / p).
    for coordinate in drawn.double().numpy().T:
        share = np.abs(coordinate) if math.isinf(p) else np.abs(coordinate) ** p
        distribution = stats.uniform() if math.isinf(p) else stats.beta(1 / p, (dim - 1) / p + 1)
        assert stats.kstest(share, distribution.cdf).pvalue > 0.001
        assert stats.binomtest(int((coordinate > 0).sum()), len(coordinate)).pvalue > 0.001


@pytest.mark.parametrize("p", NORMS)
def test_random_points_differ_by_row_and_follow_the_generator(p: float) -> None:
    like = torch.zeros(3, 4)
    first = norms.random_in_ball(like, p, 1.0, generator=_generator(5))
    again = norms.random_in_ball(like, p, 1.0, generator=_generator(5))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        state = torch.get_rng_state()
        norms.random_in_ball(like, p, 1.0, generator=_generator(5))
        assert torch.equal(torch.get_rng_state(), state)
        norms.random_in_ball(like, p, 1.0)
        assert not torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_keeps_numbers_and_signs_and_its_squares_add_up(dtype: torch.dtype) -> None:
    gradient = torch.tensor([[1.5, math.nan, math.inf], [-math.inf, -2.0, 0.0]], dtype=dtype)
    finite = norms.finite(gradient)
    assert finite.sign().tolist() == [[1, 0, 1], [-1, -1, 0]]
    assert finite[0, 0] == 1.5
    assert finite.square().sum().isfinite()
    assert gradient.isnan().any()  # as it was
