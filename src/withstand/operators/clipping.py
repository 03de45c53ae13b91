"""Singular values of matrices, clipped from above: exactly, or in a subspace that is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

_ROWS = 128  # of a Gram matrix that are computed at once
_NEAR = 8.0  # times radius², up to which single precision is enough for a Gram matrix


class Above(NamedTuple):
    """The Gram matrices that have an eigenvalue above a bound.

    Args:
        which: Tensor (m,) of their indices, ascending.
        values: Tensor (m, n): their eigenvalues, ascending.
        vectors: Tensor (m, n, n): their eigenvectors, in columns.
    """

    which: Tensor
    values: Tensor
    vectors: Tensor


class Clipped(NamedTuple):
    """A matrix after its singular values were clipped.

    Args:
        value: Tensor of the matrix' shape and precision.
        basis: Tensor (smaller side, rank): orthonormal, about the leading singular vectors.
    """

    value: Tensor
    basis: Tensor


def above(grams: Tensor, bounds: Tensor | float, *, precision: torch.dtype | None = None) -> Above:
    """Which Gram matrices have an eigenvalue above their bound; those alone are decomposed.

    That the others have none is proven by a Cholesky factorisation, which costs a tenth.

    Args:
        grams: Tensor (matrices, n, n) in float64 or complex128, finite; the upper triangles are read.
        bounds: Positive; one for all, or tensor (matrices, 1).
        precision: In which to decompose; that of the matrices where None.

    Returns:
        The decompositions; one at its very bound may be among them.
    """
    margins = -grams
    margins.diagonal(dim1=-2, dim2=-1).add_(bounds)
    which = torch.linalg.cholesky_ex(margins, upper=True).info.nonzero()[:, 0]
    chosen = grams if len(which) == len(grams) else grams[which]
    values, vectors = torch.linalg.eigh(chosen if precision is None else chosen.to(precision), UPLO="U")
    return Above(which, values, vectors)


def shares(values: Tensor, radius: float) -> Tensor:
    """How much of each singular value is taken to clip it: 1 - radius/σ where σ is larger, else 0.

    Args:
        values: Eigenvalues σ² of a Gram matrix.
        radius: Positive.
    """
    return torch.where(values > radius**2, 1 - radius / values.clamp_min(radius**2).sqrt(), 0.0)


def clip(matrices: Sequence[Tensor], radius: float, *, rank: int = 0) -> list[Clipped | None]:
    """The nearest matrices, in the Frobenius norm, whose singular values are at most the radius.

    Singular values above the radius become the radius; all others, and the singular vectors, stay.
    With the Gram matrix G = U diag(σ²) Uᵀ of the smaller side that is W - U diag(1 - radius/σ)₊ Uᵀ W.
    G is summed in float64. Those of one size are decomposed together, in float32 where that is
    no less exact than the weights are: where these are no more precise, and G is not much above radius².

    Args:
        matrices: Tensors (rows, columns) of any floating precision, on one device.
        radius: Positive.
        rank: How many leading singular vectors to give back.

    Returns:
        One result a matrix. None where there is nothing to clip: all singular values are at most the
        radius, up to two roundings of the matrix' precision, or not all entries are finite.
    """
    results: list[Clipped | None] = [None] * len(matrices)
    wide = [as_wide(matrix) for matrix in matrices]
    limits = [radius * (1 + 2 * torch.finfo(matrix.dtype).eps) for matrix in matrices]
    for numbers in by_side(wide, _not_small(wide, limits)):
        grams = torch.stack([upper_gram(wide[number]) for number in numbers])
        bounds = torch.tensor([[limits[number] ** 2] for number in numbers], dtype=grams.dtype)
        precision = _enough(grams, [wide[number] for number in numbers], radius)
        which, values, vectors = above(grams, bounds.to(grams.device), precision=precision)
        counts = (values > radius**2).sum(dim=1).tolist()
        for place, index in enumerate(which.tolist()):
            count, number = counts[place], numbers[index]
            if count:
                shrink = shares(values[place, -count:], radius)
                clipped = _shrunk(wide[number], vectors[place, :, -count:], shrink)
                value = clipped if wide[number] is matrices[number] else clipped.mT
                results[number] = Clipped(value, vectors[place, :, vectors.shape[1] - rank :].clone())
    return results


def clip_in_subspace(matrix: Tensor, basis: Tensor, radius: float) -> Clipped:
    """Clips the singular values that one block power step finds in a subspace: cheap, and not exact.

    The step is Q ← qr(W Wᵀ Q); then the Ritz values σ of W in that subspace, with vectors U, are
    clipped: W - U diag(1 - radius/σ)₊ Uᵀ W. The factor I - U diag(…) Uᵀ is a contraction, so no
    singular value grows, whatever the subspace. Nothing is read back from the device but whether torch's
    decomposition of the Gram matrix succeeded.

    Args:
        matrix: Tensor (rows, columns).
        basis: Tensor (smaller side, rank), orthonormal.
        radius: Positive.

    Returns:
        The matrix, unchanged where it is not finite, and the basis for the next call.
    """
    wide = as_wide(matrix)
    work = wide if wide.dtype in (torch.float32, torch.float64) else wide.float()
    basis = basis.to(work)
    former = basis
    basis = torch.linalg.qr(work @ (work.mT @ basis)).Q
    images = work.mT @ basis
    gram = images.mT @ images
    finite = gram.isfinite().all() & basis.isfinite().all()
    # Neither may NaN reach the decomposition, which refuses it, nor the matrix' finite entries.
    basis, images = torch.where(finite, basis, former), torch.where(finite, images, 0)
    values, turn = torch.linalg.eigh(torch.where(finite, gram, 0).double())
    turn, basis = turn.to(work), basis @ turn.to(work)
    shrink = shares(values, radius).to(work)
    value = torch.addmm(work, basis * shrink, (images @ turn).mT, alpha=-1).to(wide.dtype)
    return Clipped(value if wide is matrix else value.mT, basis)


def as_wide(matrix: Tensor) -> Tensor:
    """The matrix, or its transpose, such that it has no more rows than columns; or several of one shape."""
    return matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT


def _not_small(matrices: Sequence[Tensor], limits: Sequence[float]) -> list[int]:
    """Which matrices may have a singular value above their limit, by their Frobenius norm; finite ones."""
    if not matrices:
        return []
    norms = torch.stack([torch.linalg.vector_norm(matrix, dtype=torch.float64) for matrix in matrices])
    numbered = enumerate(zip(norms.tolist(), limits, strict=True))  # the one read-back for all of them
    return [number for number, (norm, limit) in numbered if limit < norm < float("inf")]


def by_side(matrices: Sequence[Tensor], chosen: Sequence[int]) -> list[list[int]]:
    """Those of the chosen numbers together whose wide matrices have equally many rows."""
    sides = dict.fromkeys(matrices[number].shape[0] for number in chosen)
    return [[number for number in chosen if matrices[number].shape[0] == side] for side in sides]


def upper_gram(wide: Tensor) -> Tensor:
    """The upper triangle of W Wᵀ in float64, in blocks; below are some zeros."""
    wide = wide.double()
    result = wide.new_zeros(wide.shape[0], wide.shape[0])
    for start in range(0, wide.shape[0], _ROWS):
        result[start : start + _ROWS, start:] = wide[start : start + _ROWS] @ wide[start:].mT
    return result


def _enough(grams: Tensor, matrices: Sequence[Tensor], radius: float) -> torch.dtype:
    """In which precision to decompose Gram matrices, so that σ comes out as exact as weights of it are.

    An eigenvalue's error is a rounding of the largest one, that of the row sums at most.
    """
    if any(matrix.dtype == torch.float64 for matrix in matrices):
        return torch.float64
    symmetric = grams.triu() + grams.triu(1).mT
    is_near = bool(symmetric.abs().sum(dim=-1).amax() <= _NEAR * radius**2)
    return torch.float32 if is_near else torch.float64


def _shrunk(wide: Tensor, vectors: Tensor, shrink: Tensor) -> Tensor:
    """W - U diag(shrink) Uᵀ W, in no less than float32."""
    full = torch.get_float32_matmul_precision() == "highest"  # else float32 products are rounded more
    work = wide if wide.dtype == torch.float64 or (full and wide.dtype == torch.float32) else wide.double()
    vectors, shrink = vectors.to(work), shrink.to(work)
    excess: Tensor = torch.linalg.multi_dot([vectors * shrink, vectors.mT, work])
    return (work - excess).to(wide.dtype)
