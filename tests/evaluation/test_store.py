"""Results of an evaluation are stored, and not computed again."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD, Noise, cross_entropy, margin
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset
from withstand.evaluation import Evaluation, Sampling, evaluate
from withstand.evaluation.meter import PartResult
from withstand.evaluation.meters import (
    Attacks,
    Certificate,
    Corruptions,
    LargeEpsilon,
    MomentCheck,
    NoiseCurve,
    Suite,
)
from withstand.evaluation.store import Store


class Counting(nn.Module):
    """Counts the images that pass through a model; in a list, since a number is one of its settings."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.counts: list[float] = [0, math.inf]

    @property
    def images(self) -> float:
        """How many."""
        return self.counts[0]

    def start(self, fails_after: float = math.inf) -> None:
        """Counts from 0, and fails beyond a number."""
        self.counts = [0, fails_after]

    @override
    def forward(self, images: Tensor) -> Tensor:
        self.counts[0] += len(images)
        if self.counts[0] > self.counts[1]:
            raise KeyboardInterrupt
        logits: Tensor = self.model(images)
        return logits


@pytest.fixture
def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


ATTACKS = [PGD(num_steps=3), PGD(num_steps=2, loss=margin), Noise(num_samples=2)]
EVERYTHING = [
    Attacks(ATTACKS, [0.05, 0.1]),
    NoiseCurve(num_levels=3),
    Corruptions(kinds=["brightness", "shot-noise"], severities=[1, 5]),
]


def _whole(model: nn.Module, data: Dataset, **options: Any) -> Evaluation:
    return evaluate(model, data, EVERYTHING, batch_size=20, **options)


def _assert_same(one: Evaluation, other: Evaluation) -> None:
    pd.testing.assert_frame_equal(one.rows, other.rows)
    pd.testing.assert_frame_equal(one.table, other.table)
    assert one.results == other.results


