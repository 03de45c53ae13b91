from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.attacks import PGD, Noise, fgsm
from withstand.core.contract import contract_of
from withstand.core.schedules import Linear, Stages
from withstand.objectives import (
    Adversarial,
    CrossEntropy,
    GaussianExpectation,
    NoisyCrossEntropy,
    Objective,
    Penalty,
    Sum,
    Variational,
    Weighted,
)
from withstand.types import Batch, DataError, LossTerms

EPSILON = 0.2
ATTACK = PGD(epsilon=EPSILON, num_steps=3)


def _net(*, has_batch_norm: bool = True) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = [nn.BatchNorm1d(12)] if has_batch_norm else []
        return nn.Sequential(nn.Flatten(), nn.Linear(9, 12), *norm, nn.ReLU(), nn.Linear(12, 4))


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(
        torch.rand(20, 1, 3, 3, generator=generator), torch.randint(0, 4, (20,), generator=generator)
    )


def _gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters() if parameter.grad is not None]


def _assert_equal(ours: list[Tensor], theirs: list[Tensor]) -> None:
    assert len(ours) == len(theirs) > 0
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one, other)


# Cross-entropy


def test_cross_entropy_is_plain_training(batch: Batch) -> None:
    model, twin = _net(), _net()
    loss, terms = CrossEntropy()(model, *batch)
    expected = F.cross_entropy(twin(batch.images), batch.labels)
    assert torch.equal(loss, expected)
    _assert_equal(_gradients(loss, model), _gradients(expected, twin))
    accuracy = (_net()(batch.images).argmax(dim=1) == batch.labels).float().mean()
    assert set(terms) == {"cross_entropy", "accuracy"}
    assert torch.equal(terms["cross_entropy"], expected.detach())
    assert torch.equal(terms["accuracy"], accuracy)


# Weights and sums


@pytest.mark.parametrize(
    "other",
    [
        *(CrossEntropy(), Adversarial(ATTACK), Adversarial(fgsm(EPSILON))),
        *(NoisyCrossEntropy(EPSILON), GaussianExpectation(EPSILON), Variational(20)),
    ],
)
def test_weighted_by_zero_is_plain_training_bit_for_bit(other: Objective, batch: Batch) -> None:
    torch.manual_seed(0)
    plain, weighted = _net(has_batch_norm=False), _net(has_batch_norm=False)
    for model, objective in ((plain, CrossEntropy()), (weighted, CrossEntropy() + 0.0 * other)):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        for _ in range(5):
            optimizer.zero_grad()
            objective(model, *batch).loss.backward()
            optimizer.step()
    for one, two in zip(plain.parameters(), weighted.parameters(), strict=True):
        assert torch.equal(one, two)
    assert not torch.equal(next(plain.parameters()), next(_net(has_batch_norm=False).parameters()))


def test_sum_of_objectives_is_as_computed_by_hand(batch: Batch) -> None:
    torch.manual_seed(0)
    model = _net().eval()
    attack = fgsm(EPSILON)
    loss, terms = (0.5 * CrossEntropy() + Linear(0.0, 4.0, 4) * Adversarial(attack))(
        model, *batch, progress=1.0
    )
    twin = deepcopy(model)
    plain = F.cross_entropy(twin(batch.images), batch.labels)
    attacked = F.cross_entropy(twin(attack(twin, *batch)), batch.labels)
    expected = 0.5 * plain + 1.0 * attacked
    torch.testing.assert_close(loss, expected)
    for one, two in zip(_gradients(loss, model), _gradients(expected, twin), strict=True):
        torch.testing.assert_close(one, two)
    assert list(terms) == ["cross_entropy", "accuracy", "adversarial", "adversarial_accuracy", "epsilon"]
    torch.testing.assert_close(terms["adversarial"], attacked.detach())
    assert loss.shape == ()
    assert all(value.shape == () and not value.requires_grad for value in terms.values())


def test_weighted_by_a_schedule_follows_progress(batch: Batch) -> None:
    model = _net().eval()
    scheduled = Linear(0.0, 2.0, 4) * CrossEntropy()
    whole = CrossEntropy()(model, *batch).loss
    for progress, weight in ((0.0, 0.0), (1.0, 0.5), (4.0, 2.0), (math.inf, 2.0)):
        torch.testing.assert_close(scheduled(model, *batch, progress=progress).loss, weight * whole)
    torch.testing.assert_close(scheduled(model, *batch).loss, 2.0 * whole)


def test_sum_tells_two_of_a_kind_apart(batch: Batch) -> None:
    both = Adversarial(fgsm(0.1)) + Adversarial(fgsm(0.3))
    terms = both(_net().eval(), *batch).terms
    assert terms["epsilon"].item() == pytest.approx(0.1)
    assert terms["epsilon_2"].item() == pytest.approx(0.3)
    assert terms["adversarial_2"] > terms["adversarial"]
    assert "adversarial_accuracy_2" in terms


def test_objectives_have_the_words_of_the_package() -> None:
    assert issubclass(Penalty, Objective)
    assert isinstance(CrossEntropy() + CrossEntropy(), Sum)
    assert isinstance(2 * CrossEntropy(), Weighted)


