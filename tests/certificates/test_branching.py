import itertools
import math
import time

import pytest
import torch
from torch import Tensor, nn

from tests.domains.exact_margins import exact_minimum
from withstand.certificates import branching, proving
from withstand.certificates.goals import Goal
from withstand.certificates.proving import prove
from withstand.certificates.tighter import branched_differences, optimised_differences
from withstand.domains import ProgramCache, input_set
from withstand.models.layers import MinMax
from withstand.operators import GuaranteedNorms


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(torch.relu(x + self.inner(x)))


def _dense(bend: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 6), bend, nn.Linear(6, 6), bend, nn.Linear(6, 3))


_NETS = {
    "relu": lambda: _dense(nn.ReLU()),
    "leaky": lambda: _dense(nn.LeakyReLU(0.1)),
    "minmax": lambda: _dense(MinMax()),
    "tanh": lambda: _dense(nn.Tanh()),
    "residual": _Residual,
    "pooled": lambda: nn.Sequential(
        nn.Linear(3, 12), nn.Unflatten(1, (3, 4)), nn.MaxPool1d(2), nn.Flatten(), nn.ReLU(), nn.Linear(6, 3)
    ),
}
_LOWER, _UPPER = torch.tensor([-1.0, -0.5, 0.0]).double(), torch.tensor([1.0, 1.5, 1.0]).double()
_GROUPS = {"one row each": [0, 1, 2], "one group": [0, 0, 0], "two groups": [0, 1, 1]}


def _net(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = _NETS[name]()
    for part in net.parameters():
        nn.init.normal_(part, std=0.8)
    return net.double().eval().requires_grad_(False)


def _goal(groups: list[int], bias: float = 0.0) -> Goal:
    weight = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [0.5, 0.0, 1.0]]).double()
    return Goal(weight, torch.full((3,), bias).double(), torch.tensor(groups))


def _least(net: nn.Module, goal: Goal) -> float:
    """The goal's margin over the box: exactly where patterns can be enumerated, else at many points."""
    if isinstance(net, nn.Sequential) and all(isinstance(part, nn.Linear | nn.ReLU) for part in net):
        return exact_minimum(net, _LOWER, _UPPER, *goal).value
    ways = (torch.linspace(0, 1, 41).double() * (high - low) + low for low, high in zip(_LOWER, _UPPER, strict=True))
    points = torch.cartesian_prod(*ways)
    return float(goal.margins(goal.rows(net(points))).min())


@pytest.fixture(params=["inputs", "neurons"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(proving, "_FEW_INPUTS", 20 if request.param == "inputs" else 0)
    return request.param


def _proof(net: nn.Module, goal: Goal, seconds: float = 10.0) -> proving.Proof:
    return prove(net, _LOWER, _UPPER, goal, deadline=time.monotonic() + seconds)


@pytest.mark.parametrize(("name", "groups"), [*itertools.product(["relu", "residual"], _GROUPS), *((name, "two groups") for name in ("leaky", "minmax", "pooled"))])
def test_branch_and_bound_proves_what_holds_by_a_little(name: str, groups: str, way: str) -> None:
    net, goal = _net(name), _goal(_GROUPS[groups])
    least = _least(net, goal)
    proof = _proof(net, goal._replace(bias=goal.bias - least + 0.05))
    assert proof.verdict == "proven"
    assert 0 < proof.bound <= 0.05 + 1e-9


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", _NETS)
def test_branch_and_bound_proves_nothing_that_fails_by_a_little(
    name: str, seed: int, way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, goal = _net(name, seed), _goal(_GROUPS["two groups"])
    shifted = goal._replace(bias=goal.bias - _least(net, goal) - 1e-3)
    monkeypatch.setattr(proving, "attack", lambda *args, **kwargs: None)
    proof = _proof(net, shifted, 0.5)
    assert proof.verdict != "proven"
    assert proof.bound <= -1e-3 + 1e-9
    if proof.counterexample is not None:
        assert float(shifted.margins(shifted.rows(net(proof.counterexample[None])))) <= 0
