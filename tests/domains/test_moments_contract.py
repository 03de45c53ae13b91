"""What every normal distribution keeps to on every net of the table in conftest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.domains import CorrelatedGaussian, FactoredGaussian, Gaussian, Moments, propagate
from withstand.graph.primitives import Monotone
from withstand.operators import OperatorNorms
from withstand.types import ModelError

if TYPE_CHECKING:
    from tests.domains.conftest import Net

Start: TypeAlias = Callable[[Tensor, Tensor], Moments]
"""Images (batch, …) and the noise's deviation, which broadcasts to them -> noisy images."""


def _factored(images: Tensor, std: Tensor) -> FactoredGaussian:
    """One factor a pixel."""
    return FactoredGaussian(images, _units(images)[:, None] * std)


def _units(images: Tensor) -> Tensor:
    size = images.shape[1:].numel()
    return torch.eye(size, dtype=images.dtype).reshape(size, *images.shape[1:])


STARTS: Mapping[str, Start] = {
    "diagonal": lambda images, std: Gaussian(images, std.square()),
    "factored": _factored,
    "correlated": lambda images, std: CorrelatedGaussian.independent(images, std.square(), linked=True),
}


@pytest.fixture(params=STARTS)
def start(request: pytest.FixtureRequest) -> Start:
    return STARTS[request.param]


def _std(images: Tensor, size: float) -> Tensor:
    """Another one for each pixel, the same for all images."""
    generator = torch.Generator().manual_seed(3)
    return size * (0.5 + torch.rand(1, *images.shape[1:], generator=generator)).to(images.dtype)


def test_moments_pass_through_every_net(net: Net, start: Start, exact: OperatorNorms) -> None:
    images = net.images(4)
    with torch.no_grad():
        actual = net.program.run(start(images, _std(images, 0.3)), exact)
        expected = net.model(images)
    assert type(actual) is type(start(images, _std(images, 0.3)))
    assert actual.mean.shape == actual.shape == actual.center.shape == expected.shape
    assert actual.variance.expand_as(expected).shape == expected.shape
    assert actual.mean.isfinite().all()
    assert actual.variance.isfinite().all()
    assert (actual.variance > 0).any()
    assert (actual.variance >= 0).all()


@pytest.mark.parametrize(("single", "tolerance"), [(True, 1e-5), (False, 1e-6)])
def test_moments_without_noise_are_the_net(
    net: Net, start: Start, exact: OperatorNorms, single: bool, tolerance: float
) -> None:
    net = net.single if single else net
    images = net.images(4)
    with torch.no_grad():
        result = net.program.run(start(images, _std(images, 0.0)), exact)
        torch.testing.assert_close(result.mean, net.model(images), rtol=tolerance, atol=tolerance)
    assert (result.variance.abs() <= 1e-12).all()


