"""Small networks, trained on the digits that come with scikit-learn, which the suite writes as ONNX."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand import data
from withstand.data import batches, epoch_order
from withstand.types import Batch

__all__ = ["BASES", "EPOCHS", "HALVES", "SHAPES", "base", "halves", "test_batch"]

EPOCHS = 12
"""Of the training of each."""
_BATCH, _EPSILON = 100, 0.04  # of one step against the image
_MEAN, _STD = 0.3, 0.4  # what some of them normalise by
HALVES = (2, 8, 4)
"""The shape of a digit whose left and right halves are two channels."""


def halves(images: Tensor) -> Tensor:
    """Digits (batch, 1, 8, 8) with their halves as channels: (batch, 2, 8, 4)."""
    return torch.cat(images.chunk(2, dim=3), dim=1)


class Residual(nn.Module):
    """A convolution, a block that adds what it takes, and the mean of each channel."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 6, 3, stride=2, padding=1)
        self.inner, self.outer = nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(6, 6, 1)
        self.last = nn.Linear(24, 10)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.first(x))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        result: Tensor = self.last(F.avg_pool2d(x, 2).flatten(1))
        return result


class Branches(nn.Module):
    """Dense layers on the upper rows of the image, by ReLU, and on the lower ones, by ReLU6, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.upper, self.lower, self.last = nn.Linear(32, 12), nn.Linear(32, 12), nn.Linear(24, 10)

    @override
    def forward(self, x: Tensor) -> Tensor:
        upper, lower = torch.split(x.flatten(1), 32, dim=1)
        result: Tensor = self.last(torch.cat([F.relu(self.upper(upper)), F.relu6(self.lower(lower))], dim=1))
        return result


class Rows(nn.Module):
    """What a dense layer gives of each row of the image, and the mean and the sum of that over the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.row, self.last = nn.Linear(8, 20), nn.Linear(48, 10)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = x[:, 0]
        seen = F.leaky_relu(self.row(x), 0.1)
        result: Tensor = self.last(torch.cat([seen.mean(1), 0.1 * seen.sum(1), x[:, 3]], dim=1))
        return result


class Squares(nn.Module):
    """A dense layer, squares of what it gives, and as many values as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(64, 10), nn.Linear(20, 10)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.flatten(1))
        result: Tensor = self.last(torch.cat([x, x**2], dim=1))
        return result


def _dense(activation: Callable[[], nn.Module], *widths: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    for number, (inner, outer) in enumerate(zip((64, *widths), (*widths, 10), strict=True)):
        layers[f"linear{number}"] = nn.Linear(inner, outer)
        layers[f"act{number}"] = activation()
    layers.popitem()
    return nn.Sequential(layers)


def _max_pool() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10))


def _average_pool() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 8, 2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(72, 10),
    )


def _batch_norm() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, stride=2, bias=False),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 16, 2),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 10),
    )


def _asymmetric() -> nn.Sequential:
    """Padded as TensorFlow pads for a stride of 2: below and to the right alone."""
    return nn.Sequential(
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.Conv2d(1, 6, 3, stride=2),
        nn.ReLU(),
        nn.ZeroPad2d((0, 1, 0, 1)),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, 10),
    )


def _two_channels() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(2, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(48, 10)
    )


BASES: Mapping[str, Callable[[], nn.Module]] = MappingProxyType(
    {
        "dense": lambda: _dense(nn.ReLU, 24, 24),
        "sigmoid": lambda: _dense(nn.Sigmoid, 16),
        "tanh": lambda: _dense(nn.Tanh, 16, 16),
        "max-pool": _max_pool,
        "average-pool": _average_pool,
        "batch-norm": _batch_norm,
        "asymmetric": _asymmetric,
        "residual": Residual,
        "two-channels": _two_channels,
        "branches": Branches,
        "rows": Rows,
        "squares": Squares,
    }
)
"""Name -> what makes it, untrained."""
SHAPES: Mapping[str, tuple[int, ...]] = MappingProxyType({"two-channels": HALVES})
"""Those of inputs that are no digits (1, 8, 8)."""


@cache
def _digits() -> data.Dataset:
    return data.load("digits", validation_size=0)


def test_batch(number: int, name: str) -> Batch:
    """The first digits to test on, in the shape that a network of that name takes."""
    images, labels = next(batches(_digits().test, number))
    return Batch(halves(images) if name in SHAPES else images, labels)


test_batch.__test__ = False  # type: ignore[attr-defined]


@cache
def base(name: str, epochs: int) -> nn.Module:
    """A network, trained for a second against one step of an attack; the same each time.

    Args:
        name: Of ``BASES``.
        epochs: ``EPOCHS`` for one that answers well.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = BASES[name]()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        train = _digits().train
        for epoch in range(epochs):
            for images, labels in batches(train, _BATCH, order=epoch_order(len(train), seed=0, epoch=epoch)):
                images = halves(images) if name in SHAPES else images
                optimizer.zero_grad()
                loss = F.cross_entropy(model(_stepped(model, images, labels)), labels)
                torch.autograd.backward(loss)
                optimizer.step()
    return model.eval().requires_grad_(requires_grad=False)


def _stepped(model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    images = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(images), labels), images)
    return (images.detach() + _EPSILON * slope.sign()).clamp(0, 1)
