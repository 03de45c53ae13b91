"""Attacks on nets whose answers or gradients are no numbers in places."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD, Attack, AutoAttack, Cascade, FoolboxAttack, Noise, Transfer
from withstand.core.answers import NO_ANSWER, predicted


class Gap(nn.Module):
    """Class 1 where the mean is above a limit; before that lies a gap in which it answers NaN."""

    def __init__(self, limit: float = 0.58, gap: tuple[float, float] = (0.52, 0.56)) -> None:
        super().__init__()
        self.limit, self.gap = limit, gap

    @override
    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(dim=1)
        side = 10 * (mean - self.limit)
        spoilt = (mean > self.gap[0]) & (mean < self.gap[1])
        return torch.stack([-side, side], dim=1).where(~spoilt[:, None], math.nan)


GREY = torch.full((4, 1, 2, 2), 0.5)
ZEROS = torch.zeros(4, dtype=torch.int64)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(epsilon=0.1, num_steps=4, num_restarts=60),
        Noise(epsilon=0.2, num_samples=200),
        Cascade([PGD(epsilon=0.1, num_steps=4, num_restarts=60)]),
    ],
    ids=lambda attack: attack.name,
)
def test_attacks_search_on_where_the_model_gives_no_answer(attack: Attack) -> None:
    reached = attack.for_evaluation()(Gap(), GREY, ZEROS)
    assert predicted(Gap()(reached)).tolist() == [1, 1, 1, 1]


@pytest.mark.parametrize(
    "attack",
    [
        PGD(epsilon=0.1, num_steps=40, random_start=False, step_size=0.005),
        Cascade([PGD(epsilon=0.1, num_steps=40, step_size=0.005)]),
        Transfer(Gap(gap=(2.0, 2.0)), PGD(epsilon=0.05, num_steps=10)),
    ],
    ids=lambda attack: attack.name,
)
def test_attacks_return_no_answer_where_nothing_is_worse(attack: Attack) -> None:
    model = Gap(limit=2.0, gap=(0.51, 0.8))
    reached = attack.for_evaluation()(model, GREY, ZEROS)
    assert predicted(model(reached)).tolist() == [NO_ANSWER] * 4


@pytest.mark.parametrize("mode", ["training", "evaluation", "random"])
def test_pgd_leaves_a_clean_image_without_an_answer(mode: str) -> None:
    model = Gap(gap=(0.49, 0.51))  # NaN at the very start
    attack = PGD(epsilon=0.1, num_steps=10, num_restarts=5, mode=mode)  # type: ignore[arg-type]
    assert predicted(model(attack(model, GREY, ZEROS))).tolist() == [1, 1, 1, 1]


class Root(nn.Module):
    """Class 1 where the mean of the roots is above a limit; the gradient is infinite at black pixels.

    A part of no effect adds NaN to it at others.
    """

    @override
    def forward(self, images: Tensor) -> Tensor:
        flat = images.flatten(1)
        side = flat.sqrt().mean(dim=1) - 0.3 + 0.0 * flat[:, 0].sqrt()
        return torch.stack([-10 * side, 10 * side, 0 * side - 9, 0 * side - 9], dim=1)


BLACK = torch.zeros(4, 1, 8, 8)


@pytest.mark.parametrize(
    "attack",
    [
        PGD(epsilon=0.2, num_steps=10, random_start=False),
        PGD(epsilon=2.0, norm=2.0, num_steps=10, random_start=False),
        PGD(epsilon=2.0, norm=2.0, num_steps=10, random_start=False, keep_best=True),
        AutoAttack(epsilon=0.2, num_steps=10),
        AutoAttack(epsilon=2.0, norm=2.0, num_steps=10),
        AutoAttack(epsilon=0.2, part="apgd-t", num_steps=10),
        FoolboxAttack(epsilon=4.0, num_steps=20),
    ],
    ids=lambda attack: f"{attack.name}-{attack.epsilon}",
)
def test_attacks_follow_gradients_that_are_not_finite(attack: Attack) -> None:
    reached = attack(Root(), BLACK, ZEROS)
    assert reached.isfinite().all()
    assert predicted(Root()(reached)).tolist() == [1, 1, 1, 1]


def test_pgd_says_where_its_loss_is_nan() -> None:
    def broken(logits: Tensor, labels: Tensor) -> Tensor:
        return logits[:, 0] * math.nan

    attack = PGD(epsilon=0.05, num_steps=2, loss=broken).for_evaluation()
    with pytest.warns(RuntimeWarning, match="The loss broken of .* is NaN at 4 of 4 images that the model"):
        attack(Gap(), GREY, ZEROS)
    attack(Gap(gap=(0.4, 0.6)), GREY, ZEROS)  # the model itself gives no answer
