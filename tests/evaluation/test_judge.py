"""The judge: how answers that are drawn several times become a share, and what attacks leave of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import bayes
from withstand.attacks import PGD, Attack
from withstand.evaluation import AttackPlan, Judge, score_batch
from withstand.evaluation.judge import random_judge
from withstand.evaluation.rows import attack_batch
from withstand.types import Batch

IMAGES = torch.full((3, 1, 2, 2), 0.5)
LABELS = torch.tensor([0, 1, 1])


class Script(nn.Module):
    """Answers class by class as it is told, whatever it sees; each list is one answer of the batch."""

    def __init__(self, *answers: list[int]) -> None:
        super().__init__()
        self._answers: Iterator[list[int]] = iter(answers)

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = 2.0 * nn.functional.one_hot(torch.tensor(next(self._answers)), 2)
        return logits


@dataclass(frozen=True)
class Brighter(PGD):
    """Adds its budget to every pixel."""

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        return images + self.epsilon_at()

    @override
    def for_random_answers(self) -> PGD:
        return self


def _plan(epsilons: list[float]) -> AttackPlan:
    return AttackPlan(Brighter(), epsilons, "a", math.inf, is_random=True)


def test_each_repeat_counts() -> None:
    model = Script([0, 1, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1])
    judge = Judge(model, model, num_repeats=4)
    found = judge.answer(IMAGES, LABELS)
    assert found.right.tolist() == [3, 4, 1]
    assert found.prediction.tolist() == [0, 1, 0]  # of the mean over all repeats
    one, other = torch.tensor([2.0, 0.0]).softmax(0).tolist()
    assert found.confidence.tolist() == pytest.approx([(3 * one + other) / 4, one, (3 * one + other) / 4])
    assert judge.share(found.right).tolist() == [0.75, 1.0, 0.25]


def test_one_repeat_is_zero_or_one_as_an_integer() -> None:
    model = Script([0, 0, 1])
    judge = Judge.of(model)
    share = judge.share(judge.answer(IMAGES, LABELS).right)
    assert share.dtype == torch.int32
    assert share.tolist() == [1, 0, 1]
    assert judge.predictor is judge.target is model


def test_the_share_never_grows_with_the_budget_and_the_fallen_are_left_alone() -> None:
    # Clean both right of all; at 0.1 the shares are 1/2, 0, 1; then two images are left, and would recover.
    answers = [[0, 1, 1], [0, 1, 1], [0, 0, 1], [1, 0, 1], [0, 1], [0, 0]]
    model = Script(*answers)
    judge = Judge(model, model, num_repeats=2)
    seen: dict[str, Tensor] = {}
    scores = score_batch(
        judge, Batch(IMAGES, LABELS), [_plan([0.1, 0.2])], 7, lambda name, x: seen.update({name: x.clone()})
    )
    assert scores.columns["index"].tolist() == [7, 8, 9]
    assert scores.columns["clean"].tolist() == [1.0, 1.0, 1.0]
    assert scores.columns["a@0.1"].tolist() == [0.5, 0.0, 1.0]
    assert scores.columns["a@0.2"].tolist() == [0.5, 0.0, 0.5]
    assert next(model._answers, None) is None
    torch.testing.assert_close(seen["a@0.1"][:, 0, 0, 0], torch.tensor([0.6, 0.6, 0.6]))
    torch.testing.assert_close(seen["a@0.2"][:, 0, 0, 0], torch.tensor([0.7, 0.6, 0.7]))
    torch.testing.assert_close(scores.fooling["a"][:, 0, 0, 0], torch.tensor([0.5, 0.6, 0.5]))


def test_attacks_see_the_target_and_not_the_predictor() -> None:
    asked: list[nn.Module] = []

    @dataclass(frozen=True)
    class Spy(Brighter):
        @override
        def perturb(
            self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
        ) -> Tensor:
            asked.append(model)
            return images

    target = nn.Identity()
    judge = Judge(Script([0, 1, 1]), target)
    attack_batch(
        judge,
        Batch(IMAGES, LABELS),
        torch.ones(3, dtype=torch.int64),
        [AttackPlan(Spy(), [0.1], "a", math.inf)],
    )
    assert asked == [target]


@pytest.mark.parametrize(("is_random", "by_loss"), [(True, True), (False, False)])
def test_the_form_of_an_attack_follows_the_model(is_random: bool, by_loss: bool) -> None:
    form: Attack = AttackPlan(PGD(), [0.1], "a", math.inf, is_random).form
    assert isinstance(form, PGD)
    assert (form.rank_by_loss, form.stop_when_fooled, form.keep_best) == (by_loss, not by_loss, True)


def test_random_weights_are_scored_and_attacked_by_the_mean_probability() -> None:
    torch.manual_seed(0)
    model = bayes.convert(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), bayes.Posterior(initial_std=2.0))
    judge = random_judge(model, num_samples=400, num_repeats=3, attack_samples=2)
    assert isinstance(judge.target, bayes.Predictor)
    assert (judge.num_repeats, judge.target.num_samples) == (3, 2)
    with torch.no_grad():
        expected = torch.stack([model(IMAGES).softmax(1) for _ in range(2000)]).mean(0).amax(1)
        found = judge.answer(IMAGES, LABELS).confidence
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0)
