"""The normal distribution with its covariances against samples, and against itself."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.domains import Gaussian, Program, propagate
from withstand.domains.gaussians.full import CorrelatedGaussian
from withstand.models import GroupSort, MinMax, Normalize
from withstand.operators import Dense, GuaranteedNorms, OperatorNorms
from withstand.types import ModelError

NUM_SAMPLES = 100_000
NOISE_STD = 0.2


class Moments(NamedTuple):
    """Of samples; the errors are standard errors."""

    mean: Tensor
    covariance: Tensor
    mean_error: Tensor
    covariance_error: Tensor


def _sampled(model: nn.Module, image: Tensor, factor: Tensor, num_samples: int = NUM_SAMPLES) -> Moments:
    """A model under noise of covariance factor · factorᵀ, by antithetic samples; a pair counts as one."""
    generator = torch.Generator().manual_seed(7)
    noise = torch.randn(num_samples // 2, factor.shape[1], generator=generator, dtype=image.dtype)
    noise = (noise @ factor.T).reshape(-1, *image.shape)
    with torch.no_grad():
        values = torch.stack([model(image + noise).flatten(1), model(image - noise).flatten(1)])
    pairs, mean = values.mean(0), values.mean((0, 1))
    apart = values - mean
    products = (apart[..., :, None] * apart[..., None, :]).mean(0)
    root = math.sqrt(num_samples // 2)
    return Moments(mean, products.mean(0), pairs.std(0) / root, products.std(0) / root)


def _factor(size: int, seed: int = 1) -> Tensor:
    """Correlated noise of about ``NOISE_STD``."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.eye(size) + 0.5 * torch.randn(size, size, generator=generator) / math.sqrt(size)
    return NOISE_STD * mixing.double()


def _started(images: Tensor) -> tuple[CorrelatedGaussian, Tensor]:
    factor = _factor(images[0].numel())
    return CorrelatedGaussian(images, (factor @ factor.T)[None], factor[None]), factor


class _Skip(nn.Module):
    """A residual block whose skipping branch is affine."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    @override
    def forward(self, x: Tensor) -> Tensor:
        total: Tensor = 0.5 * x + self.branch(x)
        return total


class _Joined(nn.Module):
    """Three values side by side, one of them nonlinear."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([-x, torch.relu(x), 2 * x[:, :1]], 1)


def _dense(*layers: nn.Module, width: int = 6) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 6), *layers, nn.Flatten(), nn.Linear(width, 3))


EXACT: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "affine": (
        lambda: nn.Sequential(Normalize([0.5], [0.3]), nn.Conv2d(1, 2, 3), nn.AvgPool2d(2)),
        (1, 6, 6),
    ),
    "relu": (lambda: _dense(nn.ReLU()), (6,)),
    "leaky-relu": (lambda: _dense(nn.LeakyReLU(0.2)), (6,)),
    "v-shape": (lambda: _dense(nn.LeakyReLU(-1.0)), (6,)),
    "relu6": (lambda: _dense(nn.ReLU6()), (6,)),
    "hardtanh": (lambda: _dense(nn.Hardtanh(-0.1, 0.3)), (6,)),
    "prelu": (lambda: _dense(nn.PReLU(6)), (6,)),
    "minmax": (lambda: _dense(MinMax()), (6,)),
    "pairs": (lambda: _dense(GroupSort(2)), (6,)),
    "maximum-of-two": (lambda: _dense(nn.Unflatten(1, (2, 3)), nn.MaxPool1d(2, 1), width=4), (6,)),
    "conv-relu-pool": (
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.AvgPool2d(2, 1),
            nn.Flatten(),
            nn.Linear(12, 3),
        ),
        (2, 5, 5),
    ),
    "skip": (
        lambda: nn.Sequential(
            _Skip(nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))), nn.Linear(6, 3)
        ),
        (6,),
    ),
    "joined": (lambda: nn.Sequential(_Joined(), nn.Linear(13, 4)), (6,)),
}


