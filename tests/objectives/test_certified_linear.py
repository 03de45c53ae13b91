"""Certified training by backward linear bounds (CROWN-IBP), and the ramp from them to intervals."""

from __future__ import annotations

import math
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core.schedules import Linear
from withstand.objectives import Certified, WorstLoss
from withstand.types import Batch

EPSILON = 0.1
RAMP = Linear(start=1.0, end=0.0, epochs=2, begin=1)


@pytest.fixture
def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(32, 8), nn.ReLU()),
            nn.Linear(8, 4),
        ).double()
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(3)
    return model


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, 1, 4, 4, generator=generator, dtype=torch.float64)
    return Batch(images, torch.randint(4, (6,), generator=generator))


class Spied(WorstLoss):
    """Keeps the differences that it is given."""

    @override
    def __call__(self, differences: Tensor, labels: Tensor, clean: Tensor) -> Tensor:
        self.differences = differences.detach()
        return differences.sum()


def differences(net: nn.Module, batch: Batch, norm: float = math.inf, **options: Any) -> Tensor:
    spied = Spied()
    Certified(norm, EPSILON, loss=spied, **{"domain": "linear", **options})(net, *batch)
    return spied.differences


def written_out(net: nn.Sequential, batch: Batch) -> tuple[Tensor, Tensor]:
    """The differences by intervals, and by one backward pass between them, with every matrix written out."""
    lower, upper = batch.images - EPSILON, batch.images + EPSILON
    layers: list[tuple[Tensor, ...]] = []
    for layer in net:
        ends = lower.flatten(1), upper.flatten(1)
        lower, upper, shape = layer(lower), layer(upper), lower.shape[1:]
        if isinstance(layer, nn.ReLU):
            above, below = ends[1].clamp_min(0), ends[0].clamp_max(0)
            slope = above / (above - below)
            layers.append(((above > -below).double(), slope, -below * slope))
        elif not isinstance(layer, nn.Flatten):
            constant = layer(torch.zeros(1, *shape).double())
            matrix = (layer(torch.eye(shape.numel()).double().reshape(-1, *shape)) - constant).flatten(1).T
            middle, reach = (ends[0] + ends[1]) @ matrix.T / 2, (ends[1] - ends[0]) @ matrix.abs().T / 2
            layers.append((matrix, constant.flatten()))
            lower, upper = ((middle + side * reach).reshape(lower.shape) + constant for side in (-1, 1))
    head, bias = layers.pop()
    gaps, apart = head[None] - head[batch.labels, None], bias[None] - bias[batch.labels, None]
    by_intervals = (gaps @ middle_of(ends) + gaps.abs() @ reach_of(ends)).squeeze(2) + apart
    rows, most = -gaps, apart
    for parts in reversed(layers):
        if len(parts) == 2:
            rows, most = rows @ parts[0], most - rows @ parts[1]
        else:
            lower_slope, upper_slope, offset = (part[:, None] for part in parts)
            above, below = rows.clamp_min(0), rows.clamp_max(0)
            rows, most = above * lower_slope + below * upper_slope, most - (below * offset).sum(2)
    images = batch.images.flatten(1)[..., None]
    return by_intervals, most - (rows @ images).squeeze(2) + EPSILON * rows.abs().sum(2)


def middle_of(ends: tuple[Tensor, Tensor]) -> Tensor:
    return ((ends[0] + ends[1]) / 2)[..., None]


def reach_of(ends: tuple[Tensor, Tensor]) -> Tensor:
    return ((ends[1] - ends[0]) / 2)[..., None]


@pytest.mark.parametrize("mix", [1.0, 0.25, 0.0])
def test_certified_linear_is_the_mixture_of_the_textbooks_two_bounds(
    net: nn.Sequential, batch: Batch, mix: float
) -> None:
    by_intervals, by_lines = written_out(net, batch)
    is_other = torch.arange(4) != batch.labels[:, None]
    assert (by_lines < by_intervals - 0.01)[is_other].any()
    expected = mix * torch.minimum(by_lines, by_intervals) + (1 - mix) * by_intervals
    actual = differences(net, batch, mix=mix)
    torch.testing.assert_close(actual[is_other], expected[is_other], rtol=1e-6, atol=1e-9)
    assert (actual[~is_other] == 0).all()


def test_certified_linear_ends_as_interval_training_without_a_backward_pass(
    net: nn.Sequential, batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    objective = Certified(math.inf, EPSILON, domain="linear", mix=RAMP)
    mixed = objective(net, *batch, progress=2.0)
    assert float(mixed.terms["mix"]) == 0.5
    monkeypatch.setattr("withstand.domains.linear.linear.least", None)
    ended = objective(net, *batch, progress=3.0)
    box = Certified(math.inf, EPSILON, domain="box")(net, *batch)
    assert torch.equal(ended.loss, box.loss)
    assert mixed.loss < box.loss
    with pytest.raises(TypeError):
        objective(net, *batch, progress=2.9)


def test_certified_linear_bounds_in_l2_are_no_looser_than_ball_and_box(
    net: nn.Sequential, batch: Batch
) -> None:
    by_sets = differences(net, batch, 2, domain="box_ball", num_power_iterations=300)
    by_lines = differences(net, batch, 2, num_power_iterations=300)
    assert (by_lines <= by_sets + 1e-6).all()
    assert (by_lines < by_sets - 0.01).any()


def test_certified_linear_slows_its_mixture_with_epsilon() -> None:
    objective = Certified(math.inf, Linear(0.0, EPSILON, epochs=2, begin=1), domain="linear", mix=RAMP)
    assert objective.slow_down(1.0)
    assert cast(Linear, objective.mix)(2.0) == 0.75
    assert "mix=Slowed" in repr(objective)


def test_certified_linear_has_finite_gradients_where_activations_are_0(batch: Batch) -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)
    )
    objective = Certified(math.inf, 0.0, domain="linear")
    objective(model, torch.zeros(6, 1, 4, 4), batch.labels).loss.backward()
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        assert weight.grad.isfinite().all(), name
