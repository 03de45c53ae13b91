"""Branch and bound of networks whose patterns cannot all be tried: held against many points."""

import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from withstand.certificates import branching, proving
from withstand.certificates.goals import Goal, Proof
from withstand.certificates.proving import prove
from withstand.certificates.tighter import branched_differences, optimised_differences
from withstand.core.deadlines import until
from withstand.domains import ProgramCache, input_set
from withstand.models.layers import MinMax
from withstand.operators import GuaranteedNorms


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(3, 6), nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        outputs: Tensor = self.last(torch.relu(x + self.inner(x)))
        return outputs


class _Unflatten(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(-1, 3, 4)


def _dense(bend: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), bend, nn.Linear(4, 4), bend, nn.Linear(4, 3))


_NETS: dict[str, Callable[[], nn.Module]] = {
    "minmax": lambda: _dense(MinMax()),
    "tanh": lambda: _dense(nn.Tanh()),
    "residual": _Residual,
    "pooled": lambda: nn.Sequential(
        nn.Linear(3, 12), _Unflatten(), nn.MaxPool1d(2), nn.Flatten(), nn.ReLU(), nn.Linear(6, 3)
    ),
}
_LOWER, _UPPER = torch.tensor([-1.0, -0.5, 0.0]).double(), torch.tensor([1.0, 1.5, 1.0]).double()
_ONE_GROUP, _TWO_GROUPS = [0, 0, 0], [0, 1, 1]


def _net(name: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    net = _NETS[name]()
    for part in net.parameters():
        nn.init.normal_(part, std=0.8)
    return net.double().eval().requires_grad_(False)


def _goal(groups: list[int]) -> Goal:
    weight = torch.tensor([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [0.5, 0.0, 1.0]]).double()
    return Goal(weight, torch.zeros(3).double(), torch.tensor(groups))


def _least(net: nn.Module, goal: Goal) -> float:
    """The goal's margin over the box, at many points."""
    ways = (
        torch.linspace(0, 1, 41).double() * (high - low) + low
        for low, high in zip(_LOWER, _UPPER, strict=True)
    )
    points = torch.cartesian_prod(*ways)
    return float(goal.margins(goal.rows(net(points))).min())


def _proof(net: nn.Module, goal: Goal, seconds: float = 60.0) -> Proof:
    return prove(net, _LOWER, _UPPER, goal, deadline=time.monotonic() + seconds)


@pytest.mark.parametrize("name", ["residual", "pooled"])
def test_branch_and_bound_proves_what_holds_by_a_little(name: str, way: str) -> None:
    net, goal = _net(name), _goal(_TWO_GROUPS)
    least = _least(net, goal)
    proof = _proof(net, goal._replace(bias=goal.bias - least + 0.02))
    assert proof.verdict == "proven"
    assert proof.num_splits > 0
    assert 0 < proof.bound <= 0.02 + 1e-9


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", _NETS)
def test_branch_and_bound_proves_nothing_that_fails_by_a_little(
    name: str, seed: int, way: str, without_attack: None
) -> None:
    net, goal = _net(name, seed), _goal(_TWO_GROUPS)
    goal = goal._replace(bias=goal.bias - _least(net, goal) - 1e-3)
    proof = _proof(net, goal, 0.5)
    assert proof.verdict != "proven"
    assert proof.bound <= -1e-3 + 1e-9
    if proof.counterexample is not None:
        assert float(goal.margins(goal.rows(net(proof.counterexample[None])))) <= 0


def test_bounds_rise_with_the_time_that_branch_and_bound_has(
    monkeypatch: pytest.MonkeyPatch, without_attack: None
) -> None:
    net, bounds = _net("residual"), []
    goal = _goal(_ONE_GROUP)
    least = _least(net, goal)
    goal = goal._replace(bias=goal.bias - least - 0.02)
    monkeypatch.setattr(proving, "_FEW_INPUTS", 0)
    monkeypatch.setattr(proving._Attempt, "_check", lambda *args: None)
    monkeypatch.setattr(branching, "_ENTRIES", 1)  # subproblems one by one
    for num_rounds in (1, 3, 10, 30):
        rounds = iter(range(num_rounds))
        monkeypatch.setattr(branching, "is_time_up", lambda rounds=rounds: next(rounds, None) is None)
        bounds.append(_proof(net, goal).bound)
    assert bounds == sorted(bounds)
    assert bounds[0] < bounds[-1] <= -0.02 + 1e-9


@pytest.mark.parametrize("norm", [1, 2])
def test_bounds_over_balls_are_tighter_by_optimised_slopes_and_by_branch_and_bound_again(norm: int) -> None:
    net = _net("residual")
    images, epsilon = torch.rand(4, 3, generator=torch.Generator().manual_seed(0)).double(), 0.4
    labels = net(images).argmax(1)
    program = ProgramCache().of(net, images)
    norms = GuaranteedNorms()
    last = program.run_to_last_layer(input_set(images, norm, epsilon, "linear", clip=True), norms)
    optimised = optimised_differences(last, labels)
    assert bool((optimised <= last.differences(labels)).all())
    assert bool((optimised < last.differences(labels)).any())
    steps = torch.randn(4000, 4, 3, generator=torch.Generator().manual_seed(1)).double()
    steps *= epsilon / torch.linalg.vector_norm(steps, norm, -1, keepdim=True)
    logits = net((images + steps).clamp(0, 1).flatten(0, 1)).reshape(4000, 4, 3)
    worst = (logits - logits.gather(2, labels.expand(4000, 4)[..., None])).amax(0)
    for index in range(4):
        one = input_set(images[index : index + 1], norm, epsilon, "linear", clip=True)
        last_of_one, row = program.run_to_last_layer(one, norms), slice(index, index + 1)
        with until(time.monotonic() + 0.5):
            branched = branched_differences(last_of_one, labels[row], optimised[row], net)[0]
        assert bool((branched <= optimised[index]).all())
        assert bool((branched >= worst[index] - 1e-9).all())


@pytest.mark.parametrize("seed", [1, 6, 14, 22])
def test_branch_and_bound_over_neurons_decides_where_several_rows_hold_together_by_a_little(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proving, "_FEW_INPUTS", 0)
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 3))
    net = net.double().requires_grad_(False)
    center, first = torch.randn(6).double(), torch.randn(3).double()
    lower, upper = center - 0.6, center + 0.6
    against = -first + 0.5 * torch.randn(2, 3).double()
    weight = torch.cat([first[None], against])  # none holds everywhere, and where one does not another does
    rows = net(lower + (upper - lower) * torch.rand(100_000, 6).double()) @ weight.T
    rows -= (middle := rows.median(0).values)
    least = rows.amax(1).min() - 0.03 * rows.std()
    assert (rows.amin(0) < least).all()
    goal = Goal(weight, -middle - least, torch.zeros(3, dtype=torch.int64))
    proof = prove(net, lower, upper, goal, deadline=time.monotonic() + 100)
    if proof.counterexample is None:
        assert proof.verdict == "proven"
    else:
        assert ((proof.counterexample >= lower) & (proof.counterexample <= upper)).all()
        assert float(goal.margins(goal.rows(net(proof.counterexample[None])))) <= 0
