"""Entropies and ranks against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from withstand.bayes.sampling import auroc, entropies, histogram


def _logs(probabilities: list[list[float]]) -> torch.Tensor:
    """(samples, classes) as log-probabilities of one example."""
    return torch.tensor(probabilities).log()[:, None]


def test_entropies_of_draws_that_agree_have_no_mutual_information() -> None:
    actual = entropies(_logs([[0.25, 0.75]] * 5))
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert actual.predictive.item() == pytest.approx(expected)
    assert actual.expected.item() == pytest.approx(expected)
    assert actual.mutual_information.item() == pytest.approx(0.0, abs=1e-12)


def test_entropies_of_sure_draws_that_disagree_are_all_mutual_information() -> None:
    result = entropies(torch.eye(4).log()[:, None])  # logarithms of 0 included
    assert result.predictive.item() == pytest.approx(math.log(4))
    assert result.expected.item() == 0.0
    assert result.mutual_information.item() == pytest.approx(math.log(4))


@given(st.integers(1, 6), st.integers(1, 4), st.integers(2, 6), st.integers(0, 999))
def test_entropies_add_up_and_none_is_negative(samples: int, batch: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(samples, batch, classes, generator=generator)
    result = entropies(logits.log_softmax(2))
    assert all(part.shape == (batch,) and part.dtype == torch.float64 for part in result)
    assert (result.mutual_information >= 0).all()
    assert (result.predictive <= math.log(classes) + 1e-6).all()
    torch.testing.assert_close(result.expected + result.mutual_information, result.predictive)


def test_auroc_ranks_the_others_against_the_set() -> None:
    scores = np.array([0.1, 0.2, 0.2, 0.7])
    assert auroc(scores, scores) == 0.5
    assert auroc(scores, scores + 1) == 1.0
    assert auroc(scores, scores - 1) == 0.0
    assert auroc(np.array([0.0, 1.0]), np.array([0.5, 1.0, 2.0])) == pytest.approx((1 + 1.5 + 2) / 6)


def test_histogram_loses_nothing_to_rounding() -> None:
    edges = np.linspace(0.0, math.log(3), 5)
    values = np.array([-1e-12, 0.0, math.log(3), math.log(3) + 1e-12])
    assert histogram(values, edges) == [2, 0, 0, 2]
