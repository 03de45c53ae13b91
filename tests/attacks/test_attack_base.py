"""What an attack of one's own has from the base, and what others make of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import methodcaller
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import (
    PGD,
    AtMeans,
    Attack,
    AttackKind,
    AttackMode,
    AutoAttack,
    Cascade,
    FoolboxAttack,
    Noise,
    Transfer,
    WrappedAttack,
    require_packages,
    suite,
)
from withstand.core.schedules import Linear, Stages
from withstand.data import Dataset
from withstand.evaluation import evaluate
from withstand.evaluation.meters import Attacks
from withstand.objectives import Adversarial
from withstand.types import ModelError


@dataclass(frozen=True)
class Darker(Attack):
    """Takes the budget from every pixel."""

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        return (images - self.epsilon_at(progress)).clamp(0, 1)

    @property
    @override
    def name(self) -> str:
        return "darker"


@dataclass(frozen=True)
class Declared(Darker):
    """The same, with something else to say of itself."""

    declared: AttackKind = "black-box"

    @property
    @override
    def kind(self) -> AttackKind:
        return self.declared

    @property
    @override
    def draws_by_batch(self) -> bool:
        return True

    @property
    @override
    def packages(self) -> Sequence[str]:
        return ("no-such-package",)


class Bright(nn.Module):
    """Class 1 where an image is brighter than a half on the whole."""

    def __init__(self) -> None:
        super().__init__()
        self.threshold = nn.Parameter(torch.tensor(0.5))

    @override
    def forward(self, images: Tensor) -> Tensor:
        mean = images.flatten(1).mean(dim=1)
        return torch.stack([self.threshold - mean, mean - self.threshold], dim=1)


IMAGES, LABELS = torch.tensor([[0.9, 0.7], [0.6, 0.6]]), torch.tensor([1, 1])
SECOND_BROKEN = torch.tensor([[0.9, 0.7], [0.4, 0.4]])  # within 0.2 only the second fools the model


def test_attack_of_ones_own_has_defaults_for_the_rest() -> None:
    attack = Darker(2.0, 0.3)
    assert (attack.norm, attack.epsilon, attack.mode) == (2.0, 0.3, "training")
    assert Darker() == Darker(norm=math.inf, epsilon=8 / 255)
    assert attack.epsilon_at() == attack.epsilon_at(0.0) == 0.3
    assert attack.describe() == attack.name
    assert (attack.kind, attack.draws_by_batch, attack.packages, attack.stages) == (
        "white-box",
        False,
        (),
        (attack,),
    )


def test_attack_of_ones_own_comes_in_all_forms() -> None:
    attack = Darker(2.0, 0.3)
    assert attack.at(0.1) == Darker(2.0, 0.1)
    assert attack.for_evaluation() == Darker(2.0, 0.3, mode="evaluation")
    assert attack.for_random_answers() == Darker(2.0, 0.3, mode="random")
    assert attack.for_random_answers().for_evaluation() == attack.for_evaluation()
    slowed = Darker(epsilon=Linear(0.0, 0.4, 4)).slowed(2)
    assert [slowed.epsilon_at(progress) for progress in (2, 3, 4, 5)] == pytest.approx([0.2, 0.25, 0.3, 0.4])
    assert replace(attack, norm=None).norm is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"norm": 3.0}, "Expected a norm of 1, 2 or inf, but got 3"),
        ({"epsilon": -1.0}, r"Expected epsilon of at least 0, but got -1\."),
        ({"mode": "best"}, "Expected a mode of training, evaluation, random, but got 'best'"),
    ],
)
def test_attack_of_ones_own_refuses_settings_out_of_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Darker(**settings)


def test_attack_of_ones_own_serves_an_evaluation(tiny_dataset: Dataset) -> None:
    class Stripes(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return 10 * images.mean(dim=(1, 2))[:, :3]

    result = evaluate(Stripes(), tiny_dataset, [Attacks([Darker(), Noise()], [0.0, 0.3, 1.0])])
    assert (result.rows["darker@0"] == result.rows["clean"]).all()
    assert result.rows["darker@1"].mean() == (result.rows["label"] == 0).mean()  # all black: the first class
    assert result.results.attacks[0].name == "darker"
    assert "worst-linf@0.3" in result.rows


def test_attack_of_ones_own_serves_training_with_a_schedule() -> None:
    objective, model = Adversarial(Darker(epsilon=Stages([0.1, 0.2], [2, 1]))), Bright()
    for progress, epsilon in ((1.0, 0.1), (2.0, 0.2), (math.inf, 0.2)):
        loss, terms = objective(model, IMAGES, LABELS, progress=progress)
        expected = nn.functional.cross_entropy(model(IMAGES - epsilon), LABELS)
        assert loss.item() == pytest.approx(expected.item())
        assert terms["epsilon"].item() == pytest.approx(epsilon)
    assert objective.slow_down(2)
    assert objective(model, IMAGES, LABELS, progress=2.0).terms["epsilon"].item() == pytest.approx(0.15)


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (AtMeans(Darker()), (IMAGES - 0.2).clamp(0, 1)),
        (Transfer(Bright(), Darker()), SECOND_BROKEN),
        (Cascade([Darker(), PGD(num_steps=1, step_size=1e-6, random_start=False)]), SECOND_BROKEN),
        (AtMeans(Cascade([Darker()])), SECOND_BROKEN),
    ],
    ids=["means", "transfer", "cascade", "both"],
)
def test_attack_of_ones_own_serves_inside_others(attack: Attack, expected: Tensor) -> None:
    actual = attack.at(0.2).for_evaluation()(Bright(), IMAGES, LABELS)
    torch.testing.assert_close(actual[1], expected[1])
    assert "darker" in attack.describe()


# What works by others

WRAPPERS = {
    "means": lambda attack: AtMeans(attack),
    "transfer": lambda attack: Transfer(Bright(), attack),
    "cascade": lambda attack: Cascade([attack, attack]),
}


@pytest.fixture(params=WRAPPERS.values(), ids=list(WRAPPERS))
def wrap(request: pytest.FixtureRequest) -> Any:
    """Puts an attack into another."""
    return request.param


@pytest.mark.parametrize("mode", ["training", "evaluation", "random"])
def test_wrapped_attack_has_norm_budget_and_mode_of_those_inside(wrap: Any, mode: AttackMode) -> None:
    epsilon = Linear(0.0, 0.4, 4)
    wrapped = wrap(PGD(2.0, epsilon, num_steps=3, mode=mode))
    assert (wrapped.norm, wrapped.epsilon, wrapped.mode) == (2.0, epsilon, mode)
    assert wrapped.epsilon_at(1.0) == pytest.approx(0.1)
    assert wrap(Darker(None)).norm is None


@pytest.mark.parametrize(
    "change",
    [
        methodcaller("at", 0.3),
        methodcaller("slowed", 2),
        methodcaller("for_evaluation"),
        methodcaller("for_random_answers"),
    ],
)
def test_wrapped_attack_changes_those_inside(wrap: Any, change: Callable[[Attack], Attack]) -> None:
    inner = PGD(1.0, Stages([0.1, 0.2], [2, 1]), num_steps=Stages([2, 3], [2, 1]))
    changed, expected = change(wrap(inner)), change(inner)
    assert isinstance(changed, WrappedAttack)
    assert all(attack == expected for attack in changed.inside)
    assert (changed.norm, changed.epsilon, changed.mode) == (1.0, expected.epsilon, expected.mode)


def test_wrapped_attack_reports_the_properties_of_those_inside(wrap: Any) -> None:
    wrapped = wrap(Declared())
    assert wrapped.draws_by_batch
    assert wrapped.packages == ("no-such-package",)
    assert wrapped.kind == ("transfer" if isinstance(wrapped, Transfer) else "black-box")


def test_wrapped_attack_is_of_the_kind_that_knows_most() -> None:
    assert Cascade([Declared(), Darker()]).kind == "white-box"
    assert Cascade([Declared(declared="transfer"), Declared()]).kind == "black-box"
    assert not Cascade([Darker(), Darker()]).draws_by_batch


def test_wrapped_attack_needs_the_packages_of_those_inside() -> None:
    members = [AutoAttack(2.0), FoolboxAttack(2.0, method="brendel-bethge"), FoolboxAttack(2.0), PGD(2.0)]
    assert Cascade(members).packages == ("pyautoattack", "foolbox", "numba")
    require_packages([PGD(), AtMeans(Noise())])


@pytest.mark.parametrize("mode", ["evaluation", "random"])
def test_transfer_attacks_its_surrogate_for_the_largest_loss(mode: AttackMode) -> None:
    torch.manual_seed(0)
    surrogate, model = nn.Linear(6, 3), nn.Linear(6, 3)
    images = torch.rand(30, 6)
    labels = surrogate(images).argmax(dim=1)
    pgd = PGD(epsilon=0.3, num_steps=5, random_start=False, mode=mode)
    result = Transfer(surrogate, pgd)(model, images, labels)
    strongest = pgd.for_random_answers()(surrogate, images, labels)
    is_taken = (result != images).any(dim=1)
    assert is_taken.any()
    assert torch.equal(result[is_taken], strongest[is_taken])


@pytest.mark.parametrize(
    "attack",
    [
        PGD(epsilon=0.1, num_steps=2),
        suite("fast", norm=2, num_classes=2).at(0.3).for_evaluation(),
        Transfer(Bright(), PGD(epsilon=0.2, num_steps=2), "other"),
    ],
    ids=lambda attack: attack.name,
)
def test_attack_bound_to_a_model_takes_images_and_labels_alone(attack: Attack) -> None:
    net, images, labels = Bright(), torch.rand(6, 1, 4, 4), torch.arange(6) % 2
    bound = attack.bind(net)
    results = []
    for call in (partial(attack, net), bound):
        torch.manual_seed(3)
        results.append(call(images, labels, progress=1.0))
    assert torch.equal(*results)
    assert not torch.equal(results[0], images)
    assert repr(bound) == f"{attack!r}.bind(Bright)"
    with pytest.raises(ModelError, match="Expected a model"):
        attack.bind(attack)  # type: ignore[arg-type]
