"""Differences between two models on the same test examples, with paired intervals and tests.

Two models that saw the same images are distinguished far better by comparing them image by image than by
comparing two accuracies: examples that both classify correctly, or both wrongly, say nothing of a difference.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import scipy
from numpy.typing import NDArray

_LEVEL = 0.95
_EDGE = 1e-12  # of the open interval in which a difference of shares lies


class Difference(NamedTuple):
    """The mean of one model's outcomes less the mean of another's.

    Attributes:
        value: In [-1, 1]; above 0 where the first is better.
        lower: Of its 95 % interval.
        upper: Likewise.
        p_value: Two-sided, that there is no difference.
        num_examples: How many examples both were measured on.
        method: ``mcnemar`` of outcomes 0 and 1, ``t`` of shares.
    """

    value: float
    lower: float
    upper: float
    p_value: float
    num_examples: int
    method: Literal["mcnemar", "t"]

    def reversed(self) -> Difference:
        """The second less the first."""
        return self._replace(value=-self.value, lower=-self.upper, upper=-self.lower)


def paired_difference(first: NDArray[np.floating], second: NDArray[np.floating]) -> Difference:
    """Compares two models on the same examples.

    Of outcomes 0 and 1: the exact McNemar test, a binomial test of the examples on which the two differ,
    and Tango's score interval. Of shares, such as those of repeated answers or of noise levels: Student's
    paired t, which takes the mean over the examples to be normal.

    Args:
        first: Array (examples,) in [0, 1], at least two examples.
        second: Likewise, of the same examples in the same order.

    Raises:
        ValueError: the shapes differ, there are fewer than two examples, or an outcome is not in [0, 1].
    """
    if first.shape != second.shape or first.ndim != 1 or len(first) < 2:
        raise ValueError(
            "Expected two arrays of the same examples, at least two, "
            f"but got shapes {first.shape} and {second.shape}."
        )
    both = np.stack([first, second]).astype(np.float64)
    if not ((both >= 0) & (both <= 1)).all():
        raise ValueError("Expected outcomes in [0, 1].")
    if ((both == 0) | (both == 1)).all():
        return _of_outcomes(int((both[0] > both[1]).sum()), int((both[0] < both[1]).sum()), len(first))
    return _of_shares(both[0] - both[1])


def _of_outcomes(only_first: int, only_second: int, total: int) -> Difference:
    discordant = only_first + only_second
    p_value = float(scipy.stats.binomtest(only_first, discordant, 0.5).pvalue) if discordant else 1.0
    lower, upper = tango_interval(only_first, only_second, total)
    return Difference((only_first - only_second) / total, lower, upper, p_value, total, "mcnemar")


def _of_shares(differences: NDArray[np.float64]) -> Difference:
    total = len(differences)
    mean = float(differences.mean())
    error = float(differences.std(ddof=1)) / math.sqrt(total)
    half = float(scipy.stats.t.ppf((1 + _LEVEL) / 2, total - 1)) * error
    p_value = 2 * float(scipy.stats.t.sf(abs(mean) / error, total - 1)) if error else float(mean == 0)
    return Difference(mean, max(-1.0, mean - half), min(1.0, mean + half), p_value, total, "t")


def tango_interval(
    only_first: int, only_second: int, total: int, level: float = _LEVEL
) -> tuple[float, float]:
    """The score interval of the difference of two paired shares.

    T. Tango, "Equivalence test and confidence interval for the difference in proportions for the
    paired-sample design", Statistics in Medicine 17 (1998) 891-908, eqs. (24)-(26); recommended by
    Fagerland, Lydersen and Laake, Statistics in Medicine 33 (2014) 2850-2875.

    Args:
        only_first: On how many examples only the first is correct.
        only_second: On how many only the second is.
        total: Of how many, at least one.
        level: Of confidence.

    Returns:
        Its ends, in [-1, 1], around ``(only_first - only_second) / total``.
    """
    critical = float(scipy.stats.norm.ppf((1 + level) / 2))
    middle = (only_first - only_second) / total

    def statistic(difference: float) -> float:
        return _score(only_first, only_second, total, difference)

    lower, upper, root = -1.0, 1.0, scipy.optimize.brentq
    if middle > -1:
        lower = float(root(lambda difference: statistic(difference) - critical, -1 + _EDGE, middle))
    if middle < 1:
        upper = float(root(lambda difference: statistic(difference) + critical, middle, 1 - _EDGE))
    return lower, upper


def _score(only_first: int, only_second: int, total: int, difference: float) -> float:
    """The score statistic; 0 where nothing speaks against the difference, by its limit too."""
    spread = difference * (1 - difference)
    linear = (2 * total - only_first + only_second) * difference - only_first - only_second
    root = math.sqrt(linear**2 + 8 * total * only_second * spread)
    share_of_second = (root - linear) / (4 * total)
    variance = total * (2 * share_of_second + spread)
    deviation = only_first - only_second - total * difference
    return deviation / math.sqrt(variance) if variance > 0 else 0.0


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in their order; below 0.05 they are significant together.

    S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of
    Statistics 6 (1979) 65-70: the chance that any of them is wrongly called significant stays below the
    level, however they depend on each other.
    """
    adjusted, largest = [1.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted
