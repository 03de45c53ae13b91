from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from typing_extensions import override

import withstand as ws
from withstand.core.modes import differs_in_training, eval_mode, weights_computed_once


def _mixed() -> nn.Sequential:
    """A model in train mode with one frozen submodule in the middle."""
    inner = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout())
    model = nn.Sequential(nn.Linear(2, 2), inner, nn.ReLU()).train()
    inner[0].eval()
    return model


def _flags(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()]


def test_eval_mode_reaches_every_submodule_and_restores_each_flag() -> None:
    model = _mixed()
    before = _flags(model)
    with eval_mode(model):
        assert not any(_flags(model))
    assert _flags(model) == before
    assert set(before) == {True, False}


def test_eval_mode_restores_flags_after_an_error() -> None:
    model = _mixed()
    before = _flags(model)
    with pytest.raises(RuntimeError, match="inside"), eval_mode(model):
        raise RuntimeError("inside")
    assert _flags(model) == before


@pytest.mark.parametrize("training", [True, False])
def test_eval_mode_restores_flags_whatever_the_block_does_to_them(training: bool) -> None:
    model = _mixed().train(training)
    model.get_submodule("1.0").train(not training)
    before = _flags(model)
    with eval_mode(model):
        model.train()
    assert _flags(model) == before


def test_eval_mode_may_be_nested() -> None:
    model = _mixed()
    before = _flags(model)
    with eval_mode(model):
        with eval_mode(model):
            pass
        assert not any(_flags(model))
    assert _flags(model) == before


def test_eval_mode_sets_nothing_where_all_is_in_eval_mode_already() -> None:
    class Counting(nn.Module):
        writes = 0

        def __setattr__(self, name: str, value: Any) -> None:
            Counting.writes += name == "training"
            super().__setattr__(name, value)

    model = nn.Sequential(Counting(), Counting()).eval()
    Counting.writes = 0
    with eval_mode(model):
        pass
    assert Counting.writes == 0
    model.train()
    Counting.writes = 0
    with eval_mode(model):
        pass
    assert Counting.writes == 4


def test_eval_mode_leaves_batch_statistics_as_they_are() -> None:
    model = _mixed().train()
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    with eval_mode(model):
        model(torch.rand(4, 2))
    assert all(torch.equal(statistics[key], value) for key, value in model.state_dict().items())
    model(torch.rand(4, 2))
    assert not torch.equal(statistics["1.0.running_mean"], model.state_dict()["1.0.running_mean"])


@pytest.mark.parametrize(
    ("layer", "differs"),
    [
        (nn.BatchNorm1d(2), True),
        (nn.Dropout(), True),
        (nn.InstanceNorm1d(2, track_running_stats=True), True),
        (nn.InstanceNorm1d(2), False),
        (nn.LayerNorm(2), False),
        (nn.ReLU(), False),
    ],
)
def test_differs_in_training_knows_the_layers_that_act_otherwise_in_training(
    layer: nn.Module, *, differs: bool
) -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(layer))
    assert differs_in_training(model.train()) is differs
    assert not differs_in_training(model.eval())


class _Counted(nn.Module):
    """A parametrisation that counts how often it computes a weight.

    Args:
        is_function: Whether it says that it depends on its parameters alone.
    """

    def __init__(self, is_function: bool) -> None:
        super().__init__()
        self.is_function, self.count = is_function, 0

    @override
    def forward(self, weight: Tensor) -> Tensor:
        self.count += 1
        return 2 * weight


def _counted(is_function: bool) -> tuple[nn.Linear, _Counted]:
    layer, counted = nn.Linear(2, 2), _Counted(is_function)
    parametrize.register_parametrization(layer, "weight", counted)
    counted.count = 0
    return layer, counted


def test_weights_are_computed_once_and_as_before_afterwards() -> None:
    layer, counted = _counted(is_function=True)
    images = torch.rand(3, 2)
    expected, names = layer(images).detach(), [name for name, _ in layer.named_parameters()]

    def fail_inside() -> None:
        with weights_computed_once(layer):
            counted.count = 0
            assert torch.equal(layer(images), expected)
            assert not layer.weight.requires_grad
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert counted.count == 0
    assert layer.weight.requires_grad
    assert [name for name, _ in layer.named_parameters()] == names
    assert torch.equal(layer(images), expected)


def test_weights_that_may_be_random_are_computed_anew() -> None:
    layer, counted = _counted(is_function=False)
    with weights_computed_once(layer):
        layer(torch.rand(3, 2))
        layer(torch.rand(3, 2))
    assert counted.count == 2


def test_weights_of_copies_are_their_own() -> None:
    """Those of ``torch.nn.utils.parametrize.cached`` are those of the first of them."""
    layer, _ = _counted(is_function=True)
    other = copy.deepcopy(layer)
    with torch.no_grad():
        next(part for name, part in other.named_parameters() if name.endswith("original")).add_(1.0)
    both, expected = nn.Sequential(layer, other), other.weight.detach().clone()
    with weights_computed_once(both):
        assert torch.equal(other.weight, expected)
        assert not torch.equal(layer.weight, expected)


@pytest.mark.parametrize("is_evaluation", [False, True])
def test_an_attack_computes_parametrised_weights_once(is_evaluation: bool) -> None:
    attack = ws.attacks.PGD(2, 0.5, num_steps=4)
    attack = attack.for_evaluation() if is_evaluation else attack
    layer, counted = _counted(is_function=True)
    images, labels = torch.rand(6, 2), torch.tensor([0, 1] * 3)
    plain = nn.Linear(2, 2)
    with torch.no_grad():
        plain.weight.copy_(layer.weight)
        plain.bias.copy_(layer.bias)
    results = []
    for model in (layer, plain):
        torch.manual_seed(0)
        counted.count = 0
        results.append(attack.perturb(model, images, labels))
        assert counted.count == int(model is layer)
    assert torch.equal(*results)
