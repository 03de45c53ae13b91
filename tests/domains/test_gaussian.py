"""The normal distribution with independent coordinates against samples and written-out matrices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.domains import Gaussian, propagate
from withstand.graph.primitives import Rearrange, moved
from withstand.models import GroupSort, MinMax, Normalize
from withstand.operators import Dense, Diagonal

if TYPE_CHECKING:
    from tests.domains.conftest import Sampled, Sampler

IMAGE = (2, 5, 5)


def _conv(**options: object) -> Callable[[], nn.Module]:
    return lambda: nn.Conv2d(2, 4, **{"kernel_size": 3, **options})  # type: ignore[arg-type]


def _normalised() -> nn.Module:
    norm = nn.BatchNorm2d(2)
    norm.running_mean = torch.tensor([0.2, -0.1])
    norm.running_var = torch.tensor([0.5, 2.0])
    layers = [Normalize([0.4, 0.6], [0.2, 0.3]), norm, nn.ConstantPad2d((1, 0, 0, 2), 0.7)]
    return nn.Sequential(*layers, nn.Conv2d(2, 3, 3))


AFFINE: Mapping[str, Callable[[], nn.Module]] = {
    "conv": _conv(),
    "stride": _conv(stride=2),
    "padding": _conv(padding=1),
    "groups": _conv(groups=2, padding=1, bias=False),
    "dilation": _conv(dilation=2),
    "all": _conv(kernel_size=(2, 3), stride=(1, 2), padding=(1, 2), dilation=(2, 1), groups=2),
    "same": lambda: nn.Conv2d(2, 2, 3, padding="same", dilation=2),
    "normalised": _normalised,
    "average": lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False),
    "dense": lambda: nn.Sequential(nn.Flatten(), nn.Linear(50, 7)),
}


class _Stages(nn.Module):
    """What an affine layer, ReLU after it, and an affine layer after that make, side by side."""

    def __init__(self, head: nn.Module, width: int) -> None:
        super().__init__()
        self.head = nn.Sequential(head, nn.Flatten())
        self.last = nn.Linear(width, 3)

    @override
    def forward(self, x: Tensor) -> Tensor:
        first = self.head(x)
        return torch.cat([first, torch.relu(first), self.last(torch.relu(first))], 1)


def _image(seed: int = 0) -> Tensor:
    return torch.rand(IMAGE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _stages(name: str) -> _Stages:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        head = AFFINE[name]().double().eval()
        with torch.no_grad():
            width = head(_image()[None]).numel()
        return _Stages(head, width).double().eval()


def _assert_sampled(actual: Tensor, expected: Tensor, error: Tensor) -> None:
    """At 5 standard errors; what happens to one sample in 100,000 has none."""
    assert ((actual.flatten() - expected).abs() <= 5 * error + 1e-5).all()


def _factors(std: Tensor) -> Tensor:
    """Of independent noise with one deviation a pixel."""
    return torch.diag(std.flatten()).reshape(-1, *std.shape)


@pytest.mark.parametrize("name", AFFINE)
def test_gaussian_is_exact_through_the_first_activation(name: str, sampled: Sampler) -> None:
    """And in the mean of one affine layer more."""
    model, image = _stages(name), _image()
    std = 0.2 + 0.4 * _image(seed=2)
    expected: Sampled = sampled(model, image, _factors(std))
    with torch.no_grad():
        value = propagate(model.head, Gaussian(image[None], std[None].square()))
        bent = propagate(nn.ReLU(), value)
        last = propagate(model.last, bent)
    _assert_sampled(torch.cat([value.mean, bent.mean, last.mean], 1), expected.mean, expected.mean_error)
    both = torch.cat([value.variance, bent.variance], 1)
    known = slice(0, both.numel())
    _assert_sampled(both, expected.variance[known], expected.variance_error[known])


@pytest.mark.parametrize("name", AFFINE)
def test_gaussian_variance_goes_by_the_squared_matrix_of_an_affine_layer(name: str) -> None:
    head, images = _stages(name).head, torch.stack([_image(), _image(1)])
    variance = _image(seed=2)[None]
    with torch.no_grad():
        result = propagate(head, Gaussian(images, variance))
        origin = head(torch.zeros_like(variance))
        matrix = head(torch.eye(50, dtype=torch.float64).reshape(50, *IMAGE)) - origin
        torch.testing.assert_close(result.mean, head(images))
    torch.testing.assert_close(result.variance, variance.flatten(1) @ matrix.square())
    assert len(result.variance) == 1  # still the same for all images


def test_gaussian_larger_of_two_is_exact(sampled: Sampler) -> None:
    """Pooled, and sorted in pairs."""
    image = _image().reshape(2, 25)[:, :24]
    std = 0.1 + 0.5 * _image(seed=2).reshape(2, 25)[:, :24]
    value = Gaussian(image[None], std[None].square())
    for model in (nn.MaxPool1d(2), nn.MaxPool1d(2, 1), MinMax(), GroupSort(2)):
        expected: Sampled = sampled(model, image, _factors(std))
        actual = propagate(model, value)
        _assert_sampled(actual.mean, expected.mean, expected.mean_error)
        _assert_sampled(actual.variance, expected.variance, expected.variance_error)


@pytest.mark.parametrize(
    "model", [nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1, dilation=2), nn.MaxPool2d((3, 1), ceil_mode=True)]
)
def test_gaussian_largest_of_several_is_near(model: nn.Module, sampled: Sampler) -> None:
    image, std = _image(), torch.full(IMAGE, 0.3, dtype=torch.float64)
    expected: Sampled = sampled(model, image, _factors(std))
    actual = propagate(model, Gaussian(image[None], std[None].square()))
    scale = expected.variance.sqrt()
    assert ((actual.mean.flatten() - expected.mean).abs() < 0.06 * scale).all()
    assert ((actual.variance.flatten().sqrt() - scale).abs() < 0.12 * scale).all()


@pytest.mark.parametrize("size", [2, 3, 6])
def test_gaussian_sorted_groups_are_in_order_and_near(size: int, sampled: Sampler) -> None:
    image = torch.tensor([0.1, 0.9, 0.4, -0.2, 0.5, 0.3], dtype=torch.float64)
    std = torch.full((6,), 0.3, dtype=torch.float64)
    model = GroupSort(size)
    expected: Sampled = sampled(model, image, _factors(std))
    actual = propagate(model, Gaussian(image[None], std[None].square()))
    scale = expected.variance.sqrt()
    assert ((actual.mean[0] - expected.mean).abs() < 0.15 * scale).all()
    assert ((actual.variance[0].sqrt() - scale).abs() < 0.4 * scale).all()
    assert (torch.unflatten(actual.mean[0], 0, (-1, size)).diff(dim=1) > 0).all()
    torch.testing.assert_close(actual.mean.sum(), image.sum())


@pytest.mark.parametrize("shape", [(), (1,), (2, 1, 1), (1, 2, 1, 1), (3, 1, 1, 1), (1, *IMAGE), (3, *IMAGE)])
def test_gaussian_takes_a_variance_of_any_shape_that_broadcasts(shape: tuple[int, ...]) -> None:
    images = torch.stack([_image(seed) for seed in range(3)])
    variance = 0.1 + torch.rand(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    value = Gaussian(images, variance)
    length = 3 if shape[:1] == (3,) else 1
    assert value.variance.shape == (length, *IMAGE)
    torch.testing.assert_close(value.variance.expand_as(images), variance.expand_as(images))
    conv = nn.Conv2d(2, 3, 3).double()
    result = propagate(nn.Sequential(conv, nn.ReLU()), value)
    written_out = propagate(nn.Sequential(conv, nn.ReLU()), Gaussian(images, variance.expand_as(images)))
    torch.testing.assert_close((result.mean, result.variance), (written_out.mean, written_out.variance))
    assert len(propagate(conv, value).variance) == length


def _pair() -> tuple[Gaussian, Gaussian]:
    """One with a variance of its own for each image, one with the same for all."""
    images = torch.stack([_image(0), _image(1)])
    return Gaussian(images, images.square() / 9), Gaussian(images.flip(0), _image(2)[None] / 4)


def test_gaussian_sums_shifts_and_negatives() -> None:
    first, second = _pair()
    for one, other in ((first, second), (second, first)):
        total = one.add(other)
        torch.testing.assert_close(total.mean, one.mean + other.mean)
        torch.testing.assert_close(total.variance, one.variance + other.variance)
    constant = torch.arange(5.0, dtype=torch.float64)
    shifted = second.shift(constant)
    torch.testing.assert_close(shifted.mean, second.mean + constant)
    assert torch.equal(shifted.variance, second.variance)
    assert torch.equal(second.negated().mean, -second.mean)
    assert torch.equal(second.negated().variance, second.variance)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_gaussian_joins_are_one_after_the_other(dim: int) -> None:
    first, second = _pair()
    joined = first.cat([second, first], dim)
    expected = [first.mean, second.mean, first.mean]
    torch.testing.assert_close(joined.mean, torch.cat(expected, dim))
    spreads = [first.variance, second.variance.expand_as(second.mean), first.variance]
    torch.testing.assert_close(joined.variance, torch.cat(spreads, dim))
    assert len(second.cat([second], dim).variance) == 1


def test_gaussian_gives_constants_no_variance() -> None:
    value, _ = _pair()
    padded = value.monotone(Rearrange(lambda x: nn.functional.pad(x, (1, 2), value=-3.5)))
    assert (padded.mean[..., [0, 6, 7]] == -3.5).all()
    assert (padded.variance[..., [0, 6, 7]] == 0).all()
    torch.testing.assert_close(padded.variance[..., 1:6], value.variance)


def test_gaussian_moves_variances_with_their_coordinates() -> None:
    value, _ = _pair()
    result = value.monotone(moved(lambda x: x.flip(3).transpose(1, 2)))
    torch.testing.assert_close(result.mean, value.mean.flip(3).transpose(1, 2))
    torch.testing.assert_close(result.variance, value.variance.flip(3).transpose(1, 2))


def test_gaussian_variance_counts_factors_squared() -> None:
    value, _ = _pair()
    scale = torch.tensor([2.0, -3.0], dtype=torch.float64)[:, None, None]

    def norm(operator: object, shape: object) -> Tensor:
        raise AssertionError("moments need no norm")

    result = value.affine(Diagonal(scale), torch.ones((), dtype=torch.float64), norm)
    torch.testing.assert_close(result.mean, scale * value.mean + 1)
    torch.testing.assert_close(result.variance, scale.square() * value.variance)
    flat = Gaussian(torch.zeros(1, 2, dtype=torch.float64), torch.tensor([1.0, 4.0], dtype=torch.float64))
    dense = flat.affine(Dense(torch.tensor([[3.0, -1.0]], dtype=torch.float64)), None, norm)
    assert dense.variance.item() == 13
