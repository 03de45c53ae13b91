from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from withstand.operators import Convolution, LinearOperator, Shape, clip_convolution
from withstand.operators.circles import Circle


def _norm(matrix: Tensor) -> float:
    norm: float = torch.linalg.matrix_norm(matrix, ord=2).item()
    return norm


def _random(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64)


@given(data=st.data(), share=st.floats(0.05, 0.95), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=60, deadline=None)
def test_clip_convolution_gives_a_norm_of_at_most_the_radius(
    data: st.DataObject,
    share: float,
    dtype: torch.dtype,
    convolutions: st.SearchStrategy[tuple[Convolution, Shape]],
    matrix: Callable[[LinearOperator, Shape], Tensor],
) -> None:
    operator, input_shape = data.draw(convolutions)
    operator = operator.entrywise(lambda weight: weight.to(dtype))
    radius = share * _norm(matrix(operator.entrywise(torch.Tensor.double), input_shape))
    if radius == 0:
        return
    clipped = clip_convolution([operator], [input_shape], radius)
    assert clipped is not None
    assert clipped.dtype == dtype
    assert clipped.shape == operator.weight.shape
    inside = operator.entrywise(lambda _: clipped)
    assert _norm(matrix(inside.entrywise(torch.Tensor.double), input_shape)) <= radius * (1 + 1e-6)
    assert clip_convolution([inside], [input_shape], radius) is None


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_circle_norm_is_no_smaller_and_the_kernel_comes_back(
    data: st.DataObject,
    convolutions: st.SearchStrategy[tuple[Convolution, Shape]],
    matrix: Callable[[LinearOperator, Shape], Tensor],
) -> None:
    operator, input_shape = data.draw(convolutions)
    circle = Circle.around(operator, input_shape)
    weight = operator.weight.view(circle.shape)
    spectrum = circle.spectrum(weight)
    largest = torch.linalg.matrix_norm(spectrum, ord=2).max().item()
    assert _norm(matrix(operator, input_shape)) <= largest * (1 + 1e-9)
    torch.testing.assert_close(
        circle.kernel(spectrum), weight, rtol=1e-9, atol=1e-12 * float(weight.abs().max())
    )


def test_circle_kernel_is_the_nearest_of_these_taps() -> None:
    circle = Circle.around(Convolution(_random(2, 3, 3, 3), [1, 2], [1, 1], [1, 1]), (3, 6, 5))
    weight, other = _random(*circle.shape, seed=1), _random(*circle.shape, seed=2)
    spectrum = circle.spectrum(weight)
    noise = torch.randn(spectrum.shape, generator=torch.Generator().manual_seed(3), dtype=spectrum.dtype)
    rest = noise - circle.spectrum(circle.kernel(noise))
    # What is left out is orthogonal to every kernel, over all frequencies: half of them, with weights.
    assert circle.kernel(rest).abs().max() < 1e-12
    torch.testing.assert_close(circle.kernel(spectrum + 2 * circle.spectrum(other)), weight + 2 * other)


def test_clip_convolution_of_one_tap_clips_a_matrix() -> None:
    kernel = _random(4, 5)
    clipped = clip_convolution([Convolution(kernel[..., None], [1], [0], [1])], [(5, 7)], 1.0)
    left, values, right = torch.linalg.svd(kernel, full_matrices=False)
    assert clipped is not None
    torch.testing.assert_close(clipped[..., 0], (left * values.clamp_max(1.0)) @ right, rtol=0, atol=1e-6)


def test_clip_convolution_keeps_small_singular_values_better_than_scaling(
    matrix: Callable[[LinearOperator, Shape], Tensor],
) -> None:
    operator, shape = Convolution(_random(3, 3, 3), [1], [1], [1]), (3, 12)
    radius = 0.5 * _norm(matrix(operator, shape))
    clipped = clip_convolution([operator], [shape], radius)
    assert clipped is not None
    assert (clipped - operator.weight).norm() < 0.9 * (operator.weight / 2).norm()
    assert _norm(matrix(operator.entrywise(lambda _: clipped), shape)) > 0.8 * radius


def test_clip_convolution_of_a_kernel_used_at_two_sizes_is_inside_at_both(
    matrix: Callable[[LinearOperator, Shape], Tensor],
) -> None:
    weight = _random(3, 2, 3)
    uses = [Convolution(weight, [1], [1], [1]), Convolution(weight, [2], [0], [2])]
    shapes = [(2, 9), (2, 6)]
    clipped = clip_convolution(uses, shapes, 0.7)
    assert clipped is not None
    for use, shape in zip(uses, shapes, strict=True):
        assert _norm(matrix(use.entrywise(lambda _: clipped), shape)) <= 0.7


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_clip_convolution_leaves_what_is_inside(value: float) -> None:
    weight = torch.full((2, 2, 3), value)
    weight[0, 0, 0] = 0.1
    assert clip_convolution([Convolution(weight, [1], [1], [1])], [(2, 5)], 0.2) is None


def test_clip_convolution_in_half_precision_ends_inside(
    matrix: Callable[[LinearOperator, Shape], Tensor],
) -> None:
    weight = _random(3, 2, 3).bfloat16()
    clipped = clip_convolution([Convolution(weight, [1], [1], [1])], [(2, 5)], 0.5)
    assert clipped is not None
    assert clipped.dtype == torch.bfloat16
    norm = _norm(matrix(Convolution(clipped.double(), [1], [1], [1]), (2, 5)))
    assert norm <= 0.5
    assert clipped.any()
