"""Activations that wait for a max pooling: what comes out, and what is kept alive."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.domains import CorrelatedGaussian, Elementwise, FactoredGaussian, Gaussian, Moments, propagate
from withstand.graph.primitives import MaxPool, Unimodal, moved
from withstand.moments import RECTIFIER
from withstand.operators import Diagonal

POOL = MaxPool((2, 2), (2, 2), (0, 0), (1, 1))

Start = Callable[[Tensor], Moments]
STARTS: dict[str, Start] = {
    "diagonal": lambda images: Gaussian(images, images.new_full((1, *images.shape[1:]), 0.09)),
    "factored": lambda images: FactoredGaussian(
        images, 0.3 * torch.eye(images[0].numel(), dtype=images.dtype).reshape(-1, 1, *images.shape[1:])
    ),
    "correlated": lambda images: CorrelatedGaussian.independent(
        images, images.new_full((1, *images.shape[1:]), 0.09), linked=True
    ),
}


@pytest.fixture(params=STARTS)
def start(request: pytest.FixtureRequest) -> Start:
    return STARTS[request.param]


@pytest.fixture
def _without_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def _images(side: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, side, side, generator=generator, dtype=torch.float64)


class _Counting:
    """ReLU that counts how often it is asked for, without a closed form."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.count += 1
        return torch.relu(x)


def _assert_alike(actual: Moments, expected: Moments) -> None:
    torch.testing.assert_close(actual.mean, expected.mean, rtol=0, atol=0)
    torch.testing.assert_close(actual.variance, expected.variance, rtol=0, atol=0)


@pytest.mark.parametrize(
    "activations",
    [[nn.ReLU()], [nn.Tanh()], [nn.LeakyReLU(0.1), nn.ReLU6()], [nn.Softplus()]],
)
@pytest.mark.parametrize("pool", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(2, 1, ceil_mode=True)])
def test_bending_moments_are_pooled_alike_before_and_after_the_activation(
    start: Start, activations: list[nn.Module], pool: nn.Module
) -> None:
    value = start(_images())
    with torch.no_grad():
        after = propagate(nn.Sequential(*activations, pool), value)
        before = propagate(nn.Sequential(pool, *activations), value)
    _assert_alike(after, before)


def test_bending_moments_are_pooled_alike_between_two_poolings(start: Start) -> None:
    value, pool = start(_images(8)), nn.MaxPool2d(2)
    _assert_alike(
        propagate(nn.Sequential(pool, nn.ReLU(), pool, nn.Identity()), value),
        propagate(nn.Sequential(pool, pool, nn.ReLU()), value),
    )


def test_bending_knows_the_maximum_better_before_the_activation() -> None:
    """Of max(z, 0) the largest is known only as if it were normal."""
    images = torch.zeros(1, 1, 1, 2, dtype=torch.float64)
    value = Gaussian(images, torch.ones_like(images))
    pool = MaxPool((1, 2), (1, 2), (0, 0), (1, 1))
    relu = Elementwise(F.relu, hinges=RECTIFIER)
    early, late = value.monotone(relu).monotone(pool), value.bent(relu).through(pool)
    samples = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    largest = samples.relu().amax(1).mean()
    assert (early.mean - largest).abs() < (late.mean - largest).abs() / 3


class _TwoWays(nn.Module):
    """An activation that is both pooled and skips the pooling."""

    def __init__(self, pools_first: bool) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        self.pools_first = pools_first

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.conv(x))
        if self.pools_first:
            pooled = F.max_pool2d(y, 2)
            skipped = F.avg_pool2d(y, 2)
        else:
            skipped = F.avg_pool2d(y, 2)
            pooled = F.max_pool2d(y, 2)
        return torch.cat([pooled, skipped], 1)


@pytest.mark.parametrize("pools_first", [False, True])
def test_bending_gives_both_consumers_what_is_theirs(start: Start, pools_first: bool) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = _TwoWays(pools_first).double()
    value = start(_images())
    with torch.no_grad():
        actual = propagate(model, value)
        pooled = propagate(nn.Sequential(model.conv, nn.MaxPool2d(2), nn.ReLU()), value)
        skipped = propagate(nn.Sequential(model.conv, nn.ReLU(), nn.AvgPool2d(2)), value)
    torch.testing.assert_close(actual.mean, torch.cat([pooled.mean, skipped.mean], 1), rtol=0, atol=1e-12)
    expected = torch.cat([pooled.variance, skipped.variance], 1)
    torch.testing.assert_close(actual.variance, expected, rtol=0, atol=1e-12)


def test_bending_computes_its_activation_when_first_asked_for_and_once() -> None:
    counting = _Counting()
    later = STARTS["diagonal"](_images()).monotone(Elementwise(counting))
    assert later.shape == (2, 2, 4, 4)
    assert later.example_shape == (2, 4, 4)
    pooled = later.monotone(POOL)
    assert pooled.shape == (2, 2, 2, 2)
    assert counting.count == 0
    assert later.mean.shape == (2, 2, 4, 4)
    asked = counting.count
    assert asked
    assert later.variance.isfinite().all()
    later.shift(1.0)
    later.monotone(moved(torch.flatten))
    assert counting.count == asked
    assert pooled.mean.shape == (2, 2, 2, 2)
    assert counting.count == 2 * asked


def test_bending_does_not_put_off_what_is_not_monotone(start: Start) -> None:
    unimodal = Unimodal(torch.abs, 1.0, 0.0, 0.0)
    jumping = Elementwise(nn.Softplus(2.0, 0.5), jump=0.24)
    images = 0.3 * _images()
    still = start(images).affine(Diagonal(torch.zeros((), dtype=torch.float64)), images, _norm)
    for bent, function in (
        (still.unimodal(unimodal), torch.abs),
        (still.monotone(jumping), jumping.function),
    ):
        actual, expected = bent.monotone(POOL).mean, F.max_pool2d(function(images), 2)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-7)
        assert (actual - function(F.max_pool2d(images, 2)) > 0.01).any()


def _norm(operator: object, shape: object) -> Tensor:
    return torch.zeros(())


def test_bending_writes_nothing_into_the_start(start: Start) -> None:
    value = start(_images())
    before = value.mean.clone(), value.variance.clone()
    later = value.monotone(Elementwise(F.relu, hinges=RECTIFIER))
    assert later.monotone(POOL).mean is not later.mean
    assert torch.equal(value.mean, before[0])
    assert torch.equal(value.variance, before[1])
    assert value.monotone(moved(lambda x: x)) is not value


@pytest.mark.usefixtures("_without_collector")
def test_bending_keeps_nothing_alive_by_a_cycle(start: Start) -> None:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(27, 4), nn.Tanh()
    ).double()
    result = propagate(model, start(_images(8)))
    result.mean.sum().backward()
    later = start(_images()).monotone(Elementwise(F.relu, hinges=RECTIFIER))
    assert later.mean.isfinite().all()
    left = [weakref.ref(part) for part in (result, result.mean, result.variance, later, later.mean)]
    del result, later
    assert [ref() for ref in left] == [None] * len(left)
