"""TRADES and MART against textbook versions, and the attack that climbs a divergence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.attacks import PGD, Attack, Cascade, Noise, cross_entropy, fgsm, kl_divergence, margin
from withstand.core.schedules import Linear, Stages
from withstand.objectives import MART, TRADES, Adversarial, BoostedCrossEntropy
from withstand.types import Batch

ATTACK = PGD(epsilon=0.2, num_steps=3)


def net() -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [nn.Flatten(), nn.Linear(9, 12), nn.BatchNorm1d(12), nn.Tanh(), nn.Linear(12, 4)]
        return nn.Sequential(*layers)


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(20, 1, 3, 3, generator=generator)
    return Batch(images, torch.randint(0, 4, (20,), generator=generator))


def gradient(loss: Tensor, model: nn.Module) -> Tensor:
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, [*model.parameters()])])


def kl(of: Tensor, to: Tensor) -> Tensor:
    """KL(softmax(of) ‖ softmax(to)) of each row, as the formula has it."""
    p, q = F.softmax(of, dim=1), F.softmax(to, dim=1)
    return (p * (p / q).log()).sum(dim=1)


def textbook_trades_images(model: nn.Module, images: Tensor, attack: PGD) -> Tensor:
    """The attack of the published code, from a start in the whole ball."""
    step_size = 2.5 * attack.epsilon_at() / 3
    noise = torch.empty_like(images).uniform_(-attack.epsilon_at(), attack.epsilon_at())
    moved = (images + noise).clamp(0, 1)
    model.eval()
    for _ in range(3):
        moved.requires_grad_()
        (slope,) = torch.autograd.grad(kl(model(images).detach(), model(moved)).sum(), moved)
        moved = moved.detach() + step_size * slope.sign()
        moved = images + (moved - images).clamp(-attack.epsilon_at(), attack.epsilon_at())
        moved = moved.clamp(0, 1)
    model.train()
    return moved


def test_trades_is_that_of_the_textbook(batch: Batch) -> None:
    model, twin = net(), net()
    torch.manual_seed(3)
    loss, terms = TRADES(ATTACK, weight=2.5)(model, *batch)
    torch.manual_seed(3)
    moved = textbook_trades_images(twin, batch.images, ATTACK)
    clean, logits = twin(batch.images), twin(moved)
    expected = F.cross_entropy(clean, batch.labels) + 2.5 * kl(clean, logits).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, model), gradient(expected, twin), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(terms["divergence"], kl(clean, logits).mean().detach())
    torch.testing.assert_close(terms["adversarial"], F.cross_entropy(logits, batch.labels).detach())
    assert terms["adversarial_accuracy"] == (logits.argmax(1) == batch.labels).float().mean()
    for key, value in model.state_dict().items():  # of BatchNorm: two passes, clean and adversarial
        torch.testing.assert_close(value, twin.state_dict()[key])


def test_mart_is_that_of_the_textbook(batch: Batch) -> None:
    model, twin = net(), net()
    torch.manual_seed(3)
    loss, terms = MART(ATTACK, weight=4.0)(model, *batch)
    torch.manual_seed(3)
    moved = ATTACK(twin, *batch)
    clean, logits = twin(batch.images), twin(moved)
    rows = torch.arange(len(batch.labels))
    p = F.softmax(logits, dim=1)
    others = p.clone()
    others[rows, batch.labels] = -1
    boosted = -p[rows, batch.labels].log() - (1.0001 - others.amax(1)).log()
    missed = 1 - F.softmax(clean, dim=1)[rows, batch.labels]
    expected = boosted.mean() + 4.0 * (kl(clean, logits) * missed).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(gradient(loss, model), gradient(expected, twin), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(terms["boosted"], boosted.mean().detach())
    shared = BoostedCrossEntropy()(logits - logits.gather(1, batch.labels[:, None]), batch.labels, clean)
    torch.testing.assert_close(boosted.mean(), shared)


@pytest.mark.parametrize("objective", [TRADES, MART])
def test_weights_are_scheduled_and_epsilon_is_slowed(
    objective: type[TRADES] | type[MART], batch: Batch
) -> None:
    attack = PGD(epsilon=Stages([0.1, 0.3], [2, 2]), num_steps=1)
    made = objective(attack, weight=Linear(0.0, 6.0, 4))
    assert made(net(), *batch, progress=2.0).terms["epsilon"].item() == pytest.approx(0.3)
    assert made.slow_down(2)
    loss, terms = made(net(), *batch, progress=2.0)
    assert terms["epsilon"].item() == pytest.approx(0.2)
    first = terms["boosted" if objective is MART else "cross_entropy"]
    torch.testing.assert_close(loss.detach(), first + 3.0 * terms["divergence"])
    with pytest.raises(ValueError, match="weight of at least 0"):
        objective(ATTACK, weight=-1)


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (Noise(epsilon=0.1), "noise-1-linf climbs no loss.*take withstand.attacks.PGD"),
        (Cascade([PGD(), PGD(num_steps=3)]), "climbs no loss"),
        (replace(ATTACK, loss=margin), "climbs margin: leave its loss out"),
        (fgsm(0.1), "random_start=True"),
    ],
)
def test_trades_refuses_attacks_that_cannot_climb_its_divergence(attack: Attack, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TRADES(attack)


# The divergence


def test_divergence_is_that_of_torch_and_never_nan_for_masked_classes() -> None:
    logits, clean = torch.randn(2, 6, 5, generator=torch.Generator().manual_seed(0))
    expected = F.kl_div(logits.log_softmax(1), clean.log_softmax(1), reduction="none", log_target=True)
    torch.testing.assert_close(kl_divergence(logits, clean), expected.sum(1))
    torch.testing.assert_close(kl_divergence(clean, clean), torch.zeros(6))
    mask = torch.tensor([0.0, 0.0, -math.inf, 0.0, 0.0])
    masked = [(part + mask).requires_grad_() for part in (logits, clean)]
    without = kl_divergence(logits[:, [0, 1, 3, 4]], clean[:, [0, 1, 3, 4]])
    torch.testing.assert_close(kl_divergence(*masked), without)
    slopes = torch.autograd.grad(kl_divergence(*masked).sum(), masked)
    assert all(slope.isfinite().all() for slope in slopes)


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
@pytest.mark.parametrize("restarts", [1, 3])
def test_climbing_a_divergence_raises_it_within_the_ball(norm: float, restarts: int, batch: Batch) -> None:
    model = net().eval()
    epsilon = {1.0: 1.0, 2.0: 0.5, math.inf: 0.2}[norm]
    attack = PGD(norm=norm, epsilon=epsilon, num_steps=4, num_restarts=restarts).climbing(kl_divergence)
    clean = model(batch.images)
    torch.manual_seed(0)
    found = kl_divergence(model(attack(model, *batch)), clean)
    torch.manual_seed(0)
    start = kl_divergence(model(replace(attack, num_steps=1, step_size=1e-6)(model, *batch)), clean)
    assert (found > start).float().mean() > 0.9
    # The labels count for nothing.
    torch.manual_seed(0)
    others = kl_divergence(model(attack(model, batch.images, (batch.labels + 1) % 4)), clean)
    assert torch.equal(found, others)


def test_more_restarts_never_climb_less(batch: Batch) -> None:
    model = net().eval()
    clean = model(batch.images)
    values = []
    for restarts in (2, 4):  # the first two alike
        torch.manual_seed(0)
        attack = replace(ATTACK, num_restarts=restarts).climbing(kl_divergence)
        values.append(kl_divergence(model(attack(model, *batch)), clean))
    assert (values[1] >= values[0]).all()
    assert (values[1] > values[0]).any()


def test_clean_answers_follow_the_examples_that_leave_the_batch(batch: Batch) -> None:
    """In evaluation an example's images do not depend on which others were broken before."""
    model = net().eval()
    attack = replace(ATTACK, num_steps=8, num_restarts=2).climbing(kl_divergence).for_evaluation()
    torch.manual_seed(0)
    found = attack(model, *batch)
    answers = model(found).argmax(1)
    broken = answers != batch.labels
    clean = model(batch.images).argmax(1) != batch.labels
    assert (broken & ~clean).any()
    assert (~broken).any()
    wrong = torch.where(broken, model(batch.images).argmax(1), batch.labels)
    torch.manual_seed(0)
    # Those that were broken stay longer in this batch.
    again = attack(model, batch.images, wrong)
    torch.testing.assert_close(again[~broken], found[~broken])


def test_an_attack_that_climbs_a_divergence_says_so() -> None:
    attack = ATTACK.climbing(kl_divergence)
    assert attack.name == "pgd-3-kl-divergence-linf"
    assert "kl-divergence, last iterate" in attack.describe()
    assert "iterate of the largest loss" in replace(attack, keep_best=True).describe()
    assert attack.climbing(kl_divergence) == attack
    assert ATTACK.climbing(cross_entropy) == ATTACK
    assert Adversarial(attack).attack == attack
