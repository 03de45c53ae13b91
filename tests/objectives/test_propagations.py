"""How noise gets to the logits: through networks of many forms, and against samples."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.noise import GaussianNoise
from withstand.domains import (
    FactoredGaussian,
    Gaussian,
    Moments,
    Program,
    propagate,
)
from withstand.objectives import (
    Cubature,
    EveryLayer,
    ExpectedLoss,
    GaussianExpectation,
    MeanField,
    OfMean,
)
from withstand.operators import GuaranteedNorms
from withstand.types import Batch

STD = 0.4
SHAPE = (2, 4, 4)
Form: TypeAlias = Callable[[Any, Tensor], Any]


@dataclass(frozen=True)
class Seen(ExpectedLoss):
    """Notes the moments of the logits."""

    moments: list[Moments] = field(default_factory=list)

    @override
    def __call__(self, logits: Moments, labels: Tensor) -> Tensor:
        self.moments.append(logits)
        return logits.mean.sum() + logits.variance.sum()


class Functional(nn.Module):
    """An activation that is a function, and no layer of torch."""

    @override
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x)


class Net(nn.Module):
    """A hand-written forward, of which ``first`` is the first activation."""

    def __init__(self, compute: Form, first: nn.Module) -> None:
        super().__init__()
        self.compute, self.first = compute, first
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.conv, self.same = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
            self.dense, self.last, self.end = nn.Linear(32, 8), nn.Linear(64, 3), nn.Linear(8, 3)

    @override
    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


def _plain(net: Any, x: Tensor) -> Any:
    return net.last(F.relu(net.same(net.first(net.conv(x)))).flatten(1))


def _size_before(net: Any, x: Tensor) -> Any:
    return net.end(net.first(net.dense(x.view(x.size(0), -1))))


def _size_after(net: Any, x: Tensor) -> Any:
    y = net.first(net.conv(x))
    return net.last(torch.tanh(y.reshape(y.shape[0], -1)))


def _size_before_for_after(net: Any, x: Tensor) -> Any:
    count, features = x.shape[0], x.shape[1] * 32
    return net.last(net.first(net.conv(x)).view((count, features)))


def _size_of_both(net: Any, x: Tensor) -> Any:
    """Sizes of either, for either, computed with."""
    flat = x.reshape(x.size(0), -1, 1).view(x.size()[0], x.size(1) * 4, -1).flatten(1)
    y = net.first(net.dense(flat))
    z = x.view(y.size(0), -1)[:, : y.shape[1]]
    return net.end((y + z).view(x.size(0) // 2 + y.size(0) - y.shape[0] // 2, -1))


def _around(net: Any, x: Tensor) -> Any:
    """A skip connection around the first activation."""
    y = net.conv(x)
    return net.last(F.leaky_relu(y + net.same(net.first(y)), 0.1).flatten(1))


def _twice(net: Any, x: Tensor) -> Any:
    """Two branches with an activation each, and one that stays linear."""
    first, second = net.first(net.conv(x)), net.first(1 - net.conv(0.5 * x))
    return net.last((first * 0.5 - second + net.conv(x)).flatten(1))


def _pieces(net: Any, x: Tensor) -> Any:
    """Pieces of what is linear, pieces of what is not, and both of them together."""
    a, b = net.conv(x).chunk(2, dim=1)
    c, d, _ = torch.split(torch.cat([net.first(a), -b, net.first(b)], 1), [3, 1, 2], dim=1)
    return net.last(torch.cat([c, F.max_pool2d(d, 3, 1, 1)], 1).flatten(1))


def _operators(net: Any, x: Tensor) -> Any:
    y = F.conv2d((x - 0.5) / 0.25, net.conv.weight, net.conv.bias, padding=1)
    y = F.avg_pool2d(net.first(2 * y.permute(0, 1, 3, 2) + 0.1), 2).flatten(1)
    return y @ net.dense.weight[:, :16].T @ net.end.weight.T


FORMS: dict[str, Form] = {
    "plain": _plain,
    "size-before": _size_before,
    "size-after": _size_after,
    "size-before-for-after": _size_before_for_after,
    "size-of-both": _size_of_both,
    "around": _around,
    "twice": _twice,
    "pieces": _pieces,
    "operators": _operators,
}
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "in-place": lambda: nn.ReLU(inplace=True),
    "functional": Functional,
    "leaky": lambda: nn.LeakyReLU(0.2),
    "relu6": nn.ReLU6,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}
EACH: list[tuple[Form, Callable[[], nn.Module]]] = [
    (form, Functional if index % 2 else nn.ReLU) for index, form in enumerate(FORMS.values())
]
EACH += [(_plain, activation) for activation in ACTIVATIONS.values()]


def _batch(num: int = 4, *, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.rand(num, *SHAPE, generator=generator, dtype=dtype), torch.arange(num) % 3)


def _expected(net: Net, images: Tensor, std: float) -> tuple[Tensor, Tensor]:
    """Logits without noise, and with each first activation replaced by its mean, integrated numerically."""
    steps = torch.linspace(-9, 9, 4001, dtype=torch.float64)
    weights = torch.exp(-0.5 * steps**2)
    weights = weights / weights.sum()
    seen: list[Tensor] = []
    spreads: list[Tensor] = []
    first = copy.deepcopy(net.first)

    def note(module: nn.Module, arguments: tuple[Tensor]) -> None:
        seen.append(arguments[0])

    def mean(module: nn.Module, arguments: tuple[Tensor], output: Tensor) -> Tensor:
        index = len(seen) - 1
        around = seen[-1] + (spreads[index] * steps.reshape(-1, *[1] * output.dim()))
        averaged: Tensor = (first(around) * weights.reshape(-1, *[1] * output.dim())).sum(0)
        return averaged

    def inputs(image: Tensor) -> tuple[Tensor, ...]:
        seen.clear()
        net(image[None])
        return tuple(gradient[0].clone() for gradient in seen)

    with net.first.register_forward_pre_hook(lambda module, given: seen.append(given[0].clone())):
        clean = net(images)
        # Before the first activation all is affine: one Jacobian serves every image.
        jacobians = jacobian(inputs, images[0])
        spreads += [std * slopes.flatten(-3).square().sum(-1).sqrt() for slopes in jacobians]
        seen.clear()
        with net.first.register_forward_hook(mean):
            noisy = net(images)
    return clean, noisy


@pytest.mark.parametrize(("form", "activation"), EACH)
def test_propagation_in_its_published_form_passes_through_networks_of_all_forms(
    form: Form, activation: Callable[[], nn.Module]
) -> None:
    images, labels = _batch()
    net = Net(form, activation()).double()
    clean, noisy = _expected(net, images, STD)
    terms = GaussianExpectation(STD)(net, images, labels).terms
    assert (clean - noisy).abs().max().item() > 1e-3
    torch.testing.assert_close(
        terms["cross_entropy"], F.cross_entropy(clean, labels).detach(), rtol=1e-9, atol=0
    )
    torch.testing.assert_close(
        terms["expectation"], F.cross_entropy(noisy, labels).detach(), rtol=2e-6, atol=0
    )


@pytest.mark.parametrize("blur", [0.0, 1.0])
@pytest.mark.parametrize(("form", "activation"), EACH)
def test_propagation_moments_are_those_of_the_domain(
    form: Form, activation: Callable[[], nn.Module], blur: float
) -> None:
    images, labels = _batch()
    net, noise, seen = Net(form, activation()).double(), GaussianNoise(STD, blur), Seen()
    program = Program(net, images)
    logits, _ = EveryLayer(seen)(program, images, noise, labels)
    if blur:
        start: Moments = FactoredGaussian(images, noise.factors(images)[:, None])
    else:
        start = Gaussian(images, torch.full((1, *SHAPE), STD**2).double())
    expected = program.run(start, GuaranteedNorms())
    torch.testing.assert_close(seen.moments[0].mean, expected.mean)
    torch.testing.assert_close(seen.moments[0].variance, expected.variance)
    torch.testing.assert_close(logits, net(images))
    for loss in (MeanField(), OfMean(), Cubature(4)):
        _, expectation = EveryLayer(loss)(program, images, noise, labels)
        torch.testing.assert_close(expectation, loss(expected, labels))
    terms = GaussianExpectation(STD, blur=blur, propagation=EveryLayer(Cubature(4)))(
        net, images, labels
    ).terms
    torch.testing.assert_close(terms["expectation"], Cubature(4)(expected, labels).detach())


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_propagation_has_random_factors_for_the_covariance(blur: float) -> None:
    images, labels = _batch()
    net, noise, seen = Net(_plain, nn.ReLU()).double(), GaussianNoise(STD, blur), Seen()
    way, program = EveryLayer(seen, num_factors=5), Program(net, images)
    torch.manual_seed(3)
    logits, _ = way(program, images, noise, labels)
    torch.manual_seed(3)
    expected = propagate(net, FactoredGaussian(images, noise.random_factors(images, 5)[:, None]))
    torch.testing.assert_close(seen.moments[0].mean, expected.mean)
    torch.testing.assert_close(seen.moments[0].variance, expected.variance)
    torch.testing.assert_close(logits, net(images))
    way(program, images, noise, labels)
    assert not torch.isclose(seen.moments[1].variance, expected.variance).any()  # drawn anew


def test_propagation_refuses_fewer_factors_than_none() -> None:
    with pytest.raises(ValueError, match="num_factors of at least 0, but got -1"):
        EveryLayer(num_factors=-1)