def test_moments_in_single_precision_are_near_double(net: Net, start: Start, exact: OperatorNorms) -> None:
    images = net.images(4)
    if net.name == "softplus-jump":
        pytest.skip("rounding decides on which side of its jump a point of the quadrature lies")
    with torch.no_grad():
        expected = net.program.run(start(images, _std(images, 0.3)), exact)
        actual = net.single.program.run(start(images.float(), _std(images.float(), 0.3)), exact)
    assert actual.mean.dtype == actual.variance.dtype == torch.float32
    torch.testing.assert_close(actual.mean.double(), expected.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(actual.variance.double(), expected.variance, rtol=1e-3, atol=1e-5)


def test_moments_of_a_batch_are_those_of_its_examples(net: Net, start: Start, exact: OperatorNorms) -> None:
    images = net.images(5)
    std = _std(images, 0.3)
    with torch.no_grad():
        whole = net.program.run(start(images, std), exact)
        alone = [net.program.run(start(image[None], std), exact) for image in images]
    torch.testing.assert_close(whole.mean, torch.cat([moments.mean for moments in alone]))
    variance = torch.cat([moments.variance for moments in alone])
    torch.testing.assert_close(whole.variance.expand_as(variance), variance)


@pytest.mark.parametrize("std", [0.0, 0.2])
def test_moments_have_finite_gradients_that_reach_all_weights(
    net: Net, start: Start, exact: OperatorNorms, std: float
) -> None:
    """In single precision, and without noise too."""
    images = net.single.images(4).requires_grad_()
    deviation = _std(images.detach(), std).requires_grad_()
    result = net.single.program.run(start(images, deviation), exact)
    leaves = {"images": images, "deviation": deviation, **dict(net.single.model.named_parameters())}
    # The mean of a linear net knows nothing of the noise, nor its variance of the images and biases.
    needless = {"deviation"}, {"images", *(name for name in leaves if name.endswith("bias"))}
    for moment, unused in zip((result.mean, result.variance), needless, strict=True):
        total = moment.square().sum()
        gradients = torch.autograd.grad(total, list(leaves.values()), retain_graph=True, allow_unused=True)
        for name, gradient in zip(leaves, gradients, strict=True):
            assert gradient is not None or name in unused, name
            if gradient is not None:
                assert gradient.isfinite().all(), name
                assert gradient.any() or not std or name in unused or name.endswith("bias"), name


def test_moments_have_the_gradients_of_finite_differences(
    net: Net, start: Start, exact: OperatorNorms
) -> None:
    if net.name == "softplus-jump":
        pytest.skip("it has no derivative at its jump, where some point of the quadrature may lie")
    images = net.images(2)
    generator = torch.Generator().manual_seed(5)
    upstream = [torch.randn(2, 4, generator=generator, dtype=torch.float64) for _ in range(2)]

    def total(images: Tensor, std: Tensor) -> Tensor:
        result = net.program.run(start(images, std), exact)
        pairs = zip((result.mean, result.variance), upstream, strict=True)
        return sum(((moment * way[:, : moment.shape[1]]).sum() for moment, way in pairs), torch.zeros(()))

    inputs = (images.requires_grad_(), _std(images.detach(), 0.3).requires_grad_())
    ways = [torch.randn(value.shape, generator=generator, dtype=torch.float64) for value in inputs]
    slope = sum(
        (gradient * way).sum()
        for gradient, way in zip(torch.autograd.grad(total(*inputs), inputs), ways, strict=True)
    )
    with torch.no_grad():
        far, near = (
            total(*[value + step * way for value, way in zip(inputs, ways, strict=True)])
            for step in (1e-5, -1e-5)
        )
    torch.testing.assert_close(slope, (far - near) / 2e-5, rtol=1e-4, atol=1e-6)


def test_moments_of_an_empty_batch_are_empty(
    nets: Callable[[str], Net], start: Start, exact: OperatorNorms
) -> None:
    images = nets("conv").images(1)
    result = nets("conv").program.run(start(images[:0], _std(images, 0.2)), exact)
    assert result.mean.shape == (0, 3)


class _Cumulated(Monotone):
    """max(x_1, …, x_i) for each i: monotone, but made of nothing that a distribution knows."""

    @property
    @override
    def lipschitz(self) -> float:
        return 3.0

    @override
    def __call__(self, x: Tensor) -> Tensor:
        return x.cummax(1).values


class _Cumulative(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.cummax(1).values


def test_moments_refuse_a_function_of_ones_own_with_a_way_out(start: Start) -> None:
    images = torch.rand(2, 4)
    value = start(images, torch.full((1, 4), 0.1))
    with pytest.raises(
        ModelError, match=r"Elementwise, Unimodal, .*_Cumulated\. Write the rule in those, or "
    ):
        value.monotone(_Cumulated())


def test_moments_refuse_a_rule_made_of_a_function_of_ones_own(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("withstand.graph.rule_registry._RULES", {torch.ops.aten.cummax.default: _rule})
    images = torch.rand(2, 4)
    with pytest.raises(ModelError, match="made use of _Cumulated"):
        propagate(_Cumulative(), start(images, torch.full((1, 4), 0.1)))


def _rule(site: object, value: Moments, dim: int) -> list[Moments | None]:
    return [value.monotone(_Cumulated()), None]
