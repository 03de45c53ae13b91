"""The surrogate of the expected norm, against the matrices that it never writes out."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from withstand.bayes import expected_maximum, fluctuation
from withstand.operators import Convolution, Dense, Shape

CASES: dict[str, tuple[list[int], list[int], list[int], list[int], int, Shape]] = {
    # kernel, stride, padding, dilation, groups, input
    "1-D": ([4, 2, 3], [1], [1], [1], 1, (2, 7)),
    "strided": ([3, 2, 3, 3], [2, 2], [1, 1], [1, 1], 1, (2, 6, 5)),
    "leaving inputs unread": ([2, 1, 2], [3], [0], [1], 1, (1, 7)),
    "dilated": ([2, 3, 2, 3], [1, 2], [2, 0], [2, 1], 1, (3, 5, 6)),
    "groups": ([4, 2, 3, 3], [1, 1], [1, 1], [1, 1], 2, (4, 4, 4)),
    "smaller than its kernel": ([2, 1, 5, 5], [1, 1], [2, 2], [1, 1], 1, (1, 2, 3)),
}


def _stds(shape: list[int], seed: int = 0, spread: float = 0.8) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 0.1 * torch.exp(spread * torch.randn(shape, generator=generator, dtype=torch.float64))


def _convolution(name: str, seed: int = 0) -> tuple[Convolution, Shape]:
    kernel, stride, padding, dilation, groups, shape = CASES[name]
    return Convolution(_stds(kernel, seed), stride, padding, dilation, groups), shape


def _matrix(operator: Dense | Convolution, shape: Shape) -> Tensor:
    size = torch.Size(shape).numel()
    units = torch.eye(size, dtype=torch.float64).view(size, *shape)
    return operator.apply(units).flatten(1).T


def _by_hand(operator: Dense | Convolution, shape: Shape) -> Tensor:
    """Without its last term."""
    matrix = _matrix(operator, shape)
    norms: Tensor = sum(torch.linalg.vector_norm(matrix, dim=dim).amax() for dim in (0, 1))
    return norms


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CASES)
def test_fluctuation_rows_and_columns_of_a_convolution_are_those_of_its_matrix(name: str, seed: int) -> None:
    operator, shape = _convolution(name, seed)
    expected = _by_hand(operator, shape) + expected_maximum(operator.weight)
    torch.testing.assert_close(fluctuation(operator, shape), expected, rtol=1e-10, atol=0)


@given(
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    taps=st.integers(1, 4),
    stride=st.integers(1, 3),
    padding=st.integers(0, 4),
    dilation=st.integers(1, 3),
    more=st.integers(0, 5),
    seed=st.integers(0, 99),
)
@settings(max_examples=60, deadline=None)
def test_fluctuation_of_any_convolution(
    groups: int,
    channels: tuple[int, int],
    taps: int,
    stride: int,
    padding: int,
    dilation: int,
    more: int,
    seed: int,
) -> None:
    size = max(1, dilation * (taps - 1) + 1 - 2 * padding) + more
    kernel = [groups * channels[0], channels[1], taps]
    operator = Convolution(_stds(kernel, seed), [stride], [padding], [dilation], groups)
    shape = (groups * channels[1], size)
    expected = _by_hand(operator, shape) + expected_maximum(operator.weight)
    torch.testing.assert_close(fluctuation(operator, shape), expected, rtol=1e-10, atol=0)


def test_fluctuation_of_a_matrix_against_draws() -> None:
    stds = _stds([12, 20], spread=0.4)
    generator = torch.Generator().manual_seed(1)
    drawn = stds * torch.randn(10_000, 12, 20, generator=generator, dtype=torch.float64)
    maxima = drawn.abs().amax(dim=(1, 2))
    expected = stds.norm(dim=1).max() + stds.norm(dim=0).max() + maxima.mean()
    actual = fluctuation(Dense(stds), (20,))
    assert actual.item() == pytest.approx(expected.item(), rel=2e-3)
    # It is about the expected norm: above it here, and not far.
    norms = torch.linalg.matrix_norm(drawn[:500], ord=2).mean()
    assert norms < actual < 2 * norms


@given(name=st.sampled_from(["matrix", *CASES]), seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=50, deadline=None)
def test_fluctuation_terms_never_decrease_as_a_deviation_rises(
    name: str, seed: int, data: st.DataObject
) -> None:
    operator: Dense | Convolution
    operator, shape = _convolution(name, seed) if name in CASES else (Dense(_stds([3, 4], seed)), (4,))
    weight = operator.weight
    entry = data.draw(st.integers(0, weight.numel() - 1))
    raised = weight.clone()
    raised.view(-1)[entry] *= 1 + data.draw(st.floats(1e-3, 3))
    higher = replace(operator, weight=raised)
    assert _by_hand(higher, shape) >= _by_hand(operator, shape)
    maxima = [expected_maximum(matrix).item() for matrix in (weight, raised)]
    assert maxima[1] >= maxima[0] * (1 - 5e-4)
    assert fluctuation(higher, shape) >= fluctuation(operator, shape) - 5e-4 * maxima[0]
    assert _gradient(operator, shape)[1].min() >= 0


def _gradient(operator: Dense | Convolution, shape: Shape) -> tuple[Tensor, Tensor]:
    weight = operator.weight.clone().requires_grad_()
    value = fluctuation(replace(operator, weight=weight), shape)
    return value.detach(), torch.autograd.grad(value, weight)[0]


@pytest.mark.parametrize("name", ["matrix", *CASES])
def test_fluctuation_gradient_is_that_of_finite_differences(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator: Dense | Convolution
    operator, shape = _convolution(name) if name in CASES else (Dense(_stds([3, 4])), (4,))
    # Of degree one in the deviations, so that their gradient adds up to the value (Euler).
    value, gradient = _gradient(operator, shape)
    assert (gradient * operator.weight).sum().item() == pytest.approx(value.item(), rel=5e-3)
    # The last term goes in small steps; its own gradient is tested beside it.
    monkeypatch.setattr(
        sys.modules["withstand.bayes.expected_maximum"], "expected_maximum", lambda stds: stds.square().sum()
    )
    weight = operator.weight.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda each: fluctuation(replace(operator, weight=each), shape), (weight,)
    )


@pytest.mark.parametrize(
    "operator", [Dense(torch.zeros(2, 3)), Convolution(torch.zeros(2, 1, 2), [1], [0], [1])]
)
def test_fluctuation_without_deviation_is_none_and_has_no_gradient(operator: Dense | Convolution) -> None:
    value, gradient = _gradient(operator, (3,) if isinstance(operator, Dense) else (1, 4))
    assert value == 0
    assert gradient.eq(0).all()
