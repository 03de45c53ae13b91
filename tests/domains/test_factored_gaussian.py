"""The normal distribution with shared factors against samples, and against the one without."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.domains import CorrelatedGaussian, FactoredGaussian, Gaussian, Moments, propagate
from withstand.graph.primitives import Rearrange
from withstand.models import GroupSort, MinMax, Normalize
from withstand.operators import OperatorNorms

if TYPE_CHECKING:
    from tests.domains.conftest import Net, Sampled, Sampler

IMAGE = (2, 5, 5)
WHOLE = [
    "conv",
    "conv-options",
    "maxpool-overlap",
    "maxpool-dilated",
    "avgpool",
    "minmax2d",
    "functional",
    "dense-blocks",
    "residual",
]
OVERLAPPING = ["conv", "conv-options", "functional", "dense-blocks", "residual"]


def _image(seed: int = 0) -> Tensor:
    return torch.rand(IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _factors(rank: int = 6, seed: int = 4, shape: tuple[int, ...] = IMAGE) -> Tensor:
    """Noise of about 0.3 that few factors share, (rank, *shape)."""
    generator = torch.Generator().manual_seed(seed)
    return 0.3 * torch.randn(rank, *shape, generator=generator, dtype=torch.float64) / math.sqrt(rank)


def _with_rest(factors: Tensor, rest: Tensor) -> Tensor:
    """All factors of ``FactoredGaussian(…, factors, rest)``, for sampling."""
    return torch.cat([factors, torch.diag(rest.sqrt().flatten()).reshape(-1, *rest.shape)])


def _units(image: Tensor, std: float) -> Tensor:
    """One factor a pixel, (rank, *shape)."""
    return std * torch.eye(image.numel(), dtype=image.dtype).reshape(-1, *image.shape)


def _assert_sampled(actual: Tensor, expected: Tensor, error: Tensor) -> None:
    """At 5 standard errors; what happens to one sample in 100,000 has none."""
    assert ((actual.flatten() - expected).abs() <= 5 * error + 1e-5).all()


class _Skip(nn.Module):
    """A sum of two linear branches, and of both with a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x - 2 * self.conv(x) + 0.1, x, x - x], 1)


def _affine(*layers: nn.Module, width: int) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(width, 4)).double().eval()


AFFINE: dict[str, Callable[[], nn.Module]] = {
    "deep": lambda: _affine(
        Normalize([0.4, 0.6], [0.2, 0.3]),
        nn.Conv2d(2, 4, 3, padding=1, groups=2),
        nn.AvgPool2d(2),
        nn.Conv2d(4, 3, 2, dilation=1),
        width=3,
    ),
    "skip": lambda: _affine(_Skip(), width=150),
    "padded": lambda: _affine(nn.ConstantPad2d(1, 0.5), nn.Conv2d(2, 3, 3, stride=2), width=27),
}


