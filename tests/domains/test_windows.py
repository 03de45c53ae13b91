"""The windows of a max pooling, place by place, against torch's own pooling."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from withstand.domains.gaussians.diagonal import rearranged_deviations
from withstand.graph.primitives import MaxPool, window_places


@st.composite
def _along_one_dimension(draw: st.DrawFn) -> tuple[int, int, int, int, int]:
    """Side, kernel, stride, padding and dilation."""
    kernel = draw(st.integers(1, 4))
    padding, dilation = draw(st.integers(0, kernel // 2)), draw(st.integers(1, 3))
    reach = dilation * (kernel - 1) + 1
    return (
        draw(st.integers(max(1, reach - 2 * padding), 11)),
        kernel,
        draw(st.integers(1, 4)),
        padding,
        dilation,
    )


def _largest(pool: MaxPool, images: Tensor) -> Tensor:
    value = images
    for places in window_places(pool, images.shape[2:]):
        value = torch.stack([place(value) for place in places]).amax(0)
    return value


@settings(max_examples=150, deadline=None)
@given(st.lists(_along_one_dimension(), min_size=1, max_size=3), st.booleans())
def test_window_places_have_the_pooling_as_their_largest(
    dims: list[tuple[int, int, int, int, int]], ceil_mode: bool
) -> None:
    sides, kernel, stride, padding, dilation = zip(*dims, strict=True)
    assume(math.prod(sides) <= 200)
    pool = MaxPool(kernel, stride, padding, dilation, ceil_mode)
    images = torch.randn(2, 3, *sides)
    expected = pool(images)
    # Where all of a window is padding, torch gives -inf.
    assert torch.equal(_largest(pool, images), expected.clamp_min(-1e9))


@settings(max_examples=60, deadline=None)
@given(_along_one_dimension(), _along_one_dimension(), st.booleans())
def test_window_padding_has_no_variance(
    rows: tuple[int, int, int, int, int], columns: tuple[int, int, int, int, int], ceil_mode: bool
) -> None:
    sides, kernel, stride, padding, dilation = zip(rows, columns, strict=True)
    pool = MaxPool(kernel, stride, padding, dilation, ceil_mode)
    variance, images = 1 + torch.rand(1, 1, *sides), torch.rand(1, 1, *sides)
    for places in window_places(pool, sides):
        spreads = [rearranged_deviations(place, variance) for place in places]
        values = [place(images) for place in places]
        for spread, value in zip(spreads, values, strict=True):
            assert torch.equal(spread == 0, value == -1e9)
        variance, images = torch.stack(spreads).amax(0), torch.stack(values).amax(0)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_window_places_are_each_their_own(ceil_mode: bool) -> None:
    """Of distinct numbers no window shows one twice."""
    pool = MaxPool((3,), (2,), (1,), (1,), ceil_mode)
    images = torch.arange(1.0, 9.0).reshape(1, 1, 8)
    (places,) = window_places(pool, (8,))
    windows = torch.stack([place(images).flatten() for place in places], 1).tolist()
    expected = [[-1e9, 1, 2], [2, 3, 4], [4, 5, 6], [6, 7, 8]]
    assert windows == ([*expected, [8, -1e9, -1e9]] if ceil_mode else expected)


def test_window_places_set_no_constants_without_padding() -> None:
    for padding, sets_constants in ((0, False), (1, True)):
        pool = MaxPool((3, 3), (2, 2), (padding, padding), (1, 1))
        for places in window_places(pool, (7, 7)):
            assert [place.sets_constants for place in places] == [sets_constants] * 3