def _model(name: str) -> tuple[nn.Module, Tensor]:
    build, shape = EXACT[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return build().double().eval(), torch.rand(shape, dtype=torch.float64)


@pytest.mark.parametrize("name", EXACT)
def test_correlated_gaussian_agrees_with_samples_where_it_is_exact(name: str) -> None:
    model, image = _model(name)
    value, factor = _started(image[None])
    expected = _sampled(model, image, factor)
    with torch.no_grad():
        actual = propagate(model, value)
    assert ((actual.mean.flatten() - expected.mean).abs() <= 5 * expected.mean_error + 1e-12).all()
    assert ((actual.covariance[0] - expected.covariance).abs() <= 5 * expected.covariance_error).all()


def test_correlated_gaussian_is_near_for_every_net_and_nearer_with_less_noise(
    net: Any, exact: OperatorNorms
) -> None:
    image = net.images(1, seed=3)
    errors = []
    for std in (0.3, 0.03):
        factor = std * torch.eye(image.numel(), dtype=image.dtype)
        expected = _sampled(net.model, image[0], factor, 20_000)
        value = CorrelatedGaussian.independent(image, image.new_full((1, 1), std**2), linked=True)
        with torch.no_grad():
            actual = net.program.run(value, exact)
        largest = expected.covariance.diagonal().max()
        noise = 5 * expected.covariance_error.max() / largest
        off = (actual.covariance[0] - expected.covariance).abs().max() / largest
        errors.append((off - noise).clamp_min(0).item())
        shift = (actual.mean.flatten() - expected.mean).abs().max() / largest.sqrt()
        assert shift < 0.15
    assert errors[0] < 0.2
    assert errors[1] < 0.02


def test_correlated_gaussian_of_independent_noise_begins_as_a_gaussian() -> None:
    model, image = _model("relu")
    variance = torch.rand(1, 6, dtype=torch.float64)
    head = nn.Sequential(*list(model.children())[:2])
    actual = propagate(head, CorrelatedGaussian.independent(image[None], variance))
    expected = propagate(head, Gaussian(image[None], variance))
    torch.testing.assert_close(actual.mean, expected.mean)
    torch.testing.assert_close(actual.variance, expected.variance)


@pytest.mark.parametrize("name", EXACT)
def test_correlated_gaussian_takes_one_matrix_for_all_examples_or_one_for_each(name: str) -> None:
    model, image = _model(name)
    images = torch.stack([image, image.flip(0)])
    shared, factor = _started(images)
    spread = (factor @ factor.T).expand(2, -1, -1)
    apart = CorrelatedGaussian(images, spread, factor.expand(2, -1, -1))
    actual, expected = propagate(model, shared), propagate(model, apart)
    torch.testing.assert_close(actual.mean, expected.mean)
    torch.testing.assert_close(actual.covariance.expand(2, -1, -1), expected.covariance)


def test_correlated_gaussian_keeps_one_matrix_for_all_examples_under_affine_maps() -> None:
    model, image = _model("affine")
    value, _ = _started(torch.stack([image, image]))
    assert propagate(model, value).covariance.shape == (1, 8, 8)


@pytest.mark.parametrize("name", EXACT)
def test_correlated_gaussian_matrices_are_symmetric_and_positive(name: str) -> None:
    model, image = _model(name)
    value, _ = _started(image[None])
    result = propagate(model, value)
    link = result.link
    assert link is not None
    torch.testing.assert_close(result.covariance, result.covariance.mT)
    rest = result.covariance - link @ link.mT  # what is not linear in the noise
    assert (torch.linalg.eigvalsh(rest) > -1e-6).all()


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_correlated_gaussian_without_noise_is_the_network(name: str, dtype: torch.dtype) -> None:
    model, image = _model(name)
    model, images = model.to(dtype), image[None].to(dtype)
    variance = torch.zeros(1, *image.shape, dtype=dtype, requires_grad=True)
    result = propagate(model, CorrelatedGaussian.independent(images, variance, linked=True))
    torch.testing.assert_close(result.mean, model(images))
    assert (result.covariance.abs() < 1e-12).all()
    (result.mean.sum() + result.covariance.sum()).backward()
    for leaf in (variance, *model.parameters()):
        assert leaf.grad is not None
        assert leaf.grad.isfinite().all()


@pytest.mark.parametrize("padding", [0, 1])
def test_correlated_gaussian_is_pooled_in_single_precision(padding: int) -> None:
    """Padding is a number far below all others, on either side of a pair."""
    pool = nn.MaxPool1d(3, 2, padding, ceil_mode=True)
    image = torch.tensor([[[0.3, 0.4, 0.1, 0.2, 0.5, 0.45]]])
    covariance = 0.01 * (torch.eye(6) + torch.ones(6, 6))[None]
    actual = propagate(pool, CorrelatedGaussian(image, covariance))
    expected = propagate(pool, CorrelatedGaussian(image.double(), covariance.double()))
    torch.testing.assert_close(actual.mean.double(), expected.mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(actual.covariance.double(), expected.covariance, rtol=1e-4, atol=1e-6)


def test_correlated_gaussian_has_the_gradient_of_finite_differences() -> None:
    model, image = _model("leaky-relu")
    program = Program(model, image[None])

    def moments(images: Tensor, factor: Tensor) -> tuple[Tensor, Tensor]:
        result = program.run(
            CorrelatedGaussian(images, (factor @ factor.T)[None], factor[None]), GuaranteedNorms()
        )
        return result.mean, result.covariance

    inputs = (image[None].requires_grad_(), _factor(6).requires_grad_())
    assert torch.autograd.gradcheck(moments, inputs)


def test_correlated_gaussian_needs_a_link_for_sums() -> None:
    images = torch.zeros(1, 3)
    value = CorrelatedGaussian.independent(images, torch.ones(1, 3))
    with pytest.raises(ModelError, match="linked=True"):
        value.add(value)
    with pytest.raises(ModelError, match="linked=True"):
        value.cat([value], 1)


def test_correlated_gaussian_minus_itself_is_nothing() -> None:
    value, _ = _started(torch.rand(2, 3, dtype=torch.float64))
    minus = value.affine(
        Dense(-torch.eye(3, dtype=torch.float64)), None, lambda operator, shape: torch.ones(())
    )
    torch.testing.assert_close(value.add(minus).covariance, torch.zeros(1, 3, 3, dtype=torch.float64))


def test_correlated_gaussian_plus_itself_is_its_double() -> None:
    value, _ = _started(torch.rand(1, 3, dtype=torch.float64))
    bent = propagate(nn.LeakyReLU(-1.0), value)  # not linear in its noise
    torch.testing.assert_close(bent.add(bent).covariance, 4 * bent.covariance)


def test_correlated_gaussian_refuses_what_would_not_fit_before_it_is_computed() -> None:
    images = torch.zeros(1, 3, 224, 224)
    with pytest.raises(ModelError, match=r"n = 150,528 .* 84\.4 GiB.*Take Gaussian"):
        CorrelatedGaussian.independent(images, torch.ones(1, 1, 1, 1))
    value = CorrelatedGaussian.independent(torch.zeros(1, 1, 20, 20), torch.ones(1, 1, 1, 1))
    with pytest.raises(ModelError, match="GiB"):
        propagate(nn.Conv2d(1, 100, 3, padding=1), value)
