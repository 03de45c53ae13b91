"""Margins of logits, and what counts as correct in a proof: NaN, infinity and ties are not."""

from __future__ import annotations

import math

from torch import Tensor

_TIE = 1e-12  # of the two logits: a margin below it is rounding


def surely_correct(logits: Tensor, labels: Tensor) -> Tensor:
    """Whether the true logit is finite and above all others, (batch,)."""
    true = logits.gather(1, labels[:, None]).squeeze(1)
    others = logits.scatter(1, labels[:, None], -math.inf).amax(dim=1)  # NaN where one is
    return true.isfinite() & (true > others)


def largest_difference(given: Tensor, exact: Tensor) -> Tensor:
    """Of the logits of an image, (batch,); infinity where there is no difference to be had."""
    differences = (given.double() - exact).abs().where(given != exact, 0.0)  # both may be minus infinity
    return differences.nan_to_num(nan=math.inf, posinf=math.inf).amax(dim=1)


def rounding_allowance(logits: Tensor, labels: Tensor) -> Tensor:
    """What the difference of each logit and the true one may owe to rounding, (batch, classes).

    A logit of minus infinity, of a masked class, is as far below as can be.
    """
    sizes = logits.abs()
    return (_TIE * (sizes + sizes.gather(1, labels[:, None]))).where(logits != -math.inf, 0.0)


def worst_of(differences: Tensor, labels: Tensor) -> Tensor:
    """The true logit minus the largest other, (batch,); NaN where any is NaN."""
    return -differences.scatter(1, labels[:, None], -math.inf).amax(dim=1)
