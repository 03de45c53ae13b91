from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from withstand.bayes.expected_maximum import expected_maximum

ROOT = math.sqrt(2 / math.pi)


def _brute(stds: Tensor) -> Tensor:
    """The integral over all entries, by Gauss-Legendre between many cuts; float64, differentiable."""
    stds = stds.double().flatten()
    stds = stds[stds > 0]
    points, weights = map(torch.from_numpy, np.polynomial.legendre.leggauss(40))
    cuts = torch.cat([torch.zeros(1), torch.logspace(-5, 1, 50)]).double() * stds.detach().amax()
    low, high = cuts[:-1, None], cuts[1:, None]
    times = low + (high - low) * (points + 1) / 2
    logs = torch.log1p(-torch.erfc(times[..., None] / stds / math.sqrt(2))).sum(dim=-1)
    return ((1 - logs.exp()) * weights * (high - low) / 2).sum()


def _lognormal(*shape: int, spread: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.08 * torch.exp(spread * torch.randn(shape, generator=generator))


@given(
    shape=st.lists(st.integers(1, 6), min_size=0, max_size=4),
    spread=st.floats(0, 4),
    scale=st.floats(1e-6, 1e6),
    seed=st.integers(0, 1000),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@settings(max_examples=60, deadline=None)
def test_expected_maximum_is_within_a_thousandth_of_the_integral_over_all_entries(
    shape: list[int], spread: float, scale: float, seed: int, dtype: torch.dtype
) -> None:
    stds = (scale * _lognormal(*shape, spread=spread, seed=seed)).to(dtype).requires_grad_()
    exact = _brute(stds)
    maximum = expected_maximum(stds)
    assert maximum.dtype == dtype
    assert maximum.shape == ()
    assert maximum.item() == pytest.approx(exact.item(), rel=5e-4)
    (gradient,) = torch.autograd.grad(maximum, stds)
    (truth,) = torch.autograd.grad(exact, stds)
    assert gradient.dtype == dtype
    torch.testing.assert_close(gradient, truth, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("below", [0.9, 0.5002, 0.2002, 0.0502])
def test_expected_maximum_of_one_entry_above_many_that_all_move_the_same_way(below: float) -> None:
    stds = torch.cat([torch.ones(1), torch.full((5000,), below)])
    assert expected_maximum(stds).item() == pytest.approx(_brute(stds).item(), rel=1e-3)


@pytest.mark.parametrize("spread", [0.0, 0.5, 1.5])
def test_expected_maximum_agrees_with_draws(spread: float) -> None:
    stds = _lognormal(30, 40, spread=spread)
    generator = torch.Generator().manual_seed(1)
    draws = torch.cat(
        [(stds * torch.randn(500, 30, 40, generator=generator)).abs().amax(dim=(1, 2)) for _ in range(30)]
    )
    error = draws.std() / math.sqrt(len(draws))
    assert abs(expected_maximum(stds) - draws.mean()) < 4.5 * error
    assert error < 6e-3 * draws.mean()


def test_expected_maximum_of_a_single_entry_is_exact() -> None:
    for value in (1e-20, 0.3, 1e20):
        stds = torch.tensor([value], requires_grad=True)
        maximum = expected_maximum(stds)
        maximum.backward()
        assert stds.grad is not None
        assert maximum.item() == pytest.approx(ROOT * value, rel=5e-6)
        assert stds.grad.item() == pytest.approx(ROOT, rel=5e-6)


def test_expected_maximum_of_many_equal_entries() -> None:
    count = 1_000_000
    stds = torch.full((count,), 0.25, requires_grad=True)
    maximum = expected_maximum(stds)
    (gradient,) = torch.autograd.grad(maximum, stds)
    logs = torch.linspace(0, 9, 20001, dtype=torch.float64)
    logs = count * torch.log1p(-torch.erfc(logs / math.sqrt(2)))
    truth = torch.trapezoid(1 - logs.exp(), dx=9 / 20000).item()
    assert maximum.item() == pytest.approx(0.25 * truth, rel=2e-5)
    assert gradient[0].item() == pytest.approx(truth / count, rel=1e-4)


def test_expected_maximum_gradient_agrees_with_differences_of_the_integral() -> None:
    stds = _lognormal(5, 7, spread=0.5).double().requires_grad_()
    (gradient,) = torch.autograd.grad(3 * expected_maximum(stds), stds)
    step = 1e-4
    for i, j in [(0, 0), (2, 3), (4, 6)]:
        move = torch.zeros_like(stds)
        move[i, j] = step * stds[i, j].item()
        difference = 3 * (_brute(stds + move) - _brute(stds - move)) / (2 * move[i, j])
        assert gradient[i, j].item() == pytest.approx(difference.item(), rel=1e-2, abs=1e-3)


def test_expected_maximum_scales_with_the_entries_and_takes_any_order() -> None:
    stds = _lognormal(40, 30, spread=0.7)
    maximum = expected_maximum(stds)
    assert expected_maximum(8 * stds) == 8 * maximum
    assert expected_maximum(stds.T.flip(0)) == maximum
    weights = stds.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(expected_maximum(weights), weights)
    assert (gradient * stds).sum().item() == pytest.approx(maximum.item(), rel=1e-3)  # Euler
    turned = stds.T.detach().requires_grad_()
    (other,) = torch.autograd.grad(expected_maximum(turned), turned)
    torch.testing.assert_close(other.T, gradient)


def test_expected_maximum_is_not_changed_by_entries_of_zero() -> None:
    stds = _lognormal(50, spread=0.5)
    padded = torch.cat([stds, torch.zeros(1000)]).requires_grad_()
    maximum = expected_maximum(padded)
    (gradient,) = torch.autograd.grad(maximum, padded)
    assert maximum == expected_maximum(stds)
    assert (gradient[50:] == 0).all()
    assert (gradient[:50] >= 0).all()
    assert (gradient[:50] > 0).any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_expected_maximum_of_all_zero_is_zero_with_a_gradient_of_zero(dtype: torch.dtype) -> None:
    stds = torch.zeros(4, 5, dtype=dtype, requires_grad=True)
    maximum = expected_maximum(stds)
    maximum.backward()
    assert stds.grad is not None
    assert maximum.item() == 0
    assert (stds.grad == 0).all()


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_expected_maximum_reports_what_is_not_finite(bad: float) -> None:
    stds = torch.tensor([0.1, bad, 0.3], requires_grad=True)
    maximum = expected_maximum(stds)
    maximum.backward()
    assert stds.grad is not None
    assert maximum.isnan()
    assert stds.grad.isnan().all()


def test_expected_maximum_refuses_no_entries() -> None:
    with pytest.raises(ValueError, match="at least one"):
        expected_maximum(torch.zeros(0, 3))


def test_expected_maximum_draws_nothing_and_is_not_cast_by_autocast() -> None:
    state = torch.get_rng_state()
    stds = _lognormal(100, spread=0.5).requires_grad_()
    maximum = expected_maximum(stds)
    (gradient,) = torch.autograd.grad(maximum, stds)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = expected_maximum(stds)
        (other,) = torch.autograd.grad(cast, stds)
    assert cast == maximum
    assert torch.equal(other, gradient)
    assert torch.equal(torch.get_rng_state(), state)


def test_expected_maximum_has_a_gradient_after_a_first_call_without_one() -> None:
    stds = _lognormal(10, spread=0.5)
    with torch.inference_mode():
        first = expected_maximum(stds)
    stds.requires_grad_()
    second = expected_maximum(stds)
    second.backward()
    assert stds.grad is not None
    assert first == second