def test_evaluate_again_computes_clean_answers_alone(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    first = _whole(linear, tiny_dataset, out=tmp_path)
    model = Counting(linear)
    # The wrapper is another model by its layers, so what is asked of it is seen by a folder of its own.
    counted = _whole(model, tiny_dataset, out=tmp_path / "counted")
    before = model.images
    again = _whole(model, tiny_dataset, out=tmp_path / "counted")
    asked = model.images - before
    # Looked at, twice asked whether it is random, clean, and the gallery with its attack; the rest is known.
    assert asked < 220 < 0.2 * before
    _assert_same(counted, again)
    pd.testing.assert_frame_equal(again.rows, first.rows)
    pd.testing.assert_frame_equal(again.table, first.table)


@pytest.mark.parametrize("share", [0.2, 0.4, 0.7, 0.99])
def test_interrupted_evaluation_resumes_to_the_same_rows(
    share: float, linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    model = Counting(linear)
    whole = _whole(model, tiny_dataset, out=tmp_path / "whole")
    model.start(fails_after=share * model.images)
    with pytest.raises(KeyboardInterrupt):
        _whole(model, tiny_dataset, out=tmp_path / "parts")
    assert list((tmp_path / "parts" / "evaluation").glob("*.npz"))
    model.start()
    parts = _whole(model, tiny_dataset, out=tmp_path / "parts")
    _assert_same(whole, parts)


def test_evaluate_computes_only_new_attacks_and_budgets(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    few, many = Attacks(ATTACKS[:1], [0.1]), Attacks(ATTACKS, [0.05, 0.1, 0.2])
    first = evaluate(linear, tiny_dataset, [few], batch_size=15, num_examples=30, out=tmp_path)
    more = evaluate(linear, tiny_dataset, [many], batch_size=15, num_examples=30, out=tmp_path)
    pd.testing.assert_series_equal(more.rows["pgd-3-linf@0.1"], first.rows["pgd-3-linf@0.1"])
    for larger, smaller in (("0.1", "0.05"), ("0.2", "0.1")):
        assert (more.rows[f"pgd-3-linf@{larger}"] <= more.rows[f"pgd-3-linf@{smaller}"]).all()
    assert (more.rows["worst-linf@0.1"] <= more.rows["pgd-3-linf@0.1"]).all()
    robust = more.rows["pgd-3-linf@0.2"] == 1
    is_correct = more.rows["pgd-3-linf@0.2:prediction"] == more.rows["label"]
    assert (robust == is_correct).all()


def test_stored_results_of_a_sample_are_never_taken_for_those_of_other_examples(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    meters = [Attacks(ATTACKS, [0.1])]
    for number in (15, 30, None):  # the first batches of all three stand at the same places
        stored, anew = (
            evaluate(linear, tiny_dataset, meters, batch_size=15, num_examples=number, out=out)
            for out in (tmp_path, None)
        )
        pd.testing.assert_frame_equal(stored.rows, anew.rows)
        labels = tiny_dataset.test.labels[stored.rows["index"].tolist()]
        assert stored.rows["label"].tolist() == labels.tolist()


def test_smaller_budget_that_breaks_more_counts_at_the_larger_too(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    weak = replace(PGD(num_steps=1), step_size=1e-6, random_start=False)

    @dataclass(frozen=True)
    class Erratic(PGD):
        """Strong at small budgets alone."""

        @override
        def perturb(
            self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
        ) -> Tensor:
            strong = self.epsilon_at() < 0.15
            form = PGD(epsilon=self.epsilon_at(), num_steps=20) if strong else weak.at(self.epsilon_at())
            return form.perturb(model, images, labels)

    erratic = Erratic()
    before = evaluate(linear, tiny_dataset, [Attacks([erratic], [0.2])], out=tmp_path).rows
    after = evaluate(linear, tiny_dataset, [Attacks([erratic], [0.1, 0.2])], out=tmp_path).rows
    name = f"{erratic.name}@0.2"
    assert before[name].mean() > after[name].mean() == after[f"{erratic.name}@0.1"].mean()
    assert (after[f"{name}:prediction"] == after["label"]).mean() == after[name].mean()


@pytest.mark.parametrize("change", ["weights", "data", "seed"])
def test_store_of_another_model_data_or_seed_is_not_used(
    change: str, linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    noise = [Attacks([Noise()], [0.4])]
    evaluate(linear, tiny_dataset, noise, out=tmp_path)
    options: dict[str, Any] = {}
    if change == "weights":
        with torch.no_grad():
            for weight in linear.parameters():
                weight.neg_()
    elif change == "data":
        tiny_dataset = replace(tiny_dataset, test=tiny_dataset.validation)
    else:
        options["seed"] = 1
    rows = evaluate(linear, tiny_dataset, noise, out=tmp_path, **options).rows
    fresh = evaluate(linear, tiny_dataset, noise, **options).rows
    pd.testing.assert_frame_equal(rows, fresh)


def test_store_is_dropped_when_the_forward_changed_without_its_weights(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    class Turned(nn.Module):
        shift = 0

        @override
        def forward(self, images: Tensor) -> Tensor:
            return 10 * images.mean(dim=(1, 2))[:, :3].roll(Turned.shift, dims=1)

    meters = [Attacks([PGD(num_steps=2)], [0.1])]
    evaluate(Turned(), tiny_dataset, meters, out=tmp_path)
    Turned.shift = 1
    rows = evaluate(Turned(), tiny_dataset, meters, out=tmp_path).rows
    assert rows["clean"].sum() == rows["pgd-2-linf@0.1"].sum() == 0


def test_store_is_dropped_when_confidences_alone_changed(tiny_dataset: Dataset, tmp_path: Path) -> None:
    class Hot(nn.Module):
        scale: list[float] = [10.0]  # noqa: RUF012 - shared on purpose

        @override
        def forward(self, images: Tensor) -> Tensor:
            return self.scale[0] * images.mean(dim=(1, 2))[:, :3]

    meters = [Attacks([PGD(num_steps=5, loss=cross_entropy)], [0.3])]
    first = evaluate(Hot(), tiny_dataset, meters, out=tmp_path).rows
    Hot.scale[0] = 1e5
    rows = evaluate(Hot(), tiny_dataset, meters, out=tmp_path).rows
    assert (rows["prediction"] == first["prediction"]).all()
    assert rows["pgd-5-linf@0.3"].mean() > first["pgd-5-linf@0.3"].mean()


def test_store_does_not_read_what_another_owner_writes_later(tmp_path: Path) -> None:
    slow, quick = Store(tmp_path, "former"), Store(tmp_path, "present")
    with slow.batch(0, 2) as batch:  # an evaluation of former weights is still at work
        batch.put("part", PartResult({"a": np.array([1, 2])}, {}))
    with quick.batch(0, 2) as batch:
        assert batch.find("part") is None
    with Store(tmp_path, "present").batch(0, 2) as batch:
        assert batch.find("part") is None


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_interrupted_evaluation_leaves_the_former_rows_and_results(
    share: float, linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    model, run = Counting(linear), RunFolder(tmp_path)
    _whole(model, tiny_dataset, out=tmp_path)
    before = {file: file.read_bytes() for file in (run.examples, run.metrics, run.measurements)}
    model.start(fails_after=share * model.images)
    with pytest.raises(KeyboardInterrupt):
        _whole(model, tiny_dataset, out=tmp_path, seed=3)
    assert {file: file.read_bytes() for file in before} == before
    assert not list(tmp_path.glob(".*part"))


def test_stored_certificates_are_checked_against_new_attacks(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    certificate = Certificate(norm=2, radius=True, epsilons=[0.1, 0.3])
    first = evaluate(linear, tiny_dataset, [certificate], batch_size=20, out=tmp_path)
    attacks = Attacks([PGD(norm=2, num_steps=4)], [0.2])
    again = evaluate(linear, tiny_dataset, [attacks, certificate], batch_size=20, out=tmp_path)
    for name in ("certified-l2@0.1", "certified-l2@0.3", "radius-l2"):
        pd.testing.assert_series_equal(first.rows[name], again.rows[name])
    assert not [name for name in again.rows if str(name).startswith("_")]


def test_store_holds_what_is_measured_of_the_whole(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meters = [Suite("fast", [0.1]), MomentCheck(noise_std=[0.1], num_examples=4, num_samples=100)]
    first = evaluate(linear, tiny_dataset, meters, out=tmp_path)
    for meter in (LargeEpsilon, MomentCheck):
        monkeypatch.setattr(meter, "measure", lambda *_: pytest.fail("measured again"))
    again = evaluate(linear, tiny_dataset, meters, out=tmp_path)
    _assert_same(first, again)


def test_store_holds_random_answers_with_all_their_budgets(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    class Noisy(nn.Module):
        """Adds noise to its input, so that it answers as it is drawn."""

        def __init__(self) -> None:
            super().__init__()
            self.model = linear

        @override
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.model(images + 0.3 * torch.randn_like(images))
            return logits

    few = Sampling(num_samples=2, num_repeats=2, most_attack_samples=4, sweep_examples=10)
    meters = [Attacks(ATTACKS[:1], [0.1, 0.2])]
    run = partial(evaluate, Noisy(), tiny_dataset, meters, sampling=few, batch_size=20)
    whole = run()
    assert whole.results.sampling is not None
    assert whole.results.sampling.num_repeats == 2  # it was recognised as random
    for evaluation in [run(out=tmp_path), run(out=tmp_path)]:
        _assert_same(whole, evaluation)
    few = replace(few, attack_samples=1)  # so that batches are the same with attacks and without
    clean = evaluate(Noisy(), tiny_dataset, sampling=few, batch_size=20, out=tmp_path / "joined")
    torch.rand(3)  # whatever the random state is
    joined = run(sampling=few, out=tmp_path / "joined")
    _assert_same(run(sampling=few), joined)
    pd.testing.assert_frame_equal(joined.rows[list(clean.rows)], clean.rows)


def test_store_ignores_a_damaged_file(tmp_path: Path) -> None:
    store = Store(tmp_path / "store", "mine")
    with store.batch(0, 2) as batch:
        batch.put("part", PartResult({"a": np.array([1, 2])}, {"n": np.array([3])}))
        batch.put("nothing", PartResult({}, {}))
    assert store.noted("word", lambda: 5) == 5
    again = Store(tmp_path / "store", "mine")
    assert again.noted("word", lambda: 6) == 5
    with again.batch(0, 2) as batch:
        result = batch.find("part")
        assert result is not None
        assert (result.columns["a"].tolist(), result.counts["n"].tolist()) == ([1, 2], [3])
        assert batch.find("nothing") == PartResult({}, {})
        assert batch.find("else") is None
    (file,) = (tmp_path / "store").glob("*.npz")
    file.write_bytes(file.read_bytes()[:50])
    with Store(tmp_path / "store", "mine").batch(0, 2) as batch:
        assert batch.find("part") is None
    with Store(tmp_path / "store", "another").batch(0, 2) as batch:
        assert batch.find("part") is None
    assert not list((tmp_path / "store").glob("*.npz"))
