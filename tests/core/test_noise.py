from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from withstand.core.noise import GaussianNoise

STDS = (0.2, 0.5)
BLURS = (0.0, 0.4, 1.5)
SHAPE = (2, 5, 4)
DRAWS = 20_000


def _draws(noise: GaussianNoise, shape: Sequence[int] = SHAPE, *, count: int = DRAWS) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return noise.draw(torch.zeros(count, *shape)).double()


def _along(side: int, blur: float) -> Tensor:
    """The covariance of white noise along one dimension, seen through the filter; 1 on the diagonal."""
    if not blur:
        return torch.eye(side, dtype=torch.float64)
    rows = [[math.exp(-((x - y) ** 2) / (2 * blur**2)) for y in range(side)] for x in range(side)]
    matrix = torch.tensor(rows, dtype=torch.float64)
    products = matrix @ matrix.T
    lengths = products.diagonal().sqrt()
    return products / torch.outer(lengths, lengths)


def _covariance(stds: Sequence[float], shape: Sequence[int], blur: float) -> Tensor:
    """Of all pixels, (size, size)."""
    covariance = torch.diag(torch.tensor([*stds], dtype=torch.float64).square())
    for side in shape[1:]:
        covariance = torch.kron(covariance, _along(side, blur))
    return covariance


# Draws


@pytest.mark.parametrize("blur", BLURS)
@pytest.mark.parametrize("shape", [SHAPE, (2, 9)])
def test_noise_draws_have_the_std_at_every_pixel_and_the_covariance_of_the_filter(
    shape: Sequence[int], blur: float
) -> None:
    draws = _draws(GaussianNoise(STDS, blur), shape).flatten(1)
    expected = _covariance(STDS, shape, blur)
    stds = expected.diagonal().sqrt()
    torch.testing.assert_close(
        stds, torch.tensor(STDS).double().repeat_interleave(math.prod(shape[1:])), rtol=1e-6, atol=0
    )
    assert ((draws.mean(0) / stds).abs() < 5 / math.sqrt(DRAWS)).all()
    # Borders and corners too: what the filter loses there is made up for.
    assert ((draws.std(0) / stds - 1).abs() < 5 / math.sqrt(2 * DRAWS)).all()
    scales = torch.outer(stds, stds)
    error = (draws.T @ draws / DRAWS - expected) / scales
    spread = (1 + (expected / scales).square()).sqrt() / math.sqrt(DRAWS)
    assert (error.abs() < 5 * spread).all()


def test_noise_draws_are_normal() -> None:
    draws = _draws(GaussianNoise(1.0, 1.0))[:, 0, 2, 2]
    assert abs(float((draws**4).mean()) - 3) < 5 * math.sqrt(96 / DRAWS)
    assert abs(float((draws.abs() < 1).double().mean()) - 0.6827) < 5 * math.sqrt(0.22 / DRAWS)


@pytest.mark.parametrize("blur", BLURS)
def test_noise_is_drawn_anew_for_every_image_and_repeats_with_a_seed(blur: float) -> None:
    noise = GaussianNoise(0.3, blur)
    draws = _draws(noise, count=3)
    assert torch.equal(draws, _draws(noise, count=3))
    assert not torch.isclose(draws[0], draws[1]).any()
    torch.manual_seed(0)
    first, second = noise.draw(torch.zeros(3, *SHAPE)), noise.draw(torch.zeros(3, *SHAPE))
    assert torch.equal(first.double(), draws)
    assert not torch.isclose(first, second).any()


