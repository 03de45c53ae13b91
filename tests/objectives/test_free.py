from __future__ import annotations

import copy
import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import withstand as ws
from tests.training.stop_after import StopAfter
from withstand.core.batch_shares import Share, taking
from withstand.core.schedules import Linear
from withstand.data.batches import repeated
from withstand.objectives import FreeAdversarial
from withstand.training import TrainingSettings
from withstand.types import RecipeError


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)).double()


def _batches(num: int = 2) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(num, 5, 3, 4, generator=generator, dtype=torch.float64)
    return [(batch, torch.tensor([0, 1, 2, 0, 1])) for batch in images]


def _train(objective: FreeAdversarial, model: nn.Module, steps: list[tuple[Tensor, Tensor]]) -> None:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.3)
    for images, labels in steps:
        optimizer.zero_grad()
        objective(model, images, labels).loss.backward()
        optimizer.step()


def _weights(model: nn.Module) -> Tensor:
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


REPEATED = [batch for batch in _batches() for _ in range(3)]


def test_free_training_is_the_published_algorithm() -> None:
    epsilon, model = 0.1, _net()
    delta = torch.zeros(5, 3, 4, dtype=torch.float64)
    for images, labels in REPEATED:
        moved = (images + delta).clamp(0, 1).requires_grad_()
        *slopes, uphill = torch.autograd.grad(
            F.cross_entropy(model(moved), labels), [*model.parameters(), moved]
        )
        with torch.no_grad():
            for weight, slope in zip(model.parameters(), slopes, strict=True):
                weight.sub_(0.3 * slope)
        delta = (delta + epsilon * uphill.sign()).clamp(-epsilon, epsilon)
    ours = _net()
    _train(FreeAdversarial(epsilon), ours, REPEATED)
    torch.testing.assert_close(_weights(ours), _weights(model), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_free_training_keeps_its_images_in_the_ball_and_in_range(norm: float) -> None:
    seen: list[Tensor] = []
    model = _net()
    model.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    objective = FreeAdversarial(Linear(0.0, 0.3, epochs=1), norm)
    for number, (images, labels) in enumerate(REPEATED):
        seen.clear()
        result = objective(model, images, labels, progress=number / 6)
        result.loss.backward()
        (given,) = [one for one in seen if one.shape == images.shape]
        distances = torch.linalg.vector_norm((given - images).flatten(1), norm, dim=1)
        assert (distances <= 0.3 * number / 6 + 1e-9).all()
        assert 0 <= given.min() <= given.max() <= 1
        assert result.terms["epsilon"] == pytest.approx(0.3 * number / 6)
    assert distances.max() > 0.1


@pytest.mark.parametrize("at", [1, 4])
def test_free_training_goes_on_from_its_state(at: int) -> None:
    whole, parts = _net(), _net()
    _train(FreeAdversarial(0.1), whole, REPEATED)
    first, second = FreeAdversarial(0.1), FreeAdversarial(0.1)
    _train(first, parts, REPEATED[:at])
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    _train(second, parts, REPEATED[at:])
    assert torch.equal(_weights(parts), _weights(whole))


def test_free_training_refuses_parts_of_batches() -> None:
    images, labels = _batches()[0]
    with taking(Share(0, 5, 10)), pytest.raises(RecipeError, match=r"training.micro_batches=1"):
        FreeAdversarial(0.1)(_net(), images, labels)


def test_free_training_says_so_where_batches_do_not_repeat(caplog: pytest.LogCaptureFixture) -> None:
    (images, labels), (others, _) = _batches()
    with caplog.at_level(logging.WARNING):
        _train(FreeAdversarial(0.1), _net(), [(images, labels)] * 2 + [(others, labels.flip(0))])
        assert not caplog.records
        _train(FreeAdversarial(0.1), _net(), [(images, labels), (others, labels.flip(0)), (images, labels)])
    (record,) = caplog.records
    assert "training.batch_repeats=8" in record.getMessage()


def test_free_training_says_nothing_where_it_goes_on_at_the_last_repeat(
    caplog: pytest.LogCaptureFixture,
) -> None:
    (images, labels), (others, _) = _batches()
    following = [(images, labels), (others, labels.flip(0))]
    first, second = FreeAdversarial(0.1), FreeAdversarial(0.1)
    with caplog.at_level(logging.WARNING):
        _train(first, _net(), [(images, labels)] * 2)
        second.load_state_dict(first.state_dict())  # a checkpoint, after which both go on
        _train(first, _net(), following)
        _train(second, _net(), following)
    assert not caplog.records


def test_batches_are_repeated_in_a_row() -> None:
    order = torch.tensor([4, 2, 0, 1, 3])
    assert repeated(order, 2, 3).tolist() == [4, 2] * 3 + [0, 1] * 3
    assert repeated(order, 2, 1) is order
    with pytest.raises(ValueError, match="drop_last=True with batch_repeats=8"):
        TrainingSettings(batch_repeats=8)


@pytest.mark.parametrize("stop_after", [2, 8])
def test_a_training_resumed_within_repeats_ends_with_the_same_weights(
    tmp_path: Path, stop_after: int
) -> None:
    data = ws.data.load("digits", train_size=50, validation_size=20)
    settings = TrainingSettings(epochs=2, batch_size=20, drop_last=True, batch_repeats=3)
    model = ws.models.create("mlp", dataset="digits", hidden=[8])
    whole, cut, resumed = (copy.deepcopy(model) for _ in range(3))
    result = ws.fit(whole, data, FreeAdversarial(0.1), settings, out=tmp_path / "whole")
    assert result.steps == 2 * 2 * 3
    assert 0 < float(result.rows[-1]["adversarial"]) < 4
    often = replace(settings, checkpoint_seconds=0.0)
    with pytest.raises(KeyboardInterrupt):
        ws.fit(
            *(cut, data, FreeAdversarial(0.1), often), out=tmp_path / "cut", observers=[StopAfter(stop_after)]
        )
    ws.fit(resumed, data, FreeAdversarial(0.1), settings, out=tmp_path / "cut")
    assert torch.equal(_weights(resumed), _weights(whole))
