"""The predictor: how answers that are drawn several times become a share, and what attacks leave of it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import bayes
from withstand.attacks import PGD, AttackMode, Cascade, Noise
from withstand.core.contract import contract_of
from withstand.data import Dataset
from withstand.evaluation import Predictor
from withstand.evaluation.attacking import Memory, Scores, attack_batch, column
from withstand.evaluation.meter import Columns
from withstand.evaluation.meters import Attacks
from withstand.evaluation.plans import AttackPlan
from withstand.evaluation.predictor import Answer, random_predictor
from withstand.types import Batch

IMAGES = torch.full((3, 1, 2, 2), 0.5)
LABELS = torch.tensor([0, 1, 1])


def score_batch(
    predictor: Predictor, batch: Batch, plans: list[AttackPlan], memory: Memory | None = None
) -> Scores:
    """Clean and under each attack."""
    clean = predictor.answer(*batch)
    scores = attack_batch(predictor, batch, clean, plans, memory or Memory())
    return scores._replace(worst={"clean": predictor.share(clean.correct).numpy(), **scores.worst})


class Script(nn.Module):
    """Answers class by class from a list, whatever it sees; each list is one answer of the batch."""

    def __init__(self, *answers: list[int]) -> None:
        super().__init__()
        self._answers: Iterator[list[int]] = iter([[0, 1]])
        contract_of(self, IMAGES)  # the one look at two images
        self._answers = iter(answers)

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
    def for_random_answers(self) -> Self:
        return self


def _plan(epsilons: list[float]) -> AttackPlan:
    return AttackPlan(Brighter(), epsilons, "a")


def test_predictor_answer_counts_each_repeat() -> None:
    model = Script([0, 1, 0], [1, 1, 0], [0, 1, 0], [0, 1, 1])
    predictor = Predictor(model, model, num_repeats=4)
    answer = predictor.answer(IMAGES, LABELS)
    assert answer.correct.tolist() == [3, 4, 1]
    assert answer.prediction.tolist() == [0, 1, 0]  # of the mean over all repeats
    one, other = torch.tensor([2.0, 0.0]).softmax(0).tolist()
    assert answer.confidence.tolist() == pytest.approx([(3 * one + other) / 4, one, (3 * one + other) / 4])
    assert predictor.share(answer.correct).tolist() == [0.75, 1.0, 0.25]


def test_predictor_share_of_one_repeat_is_an_integer() -> None:
    model = Script([0, 0, 1])
    predictor = Predictor.of(model)
    share = predictor.share(predictor.answer(IMAGES, LABELS).correct)
    assert share.dtype == torch.int32
    assert share.tolist() == [1, 0, 1]
    assert predictor.model is predictor.attack_model is model


def test_attack_batch_reports_other_predictions_than_chose_images() -> None:
    clean = [[0, 1, 1], [0, 1, 1]]  # both correct for all three
    again = [[0, 1, 1], [1, 1, 1]]  # 1, 2, 2 correct: what the first attack must match
    attacked = [[0, 0, 1], [0, 0, 1]]  # 2, 0, 2 correct: the first image stays the clean one
    counted = [[0, 0, 0], [0, 0, 1]]  # 2, 0, 1 correct: the second is broken
    attacked_more, counted_more = [[0, 1], [1, 1]], [[0, 0, 1], [1, 1, 1]]
    model = Script(*clean, *again, *attacked, *counted, *attacked_more, *counted_more)
    predictor = Predictor(model, model, num_repeats=2, is_random=True)
    seen: dict[str, Tensor] = {}

    class Watching(Memory):
        @override
        def attacked(self, plan: AttackPlan, epsilon: float, images: Tensor) -> Columns:
            seen[column(plan.name, epsilon)] = images.clone()
            return {}

    scores = score_batch(predictor, Batch(IMAGES, LABELS), [_plan([0.1, 0.2])], Watching())
    assert scores.columns["clean"].tolist() == [1.0, 1.0, 1.0]
    assert scores.columns["a@0.1"].tolist() == [1.0, 0.0, 0.5]
    assert scores.columns["a@0.2"].tolist() == [0.5, 0.5, 1.0]  # the broken, too, is counted afresh
    assert next(model._answers, None) is None
    torch.testing.assert_close(seen["a@0.1"][:, 0, 0, 0], torch.tensor([0.5, 0.6, 0.6]))
    torch.testing.assert_close(seen["a@0.2"][:, 0, 0, 0], torch.tensor([0.7, 0.6, 0.6]))


def test_attack_batch_asks_for_single_answers_once() -> None:
    model = Script([0, 1, 0], [1, 1], [1])
    scores = score_batch(Predictor.of(model), Batch(IMAGES, LABELS), [_plan([0.1, 0.2])])
    assert next(model._answers, None) is None
    columns = [scores.columns[name] for name in ("clean", "a@0.1", "a@0.2")]
    assert [column.tolist() for column in columns] == [[1, 1, 0], [0, 1, 0], [0, 1, 0]]
    assert all(column.dtype == np.int32 for column in columns)
    torch.testing.assert_close(scores.fooling["a"][:, 0, 0, 0], torch.tensor([0.6, 0.5, 0.5]))


class Coin(nn.Module):
    """Correct for class 0 as often as an image's pixel says."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        is_correct = torch.rand(len(images)) < images[:, 0]
        return 2.0 * torch.stack([is_correct, ~is_correct], dim=1)


