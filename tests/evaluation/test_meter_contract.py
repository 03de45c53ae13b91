"""What holds of all meters: settings that stay, names that differ, no memory, batches that add up."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from withstand import bayes
from withstand.attacks import PGD, Noise
from withstand.core.identity import identity
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset
from withstand.evaluation import Evaluation, Predictor, Sampling, evaluate, meters, random_predictor
from withstand.evaluation.meter import Meter, PartResult, Subject
from withstand.evaluation.plans import merged_attacks, merged_certificates
from withstand.evaluation.run import with_implied
from withstand.results import read_results
from withstand.results.measurements import table_of
from withstand.types import Batch

# Each makes a meter anew, and one of other settings.
MAKERS: dict[str, tuple[Callable[[], Meter], Callable[[], Meter]]] = {
    "Attacks": (
        lambda: meters.Attacks([PGD(num_steps=2), Noise()], [0.05, 0.1]),
        lambda: meters.Attacks([PGD(num_steps=3), Noise()], [0.05, 0.1]),
    ),
    "Calibration": (lambda: meters.Calibration(), lambda: meters.Calibration(5)),
    "Certificate": (
        lambda: meters.Certificate(2, [0.1], radius=True),
        lambda: meters.Certificate(2, [0.1, 0.2], radius=True),
    ),
    "Classes": (lambda: meters.Classes(), lambda: meters.Calibration()),
    "Corruptions": (
        lambda: meters.Corruptions(["contrast", "shot-noise"], [1, 5]),
        lambda: meters.Corruptions(["contrast"], [1, 5]),
    ),
    "KernelNorms": (
        lambda: meters.KernelNorms(num_examples=10, num_perturbed=4, num_deformations=2),
        lambda: meters.KernelNorms(num_examples=10, num_perturbed=5, num_deformations=2),
    ),
    "LargeEpsilon": (lambda: meters.LargeEpsilon(2), lambda: meters.LargeEpsilon(math.inf)),
    "MomentCheck": (
        lambda: meters.MomentCheck(noise_std=[0.1], num_examples=4, num_samples=100),
        lambda: meters.MomentCheck(noise_std=[0.2], num_examples=4, num_samples=100),
    ),
    "NoiseCurve": (lambda: meters.NoiseCurve(num_levels=3), lambda: meters.NoiseCurve(num_levels=4)),
    "RandomizedSmoothing": (
        lambda: meters.RandomizedSmoothing(num_selection=10, num_estimation=50),
        lambda: meters.RandomizedSmoothing(num_selection=11, num_estimation=50),
    ),
    "SebrProtocol": (lambda: meters.SebrProtocol(pgd=[]), lambda: meters.SebrProtocol(fgsm=[])),
    "Suite": (lambda: meters.Suite("fast", [0.1]), lambda: meters.Suite("fast", [0.1], [2])),
    "Uncertainty": (lambda: meters.Uncertainty(num_samples=5), lambda: meters.Uncertainty(num_samples=6)),
    "VanishingGradients": (lambda: meters.VanishingGradients(), lambda: meters.Classes()),
}
DRAWING = {"Corruptions", "NoiseCurve", "RandomizedSmoothing", "Uncertainty"}
FEW = Sampling(num_samples=2, num_repeats=2, attack_samples=1)

pytestmark = pytest.mark.filterwarnings("ignore:The protocol sebr is for networks with random weights")
every = pytest.mark.parametrize("name", MAKERS)


def make(name: str) -> Meter:
    return MAKERS[name][0]()


def network(meter: Meter) -> nn.Module:
    """One that the meter can look at; it knows the stripes badly."""
    torch.manual_seed(0)
    net: nn.Module = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    if meter.needs.random_weights:
        net = bayes.convert(net, bayes.Posterior(initial_std=0.1))
    return net.eval()


def subject(meter: Meter, dataset: Dataset) -> Subject:
    model = network(meter)
    predictor = Predictor.of(model)
    if meter.needs.random_weights:
        predictor = random_predictor(model, num_samples=2, num_repeats=2, attack_samples=1)
    return Subject(model, dataset.info, dataset.test, predictor, 45, 0)


def score(meter: Meter, of: Subject, start: int, stop: int) -> PartResult:
    images, labels = (part[start:stop] for part in (of.test.images / 255, of.test.labels))
    torch.manual_seed(1)
    return meter.score(of.predictor, Batch(images, labels), of.predictor.predict(images), seed=1)


def evaluated(of: Meter, dataset: Dataset, *which: Meter) -> Evaluation:
    """The network of a meter, measured by others."""
    return evaluate(network(of), dataset, which, sampling=FEW, batch_size=20)


def test_makers_name_every_meter() -> None:
    names = {
        name
        for name in meters.__all__
        if isinstance(kind := getattr(meters, name), type) and issubclass(kind, Meter) and kind is not Meter
    }
    assert names == set(MAKERS)


@every
def test_meter_is_a_frozen_dataclass_of_its_settings(name: str) -> None:
    meter = make(name)
    assert dataclasses.is_dataclass(meter)
    with pytest.raises(dataclasses.FrozenInstanceError):
        meter.anything = 1
    assert set(vars(meter)) <= {field.name for field in dataclasses.fields(meter)}


@every
def test_meter_of_equal_settings_has_an_equal_name_and_identity(name: str) -> None:
    one, again, other = make(name), make(name), MAKERS[name][1]()
    assert one == again
    assert one.name == again.name
    assert identity(one.depends_on) == identity(again.depends_on)
    assert one != other
    assert (one.name, identity(one.depends_on)) != (other.name, identity(other.depends_on))
    assert "\t" not in one.name  # which parts the names of a store


@every
def test_meter_plans_the_same_each_time(name: str, tiny_dataset: Dataset) -> None:
    meter = make(name)
    for is_random in (False, True):
        plans = [meter.attack_plans(tiny_dataset.info, is_random=is_random) for _ in range(2)]
        assert plans[0] == plans[1]
        merged = merged_attacks(plans[0])
        assert len({plan.name for plan in merged}) == len(merged) == len(plans[0])
    certificates = meter.certificate_plans()
    assert merged_certificates([*certificates, *meter.certificate_plans()]) == list(certificates)
    meter.require(tiny_dataset.info)
    implied = with_implied([meter])
    assert len({other.name for other in implied}) == len(implied)
    assert with_implied(implied) == [*implied]


@every
def test_meter_keeps_nothing_and_measures_the_same_again(name: str, tiny_dataset: Dataset) -> None:
    meter = make(name)
    before, of = copy.deepcopy(vars(meter)), subject(meter, tiny_dataset)
    first, again = (score(meter, of, 0, 20) for _ in range(2))
    for kind in ("columns", "counts", "state"):
        one, other = getattr(first, kind), getattr(again, kind)
        assert list(one) == list(other)
        assert all(np.array_equal(one[key], other[key]) for key in one)
    attacked = meter.score_attacked(of.predictor, of.test.images / 255, of.test.labels)
    assert bool(attacked) is meter.needs.attacked_images
    assert all(len(values) == 45 for values in attacked.values())
    assert vars(meter) == before


@every
def test_meter_scores_of_two_batches_add_up_to_that_of_one(name: str, tiny_dataset: Dataset) -> None:
    meter = make(name)
    of = subject(meter, tiny_dataset)
    parts, whole = [score(meter, of, 0, 20), score(meter, of, 20, 45)], score(meter, of, 0, 45)
    for kind in ("columns", "state"):
        for key, values in getattr(whole, kind).items():
            joined = np.concatenate([getattr(part, kind)[key] for part in parts])
            assert joined.shape == values.shape
            if name not in DRAWING:
                np.testing.assert_array_equal(joined, values)
    for key, counts in whole.counts.items():
        added = parts[0].counts[key] + parts[1].counts[key]
        assert (added.shape, added.dtype) == (counts.shape, counts.dtype)
        assert np.issubdtype(counts.dtype, np.integer)
        if name not in DRAWING:
            np.testing.assert_array_equal(added, counts)


@every
def test_meter_measure_is_plain_json(name: str, tiny_dataset: Dataset) -> None:
    meter = make(name)
    result = meter.measure(subject(meter, tiny_dataset))
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    if type(meter).measure is Meter.measure:
        assert result is None


@every
def test_meter_gives_finite_rows_of_some_measure(name: str, tiny_dataset: Dataset) -> None:
    meter = make(name)
    table = evaluated(meter, tiny_dataset, meter).table
    assert list(table.columns) == list(table_of([]).columns)
    assert (table["measure"] != "").all()
    assert np.isfinite(table[["level", "value"]]).all(axis=None)
    assert table["norm"].isin(["", "1", "2", "inf"]).all()
    assert not table.duplicated(["measure", "by", "norm", "level"]).any()
    shares = table[table["total"].notna()]
    np.testing.assert_allclose(shares["value"], shares["correct"] / shares["total"])
    inside = shares[shares["lower"].notna()]
    assert inside["value"].between(inside["lower"], inside["upper"]).all()
    is_always_measured = meter.name in [other.name for other in with_implied([])]
    assert is_always_measured or len(table) > len(evaluated(meter, tiny_dataset).table)


@every
def test_meter_results_are_read_back(name: str, tiny_dataset: Dataset, tmp_path: Path) -> None:
    meter = make(name)
    evaluation = evaluate(network(meter), tiny_dataset, [meter], sampling=FEW, out=tmp_path)
    stored = read_results(RunFolder(tmp_path))
    assert stored is not None
    assert stored[0] == evaluation.results
    pd.testing.assert_frame_equal(stored[1], evaluation.table)


@every
def test_meter_does_not_change_the_results_of_another(name: str, tiny_dataset: Dataset) -> None:
    meter, other = make(name), make("NoiseCurve" if name == "Corruptions" else "Corruptions")
    alone, beside = (evaluated(meter, tiny_dataset, *which) for which in ([other], [meter, other]))
    pd.testing.assert_frame_equal(beside.rows[list(alone.rows)], alone.rows)
