from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from withstand.core.modes import differs_in_training, eval_mode


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