@pytest.mark.parametrize("num_repeats", [1, 2])
def test_attack_batch_gains_nothing_by_an_attack_that_does_nothing(num_repeats: int) -> None:
    torch.manual_seed(0)
    images = 0.5 + 0.5 * torch.rand(20_000, 1)
    predictor = Predictor(Coin(), Coin(), num_repeats, is_random=True)
    plans = [replace(_plan([1e-9, 2e-9, 3e-9]), name=name) for name in ("a", "b", "c")]
    columns = score_batch(predictor, Batch(images, torch.zeros(20_000, dtype=torch.int64)), plans).columns
    error = 0.44 / math.sqrt(20_000 * num_repeats)  # at most, of one share
    for name in ("clean", "a@1e-09", "a@3e-09", "c@3e-09", "worst-linf@1e-09", "worst-linf@3e-09"):
        assert columns[name].mean() == pytest.approx(0.75, abs=4 * error)


def test_attack_batch_worst_is_the_attack_with_the_worst_images() -> None:
    @dataclass(frozen=True)
    class Darker(Brighter):
        @override
        def perturb(
            self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
        ) -> Tensor:
            return images - self.epsilon_at()

    torch.manual_seed(0)
    images, labels = torch.full((2_000, 1), 0.8), torch.zeros(2_000, dtype=torch.int64)
    predictor = Predictor(Coin(), Coin(), 20, is_random=True)
    plans = [_plan([0.2, 0.7]), AttackPlan(Darker(), [0.2, 0.7], "d")]
    plans[0] = replace(plans[0], attack=Noise(num_samples=1).for_random_answers())
    columns = score_batch(predictor, Batch(images, labels), plans).columns
    assert columns["d@0.7"].mean() == pytest.approx(0.1, abs=0.01)
    assert columns["worst-linf@0.7"].mean() == pytest.approx(0.1, abs=0.03)  # few are misjudged
    assert columns["a@0.7"].mean() > 0.3


def test_attack_batch_attacks_the_attack_model_and_not_the_predictor() -> None:
    asked: list[nn.Module] = []

    @dataclass(frozen=True)
    class Spy(Brighter):
        @override
        def perturb(
            self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
        ) -> Tensor:
            asked.append(model)
            return images

    target = nn.Flatten()
    predictor = Predictor(Script([0, 1, 1]), target)
    attack_batch(
        predictor,
        Batch(IMAGES, LABELS),
        Answer(LABELS, torch.ones(3), torch.ones(3, dtype=torch.int64)),
        [AttackPlan(Spy(), [0.1], "a")],
    )
    assert asked == [target]


@pytest.mark.parametrize(("is_random", "mode"), [(True, "random"), (False, "evaluation")])
def test_attack_plans_take_the_form_that_follows_the_model(
    is_random: bool, mode: AttackMode, tiny_dataset: Dataset
) -> None:
    plans = Attacks([PGD()], [0.2, 0.1]).attack_plans(tiny_dataset.info, is_random=is_random)
    assert plans == [AttackPlan(PGD(mode=mode), [0.1, 0.2], "pgd-10-linf")]


def test_random_predictor_scores_and_attacks_the_mean_probability() -> None:
    torch.manual_seed(0)
    model = bayes.convert(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)), bayes.Posterior(initial_std=2.0))
    predictor = random_predictor(model, num_samples=400, num_repeats=3, attack_samples=2)
    assert isinstance(predictor.attack_model, bayes.Predictor)
    assert (predictor.num_repeats, predictor.attack_model.num_samples) == (3, 2)
    with torch.no_grad():
        expected = torch.stack([model(IMAGES).softmax(1) for _ in range(2000)]).mean(0).amax(1)
        confidence = predictor.answer(IMAGES, LABELS).confidence
    torch.testing.assert_close(confidence, expected, atol=0.05, rtol=0)


@dataclass(frozen=True)
class GivesUp(PGD):
    """Returns the clean image, as some attacks do where they do not succeed."""

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        return images.clone()


def test_attack_batch_holds_the_image_that_came_near_when_a_stage_gives_up() -> None:
    brighter, gives_up = Brighter(epsilon=0.1), GivesUp(epsilon=0.1)
    plan = AttackPlan(Cascade([brighter, gives_up], "both"), [0.1], "both-linf")
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with torch.no_grad():
        labels = model(IMAGES).argmax(dim=1)
    seen: list[Tensor] = []

    class Watching(Memory):
        @override
        def attacked(self, plan: AttackPlan, epsilon: float, images: Tensor) -> Columns:
            seen.append(images)
            return {}

    score_batch(Predictor.of(model.eval()), Batch(IMAGES, labels), [plan], Watching())
    assert torch.allclose(seen[0], IMAGES + 0.1)


def test_attack_batch_returns_no_images_that_are_not_requested() -> None:
    class Forgetful(Memory):
        """Wants no images."""

        wants_images = False

    plan = AttackPlan(Brighter(), [0.1], "brighter")
    batch = Batch(IMAGES, torch.zeros_like(LABELS))
    asked: list[tuple[dict[str, Any], list[str]]] = [({}, ["brighter"]), ({"memory": Forgetful()}, [])]
    for options, fooled in asked:
        predictor = Predictor.of(Script([0, 0, 0], [0, 1, 1]))
        clean = predictor.answer(*batch)
        assert list(attack_batch(predictor, batch, clean, [plan], **options).fooling) == fooled


@pytest.mark.parametrize("is_random", [False, True])
def test_predictor_counts_nan_as_correct_for_no_class(is_random: bool) -> None:
    class Broken(nn.Module):
        @override
        def forward(self, images: Tensor) -> Tensor:
            return torch.full((len(images), 2), torch.nan)

    predictor = Predictor(Broken(), Broken(), is_random=is_random)
    images, labels = torch.zeros(4, 1), torch.tensor([0, 1, 0, 1])
    assert predictor.answer(images, labels).correct.tolist() == [0, 0, 0, 0]
    assert not (predictor.count_correct(images, labels).correct >= 1).any()
