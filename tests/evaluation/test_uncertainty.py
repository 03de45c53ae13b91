"""The uncertainty of clean, attacked and other images, and what it is measured of."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from withstand import bayes
from withstand.bayes.sampling import entropies
from withstand.core.dataset_info import DatasetInfo
from withstand.data import Dataset, Split
from withstand.evaluation import Predictor, random_predictor
from withstand.evaluation.meter import Columns, PartResult
from withstand.evaluation.meters import Uncertainty
from withstand.results.measurements import CALIBRATION_ERROR
from withstand.results.results import Target
from withstand.types import Batch, DataError

if TYPE_CHECKING:
    from tests.evaluation.conftest import Gather

MEASURES = ("entropy", "expected_entropy", "mutual_information")


@pytest.mark.parametrize("settings", [{"num_samples": 0}, {"num_bins": 0}])
def test_uncertainty_refuses_numbers_out_of_range(settings: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Uncertainty(**settings)  # type: ignore[arg-type]


def _predictor(std: float) -> Predictor:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    model = bayes.convert(plain, bayes.Posterior(initial_std=std)).eval()
    return random_predictor(model, num_samples=2, num_repeats=1, attack_samples=1)


def _score(meter: Uncertainty, predictor: Predictor, images: Tensor, labels: Tensor) -> PartResult:
    return meter.score(predictor, Batch(images, labels), labels, seed=0)


def test_uncertainty_sums_up_each_set(gather: Gather, tiny_dataset: Dataset) -> None:
    meter, predictor = Uncertainty(num_samples=300, num_bins=8), _predictor(1.0)  # one image a pass
    images, labels = tiny_dataset.test.images / 255, tiny_dataset.test.labels
    parts = [_score(meter, predictor, images[part], labels[part]) for part in (slice(20), slice(20, 45))]
    assert [len(part.columns["expected-entropy"]) for part in parts] == [20, 25]
    state: Columns = {name: np.concatenate([part.state[name] for part in parts]) for name in parts[0].state}
    attacked = meter.score_attacked(predictor, 1 - images, labels)
    subject = gather(pd.DataFrame(), predictor).subject
    few = Split(torch.randint(0, 256, (10, 1, 4, 4), dtype=torch.uint8), torch.zeros(10, dtype=torch.int64))
    other = Dataset(tiny_dataset.info, few, few, few)
    with_other = Uncertainty(num_samples=300, num_bins=8, out_of_distribution={"noise": other})
    target = Target("pgd-linf", "inf", 0.1)
    everything = gather(
        pd.DataFrame(), predictor, state=state, attacked={target: attacked}, once=with_other.measure(subject)
    )
    table, results = with_other.summary(everything)
    clean, inverted, foreign = results["uncertainty"].sets
    assert [part.name for part in (clean, inverted, foreign)] == ["clean", "pgd-linf@0.1", "noise"]
    assert [part.kind for part in (clean, inverted, foreign)] == ["clean", "attacked", "out-of-distribution"]
    together = np.concatenate([part.columns["mutual-information"] for part in parts])
    assert clean.means["mutual_information"] == together.mean()
    assert clean.medians["mutual_information"] == np.median(together)
    assert [part.num_examples for part in (clean, inverted, foreign)] == [45, 45, 10]
    assert (clean.auroc, foreign.accuracy, foreign.calibration_error) == (None, None, None)
    assert 0 <= foreign.auroc <= 1
    edges = results["uncertainty"].edges
    assert len(edges) == 9
    assert edges[-1] == pytest.approx(math.log(3))
    for part in (clean, inverted, foreign):
        assert all(sum(part.histograms[measure]) == part.num_examples for measure in MEASURES)
        values = {row.measure: row.value for row in table if row.by == part.name}
        assert values["predictive entropy"] == part.means["entropy"]
        assert values.get("AUROC of entropy against clean images") == part.auroc
        # Of clean images it is that of the predictions that are scored.
        assert values.get(CALIBRATION_ERROR) == (None if part is clean else part.calibration_error)


def test_uncertainty_of_weights_that_hardly_vary_has_no_mutual_information(tiny_dataset: Dataset) -> None:
    predictor = _predictor(1e-5)
    images, labels = tiny_dataset.test.images / 255, tiny_dataset.test.labels
    columns = _score(Uncertainty(num_samples=10), predictor, images, labels).columns
    assert isinstance(predictor.model, bayes.Predictor)
    plain = bayes.mean_network(predictor.model.model)
    expected = entropies(plain(images).log_softmax(1)[None]).predictive
    assert columns["mutual-information"].max() < 1e-6
    assert columns["entropy"] == pytest.approx(expected.detach().numpy(), abs=1e-3)


def test_uncertainty_requires_other_data_that_fit(tiny_dataset: Dataset) -> None:
    empty = Split(torch.zeros(0, 1, 4, 5, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64))
    wide = Dataset(DatasetInfo("wide", (1, 4, 5), ["a", "b"], [0.5], [0.5]), empty, empty, empty)
    with pytest.raises(DataError, match="measured on wide, but the data are not there"):
        Uncertainty(out_of_distribution=["wide"]).require(tiny_dataset.info)
    with pytest.raises(DataError, match=r"shape \(1, 4, 4\), as tiny has.*wide have shape \(1, 4, 5\)"):
        Uncertainty(out_of_distribution={"wide": wide}).require(tiny_dataset.info)
    Uncertainty().require(tiny_dataset.info)


def test_uncertainty_resolves_names_of_other_data(tiny_dataset: Dataset) -> None:
    class Sources:
        def dataset(self, name: str) -> Dataset:
            return tiny_dataset

        def model(self, folder: str) -> nn.Module:
            raise AssertionError(folder)

    meter = Uncertainty(out_of_distribution=["tiny"]).resolved(Sources())
    assert meter == Uncertainty(out_of_distribution={"tiny": tiny_dataset})
    meter.require(tiny_dataset.info)
