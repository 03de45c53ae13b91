"""The largest eigenvalue of Gram matrices, from above: an estimate proposes, Cholesky disposes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ROUNDING = 8 * torch.finfo(torch.float64).eps
"""What one operation may lose, with 16 times as much as IEEE loses: for complex and blocked kernels."""

MOST_STEPS = 200
"""Of Lanczos, for an estimate as near as it gets."""

_FIRST_MARGIN = 1e-6
_FLOOR = 1e-290  # above all that underflow can take from entries scaled to 1
_FEW = 16  # matrices that are estimated at once
_DIRECT = 128  # side up to which all eigenvalues are cheaper than Lanczos steps


class Gram(NamedTuple):
    """Several Hermitian matrices in float64 or complex128, of which only blocks near the diagonal are not 0.

    Args:
        diagonal: Tensor (matrices, blocks, n, n): the blocks on the diagonal.
        below: Tensor (matrices, blocks - 1, n, n): those just below them.
    """

    diagonal: Tensor
    below: Tensor

    @classmethod
    def full(cls, matrices: Tensor) -> Gram:
        """Matrices (matrices, n, n) that are one block each."""
        return cls(matrices[:, None], matrices[:, None][:, :0])

    @property
    def side(self) -> int:
        """Rows of each matrix."""
        return self.diagonal.shape[1] * self.diagonal.shape[2]

    def times(self, vectors: Tensor) -> Tensor:
        """The product with vectors (matrices, blocks, n, 1)."""
        image = self.diagonal @ vectors
        image[:, 1:] += self.below @ vectors[:, :-1]
        image[:, :-1] += self.below.mH @ vectors[:, 1:]
        return image

    def chosen(self, which: Tensor) -> Gram:
        """Some of the matrices; ``which`` are indices, or a truth value for each."""
        return Gram(self.diagonal[which], self.below[which])


def largest_eigenvalue(grams: Iterable[Gram], inner: int, estimate: float = 0.0) -> float:
    """An upper bound of the eigenvalues of many Gram matrices.

    If the Cholesky factorisation of M = τI - G runs to its end in floating point, then the smallest
    eigenvalue of M is at least -γ/(1-γ) trace M, where γ is n+1 roundings (Rump, "Verification of
    positive definiteness", BIT 2006, and Demmel before him). So τ, plus this and plus what forming G
    lost (``inner`` roundings of its trace), bounds the eigenvalues of the exact G, whatever τ was
    proposed. τ is an estimate made a millionth larger; matrices that refuse it get a new one.

    Args:
        grams: Matrices A Aᴴ, all of one side; the A scaled so that their largest entries are about 1.
        inner: Number of terms that were summed for each entry.
        estimate: What the result may be, where something is known; it costs no soundness.

    Returns:
        The bound, finite; about 1e-6 too large.
    """
    bound, side = estimate * (1 + _FIRST_MARGIN), 0
    for gram in grams:
        bound, side = _raise_to_fit(gram, bound), gram.side
    # The traces of M and of G are both at most n τ, for τ is above each diagonal entry.
    return bound * (1 + ROUNDING * side * (side + inner + 2)) + _FLOOR


def _raise_to_fit(gram: Gram, bound: float) -> float:
    """The bound where it already serves all matrices, else one that does."""
    margin = _FIRST_MARGIN
    while True:
        if bound:
            refused = _refuses(gram, bound)
            if not refused.any():
                return bound
            gram = gram if refused.all() else gram.chosen(refused)
        proposal = _estimate(gram) * (1 + margin)
        if proposal <= bound:  # these refused as much before
            margin *= 10
        if margin > 1:
            sums = Gram(gram.diagonal.abs(), gram.below.abs()).times(
                torch.ones_like(gram.diagonal[..., :1].abs())
            )
            return max(bound, sums.max().item())
        bound = max(bound, proposal, _FLOOR)


def _refuses(gram: Gram, bound: float) -> Tensor:
    """For each matrix, whether its factorisation fails to prove the bound: tensor (matrices,), bool."""
    refused = torch.zeros(len(gram.diagonal), dtype=torch.bool, device=gram.diagonal.device)
    taken: Tensor | float = 0.0
    for block in range(gram.diagonal.shape[1]):
        remainder = -gram.diagonal[:, block]
        remainder.diagonal(dim1=-2, dim2=-1).add_(bound)
        factor, info = torch.linalg.cholesky_ex(remainder - taken if block else remainder)
        refused |= info != 0
        if refused.all() or block == gram.below.shape[1]:
            break
        # The next block row of the factor; its sign makes no difference to what it takes.
        row = torch.linalg.solve_triangular(factor, gram.below[:, block].mH, upper=False)
        taken = row.mH @ row
    return refused


def _estimate(gram: Gram) -> float:
    """About the largest eigenvalue of those matrices that seem the largest."""
    if len(gram.diagonal) > _FEW:
        size = torch.linalg.vector_norm(gram.diagonal, dim=(1, 2, 3))
        gram = gram.chosen(size.topk(_FEW).indices)
    if gram.side <= _DIRECT and not gram.below.shape[1]:
        return float(torch.linalg.eigvalsh(gram.diagonal).max())
    return ritz_value(gram.times, random_vector(gram.diagonal, (*gram.diagonal.shape[:-1], 1)))


def ritz_value(times: Callable[[Tensor], Tensor], start: Tensor, most_steps: int = MOST_STEPS) -> float:
    """An estimate, from below, of the largest eigenvalue of a Hermitian operator: Lanczos steps.

    Args:
        times: The operator.
        start: Vector of any shape, drawn at random.
        most_steps: After so many it is done, however near.
    """
    vector, steps = start.flatten(), min(most_steps, start.numel())
    basis = vector.new_zeros(steps, len(vector))
    small = torch.zeros(steps, steps, dtype=torch.float64)
    estimate = 0.0
    for step in range(steps):
        basis[step] = vector / torch.linalg.vector_norm(vector)
        vector = times(basis[step].view(start.shape)).flatten()
        small[step, step] = torch.vdot(basis[step], vector).real
        for _ in range(2):  # a second time takes what rounding left of the former ones
            vector = vector - (basis[: step + 1].conj() @ vector) @ basis[: step + 1]
        length = torch.linalg.vector_norm(vector).item()
        done = length <= 1e-12 * small[0, 0] or step + 1 == steps
        if done or step % 10 == 9:
            former, estimate = estimate, float(torch.linalg.eigvalsh(small[: step + 1, : step + 1]).max())
            if done or estimate - former <= 1e-9 * estimate:
                break
        small[step, step + 1] = small[step + 1, step] = length
    return estimate


def random_vector(like: Tensor, shape: Sequence[int]) -> Tensor:
    """Gaussian numbers, the same ones at each call, in the precision of ``like``."""
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).to(like)
