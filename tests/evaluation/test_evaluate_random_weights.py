"""Evaluation of a net with random weights, from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import beta
from torch import nn

from withstand import bayes
from withstand.attacks import PGD, Noise
from withstand.core.contract import contract_of
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset
from withstand.evaluation import Sampling, evaluate
from withstand.evaluation.meters import Attacks, Certificate, KernelNorms, NoiseCurve, Uncertainty
from withstand.recipes.parsing import parse_recipe
from withstand.reporting.table import one, rows, select
from withstand.results import read_results
from withstand.results.measurements import ATTACKED, CLEAN, NOISE_AGREEMENT
from withstand.training.validation import accuracies
from withstand.types import ModelError

EPSILONS = [0.0, 0.05, 0.2]
FEW = Sampling(num_samples=4, num_repeats=3, most_attack_samples=4, sweep_examples=10)
UNCERTAINTY = Uncertainty(num_samples=5, num_bins=6)


def _stripes_net() -> nn.Sequential:
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    layer = plain.get_submodule("1")
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.zero_()
        for label in range(3):
            layer.weight[label, label::4] = 2.5
    return plain


@pytest.fixture
def random_net() -> nn.Module:
    """Knows the stripes, in the mean."""
    return bayes.convert(_stripes_net(), bayes.Posterior(initial_std=1.5))


def test_evaluate_results_describe_how_random_answers_were_scored(
    random_net: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    attacks = Attacks([PGD(num_steps=4), Noise(num_samples=2)], EPSILONS)
    meters = [attacks, NoiseCurve(num_levels=3), UNCERTAINTY]
    evaluation = evaluate(random_net, tiny_dataset, meters, sampling=FEW, out=tmp_path)
    results, examples = evaluation.results, evaluation.rows
    sampling, uncertainty, noise = results.sampling, results.uncertainty, results.noise
    assert sampling is not None
    assert (sampling.num_samples, sampling.num_repeats) == (4, 3)
    assert sampling.sweep is not None
    assert [level.num_samples for level in sampling.sweep.levels] == [1, 2, 4]
    names = [f"{name}@{epsilon:g}" for name in ("pgd-4-linf", "noise-2-linf") for epsilon in EPSILONS]
    assert uncertainty is not None
    assert [part.name for part in uncertainty.sets] == ["clean", *names]
    assert {"entropy", "expected-entropy", "mutual-information"} <= set(examples)
    np.testing.assert_allclose(
        examples["expected-entropy"] + examples["mutual-information"], examples["entropy"]
    )
    assert "iterate of the largest loss" in results.attacks[0].description
    assert "worst of 2 by loss" in results.attacks[1].description
    assert "gradient is that of the same mean over" in sampling.description
    assert "chosen by one set of predictions and counted on another" in sampling.description
    out = RunFolder(tmp_path)
    stored = read_results(out)
    assert stored is not None
    assert stored[0] == results
    pd.testing.assert_frame_equal(pd.read_csv(out.examples), examples, check_dtype=False)
    assert out.gallery.exists()
    assert noise is not None
    assert "by the draws of the weights alone" in noise.description
    assert [row.value for row in rows(select(evaluation.table, NOISE_AGREEMENT, level=0.0))] == [1.0, 1.0]


def test_evaluate_counts_predictions_with_intervals_of_examples(
    random_net: nn.Module, tiny_dataset: Dataset
) -> None:
    evaluation = evaluate(random_net, tiny_dataset, [Attacks([PGD(num_steps=4)], EPSILONS)], sampling=FEW)
    curve = select(evaluation.table, ATTACKED)
    assert list(curve.level) == EPSILONS
    for row in rows(curve):
        share = evaluation.rows[f"pgd-4-linf@{row.level:g}"]
        assert set((3 * share).round(9)) <= {0, 1, 2, 3}
        assert (row.correct, row.total) == (round(3 * share.sum()), 45 * 3)
        assert row.value == pytest.approx(share.mean())
    last = curve.iloc[-1]
    num_correct, num_wrong = last.correct / 3, (last.total - last.correct) / 3
    assert 0 < num_correct < 45
    assert last.lower == pytest.approx(beta.ppf(0.025, num_correct, num_wrong + 1))
    assert last.upper == pytest.approx(beta.ppf(0.975, num_correct + 1, num_wrong))


def test_evaluate_of_a_random_net_repeats_with_the_seed(random_net: nn.Module, tiny_dataset: Dataset) -> None:
    options: dict[str, Any] = {"sampling": FEW, "batch_size": 50, "seed": 2}
    meters = [Attacks([PGD(num_steps=2)], [0.2]), UNCERTAINTY]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = evaluate(random_net, tiny_dataset, meters, **options)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    second = evaluate(random_net, tiny_dataset, meters, **options)
    pd.testing.assert_frame_equal(first.rows, second.rows)
    pd.testing.assert_frame_equal(first.table, second.table)
    assert first.results == second.results


def test_uncertainty_looks_at_other_data_without_labels(random_net: nn.Module, tiny_dataset: Dataset) -> None:
    meter = Uncertainty(num_samples=5, out_of_distribution={"else": tiny_dataset})
    evaluation = evaluate(random_net, tiny_dataset, [meter], sampling=FEW, num_examples=20)
    assert evaluation.results.uncertainty is not None
    clean, other = evaluation.results.uncertainty.sets
    assert (other.name, other.kind, other.num_examples) == ("else", "out-of-distribution", 20)
    assert clean.accuracy is not None
    assert clean.accuracy > 0.7  # of twenty, each by five draws
    assert other.accuracy is None
    row = one(evaluation.table, "AUROC of entropy against clean images", by="else")
    assert row is not None
    assert 0.2 < row.value < 0.8  # it is the same
    assert other.auroc == row.value


def test_evaluate_samples_a_random_net_alone_by_default(random_net: nn.Module, tiny_dataset: Dataset) -> None:
    evaluation = evaluate(random_net, tiny_dataset, num_examples=3)
    assert evaluation.results.sampling is not None
    clean = one(evaluation.table, CLEAN)
    assert clean is not None
    assert (evaluation.results.sampling.num_samples, clean.total) == (20, 15)
    plain = evaluate(_stripes_net(), tiny_dataset, sampling=FEW)
    assert (plain.results.sampling, plain.results.uncertainty) == (None, None)
    assert select(plain.table, CLEAN).total.item() == 45
    assert "entropy" not in plain.rows
    assert plain.rows["clean"].dtype == np.int32


def test_evaluate_proves_nothing_of_random_weights(
    random_net: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    certificate = Certificate(norm=2, epsilons=[0.1])
    evaluate(random_net, tiny_dataset, sampling=FEW, out=tmp_path)
    before = RunFolder(tmp_path).metrics.read_bytes()
    with pytest.raises(
        ModelError, match=r"no way to measure certified-l2 at 0\.1.*bayes\.mean_network\(model\)"
    ):
        evaluate(random_net, tiny_dataset, [certificate], sampling=FEW, out=tmp_path)
    with pytest.raises(ModelError, match=r"no way to measure kernel norms"):
        evaluate(random_net, tiny_dataset, [KernelNorms()], out=tmp_path)
    assert RunFolder(tmp_path).metrics.read_bytes() == before
    evaluate(bayes.mean_network(random_net), tiny_dataset, [certificate])


def test_uncertainty_of_fixed_weights_is_refused(tiny_dataset: Dataset) -> None:
    with pytest.raises(
        ModelError, match=r"Uncertainty is for networks whose weights are random.*bayes\.convert"
    ):
        evaluate(_stripes_net(), tiny_dataset, [UNCERTAINTY])


@pytest.mark.parametrize("field", ["num_samples", "num_repeats", "attack_samples", "sweep_examples"])
def test_sampling_refuses_counts_below_one(field: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected {field} of at least 1, but got 0"):
        Sampling(**{field: 0})


@pytest.mark.parametrize("most", [0, 1, 3])
def test_sampling_refuses_too_few_draws_to_compare(most: int) -> None:
    with pytest.raises(
        ValueError, match=rf"at least 4, .* but got {most}\. To fix the number give attack_samples"
    ):
        Sampling(most_attack_samples=most)


def test_sampling_refuses_a_tolerance_below_zero() -> None:
    with pytest.raises(ValueError, match="tolerance"):
        Sampling(tolerance=-0.1)


def test_recipe_holds_sampling_and_uncertainty(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "model: {bayes: {}}\nevaluation: {sampling: {num_samples: 7}, meters: [{class_path: Uncertainty, "
        "init_args: {out_of_distribution: [mnist]}}]}\n",
        encoding="utf-8",
    )
    settings = parse_recipe(file, ["--evaluation.sampling.num_repeats=2"]).recipe.evaluation
    assert settings.sampling == Sampling(7, 2)
    assert settings.meters == [Uncertainty(out_of_distribution=["mnist"])]
    assert parse_recipe(file, ["--evaluation.sampling=null"]).recipe.evaluation.sampling is None
    without = parse_recipe(file, ["--evaluation.meters=[]"]).recipe.evaluation
    assert (without.sampling, without.meters) == (Sampling(7), [])


def test_training_of_a_random_net_scores_the_mean_probability(
    random_net: nn.Module, tiny_dataset: Dataset
) -> None:
    torch.manual_seed(0)
    asked: list[int] = []
    layer = random_net.get_submodule("1")
    layer.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    contract_of(random_net, tiny_dataset.validation.images[:2] / 255)  # the one look at two images
    asked.clear()
    measured = accuracies(random_net, tiny_dataset.validation, PGD(epsilon=0.3, num_steps=2))
    assert measured["validation_accuracy"] == 1.0
    assert measured["validation_robust_accuracy"] < 1.0
    assert random_net.training
    assert set(asked) <= {30, 240}  # eight draws an image, where not all copies are one