def test_white_noise_is_what_torch_draws() -> None:
    images = torch.rand(4, 1, 3, 3)
    torch.manual_seed(5)
    ours = GaussianNoise(0.25).draw(images)
    torch.manual_seed(5)
    assert torch.equal(ours, 0.25 * torch.randn(4, 1, 3, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("blur", BLURS)
def test_noise_has_dtype_and_shape_of_the_images(dtype: torch.dtype, blur: float) -> None:
    images = torch.rand(3, *SHAPE, dtype=dtype, requires_grad=True)
    noise = GaussianNoise(STDS, blur)
    drawn, factors, std = noise.draw(images), noise.factors(images), noise.std_like(images)
    assert drawn.dtype == factors.dtype == std.dtype == dtype
    assert drawn.shape == images.shape
    assert factors.shape == (noise.rank(images), *SHAPE)
    assert std.shape == (1, 2, 1, 1)
    assert not any(tensor.requires_grad for tensor in (drawn, factors, std))


@pytest.mark.parametrize("shape", [(3, 7), (3, 2, 7), (3, 1, 5, 5)])
def test_noise_of_one_std_serves_any_shape(shape: Sequence[int]) -> None:
    images = torch.rand(shape)
    assert GaussianNoise(0.3).draw(images).shape == images.shape
    assert torch.equal(GaussianNoise(0.3).std_like(images), torch.full((1,) * len(shape), 0.3))
    assert torch.equal(GaussianNoise(0).draw(images), torch.zeros(shape))
    if len(shape) > 2:  # blur needs neighbours
        factors = GaussianNoise(0.0, 2.0).factors(images)
        assert torch.equal(factors, torch.zeros_like(factors))


# Factors


@pytest.mark.parametrize("blur", BLURS)
@pytest.mark.parametrize("shape", [SHAPE, (2, 9), (2, 12, 12)])
def test_noise_factors_make_the_covariance_of_the_draws(shape: Sequence[int], blur: float) -> None:
    noise, images = GaussianNoise(STDS, blur), torch.zeros(1, *shape, dtype=torch.float64)
    factors = noise.factors(images).flatten(1)
    expected = _covariance(STDS, shape, blur)
    covariance = factors.T @ factors
    assert len(factors) == noise.rank(images)
    torch.testing.assert_close(covariance, expected, rtol=0, atol=1e-3 * max(STDS) ** 2)
    # The sum of squares is the variance, but for 1e-4 of it along each dimension.
    lacking = 1 - float(covariance.trace() / expected.trace())
    assert -1e-12 < lacking < 1e-4 * (len(shape) - 1)
    assert (covariance.diagonal() <= expected.diagonal() * (1 + 1e-12)).all()


@pytest.mark.parametrize(("blur", "rank"), [(0.0, 2 * 12 * 12), (1.0, None), (4.0, None), (1e3, 2)])
def test_noise_factors_are_no_more_than_needed(blur: float, rank: int | None) -> None:
    noise = GaussianNoise(STDS, blur)
    assert rank is None or noise.rank(torch.zeros(1, 2, 12, 12)) == rank
    line = GaussianNoise(1.0, blur).factors(torch.zeros(1, 1, 12, dtype=torch.float64)).flatten(1)
    shares = line.square().sum(1) / 12
    assert 1 - float(shares.sum()) < 1e-4
    assert 1 - float(shares[:-1].sum()) > 1e-4
    assert (shares.diff() <= 1e-12).all()


def test_white_noise_factors_are_one_a_pixel() -> None:
    images = torch.zeros(2, 2, 3, 3, dtype=torch.float64)
    squares = GaussianNoise(STDS).factors(images).flatten(1)
    std = torch.tensor(STDS, dtype=torch.float64).repeat_interleave(9)
    assert torch.equal(squares, torch.diag(std))


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_random_noise_factors_make_the_covariance_on_average(blur: float) -> None:
    images = torch.zeros(3, *SHAPE, dtype=torch.float64)
    torch.manual_seed(0)
    factors = GaussianNoise(STDS, blur).random_factors(images, DRAWS)
    assert factors.shape == (DRAWS, *SHAPE)
    assert factors.dtype == images.dtype
    expected = _covariance(STDS, SHAPE, blur)
    variances = expected.diagonal()
    spread = (torch.outer(variances, variances) + expected.square()).sqrt() / math.sqrt(DRAWS)
    assert ((factors.flatten(1).T @ factors.flatten(1) - expected).abs() < 5 * spread).all()
    few = GaussianNoise(STDS, blur).random_factors(images, 2)
    assert not torch.isclose(few[0], few[1]).any()


# Errors


@pytest.mark.parametrize("std", [-0.1, math.nan, math.inf, [], [0.1, -0.1], [0.1, math.nan]])
def test_noise_refuses_a_wrong_std(std: float | Sequence[float]) -> None:
    with pytest.raises(ValueError, match=r"noise_std( of at least 0|, but got none)"):
        GaussianNoise(std)


@pytest.mark.parametrize("blur", [-1.0, math.nan, math.inf])
def test_noise_refuses_a_wrong_blur(blur: float) -> None:
    with pytest.raises(ValueError, match="blur of at least 0"):
        GaussianNoise(0.1, blur)


@pytest.mark.parametrize("shape", [(3, 1, 4, 4), (3, 3, 4, 4), (3, 3)])
def test_noise_needs_as_many_stds_as_channels(shape: Sequence[int]) -> None:
    noise = GaussianNoise(STDS)
    with pytest.raises(ValueError, match=r"one value for each of 2 channels.*Give one number"):
        noise.draw(torch.zeros(shape))
    with pytest.raises(ValueError, match="one value for each of 2 channels"):
        noise.std_like(torch.zeros(shape))
