"""The references are what they say: against linear programmes, samples and one another."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import NonlinearConstraint, linprog, minimize
from torch import Tensor, nn

from tests.domains.dense_crown import Affine, Bounds, InputSet, Layers, Leaky, crown, layers_of, least
from tests.domains.exact_margins import exact_margin, exact_minimum, goal_value
from withstand.core import norms

SETS = [(p, clip) for p in (1.0, 2.0, math.inf) for clip in (False, True)]
FAR = 1e6


def _members(inputs: InputSet, count: int = 2000) -> Tensor:
    """All over the set, on its surface, and at corners."""
    generator = torch.Generator().manual_seed(0)
    steps = torch.randn(count, len(inputs.center), generator=generator, dtype=torch.float64)
    steps[::3] *= torch.rand(steps[::3].shape, generator=generator) < 0.4
    scale = torch.logspace(-2, 2, count, dtype=torch.float64)[:, None]
    points = inputs.center + norms.project(scale * steps, inputs.norm, inputs.epsilon)
    return points.clamp(0, 1) if inputs.clip else points


def _tiny(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    if seed % 2:
        parts = [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3), nn.LeakyReLU(0.1), nn.Linear(3, 3)]
    else:
        conv = nn.Conv1d(1, 2, 2, padding=1)
        parts = [nn.Unflatten(1, (1, 3)), conv, nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)]
    return nn.Sequential(*parts).double()


def _run(layers: Layers, x: Tensor) -> list[Tensor]:
    """What goes into each activation, and what comes out."""
    result = []
    for layer in layers:
        result += [x] if isinstance(layer, Leaky) else []
        x = layer(x)
    return [*result, x]


# Input sets


@pytest.mark.parametrize(("norm", "clip"), SETS)
def test_input_set_has_the_least_of_a_linear_function(norm: float, clip: bool) -> None:
    torch.manual_seed(0)
    for epsilon in (0.0, 0.05, 0.4, 3.0):
        center, rows = torch.rand(5).double(), torch.randn(4, 5).double()
        center[0], rows[0, 2] = 1.0, 0.0
        inputs = InputSet(center, norm, epsilon, clip)
        actual = inputs.least(rows)
        assert (actual[:, None] <= rows @ _members(inputs).T + 1e-12).all()
        expected = torch.tensor([_least_by_scipy(row, inputs) for row in rows]).double()
        torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-5)


def _limits(inputs: InputSet) -> tuple[list[tuple[float, float]], float]:
    """Members are center + u - v of u, v ≥ 0: bounds of each, and of their sum; l2 is not linear."""
    reach = inputs.epsilon if inputs.norm == math.inf else FAR
    sides = torch.cat([1 - inputs.center, inputs.center])
    bounds = [(0.0, min(side, reach) if inputs.clip else reach) for side in sides.tolist()]
    return bounds, inputs.epsilon if inputs.norm == 1 else FAR * len(bounds)


def _least_by_scipy(row: Tensor, inputs: InputSet) -> float:
    (bounds, total), size = _limits(inputs), len(row)
    cost, moved = torch.cat([row, -row]).numpy(), np.hstack([np.eye(size), -np.eye(size)])
    if inputs.norm == 2:
        square = NonlinearConstraint(
            lambda x: ((moved @ x) ** 2).sum(),
            -np.inf,
            inputs.epsilon**2,
            jac=lambda x: 2 * moved.T @ moved @ x,
        )
        solve: Any = minimize
        found = solve(
            lambda x: cost @ x,
            np.zeros(2 * size),
            jac=lambda _: cost,
            bounds=bounds,
            constraints=square,
            options={"ftol": 1e-12},
        )
    else:
        found = linprog(cost, A_ub=np.ones((1, 2 * size)), b_ub=[total], bounds=bounds)
    return float(row @ inputs.center) + float(found.fun)


# CROWN


@pytest.mark.parametrize(("norm", "clip"), SETS)
@pytest.mark.parametrize("seed", range(3))
def test_dense_crown_is_sound_and_no_tighter_than_the_triangle(seed: int, norm: float, clip: bool) -> None:
    model = _tiny(seed)
    layers, rows = layers_of(model, (3,)), torch.randn(2, 3).double()
    for epsilon in (0.05, 0.3):
        inputs = InputSet(torch.rand(3).double(), norm, epsilon, clip)
        members = _members(inputs)
        values = _run(layers, members)
        torch.testing.assert_close(values[-1], model(members).detach())
        for box in (None, inputs.box):
            bounds = crown(layers, inputs, box=box)
            for (lower, upper), inside in zip(bounds, values, strict=True):
                assert (inside >= lower - 1e-12).all()
                assert (inside <= upper + 1e-12).all()
            assert (least(rows, layers, inputs, box=box) <= (rows @ values[-1].T).amin(1) + 1e-12).all()
            if norm != 2 and box is None:
                triangle = _triangle(rows, layers, bounds, inputs)
                assert (least(rows, layers, inputs) <= triangle + 1e-7).all()
                assert (triangle <= (rows @ values[-1].T).amin(1) + 1e-7).all()


def _triangle(rows: Tensor, layers: Layers, bounds: Sequence[Bounds], inputs: InputSet) -> Tensor:
    """The least over the triangle relaxation of Ehlers (ATVA 2017), of l1 or linf sets, as linear programmes.

    Variables are the moves u, v and the values after each activation.
    """
    (limits, total), size = _limits(inputs), len(inputs.center)
    count = 2 * size + sum(len(bound.lower) for bound in bounds[:-1])
    unit = torch.eye(count).double()
    matrix, constant = unit[:size] - unit[size : 2 * size], inputs.center  # the value, of the variables
    normals, offsets, left = [unit[: 2 * size].sum(0)[None]], [torch.tensor([total]).double()], iter(bounds)
    used = 2 * size
    for layer in layers:
        if isinstance(layer, Affine):
            matrix, constant = layer.matrix @ matrix, layer(constant)
            continue
        lower, upper = next(left)
        after = unit[used : used + len(constant)]
        used += len(constant)
        chord = ((layer(upper) - layer(lower)) / (upper - lower))[:, None]
        above = layer(lower) - chord[:, 0] * lower
        normals += [matrix - after, layer.slope * matrix - after, after - chord * matrix]
        offsets += [-constant, -layer.slope * constant, chord[:, 0] * constant + above]
        matrix, constant = after, torch.zeros_like(constant)
    a, b = torch.cat(normals).numpy(), torch.cat(offsets).numpy()
    free = [(None, None)] * (count - 2 * size)
    found = [linprog((row @ matrix).numpy(), A_ub=a, b_ub=b, bounds=[*limits, *free]) for row in rows]
    return torch.tensor([part.fun for part in found]).double() + rows @ constant


def test_dense_crown_takes_slopes() -> None:
    model = _tiny(1)
    layers, inputs = layers_of(model, (3,)), InputSet(torch.rand(3).double(), math.inf, 0.5)
    least, most = ([torch.full((width,), slope).double() for width in (4, 3)] for slope in (0.1, 1.0))
    results = [crown(layers, inputs, slopes=slopes)[-1].lower for slopes in (None, least, most)]
    assert all((model(_members(inputs)) >= lower - 1e-12).all() for lower in results)
    assert not results[1].allclose(results[2])


# Exact margins


@pytest.mark.parametrize("seed", range(4))
def test_exact_margin_is_between_crown_and_a_fine_grid(seed: int) -> None:
    model = _tiny(seed).requires_grad_(False)
    center, side = torch.rand(3).double(), torch.linspace(-1, 1, 21, dtype=torch.float64)
    label = int(model(center[None]).argmax())
    unit = torch.eye(3).double()
    weight = (unit[label] - unit)[torch.arange(3) != label]
    for epsilon in (1e-4, 0.1, 0.6):
        exact = exact_margin(model, center - epsilon, center + epsilon, label, 3)
        points = center + epsilon * torch.cartesian_prod(side, side, side)
        coarse = float((model(points) @ weight.T).amin())
        assert coarse - epsilon <= exact.value <= coarse + 1e-9
        layers, inputs = layers_of(model, (3,)), InputSet(center, math.inf, epsilon)
        bound = float(least(weight, layers, inputs).amin())
        assert bound <= exact.value + 1e-7
        if epsilon == 1e-4:  # which leaves no neuron undecided: all is affine
            assert exact.value == pytest.approx(bound, abs=1e-9)


def test_exact_minimum_of_groups_is_least_of_the_largest_rows() -> None:
    model = _tiny(1).requires_grad_(False)
    weight, bias = torch.randn(5, 3).double(), torch.randn(5).double()
    groups = torch.tensor([0, 1, 0, 1, 1])
    lower, upper = torch.zeros(3).double(), torch.ones(3).double()
    exact = exact_minimum(model, lower, upper, weight, bias, groups)
    assert ((exact.minimiser >= lower) & (exact.minimiser <= upper)).all()
    assert exact.value == goal_value(model, exact.minimiser, weight, bias, groups)
    side = torch.linspace(0, 1, 61, dtype=torch.float64)
    values = model(torch.cartesian_prod(side, side, side)) @ weight.T + bias
    least = min(float(values[:, groups == group].amax(1).min()) for group in (0, 1))
    assert least - 0.05 <= exact.value <= least + 1e-7