class _Stages(nn.Module):
    """What an affine net, ReLU after it, and an affine layer after that make, side by side."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head
        self.last = nn.Linear(4, 3).double()

    @override
    def forward(self, x: Tensor) -> Tensor:
        first = self.head(x)
        return torch.cat([first, torch.relu(first), self.last(torch.relu(first))], 1)


@pytest.mark.parametrize("name", AFFINE)
def test_factored_gaussian_is_exact_through_all_affine_layers_and_the_first_activation(
    name: str, sampled: Sampler
) -> None:
    """And in the mean of one affine layer more."""
    model, image = _Stages(AFFINE[name]()), _image()
    expected: Sampled = sampled(model, image, _factors())
    with torch.no_grad():
        value = propagate(model.head, FactoredGaussian(image[None], _factors()[:, None]))
        bent = propagate(nn.ReLU(), value)
        last = propagate(model.last, bent)
    _assert_sampled(torch.cat([value.mean, bent.mean, last.mean], 1), expected.mean, expected.mean_error)
    both = torch.cat([value.variance, bent.variance], 1)
    known = slice(0, both.numel())
    _assert_sampled(both, expected.variance[known], expected.variance_error[known])


def test_factored_gaussian_rest_is_exact_through_one_affine_layer(sampled: Sampler) -> None:
    image, rest = _image(), _image(2) / 20
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        conv = nn.Conv2d(2, 3, 3, stride=2, padding=1).double()
    expected: Sampled = sampled(nn.Sequential(conv, nn.ReLU()), image, _with_rest(_factors(), rest))
    value = FactoredGaussian(image[None], _factors()[:, None], rest[None])
    with torch.no_grad():
        actual = propagate(nn.Sequential(conv, nn.ReLU()), value)
    _assert_sampled(actual.mean, expected.mean, expected.mean_error)
    _assert_sampled(actual.variance, expected.variance, expected.variance_error)


@pytest.mark.parametrize("name", AFFINE)
def test_factored_gaussian_takes_its_factors_through_linear_maps(name: str) -> None:
    head, images = AFFINE[name](), torch.stack([_image(), _image(1)])
    with torch.no_grad():
        actual = propagate(head, FactoredGaussian(images, _factors()[:, None]))
        expected = head(_factors()) - head(torch.zeros(1, *IMAGE, dtype=torch.float64))
        torch.testing.assert_close(actual.mean, head(images))
    torch.testing.assert_close(actual.factors, expected[:, None])
    torch.testing.assert_close(actual.variance, expected.square().sum(0, keepdim=True))
    assert (actual.rest == 0).all()


def test_factored_gaussian_minus_itself_is_nothing() -> None:
    result = propagate(_Skip().double(), FactoredGaussian(_image()[None], _factors()[:, None]))
    assert (result.variance[:, 4:] == 0).all()
    assert (
        propagate(_Skip().double(), Gaussian(_image()[None], torch.ones((), dtype=torch.float64))).variance[
            :, 4:
        ]
        > 1
    ).all()


# Against the other distributions


def test_factored_gaussian_without_factors_is_the_independent_one(net: Net, exact: OperatorNorms) -> None:
    images = net.images(3)
    variance = 0.1 + images[:1].square() / 9
    none = torch.zeros(1, 1, *net.input_shape, dtype=images.dtype)
    with torch.no_grad():
        actual = net.program.run(FactoredGaussian(images, none, variance), exact)
        expected = net.program.run(Gaussian(images, variance), exact)
    torch.testing.assert_close(actual.mean, expected.mean)
    torch.testing.assert_close(actual.variance, expected.variance)
    assert (actual.factors == 0).all()


def test_factored_gaussian_takes_as_many_factors_as_pixels_or_a_root_of_a_covariance() -> None:
    """What factors span the covariance does not matter."""
    model = nn.Sequential(AFFINE["deep"](), nn.ReLU(), nn.Linear(4, 5).double(), nn.Tanh())
    factors = _factors(50)
    rotation, _ = torch.linalg.qr(torch.randn(50, 50, dtype=torch.float64))
    turned = torch.tensordot(rotation, factors, dims=1)
    actual, expected = (
        propagate(model, FactoredGaussian(_image()[None], some_factors[:, None]))
        for some_factors in (factors, turned)
    )
    torch.testing.assert_close((actual.mean, actual.variance), (expected.mean, expected.variance))


def test_factored_gaussian_through_affine_layers_is_the_whole_covariance() -> None:
    factors, images = _factors(), torch.stack([_image(), _image(1)])
    flat = factors.flatten(1).T[None]
    for build in AFFINE.values():
        model = build()
        actual = propagate(model, FactoredGaussian(images, factors[:, None]))
        expected = propagate(model, CorrelatedGaussian(images, flat @ flat.mT, flat))
        own = actual.factors.flatten(2).permute(1, 2, 0)
        torch.testing.assert_close(own @ own.mT, expected.covariance)


def test_factored_gaussian_takes_one_set_of_factors_for_all_images_or_one_for_each(
    nets: Callable[[str], Net], exact: OperatorNorms
) -> None:
    for name in WHOLE:
        net = nets(name)
        images, factors = net.images(3), _factors(shape=net.input_shape)[:, None]
        apart = FactoredGaussian(images, factors.expand(-1, 3, *net.input_shape))
        actual = net.program.run(FactoredGaussian(images, factors), exact)
        expected = net.program.run(apart, exact)
        torch.testing.assert_close((actual.mean, actual.variance), (expected.mean, expected.variance))


# Parts


def test_factored_gaussian_variance_is_what_factors_and_rest_make(net: Net, exact: OperatorNorms) -> None:
    images = net.images(3)
    value = FactoredGaussian(images, _factors(shape=net.input_shape)[:, None], images[:1] / 9)
    with torch.no_grad():
        result = net.program.run(value, exact)
    assert (result.rest >= 0).all()
    torch.testing.assert_close(result.variance, result.factors.square().sum(0) + result.rest)


@pytest.mark.parametrize("model", [nn.MaxPool1d(2, 1), MinMax(), GroupSort(2)])
def test_factored_gaussian_larger_of_two_is_exact_with_its_factors(
    model: nn.Module, sampled: Sampler
) -> None:
    image, factors = _image().reshape(2, 25), _factors(3).reshape(3, 2, 25)
    rest = _image(2).reshape(2, 25) / 20

    class Beside(nn.Module):
        """Outputs, and their products with each z_r, whose means are the factors."""

        @override
        def forward(self, x: Tensor) -> Tensor:
            out = model(x).flatten(1)
            z = torch.linalg.lstsq(factors.flatten(1).T, (x - image).flatten(1).T).solution
            return torch.cat([out, *(z[r][:, None] * out for r in range(3))], 1)

    actual = propagate(model, FactoredGaussian(image[None], factors[:, None], rest[None]))
    expected: Sampled = sampled(model, image, _with_rest(factors, rest))
    _assert_sampled(actual.mean, expected.mean, expected.mean_error)
    _assert_sampled(actual.variance, expected.variance, expected.variance_error)
    shared: Sampled = sampled(Beside(), image, factors)
    actual = propagate(model, FactoredGaussian(image[None], factors[:, None]))
    _assert_sampled(
        torch.cat([actual.mean.flatten(), actual.factors.flatten()]), shared.mean, shared.mean_error
    )


def test_factored_gaussian_gives_constants_no_factors() -> None:
    value = FactoredGaussian(_image()[None], _factors()[:, None], _image(2)[None])
    padded = value.monotone(Rearrange(lambda x: nn.functional.pad(x, (1, 0), value=-3.5)))
    assert (padded.mean[..., 0] == -3.5).all()
    assert (padded.factors[..., 0] == 0).all()
    assert (padded.rest[..., 0] == 0).all()
    torch.testing.assert_close(padded.factors[..., 1:], value.factors)


def test_factored_gaussian_sums_shifts_negatives_and_joins() -> None:
    one = FactoredGaussian(_image()[None], _factors()[:, None], _image(2)[None])
    images = torch.stack([_image(1), _image(3)])
    other = FactoredGaussian(images, _factors(seed=5)[:, None].expand(-1, 2, *IMAGE), images)
    total = one.add(other)
    torch.testing.assert_close(total.factors, one.factors + other.factors)
    torch.testing.assert_close(total.rest, one.rest + other.rest)
    torch.testing.assert_close(total.mean, one.mean + other.mean)
    moved = other.shift(2.0).negated()
    torch.testing.assert_close((moved.mean, moved.factors), (-2 - other.mean, -other.factors))
    assert torch.equal(moved.variance, other.variance)
    shared = FactoredGaussian(images, _factors()[:, None], _image(2)[None])
    for dim in (1, 2, 3):
        joined = shared.cat([other], dim)
        wide = shared.factors.expand_as(other.factors)
        torch.testing.assert_close(joined.factors, torch.cat([wide, other.factors], dim + 1))
        torch.testing.assert_close(joined.mean, torch.cat([images, images], dim))
        torch.testing.assert_close(joined.rest, torch.cat([shared.rest.expand_as(images), images], dim))


# Whole nets


class _Errors(NamedTuple):
    """Largest errors of mean and deviation, in units of the largest deviation; and of the samples."""

    mean: float
    std: float
    noise: float

    @classmethod
    def of(cls, actual: Moments, expected: Sampled) -> _Errors:
        std = expected.variance.sqrt()
        scale = std.max()
        own = actual.variance.expand_as(actual.mean).sqrt().flatten()
        error = expected.mean_error / scale + expected.variance_error / (2 * std * scale)
        return cls(
            ((actual.mean.flatten() - expected.mean).abs().max() / scale).item(),
            ((own - std).abs().max() / scale).item(),
            5 * error.max().item(),
        )


@pytest.mark.parametrize("name", WHOLE)
def test_factored_gaussian_is_near_for_whole_nets_the_nearer_the_less_noise(
    name: str, nets: Callable[[str], Net], exact: OperatorNorms, sampled: Sampler
) -> None:
    net = nets(name)
    image = net.images(2)[1]
    errors: dict[float, _Errors] = {}
    for std in (0.4, 0.05):
        factors = _units(image, std)
        expected = sampled(net.model, image, factors, 50_000)
        with torch.no_grad():
            actual = net.program.run(FactoredGaussian(image[None], factors[:, None]), exact)
            alone = net.program.run(Gaussian(image[None], image.new_full((), std**2)), exact)
        errors[std] = _Errors.of(actual, expected)
        if name in OVERLAPPING:
            assert errors[std].std < _Errors.of(alone, expected).std / 2
    much, little = errors[0.4], errors[0.05]
    assert max(much.mean, much.std) < 0.15
    assert max(little.mean, little.std) < 0.03 + little.noise
    assert little.std < much.std or max(little.std, much.std) < little.noise
    assert little.mean < much.mean or max(little.mean, much.mean) < little.noise
