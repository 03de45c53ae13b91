"""Minimal-norm attacks by adapter."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from importlib.util import find_spec, module_from_spec
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from withstand.attacks import FoolboxAttack
from withstand.attacks.adapters import load
from withstand.attacks.foolbox_attack import FOOLBOX_METHODS
from withstand.core import norms
from withstand.types import AttackError

pytest.importorskip("foolbox")


def _slope_at(slope: Callable[[Tensor], nn.Linear], weight: Tensor, threshold: float) -> nn.Module:
    """Class 1 where <weight, x> is above the threshold."""
    model = slope(weight)
    model.bias = nn.Parameter(torch.tensor([threshold, 0.0]))
    return model.eval()


@pytest.mark.parametrize("norm", [2.0, math.inf], ids=norms.label)
def test_deepfool_crosses_a_plane_where_the_budget_reaches_it(
    slope: Callable[[Tensor], nn.Linear], norm: float
) -> None:
    model = _slope_at(slope, torch.tensor([3.0, 4.0]), 3.0)
    images, labels = torch.tensor([[0.4, 0.4], [0.1, 0.1], [0.5, 0.5]]), torch.tensor([0, 0, 0])
    distance = 0.2 / (5.0 if norm == 2 else 7.0)  # of the first; the second is farther, the third wrong
    for share, is_broken in ((0.9, False), (1.2, True)):
        result = FoolboxAttack(norm, distance * share)(model, images, labels)
        assert torch.equal(result[1:], images[1:])
        assert bool(model(result[:1]).argmax(dim=1)) is is_broken
        assert torch.equal(result[0], images[0]) is not is_broken


def test_boundary_attack_walks_from_another_image_of_the_batch(
    slope: Callable[[Tensor], nn.Linear],
) -> None:
    torch.manual_seed(0)
    model = _slope_at(slope, torch.ones(9), 5.0)
    images = torch.cat([torch.full((3, 9), 0.5), torch.full((1, 9), 0.7)])
    labels = torch.tensor([0, 0, 0, 1])
    attack = FoolboxAttack(2.0, 0.25, "boundary", num_steps=300)  # the plane is 1/6 away, the other image 0.6
    result = attack(model, images, labels)
    assert (model(result[:3]).argmax(dim=1) == 1).all()
    assert norms.norm(result - images, 2.0).max() <= 0.25 * (1 + 1e-5)
    assert attack.kind == "black-box"


def test_foolbox_attack_leaves_an_example_without_a_start_and_no_others() -> None:
    torch.manual_seed(0)
    # Class 2 wherever the first pixel is above 0.99, else 1 above a half, else 0: all noise is 0 or 1.
    images = torch.tensor([[0.45], [0.55], [1.0]])

    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([0.5 - x, x - 0.5, 200 * (x - 0.99)], dim=1)

    model = Steps()
    only = FoolboxAttack(2.0, 0.2, "boundary", num_steps=50)
    result = only(model, images[:2], torch.tensor([0, 1]))
    assert model(result).argmax(dim=1).tolist() == [1, 0]
    constant = nn.Linear(1, 2)
    nn.init.zeros_(constant.weight)
    nn.init.constant_(constant.bias, 0.0)
    assert torch.equal(only(constant, images, torch.tensor([0, 0, 0])), images)


def test_foolbox_attack_that_fails_on_one_example_goes_on_with_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run = load("foolbox.attacks", user="This test").L2DeepFoolAttack.run

    def fail_on_bright(self: Any, model: Any, inputs: Tensor, criterion: Any, **options: Any) -> Any:
        assert inputs.max() < 0.9
        return run(self, model, inputs, criterion, **options)

    monkeypatch.setattr("foolbox.attacks.L2DeepFoolAttack.run", fail_on_bright)
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
        model.bias.zero_()
    images = torch.tensor([[0.5, 0.4], [0.95, 0.9], [0.3, 0.2], [0.6, 0.5], [0.4, 0.3]])
    result = FoolboxAttack(2.0, 0.3)(model, images, torch.zeros(5, dtype=torch.int64))
    assert model(result).argmax(dim=1).tolist() == [1, 0, 1, 1, 1]
    assert torch.equal(result[1], images[1])


def test_foolbox_attack_does_not_end_in_gradients_that_are_no_numbers() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x.sqrt(), 0.1 + 0 * x], dim=1)  # no slope at 0

    images = torch.tensor([[0.0], [0.2]])
    result = FoolboxAttack(2.0, 0.5)(Root(), images, torch.tensor([1, 0]))
    assert result.isfinite().all()


@pytest.mark.skipif(find_spec("numba") is not None, reason="numba is installed")
def test_brendel_bethge_says_what_it_needs(slope: Callable[[Tensor], nn.Linear]) -> None:
    model = _slope_at(slope, torch.tensor([3.0, 4.0]), 3.0)
    attack = FoolboxAttack(2.0, 0.3, "brendel-bethge")
    with pytest.raises(AttackError, match=r"brendel-bethge needs the package numba.*'withstand\[attacks\]'"):
        attack(model, torch.tensor([[0.4, 0.4], [0.5, 0.5]]), torch.tensor([0, 1]))


@pytest.fixture
def without_compiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Foolbox's code of brendel-bethge as it runs without numba, which compiles half a minute a norm."""
    file = find_spec("foolbox.attacks.brendel_bethge")
    assert file is not None
    assert file.loader is not None
    plain = module_from_spec(file)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "numba.experimental", None)
        file.loader.exec_module(plain)
    monkeypatch.setattr("foolbox.attacks.brendel_bethge.LinfOptimizer", plain.LinfOptimizer)


@pytest.mark.skipif(find_spec("numba") is None, reason="numba is not installed")
@pytest.mark.usefixtures("without_compiling")
def test_brendel_bethge_comes_near_the_boundary(slope: Callable[[Tensor], nn.Linear]) -> None:
    torch.manual_seed(0)
    weight = torch.rand(12) + 0.5
    model = _slope_at(slope, weight, float(weight.sum()) / 2)
    images = torch.cat([0.44 + torch.rand(2, 12) * 0.04, 0.52 + torch.rand(1, 12) * 0.04])
    with torch.no_grad():
        labels = model(images).argmax(dim=1)
    nearest = (images @ weight - weight.sum() / 2).abs() / norms.norm(weight[None], norms.dual(math.inf))
    for index in range(len(images)):
        attack = FoolboxAttack(math.inf, float(nearest[index]) * 1.2, "brendel-bethge")
        assert model(attack(model, images, labels))[index].argmax() != labels[index]


def test_foolbox_attack_refuses_settings_out_of_range() -> None:
    with pytest.raises(ValueError, match="Expected a norm that boundary has, l2, but got linf"):
        FoolboxAttack(math.inf, method="boundary")
    with pytest.raises(ValueError, match="Expected a method of deepfool, brendel-bethge, boundary"):
        FoolboxAttack(method="fog")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_steps of at least 1, but got 0"):
        FoolboxAttack(num_steps=0)


def test_foolbox_attack_describes_itself() -> None:
    assert FoolboxAttack(1.0, method="brendel-bethge").name == "brendel-bethge-l1"
    assert FoolboxAttack().describe() == "Foolbox's deepfool attack, l2, 50 steps"
    assert {method: known.kind for method, known in FOOLBOX_METHODS.items()} == {
        "deepfool": "white-box",
        "brendel-bethge": "white-box",
        "boundary": "black-box",
    }
