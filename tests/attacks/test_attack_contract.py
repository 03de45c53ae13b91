"""What every attack of the table in conftest keeps to: a new one adds a line and inherits all."""

from __future__ import annotations

import itertools
import math
from dataclasses import FrozenInstanceError, replace
from typing import get_args

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from withstand.attacks import PGD, Attack, AttackKind, Noise
from withstand.core import norms
from withstand.types import Batch, DataError

EPSILON = 0.1  # where every budget of the table ends
AMPLE = 2.0  # a budget that all find something in, also those that return only what fools the model


def _predictions(model: nn.Module, images: Tensor) -> Tensor:
    with torch.no_grad():
        logits: Tensor = model(images)
    return logits.argmax(dim=1)


def _assert_inside(attack: Attack, images: Tensor, result: Tensor, epsilon: float) -> None:
    assert result.shape == images.shape
    assert result.dtype == images.dtype
    assert result.device == images.device
    assert not result.requires_grad
    assert result.isfinite().all()
    if not result.numel():
        return
    assert result.min() >= 0
    assert result.max() <= 1
    assert attack.norm is not None
    assert norms.norm(result - images, attack.norm).max() <= epsilon * (1 + 1e-5) + 1e-6


# What comes out


def test_attack_result_is_near_in_range_and_detached(attack: Attack, net: nn.Module, batch: Batch) -> None:
    for dtype, progress in itertools.product((torch.float32, torch.float64), (0.0, 1.0, 2.5, math.inf)):
        images = batch.images.to(dtype)
        result = attack(net.to(dtype), images, batch.labels, progress=progress)
        _assert_inside(attack, images, result, attack.epsilon_at(progress))
        assert attack.epsilon_at(progress) <= attack.epsilon_at() == EPSILON


# On purpose far: a budget larger than any distance is warned of.
@pytest.mark.filterwarnings("ignore:epsilon .* lets an attack turn")
# Of a budget that float32 rounds to 0 a library makes NaN; then the image is left as it was, which is said.
@pytest.mark.filterwarnings("ignore:An attack made NaN of")
@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=3),
    epsilon=st.floats(0, 2),
    seed=st.integers(0, 99),
)
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_attack_result_is_inside_whatever_the_shape_and_budget(
    attack: Attack, shape: list[int], epsilon: float, seed: int
) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        images = torch.rand(3, *shape).mul_(1.5).clamp_(max=1.0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 3), nn.Identity())
        result = attack.at(epsilon)(model, images, torch.tensor([0, 1, 2]))
    _assert_inside(attack, images, result, epsilon)


def test_attack_without_a_budget_gives_the_images_back_exactly(
    attack: Attack, net: nn.Module, batch: Batch
) -> None:
    result = attack.at(0.0)(net, *batch)
    assert torch.equal(result, batch.images)
    assert result.data_ptr() != batch.images.data_ptr()


def test_attack_gives_an_empty_batch_back_empty(attack: Attack, net: nn.Module, batch: Batch) -> None:
    images = batch.images[:0]
    _assert_inside(attack, images, attack(net, images, batch.labels[:0]), EPSILON)


@pytest.mark.filterwarnings("ignore:epsilon .* lets an attack turn")
def test_attack_repeats_with_its_seed(attack: Attack, net: nn.Module, batch: Batch) -> None:
    results = []
    for seed in (3, 3):
        torch.manual_seed(seed)
        results.append(attack.at(AMPLE)(net, *batch))
    assert torch.equal(*results)
    assert not torch.equal(results[0], batch.images)


def test_attack_treats_each_example_on_its_own(pgd: PGD, net: nn.Module, batch: Batch) -> None:
    steady, images = replace(pgd, random_start=False), batch.images.double()
    together = steady(net.double(), images, batch.labels)
    alone = [steady(net, images[i : i + 1], batch.labels[i : i + 1]) for i in range(len(images))]
    torch.testing.assert_close(together, torch.cat(alone))


def test_attack_in_evaluation_leaves_wrong_examples_wrong(
    querying_attack: Attack, net: nn.Module, batch: Batch
) -> None:
    net.eval()
    wrong = _predictions(net, batch.images) != batch.labels
    assert wrong.any()
    assert not wrong.all()
    result = querying_attack.for_evaluation()(net, *batch)
    assert (_predictions(net, result) != batch.labels)[wrong].all()


def test_attack_of_random_answers_stays_inside(attack: Attack, net: nn.Module, batch: Batch) -> None:
    result = attack.for_random_answers()(net, *batch)
    _assert_inside(attack, batch.images, result, EPSILON)
    assert attack.for_random_answers().epsilon_at() == EPSILON


# What it says of itself


def test_attack_at_another_budget_is_another_attack(attack: Attack) -> None:
    larger = attack.at(0.3)
    assert type(larger) is type(attack)
    assert larger.epsilon_at() == larger.epsilon_at(0.0) == 0.3
    assert attack.epsilon_at() == EPSILON
    assert larger.norm == attack.norm
    assert larger.name == attack.name


def test_attack_describes_itself(attack: Attack) -> None:
    assert set(attack.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789-")
    assert norms.label(attack.norm or 0.0) in attack.name
    assert norms.label(attack.norm or 0.0) in attack.describe()
    assert attack.for_evaluation().name == attack.for_random_answers().name == attack.name


def test_attack_stages_are_of_its_budget(attack: Attack) -> None:
    stages = attack.at(0.3).stages
    assert stages
    assert {stage.epsilon_at() for stage in stages} == {0.3}
    assert {stage.norm for stage in stages} == {attack.norm}
    assert all(stage.kind in get_args(AttackKind) for stage in stages)
    assert all(list(stage.stages) == [stage] for stage in stages)


def test_attack_slowed_has_a_lower_budget_for_one_epoch_only(attack: Attack) -> None:
    slowed = attack.slowed(0.0)
    assert slowed.epsilon_at(0.5) == pytest.approx(attack.epsilon_at(0.0) / 2)
    for progress in (1.0, 2.0, 3.0, 9.0):
        assert slowed.epsilon_at(progress) == pytest.approx(attack.epsilon_at(progress - 1))
    assert slowed.epsilon_at() == EPSILON


def test_attack_cannot_be_changed(attack: Attack) -> None:
    with pytest.raises(FrozenInstanceError):
        attack.epsilon = 1.0  # type: ignore[misc]


# What it refuses


def test_attack_refuses_images_outside_the_unit_interval(
    attack: Attack, net: nn.Module, batch: Batch
) -> None:
    with pytest.raises(DataError, match=r"Expected images in \[0, 1\], but they span"):
        attack(net, batch.images * 255, batch.labels)


def test_attack_refuses_labels_that_do_not_fit(attack: Attack, net: nn.Module, batch: Batch) -> None:
    with pytest.raises(DataError, match=r"one int64 label an image, shape \(12,\), but got shape \(11,\)"):
        attack(net, batch.images, batch.labels[:-1])


@pytest.mark.parametrize("kind", [PGD, Noise])
@pytest.mark.parametrize("epsilon", [-0.1, math.inf, math.nan])
def test_attack_refuses_budgets_that_are_none(kind: type[PGD | Noise], epsilon: float) -> None:
    with pytest.raises(
        ValueError, match=rf"Expected epsilon of at least 0( and finite)?, but got {epsilon}\."
    ):
        kind(epsilon=epsilon)


@pytest.mark.parametrize("kind", [PGD, Noise])
def test_attack_refuses_other_norms(kind: type[PGD | Noise]) -> None:
    with pytest.raises(ValueError, match=r"Expected a norm of 1, 2 or inf, but got 3"):
        kind(norm=3.0)
