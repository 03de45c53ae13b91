from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from withstand.attacks import PGD, fgsm_rs, steps_for
from withstand.core.contract import contract_of
from withstand.core.schedules import Linear, PerEpoch, Stages
from withstand.types import Batch

NORMS = (1.0, 2.0, math.inf)
IAT = PerEpoch(Linear(start=0.0, end=0.4, epochs=40))
PIXEL = torch.tensor([[0.2]], dtype=torch.float64)
LABEL = torch.tensor([0])


@pytest.mark.parametrize("epoch", range(1, 41))
def test_steps_for_takes_two_and_a_half_steps_an_epoch_halves_up(epoch: int) -> None:
    expected = (5 * epoch + 1) // 2  # floor(2.5 e + 1/2), in whole numbers
    assert steps_for(0.01 * epoch, 0.01) == expected
    assert steps_for(epoch / 100, 0.01) == expected
    assert steps_for(IAT(epoch - 1), 0.01) == steps_for(IAT(epoch - 0.5), 0.01) == expected


def test_steps_for_by_hand() -> None:
    assert steps_for(0.0, 0.01) == 1
    assert steps_for(0.001, 0.01) == 1
    assert steps_for(0.18, 0.01) == 45  # 44.99… in floats
    assert steps_for(0.36, 0.01) == 90
    assert steps_for(0.3, 0.05) == 15
    assert steps_for(8 / 255, 2 / 255) == 10
    assert steps_for(0.0119, 0.01) == 3
    assert steps_for(0.0139, 0.01) == 3
    assert steps_for(0.0141, 0.01) == 4


def _uphill() -> nn.Module:
    """Fooled the more, the brighter its lone pixel."""
    model = nn.Linear(1, 2, bias=False)
    model.weight = nn.Parameter(torch.tensor([[0.0], [1.0]]))
    return model.double()


def _displacement(attack: PGD, progress: float = math.inf) -> float:
    """How far a lone pixel goes uphill from 0.2."""
    result = replace(attack, random_start=False)(_uphill(), PIXEL, LABEL, progress=progress)
    return result.item() - 0.2


@pytest.mark.parametrize("p", NORMS)
def test_pgd_way_is_the_sum_of_the_steps(p: float) -> None:
    attack = PGD(norm=p, epsilon=0.5, num_steps=4, step_size=0.1)
    assert _displacement(attack) == pytest.approx(0.4)
    assert _displacement(replace(attack, num_steps=9)) == pytest.approx(0.5)
    decayed = replace(attack, step_decay=Linear(1.0, 0.0, 1))
    assert _displacement(decayed) == pytest.approx(0.1 * (1 + 0.75 + 0.5 + 0.25))
    assert _displacement(replace(attack, step_decay=0.5)) == pytest.approx(0.2)
    assert _displacement(replace(attack, step_size=None, step_decay=0.1)) == pytest.approx(0.125)


def _forwards(attack: PGD, progress: float) -> int:
    model, calls = _uphill(), list[int]()
    contract_of(model, PIXEL)  # a look that is taken once, before what is counted
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    attack(model, PIXEL, LABEL, progress=progress)
    return len(calls)


def test_pgd_reads_schedules_at_the_progress_of_the_call() -> None:
    attack = PGD(
        epsilon=Stages([0.3, 0.4], [30, 5]),
        num_steps=Stages([2, 3], [30, 5]),
        step_size=Stages([0.01, 0.02], [30, 5]),
    )
    assert [_displacement(attack, e) for e in (0, 29, 30, 99)] == pytest.approx([0.02, 0.02, 0.06, 0.06])
    assert [_forwards(attack, e) for e in (0, 30)] == [2, 3]
    assert _displacement(attack) == pytest.approx(0.06)


def test_pgd_steps_follow_a_scheduled_epsilon_by_the_rule() -> None:
    attack = PGD(epsilon=IAT, step_size=0.01)
    assert [_forwards(attack, e - 1) for e in (1, 18, 36, 40)] == [3, 45, 90, 100]


def test_pgd_without_steps_or_their_size_takes_ten() -> None:
    attack = PGD(epsilon=0.1)
    assert _forwards(attack, 0) == 10
    assert _displacement(replace(attack, num_steps=100, step_decay=0.2)) == pytest.approx(0.05)


def test_pgd_with_a_schedule_of_steps_that_begins_at_none_takes_one() -> None:
    attack = PGD(epsilon=0.1, num_steps=Linear(0, 4, 4))
    assert [_forwards(attack, e) for e in (0, 1, 2.6, 4)] == [1, 1, 3, 4]


def test_pgd_slowed_delays_steps_and_sizes_with_the_stage() -> None:
    attack = PGD(
        epsilon=Stages([0.3, 0.4], [30, 5]),
        num_steps=Stages([2, 3], [30, 5]),
        step_size=Stages([0.01, 0.02], [30, 5]),
    )
    slowed = attack.slowed(30)
    assert [slowed.epsilon_at(e) for e in (29, 30, 31)] == pytest.approx([0.3, 0.35, 0.4])
    assert [_forwards(slowed, e) for e in (29, 30, 31)] == [2, 3, 3]
    assert [_displacement(slowed, e) for e in (29, 30, 31)] == pytest.approx([0.02, 0.06, 0.06])
    fixed = PGD(epsilon=0.3, num_steps=7, step_size=0.01).slowed(0)
    assert (fixed.num_steps, fixed.step_size) == (7, 0.01)


def test_fgsm_rs_is_a_random_start_and_one_step_of_1_25_epsilon(curved: tuple[nn.Module, Batch]) -> None:
    """Wong et al., algorithm 3, at whatever budget it is run."""
    model, (images, labels) = curved
    images = (3 * images - 1).clamp(0, 1)  # the start leaves [0, 1]
    for attack, progress, epsilon in (
        (fgsm_rs(0.1), math.inf, 0.1),
        (fgsm_rs(0.1).at(0.05), math.inf, 0.05),
        (fgsm_rs(Linear(0.0, 0.2, 4)), 1.0, 0.05),
    ):
        torch.manual_seed(0)
        delta = torch.empty_like(images).uniform_(-1, 1) * epsilon
        leaf = (images + delta).requires_grad_()
        (gradient,) = torch.autograd.grad(F.cross_entropy(model(leaf), labels, reduction="sum"), leaf)
        expected = images + (delta + 1.25 * epsilon * gradient.sign()).clamp(-epsilon, epsilon)
        expected = expected.clamp(0, 1)
        torch.manual_seed(0)
        torch.testing.assert_close(attack(model, images, labels, progress=progress), expected)
    assert "1 steps of 1.25 epsilon together, random start that is not clipped" in fgsm_rs().describe()


def test_search_for_the_worst_image_clips_its_start(curved: tuple[nn.Module, Batch]) -> None:
    model, (images, labels) = curved
    seen: list[bool] = []
    model.register_forward_pre_hook(
        lambda _, given: seen.append(torch.equal(given[0], given[0].clamp(0.0, 1.0)))
    )
    images = images.round()
    for attack in (replace(fgsm_rs(0.3), keep_best=True), fgsm_rs(0.3).for_evaluation()):
        attack(model, images, labels)
    assert seen
    assert all(seen)
    fgsm_rs(0.3)(model, images, labels)
    assert not all(seen)


def test_reach_gives_the_number_of_steps_too() -> None:
    assert steps_for(0.3, 0.05, reach=1.0) == 6
    with pytest.raises(ValueError, match="Expected reach above 0"):
        PGD(reach=0.0)
