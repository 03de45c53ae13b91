from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from withstand.operators import (
    Convolution,
    Dense,
    LinearOperator,
    Shape,
    eigenvalues,
    guaranteed,
    upper_bound,
)
from withstand.operators import convolutions as convolutions_module
from withstand.operators.convolutions import Layout, axes_of, gram
from withstand.operators.eigenvalues import Gram, largest_eigenvalue

Matrix: TypeAlias = Callable[[LinearOperator, Shape], Tensor]
Drawn: TypeAlias = tuple[Convolution, Shape]


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _singular(matrix: Tensor) -> float:
    return float(torch.linalg.matrix_norm(matrix, ord=2))


def _assert_near_above(bound: Tensor, exact: float) -> None:
    assert bound.dtype == torch.float64
    assert exact <= bound.item() <= exact * (1 + 1e-5) + 1e-130


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_upper_bound_of_a_small_convolution_is_close(
    data: st.DataObject, convolutions: st.SearchStrategy[Drawn], matrix: Matrix
) -> None:
    operator, shape = data.draw(convolutions)
    exact, bound = _singular(matrix(operator, shape)), upper_bound(operator, shape)
    assert exact <= bound.item()
    if exact > 0:  # else the kernel may reach no input, which one that is a point does not notice
        _assert_near_above(bound, exact)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_circular_bound_is_one(
    data: st.DataObject, convolutions: st.SearchStrategy[Drawn], matrix: Matrix
) -> None:
    operator, shape = data.draw(convolutions)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guaranteed, "_TIGHT", guaranteed._TIGHT._replace(work=-1))
        bound = upper_bound(operator, shape).item()
    assert _singular(matrix(operator, shape)) <= bound
    weight = operator.weight.flatten(2).abs().sum(dim=2)
    assert bound <= float(weight.sum(dim=1).max() * weight.sum(dim=0).max() * operator.groups) ** 0.5 * 1.001


@settings(max_examples=100, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("circular_work", [-1.0, math.inf])
def test_quick_bound_is_one(
    circular_work: float, data: st.DataObject, convolutions: st.SearchStrategy[Drawn], matrix: Matrix
) -> None:
    operator, shape = data.draw(convolutions)
    quick = guaranteed._QUICK._replace(work=-1, circular_work=circular_work)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(guaranteed, "_QUICK", quick)
        bound = upper_bound(operator, shape, is_quick=True).item()
    exact = _singular(matrix(operator, shape))
    assert exact <= bound
    taps = operator.weight[0, 0].numel()
    entries = torch.linalg.vector_norm(operator.weight).item()
    assert bound <= max(1.2 * exact, taps * entries * 1.01) + 1e-130


@pytest.mark.parametrize(
    ("shape", "stride", "padding", "dilation", "groups"),
    [
        ((4, 3, 3, 3), [1, 1], [1, 1], [1, 1], 1),
        ((4, 3, 4, 4), [2, 2], [1, 1], [1, 1], 1),
        ((6, 1, 3, 3), [1, 2], [2, 1], [2, 1], 3),
    ],
)
def test_circular_bound_is_near_for_larger_images(
    shape: Shape,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    matrix: Matrix,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guaranteed, "_TIGHT", guaranteed._TIGHT._replace(work=-1))
    operator, size = Convolution(_random(*shape), stride, padding, dilation, groups), (3, 15, 14)
    exact = _singular(matrix(operator, size))
    assert exact <= upper_bound(operator, size).item() <= exact * 1.06


@pytest.mark.parametrize("padding", [0, 2])
def test_upper_bound_of_a_convolution_in_three_dimensions(route: str, padding: int, matrix: Matrix) -> None:
    operator = Convolution(_random(2, 2, 2, 3, 2), [1, 2, 1], [padding] * 3, [1, 1, 2])
    exact = _singular(matrix(operator, (2, 4, 5, 4)))
    assert (
        exact
        <= upper_bound(operator, (2, 4, 5, 4)).item()
        <= exact * (1 + (1e-5 if route == "exact" else 0.6))
    )


def test_upper_bound_of_a_convolution_of_points_costs_no_image() -> None:
    weight = _random(5, 7, 1, 1)
    bound = upper_bound(Convolution(weight, [2, 2], [0, 0], [1, 1]), (7, 10**6, 10**6))
    _assert_near_above(bound, _singular(weight.flatten(1)))


def test_upper_bound_sees_taps_beside_those_that_reach_nothing(route: str, matrix: Matrix) -> None:
    # On the circle the outer taps meet and cancel; only the inner one reaches the single input.
    for inner in (1e-17, 1e-200):
        weight = torch.tensor([[[1.0, 0.0, inner, -1.0, 0.0]]], dtype=torch.float64)
        operator = Convolution(weight, [1], [2], [1])
        assert upper_bound(operator, (1, 1)).item() >= _singular(matrix(operator, (1, 1))) > 0


@settings(max_examples=100, deadline=None)
@given(data=st.data(), of_inputs=st.booleans())
def test_gram_in_blocks_is_that_of_the_matrix(
    data: st.DataObject, of_inputs: bool, convolutions: st.SearchStrategy[Drawn], matrix: Matrix
) -> None:
    operator, shape = data.draw(convolutions)
    operator = replace(operator, groups=1)  # one group is as good as another
    shape = (operator.weight.shape[1], *shape[1:])
    channels = operator.weight.shape[1 if of_inputs else 0]
    blocks = gram(operator.weight[None], Layout(axes_of(operator, shape), channels, of_inputs))
    written = _written_out(blocks)
    explicit = matrix(operator, shape).T if of_inputs else matrix(operator, shape)
    ordered = explicit.reshape(channels, -1, explicit.shape[1]).transpose(0, 1).flatten(0, 1)
    expected, side = ordered @ ordered.T, len(ordered)
    scale = float(expected.abs().max())
    torch.testing.assert_close(written[:side, :side], expected, rtol=1e-9, atol=1e-12 * scale)
    assert not written[side:].any()
    assert not written[:, side:].any()
    vector = _random(len(written))
    product = blocks.times(vector.view(*blocks.diagonal.shape[:-1], 1)).flatten()
    torch.testing.assert_close(product, written @ vector, rtol=1e-9, atol=1e-12 * scale)


def _written_out(blocks: Gram) -> Tensor:
    diagonal, below = blocks.diagonal[0], blocks.below[0]
    number, side = diagonal.shape[:2]
    result = diagonal.new_zeros(number, side, number, side)
    for block in range(number):
        result[block, :, block] = diagonal[block]
    for block in range(number - 1):
        result[block + 1, :, block] = below[block]
        result[block, :, block + 1] = below[block].T
    return result.flatten(2).flatten(0, 1)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.9, 0.999999, 1 - 1e-9, 1.1])
