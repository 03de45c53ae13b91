"""The standard normal distribution, and deviations that can be divided by."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import norm

from withstand.moments import cdf, pdf, std_of

POINTS = torch.linspace(-30, 30, 601, dtype=torch.float64)


def test_normal_density_and_distribution_are_those_of_scipy() -> None:
    torch.testing.assert_close(pdf(POINTS), torch.from_numpy(norm.pdf(POINTS.numpy())), rtol=1e-12, atol=0)
    torch.testing.assert_close(cdf(POINTS), torch.from_numpy(norm.cdf(POINTS.numpy())), rtol=1e-12, atol=0)


def test_normal_left_tail_keeps_its_digits_in_single_precision() -> None:
    points = POINTS[(POINTS.abs() <= 12)].float()
    torch.testing.assert_close(cdf(points).double(), cdf(points.double()), rtol=1e-4, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_std_of_gives_roots_that_can_be_divided_by(dtype: torch.dtype) -> None:
    variance = torch.tensor([0.0, 1e-40, 0.25, 9.0, 1e12], dtype=dtype, requires_grad=True)
    std = std_of(variance)
    assert (std >= 1e-16).all()
    torch.testing.assert_close(std, variance.sqrt(), rtol=1e-6, atol=2 * torch.finfo(dtype).eps)
    (gradient,) = torch.autograd.grad((1 / std).sum(), variance)
    assert gradient.isfinite().all()
    assert gradient[2:] == pytest.approx([-4.0, -1 / 54, -5e-19], rel=1e-6)
