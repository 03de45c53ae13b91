"""Leaving out second derivatives that are zero changes nothing but the time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.models import MinMax, Normalize, create
from withstand.penalties import classwise
from withstand.penalties.classwise import is_piecewise_linear, own_gradients, without_curvature


def _pooled() -> nn.Module:
    return nn.Sequential(
        Normalize([0.5], [0.2]),
        *(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 4, 3, padding=1), MinMax(), nn.AvgPool2d(2), nn.Flatten()),
        *(nn.Linear(16, 6), nn.LeakyReLU(), nn.Dropout(), nn.Linear(6, 3)),
    )


def _in_place() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))


def _smooth_above_kinks() -> nn.Module:
    """Curvature above a ReLU reaches the weights below it."""
    return nn.Sequential(
        *(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
    )


class _Squaring(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))

    @override
    def forward(self, images: Tensor) -> Tensor:
        squares: Tensor = self.layers(images) ** 2
        return squares


def _batch_statistics() -> nn.Module:
    norm = nn.BatchNorm1d(8, track_running_stats=False)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 8), norm, nn.ReLU(), nn.Linear(8, 3))


def _hooked() -> nn.Module:
    model = _in_place()
    model.register_forward_hook(lambda module, args, output: output**3)
    return model


def _residual() -> nn.Module:
    return create("resnet18", dataset="digits")


MODELS: dict[str, Callable[[], nn.Module]] = {
    "pooled": _pooled,
    "in-place": _in_place,
    "smooth-above-kinks": _smooth_above_kinks,
    "squaring": _Squaring,
    "batch-statistics": _batch_statistics,
    "hooked": _hooked,
    "residual": _residual,
}


def _slopes(model: nn.Module, images: Tensor) -> list[Tensor]:
    loss = own_gradients(model, images).square().sum()
    return list(torch.autograd.grad(loss, list(model.parameters()), materialize_grads=True))


@pytest.mark.parametrize("name", MODELS)
def test_without_curvature_gives_what_autograd_gives(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = MODELS[name]().double()
    images = torch.rand(3 if name != "residual" else 10, 1, 8, 8, dtype=torch.float64)
    actual = _slopes(model, images)
    monkeypatch.setattr(classwise, "without_curvature", lambda _: torch.enable_grad())
    expected = _slopes(model, images)
    assert any(bool(slope.any()) for slope in expected)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_is_piecewise_linear_knows_what_is() -> None:
    assert is_piecewise_linear(_pooled())
    assert is_piecewise_linear(_in_place())
    assert is_piecewise_linear(_residual())
    assert is_piecewise_linear(create("vgg11", dataset="cifar10"))
    assert not is_piecewise_linear(_smooth_above_kinks())
    assert not is_piecewise_linear(_Squaring())
    assert not is_piecewise_linear(_batch_statistics())
    assert not is_piecewise_linear(_hooked())


def test_without_curvature_ends_the_zeros_at_the_activations() -> None:
    """Without it a bias below an activation gets a gradient of zeros; with it none at all."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))
    images = torch.rand(3, 4, requires_grad=True)
    with without_curvature(model):
        (gradients,) = torch.autograd.grad(model(images).diagonal().sum(), images, create_graph=True)
    gradients.square().sum().backward()
    first = model[0]
    assert isinstance(first, nn.Linear)
    assert first.bias.grad is None
    assert first.weight.grad is not None
    assert not first._forward_pre_hooks
    assert not model[1]._forward_pre_hooks
