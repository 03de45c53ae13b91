"""Entropies, calibration and ranks against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from withstand import bayes
from withstand.data import Dataset, Split
from withstand.dataset_info import DatasetInfo
from withstand.evaluation import Sampling, Uncertainty, auroc, calibration_error, entropies
from withstand.evaluation.uncertainty import histogram
from withstand.evaluation.uncertainty_meter import UncertaintyMeter, require_others
from withstand.types import DataError


def _logs(probabilities: list[list[float]]) -> torch.Tensor:
    """(samples, classes) as log-probabilities of one example."""
    return torch.tensor(probabilities).log()[:, None]


def test_draws_that_agree_know_all_there_is_to_know() -> None:
    found = entropies(_logs([[0.25, 0.75]] * 5))
    expected = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert found.predictive.item() == pytest.approx(expected)
    assert found.expected.item() == pytest.approx(expected)
    assert found.mutual_information.item() == pytest.approx(0.0, abs=1e-12)


def test_sure_draws_that_disagree_are_all_mutual_information() -> None:
    found = entropies(torch.eye(4).log()[:, None])  # logarithms of 0 included
    assert found.predictive.item() == pytest.approx(math.log(4))
    assert found.expected.item() == 0.0
    assert found.mutual_information.item() == pytest.approx(math.log(4))


@given(st.integers(1, 6), st.integers(1, 4), st.integers(2, 6), st.integers(0, 999))
def test_the_parts_add_up_and_none_is_negative(samples: int, batch: int, classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5 * torch.randn(samples, batch, classes, generator=generator)
    found = entropies(logits.log_softmax(2))
    assert all(part.shape == (batch,) and part.dtype == torch.float64 for part in found)
    assert (found.mutual_information >= 0).all()
    assert (found.predictive <= math.log(classes) + 1e-6).all()
    torch.testing.assert_close(found.expected + found.mutual_information, found.predictive)


def test_calibration_error_by_hand() -> None:
    confidence = np.array([0.55, 0.6, 0.9, 1.0])
    is_right = np.array([True, False, True, True])
    # Of five bins (0.4, 0.6] has accuracy 1/2 and confidence 0.575, (0.8, 1] 1 and 0.95; each holds half.
    assert calibration_error(confidence, is_right, 5) == pytest.approx(0.5 * 0.075 + 0.5 * 0.05)
    assert calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0.0
    assert calibration_error(np.array([1.0, 1.0]), np.array([False, False])) == 1.0


def test_auroc_ranks_the_others_against_the_set() -> None:
    scores = np.array([0.1, 0.2, 0.2, 0.7])
    assert auroc(scores, scores) == 0.5
    assert auroc(scores, scores + 1) == 1.0
    assert auroc(scores, scores - 1) == 0.0
    assert auroc(np.array([0.0, 1.0]), np.array([0.5, 1.0, 2.0])) == pytest.approx((1 + 1.5 + 2) / 6)


def test_a_histogram_loses_nothing_to_rounding() -> None:
    edges = np.linspace(0.0, math.log(3), 5)
    values = np.array([-1e-12, 0.0, math.log(3), math.log(3) + 1e-12])
    assert histogram(values, edges) == [2, 0, 0, 2]


@pytest.mark.parametrize("settings", [{"num_samples": 0}, {"num_bins": 0}])
def test_numbers_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Uncertainty(**settings)  # type: ignore[arg-type]


def _model(std: float) -> nn.Module:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    return bayes.convert(plain, bayes.Posterior(initial_std=std)).eval()


def test_the_meter_sums_up_each_set(tiny_dataset: Dataset) -> None:
    meter = UncertaintyMeter(_model(1.0), Uncertainty(num_samples=30, num_bins=8), 3, most_rows=90)
    images, labels = tiny_dataset.test.images / 255, tiny_dataset.test.labels
    parts = [meter.observe("clean", images[part], labels[part]) for part in (slice(20), slice(20, 45))]
    for part in parts:
        meter.take("clean", "clean", part)
    meter.take("noise", "out-of-distribution", meter.observe("noise", torch.rand(10, 1, 4, 4)))
    assert [len(part["expected-entropy"]) for part in parts] == [20, 25]
    clean, foreign = meter.summary()["sets"]
    together = np.concatenate([part["mutual-information"] for part in parts])
    assert clean["mutual_information"] == {"mean": together.mean(), "median": np.median(together)}
    assert (clean["num_examples"], foreign["num_examples"]) == (45, 10)
    assert (clean["auroc"], foreign["accuracy"], foreign["calibration_error"]) == (None, None, None)
    assert 0 <= foreign["auroc"] <= 1
    for each in (clean, foreign):
        assert len(each["histogram"]["edges"]) == 9
        assert each["histogram"]["edges"][-1] == pytest.approx(math.log(3))
        for measure in ("entropy", "expected_entropy", "mutual_information"):
            assert sum(each["histogram"][measure]) == each["num_examples"]


def test_weights_that_hardly_vary_leave_no_mutual_information(tiny_dataset: Dataset) -> None:
    meter = UncertaintyMeter(_model(1e-5), Uncertainty(num_samples=10), 3, most_rows=500)
    images = tiny_dataset.test.images / 255
    found = meter.observe("clean", images)
    expected = entropies(bayes.mean_network(_model(1e-5))(images).log_softmax(1)[None]).predictive
    assert found["mutual-information"].max() < 1e-6
    assert found["entropy"] == pytest.approx(expected.detach().numpy(), abs=1e-3)


def test_other_data_must_be_there_and_fit(tiny_dataset: Dataset) -> None:
    empty = Split(torch.zeros(0, 1, 4, 5, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    wide = Dataset(DatasetInfo("wide", (1, 4, 5), ["a", "b"], [0.5], [0.5]), empty, empty, empty)
    wanted = Sampling(uncertainty=Uncertainty(out_of_distribution=["wide"]))
    with pytest.raises(DataError, match="measured on wide, but the data are not there"):
        require_others(wanted, {}, tiny_dataset.info)
    with pytest.raises(DataError, match=r"shape \(1, 4, 4\), as tiny has.*wide have shape \(1, 4, 5\)"):
        require_others(wanted, {"wide": wide}, tiny_dataset.info)
    require_others(Sampling(uncertainty=None), {"wide": wide}, tiny_dataset.info)
    require_others(None, {}, tiny_dataset.info)
