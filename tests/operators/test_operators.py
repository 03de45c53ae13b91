from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from withstand.operators import Convolution, Dense, Diagonal, LinearOperator, Separable, Shape

Matrix: TypeAlias = Callable[[LinearOperator, Shape], Tensor]
Drawn: TypeAlias = tuple[Convolution, Shape]


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def _pools(kernel: int, stride: int, padding: int, sizes: tuple[int, int]) -> Separable:
    def factor(size: int) -> Tensor:
        units = torch.eye(size, dtype=torch.float64)
        return F.avg_pool1d(units[None], kernel, stride, padding)[0].T

    return Separable([2, 3], [factor(size) for size in sizes])


CASES: dict[str, tuple[LinearOperator, Shape]] = {
    "dense": (Dense(_random(3, 5)), (5,)),
    "dense on the last of two": (Dense(_random(3, 5)), (2, 5)),
    "convolution 1-D": (Convolution(_random(4, 2, 3), [2], [1], [2]), (2, 8)),
    "convolution 2-D, groups": (Convolution(_random(4, 1, 3, 2), [1, 2], [1, 0], [1, 1], 2), (2, 4, 5)),
    "convolution 3-D": (Convolution(_random(2, 1, 2, 2, 2), [1, 1, 2], [1, 0, 1], [1, 1, 1]), (1, 3, 3, 3)),
    "diagonal by channel": (Diagonal(_random(3, 1, 1)), (3, 2, 2)),
    "diagonal, one number": (Diagonal(torch.tensor(-0.5, dtype=torch.float64)), (3,)),
    "separable": (Separable([1, 3], [_random(2, 3), _random(4, 2)]), (3, 2, 2)),
    "pool": (_pools(3, 2, 1, (5, 4)), (2, 5, 4)),
}
cases = pytest.mark.parametrize(("operator", "shape"), CASES.values(), ids=CASES.keys())


@cases
def test_operator_adjoint_is_the_transpose(operator: LinearOperator, shape: Shape, matrix: Matrix) -> None:
    explicit = matrix(operator, shape)
    output = operator.apply(_random(1, *shape)).shape[1:]
    y = _random(2, *output)
    with torch.no_grad():
        result = operator.adjoint(y, shape)
    assert result.shape == (2, *shape)
    torch.testing.assert_close(result.flatten(1), y.flatten(1) @ explicit)


@cases
def test_operator_adjoint_works_in_inference_mode(operator: LinearOperator, shape: Shape) -> None:
    y = operator.apply(_random(1, *shape))
    expected = operator.adjoint(y, shape)
    with torch.inference_mode():
        torch.testing.assert_close(operator.adjoint(y.clone(), shape), expected)


@cases
def test_operator_row_norms_are_those_of_the_matrix(
    operator: LinearOperator, shape: Shape, matrix: Matrix
) -> None:
    expected = torch.linalg.vector_norm(matrix(operator, shape), dim=1)
    output = operator.apply(_random(1, *shape))
    torch.testing.assert_close(operator.row_norms(shape).expand_as(output).flatten(), expected)


@cases
@pytest.mark.parametrize("function", [torch.abs, torch.square])
def test_operator_entrywise_takes_each_entry(
    operator: LinearOperator, shape: Shape, function: Callable[[Tensor], Tensor], matrix: Matrix
) -> None:
    changed = matrix(operator.entrywise(function), shape)
    torch.testing.assert_close(changed, function(matrix(operator, shape)))


@cases
def test_operator_norm_in_closed_form_is_the_largest_singular_value(
    operator: LinearOperator, shape: Shape, matrix: Matrix
) -> None:
    norm = operator.norm(shape)
    assert (norm is None) == isinstance(operator, Dense | Convolution)
    if norm is not None:
        torch.testing.assert_close(norm, torch.linalg.matrix_norm(matrix(operator, shape), ord=2))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_convolution_agrees_with_its_matrix(
    data: st.DataObject, convolutions: st.SearchStrategy[Drawn], matrix: Matrix
) -> None:
    operator, shape = data.draw(convolutions)
    explicit = matrix(operator, shape)
    x = _random(1, *shape)
    image = operator.apply(x)
    y = _random(*image.shape)
    scale = float(operator.weight.abs().max()) * len(explicit) + 1e-30
    torch.testing.assert_close(
        (image * y).sum(), (x * operator.adjoint(y, shape)).sum(), rtol=1e-9, atol=1e-12 * scale
    )
    norms = torch.linalg.vector_norm(explicit, dim=1)
    torch.testing.assert_close(operator.row_norms(shape).flatten(), norms, rtol=1e-9, atol=1e-150)


def test_convolution_row_that_padding_fills_has_a_norm_near_zero_and_a_finite_gradient() -> None:
    weight = torch.ones(1, 1, 1, dtype=torch.float64, requires_grad=True)
    norms = Convolution(weight, [1], [1], [1]).row_norms((1, 2)).flatten()
    torch.testing.assert_close(
        norms, torch.tensor([0.0, 1.0, 1.0, 0.0], dtype=torch.float64), atol=1e-150, rtol=0
    )
    torch.autograd.backward(norms.sum())
    assert weight.grad is not None
    assert weight.grad.item() == 2


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 0), (3, 2, 1), (3, 1, 0)])
def test_separable_is_pooling(kernel: int, stride: int, padding: int) -> None:
    x = _random(2, 3, 5, 6)
    pooled = _pools(kernel, stride, padding, (5, 6)).apply(x)
    torch.testing.assert_close(pooled, F.avg_pool2d(x, kernel, stride, padding))
