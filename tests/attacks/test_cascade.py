"""Several attacks as one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD, AtMeans, Attack, Cascade, Noise


@dataclass(frozen=True)
class Push(Attack):
    """Moves the first pixel by the budget; tells whom it was given."""

    pixel: int = 0
    seen: Callable[[int], None] = print

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        self.seen(len(images))
        result = images.clone()
        result[:, self.pixel] += self.epsilon_at(progress)
        return result.clamp_(0, 1)

    @property
    @override
    def name(self) -> str:
        return f"push-{self.pixel}-linf"


@pytest.fixture
def net(slope: Callable[[Tensor], nn.Linear]) -> nn.Module:
    """Of two pixels: class 1 where 2 x_0 + x_1 is above 1."""
    model = slope(torch.tensor([2.0, 1.0]))
    bias = nn.Parameter(torch.tensor([1.0, 0.0]))
    model.bias = bias
    return model


def test_cascade_gives_each_member_what_is_still_robust(net: nn.Module) -> None:
    # Sums 1.2 (wrong already), 0.9 (broken by both), 0.5 (by the push of pixel 0), 0.0 (by none).
    images = torch.tensor([[0.5, 0.2], [0.4, 0.1], [0.2, 0.1], [0.0, 0.0]])
    labels = torch.zeros(4, dtype=torch.int64)
    seen: dict[str, list[int]] = {"first": [], "second": [], "third": []}
    cascade = Cascade(
        [
            Push(epsilon=0.3, pixel=1, seen=seen["first"].append),
            Push(epsilon=0.3, pixel=0, seen=seen["second"].append),
            Push(epsilon=0.3, pixel=1, seen=seen["third"].append),
        ]
    )
    actual = cascade(net, images, labels)
    assert seen == {"first": [3], "second": [2], "third": [1]}
    expected = torch.tensor([[0.5, 0.2], [0.4, 0.4], [0.5, 0.1], [0.0, 0.0]])
    torch.testing.assert_close(actual, expected)


def test_cascade_ends_where_nothing_is_robust(net: nn.Module) -> None:
    seen: list[int] = []
    cascade = Cascade([Push(epsilon=0.3), Push(epsilon=0.3, seen=seen.append)])
    cascade(net, torch.tensor([[0.4, 0.1]]), torch.tensor([0]))
    assert seen == []


def test_cascade_of_random_answers_takes_the_largest_loss(net: nn.Module) -> None:
    images, labels = torch.tensor([[0.4, 0.1], [0.9, 0.9]]), torch.tensor([0, 0])
    seen: list[int] = []
    cascade = Cascade([Push(epsilon=0.3, pixel=1), Push(epsilon=0.3, pixel=0, seen=seen.append)])
    result = cascade.for_random_answers()(net, images, labels)
    torch.testing.assert_close(result, torch.tensor([[0.7, 0.1], [1.0, 0.9]]))
    assert seen == [2]


def test_cascade_stages_are_its_members_in_their_budget_and_form() -> None:
    inner = Cascade([PGD(num_steps=3), Noise(num_samples=2)], "inner")
    cascade = Cascade([PGD(num_steps=5), inner], "outer").at(0.2)
    assert [stage.name for stage in cascade.stages] == ["pgd-5-linf", "pgd-3-linf", "noise-2-linf"]
    assert [stage.kind for stage in cascade.stages] == ["white-box", "white-box", "black-box"]
    assert cascade.for_evaluation().members[0] == PGD(epsilon=0.2, num_steps=5).for_evaluation()
    assert cascade.for_random_answers().members[0] == PGD(epsilon=0.2, num_steps=5).for_random_answers()
    assert cascade.for_random_answers().for_evaluation() == cascade.for_evaluation()
    assert cascade.name == "outer-linf"
    assert "inner, each on what is still robust: PGD" in cascade.describe()


def test_cascade_at_means_has_stages_at_means_too() -> None:
    stages = AtMeans(Cascade([PGD(num_steps=3), Noise(num_samples=2)])).stages
    assert stages == [AtMeans(PGD(num_steps=3)), AtMeans(Noise(num_samples=2))]
    assert stages[1].kind == "black-box"


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([], "at least one in a cascade's attacks, but got none"),
        ([PGD(), PGD(norm=2.0)], "one norm, but got pgd-10-linf, pgd-10-l2"),
        ([PGD(epsilon=0.1), PGD(epsilon=0.2)], "one budget, but got 0.1, 0.2"),
        ([PGD(), PGD().for_random_answers()], "one mode, but got training, random"),
    ],
)
def test_cascade_refuses_members_that_do_not_go_together(members: list[Attack], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Cascade(members)


def test_cascade_members_cannot_be_changed_from_outside() -> None:
    members: list[Attack] = [PGD()]
    cascade = Cascade(members)
    members.append(PGD())
    assert len(cascade.members) == 1
    assert hash(replace(cascade, label="other")) != hash(cascade)