def test_upper_bound_believes_no_estimate(
    share: float, route: str, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (eigenvalues, guaranteed):
        estimate = module.ritz_value
        monkeypatch.setattr(module, "ritz_value", lambda *given, of=estimate: share * of(*given))
    all_of = torch.linalg.eigvalsh
    monkeypatch.setattr(torch.linalg, "eigvalsh", lambda gram: share * all_of(gram))
    monkeypatch.setattr(eigenvalues, "_FEW", 2)
    weights = _random(4, 2, 3, 3), _random(6, 3, 2, 2)
    cases: list[tuple[LinearOperator, Shape]] = [
        (Dense(_random(12, 15)), (15,)),
        (Dense(_random(150, 140)), (140,)),
        (Convolution(weights[0], [1, 1], [1, 1], [1, 1]), (2, 9, 7)),
        (Convolution(weights[1], [2, 1], [0, 1], [1, 1], 2), (6, 9, 5)),
    ]
    for operator, shape in cases:
        assert upper_bound(operator, shape).item() >= _singular(matrix(operator, shape))


def test_largest_eigenvalue_proves_each_of_many_matrices_to_its_last_block() -> None:
    diagonal = torch.zeros(2, 3, 4, 4, dtype=torch.float64)
    diagonal[0, 0, 1, 1], diagonal[1, 2, 3, 3] = 3, 5
    gram = Gram(diagonal, torch.zeros(2, 2, 4, 4, dtype=torch.float64))
    assert 5 <= largest_eigenvalue([gram], 1, estimate=1.0) <= 5.00001


@pytest.mark.parametrize("groups", [1, 5, 40])
def test_upper_bound_is_the_largest_of_all_groups_and_chunks(
    groups: int, route: str, matrix: Matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Chunks of one group, or of one frequency, where each next one may be the largest so far.
    monkeypatch.setattr(guaranteed, "_MOST_NUMBERS", 2000)
    monkeypatch.setattr(convolutions_module, "_MOST_NUMBERS", 1)
    for order in (1, -1):
        factors = torch.arange(1, groups + 1) if order > 0 else torch.arange(groups, 0, -1)
        weight = (_random(groups, 2, 1, 3) * factors[:, None, None, None]).flatten(0, 1)
        operator = Convolution(weight, [1], [1], [1], groups)
        exact = _singular(matrix(operator, (groups, 12)))
        assert (
            exact
            <= upper_bound(operator, (groups, 12)).item()
            <= exact * (1.00001 if route == "exact" else 1.1)
        )
