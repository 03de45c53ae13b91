"""Attacks on what a certificate leaves open."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import withstand as ws
from withstand.attacks import PGD, Attack, Cascade, Noise
from withstand.certificates import Method, Unproven, certify
from withstand.training import TrainingSettings

WEIGHT = torch.tensor([[1.0, -1.0, 0.5], [-1.0, 1.0, -0.5]])


@dataclass(frozen=True)
class Seen(Attack):
    """Turns its images dark, and remembers them."""

    seen: list[Tensor] = field(default_factory=list)

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        self.seen.append(images)
        return (images - self.epsilon_at(progress)).clamp_min(0)

    @property
    @override
    def name(self) -> str:
        return "seen"


def _linear() -> nn.Linear:
    model = nn.Linear(3, 2, bias=False)
    model.weight = nn.Parameter(WEIGHT)
    return model


def _batch(num: int = 60) -> tuple[Tensor, Tensor]:
    images = 0.3 + 0.4 * torch.rand(num, 3, generator=torch.Generator().manual_seed(0))
    return images, _linear()(images).argmax(dim=1)


def test_unproven_attacks_exactly_what_is_not_certified() -> None:
    images, labels = _batch()
    attack = Unproven(Seen(epsilon=0.1))
    moved = attack(_linear(), images, labels)
    # Of a linear model the margin within epsilon is that of the image less epsilon times the l1 norm.
    margin = (images @ (WEIGHT[0] - WEIGHT[1])).abs() - 0.1 * (WEIGHT[0] - WEIGHT[1]).abs().sum()
    is_open = margin <= 0
    assert 5 < int(is_open.sum()) < 55
    assert isinstance(attack.attack, Seen)
    torch.testing.assert_close(attack.attack.seen[0], images[is_open])
    assert torch.equal(moved[~is_open], images[~is_open])
    torch.testing.assert_close(moved[is_open], images[is_open] - 0.1)


def test_unproven_asks_nothing_where_all_is_proven() -> None:
    images, labels = _batch()
    attack = Unproven(Seen(epsilon=0.0))
    far = (_linear()(images)[:, 0]).abs() > 1e-3
    assert torch.equal(attack(_linear(), images[far], labels[far]), images[far])
    assert isinstance(attack.attack, Seen)
    assert not attack.attack.seen


@pytest.mark.parametrize("method", ["box", "box_ball", "linear"])
@pytest.mark.parametrize("norm", [2.0, math.inf])
def test_unproven_breaks_what_the_attack_breaks(norm: float, method: Method) -> None:
    torch.manual_seed(0)
    last = nn.Linear(8, 2)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), last).eval()
    images, _ = _batch()
    with torch.no_grad():  # so that the border between the classes goes through the images
        last.bias[0] -= model(images).diff(dim=1).neg().median()
    labels = model(images).argmax(dim=1)
    attack = PGD(norm, 0.05, num_steps=10, random_start=False).for_evaluation()
    every = model(attack(model, images, labels)).argmax(dim=1) == labels
    unproven = Unproven(attack, method)
    of_open = model(unproven(model, images, labels)).argmax(dim=1) == labels
    assert torch.equal(every, of_open)
    proven = certify(model, images, labels, norm=norm, epsilon=0.05, method=method).certified
    assert 0 < int(proven.sum()) <= int(every.sum()) < len(images)


def test_unproven_is_run_stage_by_stage() -> None:
    first, second = PGD(num_steps=3), Noise(num_samples=2)
    assert Unproven(Cascade([first, second])).stages == [Unproven(first), Unproven(second)]


def test_unproven_says_what_it_leaves_out() -> None:
    attack = Unproven(PGD(num_steps=3), "box_ball")
    assert attack.name == f"unproven-{PGD(num_steps=3).name}"
    assert "not proven by box_ball" in attack.describe()


def test_unproven_refuses_what_cannot_be_proven() -> None:
    with pytest.raises(ValueError, match="Expected a method of best, "):
        Unproven(PGD(), "boxes")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="Certificates exist for the norms l1, l2 and linf"):
        Unproven(Seen(None))


def test_suite_leaves_out_what_is_proven() -> None:
    torch.manual_seed(0)
    digits = ws.data.load("digits")
    model = ws.models.create("mlp", dataset="digits")
    ws.fit(model, digits, settings=TrainingSettings(epochs=3, selection=None))
    suites = [ws.meters.Suite("fast", [0.01], unless_proven=method) for method in (None, "box")]
    table = ws.evaluate(model, digits, suites, num_examples=100).table
    robust = table[table.measure == "attacked accuracy"].set_index("by").correct
    assert robust["unproven-fast-linf"] == robust["fast-linf"]
    assert 50 < robust["fast-linf"] < 100


def test_suite_proves_nothing_of_drawn_answers() -> None:
    model = ws.bayes.convert(ws.models.create("mlp", dataset="digits"))
    suite = ws.meters.Suite("fast", [0.01], unless_proven="box")
    with pytest.raises(ws.ModelError, match="draws its answers, and nothing is proven of drawn"):
        ws.evaluate(model, ws.data.load("digits"), [suite], num_examples=10)


def test_suite_refuses_to_prove_by_no_method() -> None:
    with pytest.raises(ValueError, match="method of best"):
        ws.meters.Suite("fast", [0.1], unless_proven="boxes")  # type: ignore[arg-type]
