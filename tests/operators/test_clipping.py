from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from withstand.operators import clip, clip_in_subspace
from withstand.operators.clipping import above


def _random(rows: int, columns: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)


def _closed(matrix: Tensor, radius: float) -> Tensor:
    left, values, right = torch.linalg.svd(matrix.double(), full_matrices=False)
    clipped: Tensor = (left * values.clamp_max(radius)) @ right
    return clipped


def _norm(matrix: Tensor) -> float:
    norm: float = torch.linalg.matrix_norm(matrix.double(), ord=2).item()
    return norm


@given(rows=st.integers(1, 9), columns=st.integers(1, 9), share=st.floats(0.01, 1.2), seed=st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_clip_equals_the_closed_form(rows: int, columns: int, share: float, seed: int) -> None:
    matrix = _random(rows, columns, seed)
    radius = share * _norm(matrix)
    (clipped,) = clip([matrix], radius)
    if share > 1:
        assert clipped is None
    elif share < 1 - 1e-9:
        assert clipped is not None
        torch.testing.assert_close(clipped.value, _closed(matrix, radius), rtol=1e-9, atol=1e-9)
        assert _norm(clipped.value) <= radius * (1 + 1e-9)


def test_clip_takes_matrices_of_one_size_each_for_itself() -> None:
    matrices = [
        *[_random(4, 7, 1), 0.1 * _random(4, 7, 2), _random(4, 9, 3), _random(7, 4, 4), _random(3, 3, 5)],
        torch.zeros(4, 5, dtype=torch.float64),
        _random(1, 6, 6),
    ]
    result = clip(matrices, 1.5)
    assert [clipped is None for clipped in result] == [
        False,
        True,
        False,
        False,
        _norm(matrices[4]) <= 1.5,
        True,
        False,
    ]
    for matrix, clipped in zip(matrices, result, strict=True):
        if clipped is not None:
            torch.testing.assert_close(clipped.value, _closed(matrix, 1.5), rtol=1e-10, atol=1e-10)


def test_clip_fits_blocks_of_large_gram_matrices_together() -> None:
    matrix = _random(300, 310)
    (clipped,) = clip([matrix], 20.0)
    assert clipped is not None
    torch.testing.assert_close(clipped.value, _closed(matrix, 20.0), rtol=0, atol=1e-10)


def test_clip_of_no_matrices_is_empty() -> None:
    assert clip([], 1.0) == []


def test_clip_does_nothing_where_only_the_frobenius_norm_is_above_the_radius() -> None:
    matrix = torch.eye(5, dtype=torch.float64)
    assert clip([matrix], 1.0) == [None]
    assert clip([matrix], 1.0 - 1e-9) != [None]


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_clip_computes_single_precision_in_double(precision: str) -> None:
    matrix = _random(20, 50, dtype=torch.float32)
    former = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        (clipped,) = clip([matrix], 3.0)
    finally:
        torch.set_float32_matmul_precision(former)
    assert clipped is not None
    assert clipped.value.dtype == torch.float32
    torch.testing.assert_close(clipped.value.double(), _closed(matrix, 3.0), rtol=0, atol=2e-6)
    again = clip([clipped.value], 3.0)[0]
    assert again is None or (again.value - clipped.value).abs().max() < 1e-6


def test_clip_of_half_precision_is_up_to_its_rounding() -> None:
    matrix = _random(20, 30, dtype=torch.bfloat16)
    (clipped,) = clip([matrix], 3.0)
    assert clipped is not None
    assert clipped.value.dtype == torch.bfloat16
    assert clipped.value.equal(_closed(matrix, 3.0).to(torch.bfloat16))
    assert clip([clipped.value], 3.0) == [None]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_clip_leaves_out_what_is_not_finite(bad: float) -> None:
    broken = _random(3, 4)
    broken[1, 2] = bad
    result = clip([broken, 9 * _random(3, 4, 1)], 1.0)
    assert result[0] is None
    assert result[1] is not None


def test_clip_gives_the_leading_singular_vectors() -> None:
    matrix = _random(9, 6)
    (clipped,) = clip([matrix], 0.5, rank=2)
    assert clipped is not None
    right = torch.linalg.svd(matrix).Vh[:2].T
    torch.testing.assert_close(
        (clipped.basis.T @ right).abs().sort().values, torch.tensor([[0.0, 1.0]] * 2).double()
    )
    (none,) = clip([matrix], 0.5)
    assert none is not None
    assert none.basis.shape == (6, 0)
    (all_of_them,) = clip([matrix], 0.5, rank=99)
    assert all_of_them is not None
    assert all_of_them.basis.shape == (6, 6)


def test_above_decomposes_only_gram_matrices_above_the_bound() -> None:
    grams = torch.stack(
        [torch.diag(torch.tensor([1.0, top], dtype=torch.float64)) for top in (2.0, 4.0, 3.0)]
    )
    result = above(grams, 3.5)
    assert result.which.tolist() == [1]
    assert result.values.tolist() == [[1.0, 4.0]]
    assert above(grams, 5.0).values.shape == (0, 2)
    assert above(grams, torch.tensor([[1.5], [5.0], [2.5]]).double()).which.tolist() == [0, 2]


# The subspace


@given(rows=st.integers(1, 8), columns=st.integers(1, 8), rank=st.integers(1, 8), radius=st.floats(0.05, 3.0))
@settings(max_examples=60, deadline=None)
def test_clip_in_subspace_lets_no_singular_value_grow(
    rows: int, columns: int, rank: int, radius: float
) -> None:
    matrix, side = _random(rows, columns, rank), min(rows, columns)
    basis = torch.linalg.qr(_random(side, min(rank, side), 7)).Q
    clipped = clip_in_subspace(matrix, basis, radius)
    before, after = torch.linalg.svdvals(matrix), torch.linalg.svdvals(clipped.value)
    assert (after <= before + 1e-12).all()
    eye = torch.eye(basis.shape[1], dtype=torch.float64)
    torch.testing.assert_close(clipped.basis.T @ clipped.basis, eye, rtol=0, atol=1e-10)


@pytest.mark.parametrize("shape", [(4, 6), (6, 4)])
def test_clip_in_subspace_of_the_whole_space_is_exact(shape: tuple[int, int]) -> None:
    matrix = _random(*shape)
    clipped = clip_in_subspace(matrix, torch.eye(4, dtype=torch.float64), 0.7)
    torch.testing.assert_close(clipped.value, _closed(matrix, 0.7), rtol=1e-10, atol=1e-10)


def test_clip_in_subspace_that_is_warm_is_as_exact() -> None:
    matrix = _random(8, 12)
    values = torch.linalg.svdvals(matrix)
    radius = values[1:3].mean().item()
    (exact,) = clip([matrix], radius, rank=4)
    assert exact is not None
    clipped = clip_in_subspace(matrix, exact.basis, radius)
    torch.testing.assert_close(clipped.value, exact.value, rtol=0, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_clip_leaves_a_matrix_inside_bit_for_bit(dtype: torch.dtype) -> None:
    matrix = _random(5, 7, dtype=dtype)
    matrix[:, 2] = 0
    clipped = clip_in_subspace(matrix, torch.eye(5)[:, :2], _norm(matrix) * 1.001)
    assert clipped.value.dtype == dtype
    assert clipped.value.equal(matrix)


@pytest.mark.parametrize("bad", [0.0, float("nan"), float("inf")])
def test_clip_in_subspace_basis_outlives_matrices_that_give_none(bad: float) -> None:
    matrix = torch.zeros(5, 7)
    matrix[1, 2], matrix[3, 3] = bad, bad or 0.0
    clipped = clip_in_subspace(matrix, torch.eye(5)[:, 1:3], 1.0)
    assert clipped.value.nan_to_num(7, 7, 7).equal(matrix.nan_to_num(7, 7, 7))
    assert clipped.basis.isfinite().all()
    torch.testing.assert_close(clipped.basis.T @ clipped.basis, torch.eye(2))
