"""What terms of a sum share, and what they must not."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.attacks import PGD
from withstand.core.contract import contract_of
from withstand.core.schedules import Linear
from withstand.loss.passes import Pass
from withstand.loss.terms import OnePass, Sum
from withstand.objectives import Adversarial, CrossEntropy
from withstand.penalties import InputGradient, LossGradient, VirtualAdversarial
from withstand.types import DataError, LossTerms, ModelError


class Counting(nn.Module):
    """Counts the batches of each size that go through it."""

    def __init__(self, *, has_batch_norm: bool = False) -> None:
        super().__init__()
        norm = [nn.BatchNorm1d(5)] if has_batch_norm else []
        self.layers = nn.Sequential(nn.Linear(4, 5), *norm, nn.Tanh(), nn.Linear(5, 3))
        self.sizes: list[int] = []

    @override
    def forward(self, images: Tensor) -> Tensor:
        self.sizes.append(len(images))
        logits: Tensor = self.layers(images)
        return logits

    def met(self) -> Counting:
        """Itself, when what it gives was looked at once, before what is counted."""
        contract_of(self, IMAGES)
        self.sizes.clear()
        return self


IMAGES, LABELS = torch.rand(8, 4), torch.arange(8) % 3


def test_pass_of_a_batch_is_shared_by_terms() -> None:
    model = Counting().met()
    (CrossEntropy() + 0.1 * InputGradient() + 0.1 * LossGradient())(model, IMAGES, LABELS)
    assert model.sizes == [8, 3]  # the batch, and the worst image of each class
    model.sizes.clear()
    (CrossEntropy() + 2.0 * (0.1 * LossGradient()))(model, IMAGES, LABELS)
    assert model.sizes == [8]


def test_pass_is_one_for_each_mode_where_a_network_trains_otherwise_than_it_answers() -> None:
    model = Counting(has_batch_norm=True).met().train()
    (CrossEntropy() + 0.1 * LossGradient() + 0.1 * InputGradient())(model, IMAGES, LABELS)
    assert model.sizes == [8, 8, 3]
    model.sizes.clear()
    model.eval()
    (CrossEntropy() + 0.1 * LossGradient())(model, IMAGES, LABELS)
    assert model.sizes == [8]


def test_pass_of_an_adversarial_objective_shows_penalties_the_clean_images() -> None:
    model = Counting().eval()
    attack = PGD(norm=math.inf, epsilon=0.2, num_steps=1, random_start=False)
    _, terms = (Adversarial(attack) + 0.1 * LossGradient())(model, IMAGES, LABELS)
    expected = LossGradient()(model, IMAGES, LABELS).loss
    assert terms["loss_gradient_l2"].item() == pytest.approx(expected.item())


def test_pass_without_a_penalty_does_not_track_images() -> None:
    assert Pass(Counting(), IMAGES).differentiable.images is not IMAGES
    plain = CrossEntropy() + 0.0 * InputGradient()
    assert not plain.differentiates_images()
    assert (CrossEntropy() + InputGradient()).differentiates_images()
    later = CrossEntropy() + Linear(0.0, 1.0, epochs=1, begin=5) * InputGradient()
    assert not later.differentiates_images(2.0)
    assert later.differentiates_images(6.0)


def test_pass_of_a_compiled_model_is_differentiated_twice_where_it_is_not_compiled() -> None:
    model = Counting()
    compiled = torch.compile(model, backend="eager")
    expected = (CrossEntropy() + LossGradient())(model, IMAGES, LABELS).loss
    actual = (CrossEntropy() + LossGradient())(compiled, IMAGES, LABELS).loss
    assert actual.item() == pytest.approx(expected.item())


def test_pass_that_is_shared_does_not_change_a_terms_random_start() -> None:
    model, images = Counting().double(), IMAGES.double()
    torch.manual_seed(0)
    _, terms = (CrossEntropy() + VirtualAdversarial())(model, images, LABELS)
    torch.manual_seed(0)
    alone = VirtualAdversarial()(model, images, LABELS).loss
    assert terms["virtual_adversarial"].item() == pytest.approx(alone.item())


class MeanLogit(OnePass):
    """One's own objective on the shared pass."""

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        return LossTerms(passed.logits.mean(), {"mean_logit": passed.logits.mean().detach()})


def test_pass_may_be_shared_by_ones_own_objective() -> None:
    model = Counting().met()
    loss, terms = Sum([CrossEntropy(), MeanLogit(), 0.5 * MeanLogit()])(model, IMAGES, LABELS)
    assert model.sizes == [8]
    expected = terms["cross_entropy"] + 1.5 * terms["mean_logit"]
    assert loss.item() == pytest.approx(expected.item())


def test_pass_of_a_step_in_which_nothing_has_a_weight_is_a_step_all_the_same() -> None:
    objective: Any = Linear(0.0, 1.0, epochs=2) * CrossEntropy()
    model = Counting()
    objective(model, IMAGES, LABELS, progress=0.0).loss.backward()
    assert all(parameter.grad is None for parameter in model.parameters())


class Dropping(Counting):
    """Drops inputs while it trains, by a function, which is no layer."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return super().forward(F.dropout(images, 0.5, self.training))


@pytest.mark.parametrize("first", [True, False])
def test_pass_that_is_random_in_training_is_not_shared(first: bool) -> None:
    torch.manual_seed(0)
    model = Dropping()
    expected = LossGradient()(model.eval(), IMAGES, LABELS).loss
    model.train().sizes.clear()
    objective = LossGradient() + CrossEntropy() if first else CrossEntropy() + LossGradient()
    torch.manual_seed(1)
    _, terms = objective(model, IMAGES, LABELS)
    assert model.sizes == [8, 8]
    assert terms["loss_gradient_l2"].item() == pytest.approx(expected.item())
    torch.manual_seed(1)
    assert terms["cross_entropy"].item() == CrossEntropy()(model, IMAGES, LABELS).loss.item()


class _Answers(nn.Module):
    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    @override
    def forward(self, images: Tensor) -> Any:
        return self.answer(images)


@pytest.mark.parametrize(
    ("answer", "result"),
    [
        (lambda images: images[:, :, None], r"shape \(2, 4, 1\) for 2 images"),
        (lambda images: images.mean(dim=0, keepdim=True), r"shape \(1, 4\) for 2 images"),
        (lambda images: (images, images[:, :2]), r"a tuple of \(2, 4\), \(2, 2\)"),
    ],
)
@pytest.mark.parametrize("objective", [CrossEntropy(), InputGradient(), VirtualAdversarial()])
def test_pass_explains_that_a_model_gives_no_logits(objective: OnePass, answer: Any, result: str) -> None:
    with pytest.raises(ModelError, match=rf"returns {result}, but must give logits, a tensor"):
        objective(_Answers(answer), IMAGES, LABELS)


@pytest.mark.parametrize("objective", [CrossEntropy(), CrossEntropy() + 0.1 * InputGradient()])
def test_pass_refuses_a_batch_of_nothing(objective: OnePass) -> None:
    with pytest.raises(DataError, match="at least one image"):
        objective(Counting(), IMAGES[:0], LABELS[:0])
