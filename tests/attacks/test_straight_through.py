"""Attacks that let the gradient through layers which have none."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import (
    PGD,
    AtMeans,
    AutoAttack,
    Cascade,
    Noise,
    StraightThrough,
    Transfer,
    kl_divergence,
    margin,
)
from withstand.bayes import Predictor
from withstand.certificates import Unproven
from withstand.types import AttackError, ModelError


class Rounds(nn.Module):
    """Pixels to 0 and 1."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return images.round()


class First(nn.Module):
    """The first pixel alone."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return images[:, :1]


LABELS = torch.tensor([0, 1])
# Sums 0.2 and 0.8 below and above the middle of two: each is broken where both pixels cross 0.5 together.
IMAGES = torch.tensor([[0.3, 0.3], [0.7, 0.7]])


def _sum(before: nn.Module) -> nn.Module:
    """Class 1 where the two values that ``before`` gives sum up to more than 1, and class 0 below."""
    last = nn.Linear(2, 2)
    with torch.no_grad():
        last.weight.copy_(torch.tensor([[-1.0, -1.0], [1.0, 1.0]]))
        last.bias.copy_(torch.tensor([1.0, -1.0]))
    return nn.Sequential(before, last)


def _broken(attack: PGD | StraightThrough | Cascade, model: nn.Module) -> Tensor:
    logits: Tensor = model(attack(model, IMAGES, LABELS))
    return logits.argmax(dim=1) != LABELS


@pytest.mark.parametrize("mode", ["training", "evaluation", "random"])
@pytest.mark.parametrize(
    "before", [Rounds, lambda: nn.Sequential(nn.Linear(2, 2), nn.Hardtanh(0, 1))], ids=["rounds", "cuts"]
)
def test_straight_through_breaks_what_has_no_gradient(before: Callable[[], nn.Module], mode: str) -> None:
    steep = before()
    for layer in steep.modules():
        if isinstance(layer, nn.Linear):  # pixels below 0.45 to 0, above 0.55 to 1
            nn.init.eye_(layer.weight).data.mul_(10)
            nn.init.constant_(layer.bias, -4.5)
    model = _sum(steep)
    attack = PGD(epsilon=0.25, num_steps=10, random_start=False, mode=mode)  # type: ignore[arg-type]
    layers = ["0"] if isinstance(steep, Rounds) else []
    assert not _broken(attack, model).any()
    assert _broken(StraightThrough(attack, layers), model).all()


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_straight_through_a_layer_that_changes_nothing_is_the_attack(norm: float) -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.Identity(), nn.ReLU(), nn.Linear(4, 2))
    attack = PGD(norm, 0.2, num_steps=3, random_start=False)
    assert torch.equal(StraightThrough(attack, ["1"])(model, IMAGES, LABELS), attack(model, IMAGES, LABELS))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_straight_through_refuses_a_network_in_which_it_would_change_nothing() -> None:
    for network in (nn.Linear(2, 2), torch.jit.trace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), IMAGES)):
        with pytest.raises(AttackError, match="no layer of Hardtanh, ReLU6, Hardsigmoid"):
            StraightThrough(PGD(epsilon=0.1))(network, IMAGES, LABELS)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_straight_through_refuses_a_scripted_network_whose_layers_it_does_not_reach() -> None:
    scripted = torch.jit.trace(nn.Sequential(nn.Hardtanh(0, 1), nn.Linear(2, 2)), IMAGES)
    with pytest.raises(AttackError, match="0 did not run as modules"):
        StraightThrough(PGD(epsilon=0.1))(scripted, IMAGES, LABELS)


def test_straight_through_what_is_not_proven_is_what_is_not_proven_straight_through() -> None:
    model = _sum(nn.Hardtanh(0, 1))
    for epsilon in (0.01, 0.25):
        attack = PGD(epsilon=epsilon, num_steps=10, random_start=False)
        outside = StraightThrough(Unproven(attack))(model, IMAGES, LABELS)
        assert torch.equal(outside, Unproven(StraightThrough(attack))(model, IMAGES, LABELS))
        assert torch.equal(outside, IMAGES) == (epsilon == 0.01)


def test_straight_through_climbs_what_trains_on_it() -> None:
    attack = StraightThrough(PGD(epsilon=0.1), ["0"])
    assert attack.climbing(kl_divergence) == StraightThrough(PGD(epsilon=0.1, loss=kl_divergence), ["0"])


@pytest.mark.parametrize("kind", [nn.Hardtanh, nn.ReLU6])
@pytest.mark.parametrize("inplace", [False, True])
def test_straight_through_takes_the_gradient_of_the_identity_and_the_answers_of_the_layer(
    kind: type[nn.Module], inplace: bool
) -> None:
    """Against the network without the layer: the same gradients, here of a linear loss everywhere."""
    gradients: list[Tensor] = []
    answers: list[Tensor] = []

    def loss(logits: Tensor, labels: Tensor) -> Tensor:
        answers.append(logits.detach())
        logits.register_hook(gradients.append) if logits.requires_grad else None
        return logits[:, 0] * 3 - logits[:, 1]

    first, last = nn.Linear(2, 5), nn.Linear(5, 2)
    nn.init.normal_(first.weight, std=20.0)
    cut = nn.Sequential(first, kind(inplace=inplace), last)
    attack = PGD(norm=2.0, epsilon=0.05, num_steps=1, random_start=False, step_size=0.05, loss=loss)
    moved = StraightThrough(attack)(cut, IMAGES, LABELS) - IMAGES
    direction = (torch.tensor([3.0, -1.0]) @ last.weight @ first.weight).detach()
    expected = direction / direction.norm() * 0.05
    assert torch.allclose(moved, expected.expand_as(moved), atol=1e-6)
    assert torch.equal(answers[0], cut(IMAGES).detach())


def test_straight_through_leaves_the_network_as_it_was() -> None:
    model = _sum(nn.Hardtanh(0, 1))
    StraightThrough(PGD(epsilon=0.1))(model, IMAGES, LABELS)
    assert all(not layer._forward_hooks and not layer._forward_pre_hooks for layer in model.modules())
    with pytest.raises(AttackError, match="shape"):
        StraightThrough(PGD(epsilon=0.1), ["0"])(nn.Sequential(First(), nn.Linear(1, 2)), IMAGES, LABELS)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_straight_through_goes_into_what_is_wrapped() -> None:
    model = _sum(Rounds())
    averaged = torch.optim.swa_utils.AveragedModel(model)
    compiled: nn.Module = torch.compile(model, backend="eager")  # type: ignore[assignment]
    attack = StraightThrough(PGD(epsilon=0.25, random_start=False, mode="evaluation"), ["0"])
    for wrapped in (averaged, nn.DataParallel(model), compiled):
        assert _broken(attack, wrapped).all()


def test_straight_through_says_which_layers_there_are() -> None:
    with pytest.raises(AttackError, match=r"no layer 'front': did you mean '.*'\? There are: 0, 1\."):
        StraightThrough(PGD(epsilon=0.1), ["front"])(_sum(Rounds()), IMAGES, LABELS)


def test_straight_through_says_where_a_layer_does_not_run() -> None:
    """An attack that changes nothing of its gradient must not pass for one that does."""

    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.front, self.rest = Rounds(), nn.Linear(2, 2)

        @override
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.rest(self.front.forward(images))
            return logits

    with pytest.raises(AttackError, match="front did not run"):
        StraightThrough(PGD(epsilon=0.1), ["front"])(Around(), IMAGES, LABELS)


@pytest.mark.parametrize("layers", ["0", [""], [1], None, 5])
def test_straight_through_refuses_layers_that_are_no_list_of_names(layers: list[str]) -> None:
    with pytest.raises(ValueError, match="list of names"):
        StraightThrough(PGD(epsilon=0.1), layers)


def test_straight_through_of_a_cascade_is_a_cascade_of_it() -> None:
    first, second = PGD(num_steps=3), Noise(num_samples=2)
    stages = StraightThrough(Cascade([first, second]), ["0"]).stages
    assert stages == [StraightThrough(first, ["0"]), StraightThrough(second, ["0"])]


def test_straight_through_is_named_and_described() -> None:
    attack = StraightThrough(PGD(num_steps=3, loss=margin), ["front", "0"])
    assert attack.name == "straight-through-pgd-3-margin-linf"
    assert attack.describe().endswith("with the gradient of the identity for front, 0")
    assert StraightThrough(PGD()).describe().endswith("for layers that cut off")


def test_autoattack_straight_through_breaks_what_its_gradients_alone_do_not() -> None:
    pytest.importorskip("pyautoattack")
    model = _sum(Rounds())
    attack = AutoAttack(epsilon=0.3, part="apgd-ce", num_steps=10)
    images, labels = torch.tensor([[0.25, 0.25]]), torch.tensor([0])
    assert torch.equal(attack(model, images, labels), images)
    assert (StraightThrough(attack, ["0"])(model, images, labels) != images).any()


def test_straight_through_takes_the_layer_of_an_exact_name_alone() -> None:
    """Others that end so are meant where there is no such name, as in a network inside another."""
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), Rounds(), nn.Linear(2, 2))
    assert list(StraightThrough(PGD(), ["1"])._layers_of(model)) == ["1"]
    assert list(StraightThrough(PGD(), ["1"])._layers_of(nn.Sequential(model))) == ["0.0.1", "0.1"]


def test_straight_through_takes_layers_from_what_can_be_read_once() -> None:
    assert StraightThrough(PGD(), (name for name in ("a", "b"))).layers == ("a", "b")  # type: ignore[arg-type]


def test_straight_through_finds_a_layer_by_each_of_its_names() -> None:
    model = _sum(Rounds())
    model.add_module("again", model.get_submodule("0"))
    model.forward = lambda images: model[:2](images)  # type: ignore[index]
    assert _broken(StraightThrough(PGD(epsilon=0.25, random_start=False), ["again"]), model).all()


def test_straight_through_refuses_what_is_transferred() -> None:
    transfer = Transfer(_sum(Rounds()), PGD(epsilon=0.1))
    for attack in (transfer, Cascade([PGD(epsilon=0.1), transfer])):
        with pytest.raises(ValueError, match="inside Transfer"):
            StraightThrough(attack)


def test_straight_through_compiled_parts_breaks_the_same_each_time() -> None:
    compiled: nn.Module = torch.compile(Rounds(), backend="eager")  # type: ignore[assignment]
    model = nn.Sequential(compiled, *_sum(Rounds()).children())
    attack = StraightThrough(PGD(epsilon=0.25, random_start=False, mode="evaluation"), ["0", "1"])
    model(IMAGES)
    for _ in range(3):
        assert _broken(attack, model).all()


def test_straight_through_layers_that_are_all_there_only_for_training_are_left_alone() -> None:
    class Aside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cut, self.aside = _sum(nn.Hardtanh(0, 1)), nn.ReLU6()

        @override
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.cut(images)
            return logits

    attack = PGD(epsilon=0.25, random_start=False)
    assert _broken(StraightThrough(attack), Aside()).all()
    with pytest.raises(AttackError, match="aside did not run"):
        StraightThrough(attack, ["aside"])(Aside(), IMAGES, LABELS)


def test_straight_through_the_means_says_where_a_layer_does_not_run() -> None:
    predictor = Predictor(nn.Sequential(nn.Linear(2, 2)), num_samples=2)
    predictor.model.add_module("idle", Rounds())
    predictor.model.forward = lambda images: predictor.model[0](images)  # type: ignore[index]
    with pytest.raises(AttackError, match="idle did not run"):
        StraightThrough(AtMeans(PGD(epsilon=0.1)), ["idle"])(predictor, IMAGES, LABELS)


def test_attack_on_integers_says_what_to_do() -> None:
    class Counts(nn.Module):
        @override
        def forward(self, images: Tensor) -> Tensor:
            return images.round().long().float()

    model = _sum(Counts())
    with pytest.raises(ModelError, match="StraightThrough"):
        PGD(epsilon=0.25)(model, IMAGES, LABELS)
    assert _broken(StraightThrough(PGD(epsilon=0.25, random_start=False), ["0"]), model).all()