# Adversarial


@pytest.mark.parametrize(
    "attack",
    [
        ATTACK,
        PGD(norm=2.0, epsilon=0.5, num_steps=2, num_restarts=2),
        PGD(norm=1.0, epsilon=0.5, num_steps=2, keep_best=True),
        fgsm(EPSILON),
        Noise(epsilon=EPSILON),
    ],
)
def test_adversarial_gradient_is_that_of_the_adversarial_images_alone(
    attack: PGD | Noise, batch: Batch
) -> None:
    model, twin = _net(), _net()
    for parameter in model.parameters():
        parameter.grad = None
    torch.manual_seed(3)
    loss, terms = Adversarial(attack)(model, *batch)
    assert all(parameter.grad is None for parameter in model.parameters())
    loss.backward()
    ours = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]

    torch.manual_seed(3)
    adversarial = attack(twin, *batch)
    expected = F.cross_entropy(twin(adversarial), batch.labels)
    _assert_equal(ours, _gradients(expected, twin))
    assert torch.equal(loss, expected)
    assert torch.equal(terms["adversarial"], expected.detach())
    # BatchNorm saw the adversarial images, once, and nothing else.
    for key, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[key]), key
    assert int(model.state_dict()["2.num_batches_tracked"]) == 1


def test_adversarial_reports_what_the_attack_did(batch: Batch) -> None:
    model = _net().eval()
    for progress, epsilon in ((0.0, 0.1), (1.0, 0.3), (math.inf, 0.3)):
        attack = fgsm(Stages([0.1, 0.3], [1, 1]))
        terms = Adversarial(attack)(model, *batch, progress=progress).terms
        result = model(attack(model, *batch, progress=progress))
        accuracy = (result.argmax(dim=1) == batch.labels).float().mean()
        assert terms["epsilon"].item() == pytest.approx(epsilon)
        assert terms["epsilon"].dtype == torch.float32
        assert torch.equal(terms["adversarial_accuracy"], accuracy)
    plain = CrossEntropy()(model, *batch)
    assert terms["adversarial"] > plain.loss


def test_adversarial_without_a_budget_is_plain_training(batch: Batch) -> None:
    model, twin = _net(), _net()
    ours = Adversarial(PGD(epsilon=0.0))(model, *batch).loss
    theirs = CrossEntropy()(twin, *batch).loss
    assert torch.equal(ours, theirs)
    _assert_equal(_gradients(ours, model), _gradients(theirs, twin))


def test_adversarial_trains_in_train_mode_and_attacks_in_eval_mode(batch: Batch) -> None:
    model = _net()
    modes: list[bool] = []
    contract_of(model, batch.images)  # a look that is taken once, before what is recorded
    model.register_forward_pre_hook(lambda module, _: modes.append(module.training))
    Adversarial(ATTACK)(model, *batch)
    assert modes == [False, False, False, True]


def test_adversarial_slowed_halves_the_step_of_the_budget(batch: Batch) -> None:
    objective = CrossEntropy() + 0.5 * Adversarial(PGD(epsilon=Stages([0.1, 0.3], [2, 2]), num_steps=1))

    def epsilons() -> list[float]:
        model = _net().eval()
        terms = [objective(model, *batch, progress=progress).terms for progress in (1, 2, 3, 4)]
        return [term["epsilon"].item() for term in terms]

    assert epsilons() == pytest.approx([0.1, 0.3, 0.3, 0.3])
    objective.slow_down(2)
    assert epsilons() == pytest.approx([0.1, 0.2, 0.3, 0.3])
    objective.slow_down(2)
    assert epsilons() == pytest.approx([0.1, 0.15, 0.2, 0.3])


def test_objectives_without_a_schedule_cannot_be_slowed(batch: Batch) -> None:
    objective = CrossEntropy()
    before = objective(_net().eval(), *batch).loss
    objective.slow_down(1)
    assert torch.equal(objective(_net().eval(), *batch).loss, before)


def test_objectives_check_the_batch_on_the_first_call_only(
    batch: Batch, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[int] = []
    monkeypatch.setattr("withstand.loss.terms.check_batch", lambda *_: checked.append(1))
    objective = Adversarial(fgsm(EPSILON))
    for _ in range(3):
        objective(_net(), *batch)
    assert len(checked) == 1


def test_objectives_refuse_a_batch_outside_the_unit_interval_until_it_fits(batch: Batch) -> None:
    objective = Adversarial(fgsm(EPSILON))
    for _ in range(2):
        with pytest.raises(DataError, match=r"Expected images in \[0, 1\]"):
            objective(_net(), batch.images * 255, batch.labels)
    objective(_net(), *batch)


def test_objective_of_ones_own_adds_to_ours(batch: Batch) -> None:
    class LogitSquares(Penalty):
        @override
        def forward(
            self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
        ) -> LossTerms:
            squares = model(images).square().mean()
            return LossTerms(squares, {"logit_squares": squares.detach()})

    model = _net().eval()
    loss, terms = (CrossEntropy() + 0.1 * LogitSquares())(model, *batch)
    torch.testing.assert_close(loss.detach(), terms["cross_entropy"] + 0.1 * terms["logit_squares"])
