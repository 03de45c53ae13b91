"""Attacks that are to have each example taken for a given class."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import (
    PGD,
    cross_entropy,
    dlr,
    kl_divergence,
    least_likely,
    margin,
    next_likely,
    random_class,
)
from withstand.types import Batch


class Bands(nn.Module):
    """Of one pixel: class 0 below 0.4, class 1 up to 0.6, class 2 above."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        pixel = images[:, 0]
        return torch.stack([0.4 - pixel, 0.1 - (pixel - 0.5).abs(), 2 * pixel - 1.2], dim=1)


def _to(target: int) -> Any:
    return lambda logits, labels: torch.full_like(labels, target)


def test_least_and_next_likely_are_the_ends_of_the_other_logits() -> None:
    logits = torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0], [5.0, -math.inf, 1.0, 2.0]])
    labels = torch.tensor([0, 0, 0])
    assert least_likely(logits, labels).tolist() == [3, 1, 2]  # what is masked cannot be reached
    assert next_likely(logits, labels).tolist() == [2, 3, 3]


def test_random_class_is_any_other_class_alike() -> None:
    labels = torch.arange(4).repeat(1000)
    targets = random_class(torch.zeros(4000, 4), labels)
    counts = torch.zeros(4, 4).index_put_((labels, targets), torch.tensor(1.0), accumulate=True)
    assert not counts.diagonal().any()
    others = counts[~torch.eye(4, dtype=torch.bool)]
    assert (others - 1000 / 3).abs().max() < 75  # five standard deviations


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_targeted_step_is_down_the_loss_of_the_target(loss: Any, curved: tuple[nn.Module, Batch]) -> None:
    model, (images, labels) = curved
    attack = PGD(epsilon=0.05, num_steps=1, random_start=False, loss=loss, target=next_likely)
    leaf = images.clone().requires_grad_()
    logits = model(leaf)
    targets = logits.detach().scatter(1, labels[:, None], -math.inf).argmax(dim=1)
    (gradient,) = torch.autograd.grad(loss(logits, targets).sum(), leaf)
    expected = (images - 0.05 * gradient.sign()).clamp(0, 1)
    torch.testing.assert_close(attack(model, images, labels), expected)


def test_targeted_attack_goes_on_until_the_target_is_reached() -> None:
    images, labels = torch.full((2, 1), 0.3), torch.tensor([0, 0])
    attack = PGD(epsilon=0.4, num_steps=8, step_size=0.15, random_start=False).for_evaluation()
    anything = attack(Bands(), images, labels)
    assert Bands()(anything).argmax(dim=1).tolist() == [1, 1]
    for loss in (margin, cross_entropy):
        aimed = PGD(
            epsilon=0.4, num_steps=8, step_size=0.15, random_start=False, target=_to(2), loss=loss
        ).for_evaluation()
        assert Bands()(aimed(Bands(), images, labels)).argmax(dim=1).tolist() == [2, 2]


def test_targeted_attack_that_misses_its_target_returns_another_wrong_answer() -> None:
    attack = PGD(epsilon=0.2, random_start=False, target=_to(2)).for_evaluation()
    reached = attack(Bands(), torch.tensor([[0.3]]), torch.tensor([0]))
    assert Bands()(reached).argmax(dim=1).item() == 1


def test_targeted_attack_takes_targets_of_ones_own_and_never_breaks_what_has_its_target() -> None:
    targets = torch.tensor([2, 0, 0])
    images, labels = torch.tensor([[0.45], [0.55], [0.35]]), torch.tensor([1, 1, 0])
    attack = PGD(epsilon=0.3, random_start=False, target=lambda logits, labels: targets)
    assert Bands()(attack(Bands(), images, labels)).argmax(dim=1).tolist() == [2, 0, 0]
    kept = attack.for_evaluation()(Bands(), images, labels)
    assert Bands()(kept).argmax(dim=1).tolist() == [2, 0, 0]


def test_targeted_attack_says_so_in_its_name() -> None:
    attack = PGD(num_steps=20, target=least_likely)
    assert attack.name == "pgd-20-targeted-least-likely-linf"
    assert "targeted at least-likely" in attack.describe()
    assert PGD(num_steps=20, loss=margin, target=_to(1)).name == "pgd-20-margin-targeted-lambda-linf"


@pytest.mark.parametrize("wrong", [torch.zeros(3, 1, dtype=torch.int64), torch.zeros(3), 1])
def test_targets_that_are_no_class_an_example_are_refused(wrong: Any) -> None:
    attack = PGD(target=lambda logits, labels: wrong)
    with pytest.raises(ValueError, match=r"Expected an attack's target to give an int64 class an example"):
        attack(Bands(), torch.rand(3, 1), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize("wrong", [-100, -1, 3])
def test_targets_that_are_no_classes_of_the_model_are_refused(wrong: int) -> None:
    for attack in (PGD(target=_to(wrong)), PGD(target=_to(wrong)).for_evaluation()):
        with pytest.raises(ValueError, match=rf"to give classes from 0 to 2, but .* gives {wrong}\."):
            attack(Bands(), torch.rand(3, 1), torch.zeros(3, dtype=torch.int64))


def test_target_that_is_no_function_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Expected target as a function of \(logits, labels\)"):
        PGD(target="least-likely")  # type: ignore[arg-type]


@pytest.mark.parametrize("loss", [kl_divergence, dlr])
def test_target_of_a_loss_that_is_of_no_class_is_refused(loss: Any) -> None:
    with pytest.raises(ValueError, match=rf"{loss.__name__} is of no class: leave the target out"):
        PGD(loss=loss, target=least_likely)
