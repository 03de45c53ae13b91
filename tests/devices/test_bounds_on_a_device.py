"""Domains and certificates on a device: sets and distributions, bounds, branch and bound, smoothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from inspect import isabstract
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import withstand as ws
from tests.devices.pretended import Device
from tests.domains.conftest import make
from withstand import domains
from withstand.certificates import METHODS, Method
from withstand.certificates.smoothing import Smoothing, smoothed_radius
from withstand.domains import CorrelatedGaussian, FactoredGaussian, Gaussian, input_set, propagate
from withstand.types import Batch

STD = 0.3
STARTS: dict[str, Callable[[Tensor], Any]] = {
    "box": lambda images: input_set(images, math.inf, 0.05, "box"),
    "ball": lambda images: input_set(images, 2.0, 0.05, "ball"),
    "box_ball": lambda images: input_set(images, 2.0, 0.05, "box_ball", clip=True),
    "linear": lambda images: input_set(images, 1.0, 0.05, "linear", clip=True),
    "diagonal": lambda images: Gaussian(images, torch.full_like(images, STD**2)),
    "factored": lambda images: FactoredGaussian(images, _factors(images)),
    "correlated": lambda images: CorrelatedGaussian.independent(
        images, torch.full_like(images, STD**2), linked=True
    ),
}
# A net for each kind of rule; all are tried on the CPU.
NETS = (
    "gelu",
    "minmax",
    "conv",
    "batchnorm2d",
    "maxpool-overlap",
    "avgpool",
    "pad",
    "weight-norm",
    "residual",
)


def _factors(images: Tensor) -> Tensor:
    size = images.shape[1:].numel()
    units = torch.eye(size, dtype=images.dtype, device=images.device)
    return STD * units.reshape(size, 1, *images.shape[1:])


def _tensors(value: Any) -> Iterator[Tensor]:
    """All that a set or distribution is made of."""
    if isinstance(value, Tensor):
        yield value
    elif is_dataclass(value):
        for field in fields(value):
            yield from _tensors(getattr(value, field.name))
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)


def test_starts_name_every_domain() -> None:
    named = (getattr(domains, name) for name in domains.__all__)
    kinds = {kind for kind in named if isinstance(kind, type) and issubclass(kind, domains.Domain)}
    images = torch.rand(2, 3)
    assert {type(start(images)) for start in STARTS.values()} == {
        kind for kind in kinds if not isabstract(kind)
    }


@pytest.mark.parametrize("name", NETS)
def test_domains_pass_on_a_device_as_on_the_cpu(name: str, device: Device) -> None:
    net = make(name)
    images = net.images(3)
    model_there, images_there = device.put((net.model, images))
    for label, start in STARTS.items():
        with torch.no_grad():
            here, there = propagate(net.model, start(images)), propagate(model_there, start(images_there))
        for one, other in zip(_tensors(here), _tensors(there), strict=True):
            assert other.device == images_there.device, label
            torch.testing.assert_close(other.cpu(), one)


# -- what is proven of images ------------------------------------------------------------------------


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(48, 8), nn.ReLU(), nn.Linear(8, 3)),
    ).eval()


def _batch(model: nn.Module) -> Batch:
    """Four images, of which the net gets three right."""
    images = torch.rand(4, 1, 4, 4, generator=torch.Generator().manual_seed(2))
    labels = model(images).argmax(dim=1)
    return Batch(images, (labels + torch.tensor([0, 0, 0, 1])) % 3)


@pytest.mark.parametrize("method", METHODS)
def test_certificates_on_a_device_are_those_of_the_cpu(method: Method, device: Device) -> None:
    model = _net()
    batch = _batch(model)
    model_there, batch_there = device.put((model, batch))
    for norm, epsilon in ((2.0, 0.1), (math.inf, 0.03)):
        here = ws.certify(model, *batch, norm=norm, epsilon=epsilon, method=method)
        there = ws.certify(model_there, *batch_there, norm=norm, epsilon=epsilon, method=method)
        assert there.certified.device == batch_there.images.device
        assert there.certified.tolist() == here.certified.tolist()
        torch.testing.assert_close(there.margin.cpu(), here.margin)


def test_certified_radius_on_a_device_is_that_of_the_cpu(device: Device) -> None:
    model = _net()
    batch = _batch(model)
    here = ws.certified_radius(model, *batch, norm=2)
    there = ws.certified_radius(*device.put((model, *batch)), norm=2)
    assert there.cpu().tolist() == pytest.approx(here.tolist())
    assert here.max() > 0


def test_smoothing_on_a_device_counts_the_draws_of_a_generator_of_the_device(device: Device) -> None:
    model = _net()
    images, settings = _batch(model).images, Smoothing(0.25, num_selection=20, num_estimation=200)
    generators = torch.Generator().manual_seed(1), torch.Generator("pretended").manual_seed(1)
    here = smoothed_radius(model, images, settings=settings, generator=generators[0])
    there = smoothed_radius(*device.put((model, images)), settings=settings, generator=generators[1])
    for one, other in zip(here, there, strict=True):
        assert other.device == torch.device("pretended", 0)
        assert torch.equal(other.cpu(), one)


def test_bounds_on_norms_of_kernels_on_a_device_are_those_of_the_cpu(device: Device) -> None:
    model = _net()
    images = _batch(model).images
    here = ws.kernel_norm_bounds(model, images)
    there = ws.kernel_norm_bounds(*device.put((model, images)))
    assert str(there) == str(here)
