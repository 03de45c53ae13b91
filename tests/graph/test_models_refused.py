"""Whole models that no graph stands for: refused in words, before anything is bounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from typing_extensions import override

from withstand import certify
from withstand.core.contract import contract_of
from withstand.domains import Ball, Program, propagate, unsupported
from withstand.objectives import Certified, EveryLayer, FirstActivation, GaussianExpectation
from withstand.operators import GuaranteedNorms
from withstand.types import ModelError

IMAGES, LABELS = torch.rand(6, 4), torch.arange(6) % 3


class Written(nn.Module):
    """Two layers, and a forward of its own between them."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.between = nn.Linear(4, 5), nn.Linear(5, 3), between

    @override
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.last(self.between(self, x))
        return logits


def _without_gradients(net: Any, x: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.relu(net.first(x))


@pytest.mark.parametrize(
    "between",
    [_without_gradients, lambda net, x: torch.relu(net.first(x)).detach()],
    ids=["no_grad", "detach"],
)
@pytest.mark.parametrize(
    "objective",
    [Certified(2, 0.1), GaussianExpectation(0.1), GaussianExpectation(0.1, propagation=EveryLayer())],
    ids=["certified", "first", "every"],
)
def test_training_refuses_a_model_that_stops_gradients_on_their_way(
    between: Any, objective: nn.Module
) -> None:
    model = Written(between)
    with pytest.raises(ModelError, match=r"without gradients.*requires_grad_\(False\)"):
        objective(model, IMAGES, LABELS)
    model.requires_grad_(requires_grad=False)
    assert objective(model, IMAGES, LABELS).loss.isfinite()
    assert unsupported(model, IMAGES) == []


@pytest.mark.parametrize(
    "between",
    [
        lambda net, x: torch.relu(net.first(x)) if x.shape[0] < 16 else net.first(x),
        lambda net, x: torch.relu(net.first(x)) if x.shape[0] > 16 else net.first(x),
    ],
)
def test_program_refuses_a_model_that_treats_large_batches_otherwise(between: Any) -> None:
    with pytest.raises(ModelError, match="for batches of other sizes"):
        Program(Written(between), IMAGES)


def test_certify_refuses_a_model_that_treats_one_image_otherwise() -> None:
    model = Written(lambda net, x: -net.first(x) if x.shape[0] == 1 else net.first(x))
    with pytest.raises(ModelError, match="are not its own"):
        certify(model, IMAGES, LABELS, norm=2, epsilon=0.01)


@pytest.mark.parametrize(
    ("model", "images", "match"),
    [
        (nn.Linear(4, 3).double(), IMAGES, r"images\.to\(torch\.float64\)"),
        (nn.Linear(4, 3), (255 * IMAGES).byte(), r"images\.to\(torch\.float32\)"),
        (torch.relu, IMAGES, r"torch\.nn\.Module, but got"),
        (nn.Linear(4, 3), IMAGES.numpy(), "as a tensor"),
    ],
)
def test_unsupported_says_what_model_and_images_it_takes(model: Any, images: Any, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        raise ModelError(*unsupported(model, images))


class Capped(nn.Module):
    """Its class says how it bends."""

    cap = 0.5

    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(max=self.cap)


def test_program_of_a_new_model_knows_nothing_of_another_of_the_same_kind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ball = Ball(torch.full((1, 2), 0.4), torch.tensor([10.0]))
    propagate(Capped(), ball)
    monkeypatch.setattr(Capped, "cap", 5.0)
    reached = Program(Capped(), ball.center).run(
        Ball(torch.full((1, 2), 2.0), torch.zeros(1)), GuaranteedNorms()
    )
    torch.testing.assert_close(reached.center, torch.full((1, 2), 2.0))


@pytest.mark.parametrize("way", [FirstActivation(), EveryLayer()])
def test_training_leaves_attributes_that_a_forward_writes_to_its_own_passes(way: Any) -> None:
    class Counting(Written):
        num_passes = 0

        @override
        def forward(self, x: Tensor) -> Tensor:
            self.num_passes += 1
            return super().forward(x)

    model = Counting(lambda net, x: torch.relu(net.first(x)))
    contract_of(model, IMAGES)
    before = model.num_passes
    GaussianExpectation(0.1, propagation=way)(model, IMAGES, LABELS)
    assert model.num_passes == before


def test_certified_training_keeps_the_power_iteration_of_spectral_norm_going() -> None:
    model = nn.Sequential(parametrizations.spectral_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 3))
    before = model.state_dict()["0.parametrizations.weight.0._u"].clone()
    Certified(2, 0.1, kappa=0.5)(model, IMAGES, LABELS)
    assert not model.state_dict()["0.parametrizations.weight.0._u"].equal(before)


@pytest.mark.filterwarnings("ignore:.*spectral_norm:FutureWarning")
@pytest.mark.parametrize("norm", [2, float("inf")])
def test_certified_training_refuses_the_former_spectral_norm(norm: float) -> None:
    model = nn.Sequential(nn.utils.spectral_norm(nn.Linear(4, 5)), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(ModelError, match=r"take torch\.nn\.utils\.parametrizations\.spectral_norm"):
        Certified(norm, 0.1, kappa=0.5)(model, IMAGES, LABELS)
    certify(model.eval(), IMAGES, LABELS, norm=2, epsilon=0.1)


def test_unsupported_leaves_the_buffers_of_a_model_in_training_as_they_were() -> None:
    layers = parametrizations.spectral_norm(nn.Linear(4, 5)), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)
    model = nn.Sequential(*layers).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    assert unsupported(model, IMAGES) == []
    for name, value in model.state_dict().items():
        assert value.equal(before[name]), name
