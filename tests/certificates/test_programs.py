"""Subproblems in which nothing bends, as linear programs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.domains.exact_margins import exact_minimum
from withstand.certificates import programs
from withstand.certificates.programs import solved
from withstand.certificates.splits import Layout, Parts
from withstand.domains import Box, Linear, Program
from withstand.domains.linear.linear_inputs import InputSet, Interval, NormBall
from withstand.domains.linear.slopes import Functions, Record
from withstand.operators import GuaranteedNorms


def _layout(model: nn.Module, inputs: InputSet, box: Box) -> tuple[Layout, Tensor, Tensor | None]:
    with torch.no_grad():
        last = Program(model, box.center).run_to_last_layer(Linear.of(inputs, box), GuaranteedNorms())
    assert isinstance(last.features, Linear)
    record = Record.of(last.features.node, last.features.inputs)
    layout = Layout(record, record.cast(torch.float32), [node.ends for node in record.bent])
    return layout, last.weight, last.bias


def _whole(layout: Layout, num_rows: int) -> Parts:
    return layout.whole(torch.zeros(1, dtype=torch.int64), torch.ones(1, num_rows))


def _net(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 3)).double().requires_grad_(False)


@pytest.mark.parametrize("seed", range(4))
def test_solution_of_a_program_is_the_least_value_and_where_it_is(seed: int) -> None:
    net, rows = _net(seed), torch.randn(3, 3).double()
    center = torch.randn(1, 3).double()
    box = Box(center - 1e-3, center + 1e-3)  # within which no neuron changes its sign
    layout, weight, bias = _layout(net, Interval(*box.ends), box)
    assert bias is not None
    constants = -(rows @ net(center)[0])  # so that all three are near 0 at once
    functions = Functions(rows @ weight, rows @ bias + constants)
    part = _whole(layout, 3)
    solution = solved(layout.search(part, functions), layout.cuts(part))
    assert solution is not None
    groups = torch.zeros(3, dtype=torch.int64)
    exact = exact_minimum(net, box.ends[0][0], box.ends[1][0], rows, constants, groups).value
    torch.testing.assert_close(float(solution.search.bounds().least), exact, rtol=1e-6, atol=1e-12)
    reached = float((net(solution.point)[0] @ rows.T + constants).max())
    torch.testing.assert_close(reached, exact, rtol=1e-6, atol=1e-12)


def _two_neurons() -> nn.Sequential:
    """Of x and x + 0.1."""
    net = nn.Sequential(nn.Linear(1, 2), nn.ReLU(), nn.Linear(2, 1)).double().requires_grad_(False)
    for name, values in (("0.weight", [[1.0], [1.0]]), ("0.bias", [0.0, 0.1]), ("2.weight", [[1.0, -1.0]])):
        net.get_parameter(name).copy_(torch.tensor(values))
    net.get_parameter("2.bias").fill_(-5.0)
    return net


def test_program_of_an_empty_subproblem_is_proven() -> None:
    box = Box(-torch.ones(1, 1).double(), torch.ones(1, 1).double())
    layout, weight, bias = _layout(_two_neurons(), Interval(*box.ends), box)
    assert bias is not None
    zero, whole = torch.zeros(1), _whole(layout, 1)
    above = whole.cut(torch.tensor([0]), zero, above=True)  # x > 0
    for above_second, is_empty in ((False, True), (True, False)):
        part = above.cut(torch.tensor([1]), zero, above=above_second)  # and x + 0.1 on either side
        solution = solved(layout.search(part, Functions(weight, bias)), layout.cuts(part))
        assert solution is not None
        assert bool(solution.search.bounds().least > 0) == is_empty


def test_program_is_none_where_the_solver_has_no_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    center = torch.rand(1, 3).double()
    box = Box(center - 1e-3, center + 1e-3)
    layout, weight, bias = _layout(net := _net(0), Interval(*box.ends), box)
    assert bias is not None
    rows = torch.randn(5, 3).double()  # none is the largest in all of the box
    functions = Functions(rows @ weight, rows @ bias - rows @ net(center)[0])
    part = _whole(layout, 5)
    search = layout.search(part, functions)
    assert solved(search, layout.cuts(part)) is not None
    monkeypatch.setattr(programs, "time_left", lambda: 0.0)
    assert solved(search, layout.cuts(part)) is None


def test_program_is_none_where_something_bends_or_inputs_are_no_box() -> None:
    box = Box(-torch.ones(1, 1).double(), torch.ones(1, 1).double())
    ball = NormBall(torch.full((1, 1), 0.5).double(), 2.0, torch.full((1,), 0.1).double(), clip=False)
    near = Box(torch.full((1, 1), 0.4).double(), torch.full((1, 1), 0.6).double())
    for inputs, around in ((Interval(*box.ends), box), (ball, near)):
        layout, weight, bias = _layout(_two_neurons(), inputs, around)
        assert bias is not None
        part = _whole(layout, 1)
        assert solved(layout.search(part, Functions(weight, bias)), layout.cuts(part)) is None
