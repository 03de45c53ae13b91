"""Whether a graph computes what its model does."""

from __future__ import annotations

import torch
from torch import Tensor

from withstand.core.norms import flat
from withstand.types import ModelError


def require_same(reached: Tensor, expected: Tensor, digits: float = 0.4) -> None:
    """Compares what is finite, each output by its own size; what is not finite is never certified.

    Args:
        reached: What the graph gives, (batch, …).
        expected: What the model gives.
        digits: The share of their digits that must agree.

    Raises:
        ModelError: they are not the same.
    """
    tolerance = torch.finfo(expected.dtype).eps ** digits  # of 0.4: 2e-3 in float32, 5e-7 in float64
    is_same = reached.shape == expected.shape
    if is_same and expected.numel():
        is_finite = reached.isfinite() & expected.isfinite()
        error = flat(torch.where(is_finite, reached - expected, 0)).abs()
        largest = flat(torch.where(is_finite, expected, 0)).abs().amax(dim=0)
        # A masked class with a logit of -1e9 must not excuse what the others are off by, beyond its rounding.
        rounding = 64 * torch.finfo(expected.dtype).eps * largest.max()
        is_same = bool((error <= tolerance * torch.maximum(largest, largest.median()) + rounding).all())
    if not is_same:
        raise ModelError(
            "The model computes something else than the graph that was captured of it and bounded, so bounds "
            "and moments would be wrong. Likely causes: something outside the model that steers its forward, "
            "such as a global; images of a batch that it mixes; randomness; or a rule of your own for "
            "another function than the operator's."
        )
