"""Rows that carry windows of maps have the bounds of rows that carry whole maps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.domains import Program, input_set
from withstand.domains.linear import backward, row_windows
from withstand.domains.linear.linear import Linear
from withstand.domains.linear.nodes import Node
from withstand.operators import GuaranteedNorms


class Branches(nn.Module):
    """Strides, dilation, groups, slopes a channel, a bias at every place, paths that meet, input channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.second = nn.Sequential(
            nn.Conv2d(4, 4, 3, padding=2, dilation=2, groups=2), nn.LeakyReLU(0.1), nn.Conv2d(4, 4, 1)
        )
        self.third = nn.Sequential(
            nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.PReLU(6), nn.Conv2d(6, 6, 2), nn.ReLU()
        )
        self.shift = nn.Parameter(torch.randn(4, 5, 5))
        self.last = nn.Linear(24, 3)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.relu(x + self.second(x) + self.shift)
        logits: Tensor = self.last(self.third(x).flatten(1))
        return logits


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    model = Branches().double()
    norm = model.first.get_submodule("1")
    norm.get_buffer("running_mean").uniform_(-0.5, 0.5)
    norm.get_buffer("running_var").uniform_(0.5, 2)
    nn.init.uniform_(model.third.get_submodule("1").get_parameter("weight"), 0.0, 0.5)
    return model.eval().requires_grad_(requires_grad=False)


IMAGES = torch.rand(3, 2, 9, 9, generator=torch.Generator().manual_seed(1)).double()


def _differences(model: nn.Module, norm: float) -> Tensor:
    inputs = input_set(IMAGES, norm, 0.05 if norm == math.inf else 0.5, "linear", clip=True)
    last = Program(model, IMAGES).run_to_last_layer(inputs, GuaranteedNorms())
    assert isinstance(last.features, Linear)
    return last.differences(torch.tensor([0, 1, 2]))


@pytest.mark.parametrize("dense", [0.0, 1.0], ids=["all channels", "some channels"])
@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_bounds_by_windows_are_those_of_whole_maps(
    norm: float, dense: float, model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backward, "_DENSE", dense)
    monkeypatch.setattr(backward, "_MEMORY", 2**14)  # several parts
    seen, pull_back = [], row_windows.pull_back

    def noted(node: Node, rows: row_windows.Windows) -> object:
        seen.append(pull_back(node, rows))
        return seen[-1]

    with monkeypatch.context() as patch:
        patch.setattr(row_windows, "pull_back", noted)
        by_windows = _differences(model, norm)
    monkeypatch.setattr(row_windows, "pull_back", lambda node, rows: None)
    assert sum(pulled is not None for pulled in seen) > 20
    torch.testing.assert_close(by_windows, _differences(model, norm), rtol=1e-9, atol=1e-9)
