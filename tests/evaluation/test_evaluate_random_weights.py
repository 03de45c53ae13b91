"""Evaluation of a net with random weights, from end to end."""

from __future__ import annotations

import dataclasses
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
from withstand.data import Dataset
from withstand.evaluation import (
    Certificate,
    FormerEvaluation,
    NoiseCurve,
    Sampling,
    Uncertainty,
    evaluate,
    extend_evaluation,
)
from withstand.kernel_norms import KernelNorms
from withstand.recipe_file import parse_recipe
from withstand.reporting.conform import misfit
from withstand.reporting.schema import Metrics
from withstand.run_folder import RunFolder
from withstand.training.validation import accuracies
from withstand.types import ModelError

EPSILONS = [0.0, 0.05, 0.2]
FEW = Sampling(
    num_samples=4,
    num_repeats=3,
    most_attack_samples=4,
    sweep_examples=10,
    uncertainty=Uncertainty(num_samples=5, num_bins=6),
)


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


def test_metrics_say_how_random_answers_were_scored(
    random_net: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    attacks = [PGD(num_steps=4), Noise(num_samples=2)]
    noise = NoiseCurve(num_levels=3)
    found = evaluate(random_net, tiny_dataset, attacks, EPSILONS, sampling=FEW, noise=noise, out=tmp_path)
    metrics, rows = found.metrics, found.rows
    assert metrics["sampling"]["settings"] == dataclasses.asdict(FEW)
    assert (metrics["sampling"]["num_samples"], metrics["sampling"]["num_repeats"]) == (4, 3)
    assert [level["num_samples"] for level in metrics["sampling"]["sweep"]["levels"]] == [1, 2, 4]
    names = [f"{name}@{epsilon:g}" for name in ("pgd-4-linf", "noise-2-linf") for epsilon in EPSILONS]
    assert [each["name"] for each in metrics["uncertainty"]["sets"]] == ["clean", *names]
    assert {"entropy", "expected-entropy", "mutual-information"} <= set(rows)
    np.testing.assert_allclose(rows["expected-entropy"] + rows["mutual-information"], rows["entropy"])
    assert "iterate of the largest loss" in metrics["attacks"][0]["description"]
    assert "worst of 2 by loss" in metrics["attacks"][1]["description"]
    told = metrics["sampling"]["description"]
    assert "gradient is that of the same mean over" in told
    assert "chosen by one set of predictions and counted on another" in told
    out = RunFolder(tmp_path)
    assert out.read_json(out.metrics) == metrics
    assert misfit(metrics, Metrics, "") is None
    pd.testing.assert_frame_equal(pd.read_csv(out.examples), rows, check_dtype=False)
    assert out.gallery.exists()
    assert "by the draws of the weights alone" in metrics["noise"]["description"]
    assert metrics["noise"]["levels"][0]["agreement"]["accuracy"] == 1.0


def test_shares_are_counted_as_predictions_with_intervals_of_examples(
    random_net: nn.Module, tiny_dataset: Dataset
) -> None:
    found = evaluate(random_net, tiny_dataset, [PGD(num_steps=4)], EPSILONS, sampling=FEW)
    curve = found.metrics["attacks"][0]["curve"]
    for point in curve:
        share = found.rows[f"pgd-4-linf@{point['epsilon']:g}"]
        assert set((3 * share).round(9)) <= {0, 1, 2, 3}
        assert point["total"] == 45 * 3
        assert point["correct"] == round(3 * share.sum())
        assert point["accuracy"] == pytest.approx(share.mean())
    last = curve[-1]
    right, wrong = last["correct"] / 3, (last["total"] - last["correct"]) / 3
    assert 0 < right < 45
    assert last["lower"] == pytest.approx(beta.ppf(0.025, right, wrong + 1))
    assert last["upper"] == pytest.approx(beta.ppf(0.975, right + 1, wrong))


def test_the_same_seed_gives_the_same_rows(random_net: nn.Module, tiny_dataset: Dataset) -> None:
    given: dict[str, Any] = {"sampling": FEW, "batch_size": 50, "seed": 2}
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = evaluate(random_net, tiny_dataset, [PGD(num_steps=2)], [0.2], **given)
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(5)
    second = evaluate(random_net, tiny_dataset, [PGD(num_steps=2)], [0.2], **given)
    pd.testing.assert_frame_equal(first.rows, second.rows)
    assert first.metrics == second.metrics


def test_other_data_are_looked_at_without_labels(random_net: nn.Module, tiny_dataset: Dataset) -> None:
    wanted = dataclasses.replace(FEW, uncertainty=Uncertainty(num_samples=5, out_of_distribution=["else"]))
    found = evaluate(
        random_net, tiny_dataset, [], [], sampling=wanted, others={"else": tiny_dataset}, num_examples=20
    )
    clean, other = found.metrics["uncertainty"]["sets"]
    assert (other["name"], other["kind"], other["num_examples"]) == ("else", "out-of-distribution", 20)
    assert clean["accuracy"] > 0.7  # of twenty, each by five draws
    assert other["accuracy"] is None
    assert 0.2 < other["auroc"] < 0.8  # it is the same


def test_by_default_a_random_net_is_sampled_and_another_is_not(
    random_net: nn.Module, tiny_dataset: Dataset
) -> None:
    found = evaluate(random_net, tiny_dataset, [], [], num_examples=3).metrics
    assert (found["sampling"]["num_samples"], found["clean"]["total"]) == (20, 15)
    plain = evaluate(_stripes_net(), tiny_dataset, [], [], sampling=FEW)
    assert not {"sampling", "uncertainty"} & set(plain.metrics)
    assert plain.metrics["clean"]["total"] == 45
    assert "entropy" not in plain.rows
    assert plain.rows["clean"].dtype == np.int32


def test_nothing_is_proven_of_random_weights(
    random_net: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match=r"no way to certify its answers.*bayes\.mean_network\(model\)"):
        evaluate(random_net, tiny_dataset, [], [], certificates=[Certificate(epsilons=[0.1])])
    with pytest.raises(ModelError, match=r"no way to bound its kernel norms"):
        evaluate(random_net, tiny_dataset, [], [], kernel_norms=KernelNorms())
    former = FormerEvaluation(pd.DataFrame(), {}, [])
    with pytest.raises(ModelError, match="no way to certify its answers"):
        extend_evaluation(random_net, tiny_dataset, former, [Certificate()], RunFolder(tmp_path))
    means = bayes.mean_network(random_net)
    evaluate(means, tiny_dataset, [], [], certificates=[Certificate(epsilons=[0.1])])


@pytest.mark.parametrize("field", ["num_samples", "num_repeats", "attack_samples", "sweep_examples"])
def test_counts_below_one_are_refused(field: str) -> None:
    with pytest.raises(ValueError, match=rf"Expected {field} of the sampling of at least 1, but got 0"):
        Sampling(**{field: 0})  # type: ignore[arg-type]


@pytest.mark.parametrize("most", [0, 1, 3])
def test_too_few_draws_to_compare_are_refused(most: int) -> None:
    with pytest.raises(
        ValueError, match=rf"at least 4, .* but got {most}\. To fix the number give attack_samples"
    ):
        Sampling(most_attack_samples=most)


def test_a_tolerance_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="tolerance"):
        Sampling(tolerance=-0.1)


def test_a_recipe_holds_the_settings(tmp_path: Path) -> None:
    file = tmp_path / "r.yaml"
    file.write_text(
        "evaluation: {sampling: {num_samples: 7, uncertainty: {out_of_distribution: [mnist]}}}\n",
        encoding="utf-8",
    )
    found = parse_recipe(file, ["--evaluation.sampling.num_repeats=2"]).recipe.evaluation.sampling
    assert found == Sampling(7, 2, uncertainty=Uncertainty(out_of_distribution=["mnist"]))
    assert parse_recipe(file, ["--evaluation.sampling=null"]).recipe.evaluation.sampling is None
    without = parse_recipe(file, ["--evaluation.sampling.uncertainty=null"]).recipe.evaluation.sampling
    assert without == Sampling(7, uncertainty=None)


def test_training_scores_the_mean_probability(random_net: nn.Module, tiny_dataset: Dataset) -> None:
    torch.manual_seed(0)
    asked: list[int] = []
    layer = random_net.get_submodule("1")
    layer.register_forward_pre_hook(lambda _, given: asked.append(len(given[0])))
    found = accuracies(random_net, tiny_dataset.validation, PGD(epsilon=0.3, num_steps=2))
    assert found["validation_accuracy"] == 1.0
    assert found["validation_robust_accuracy"] < 1.0
    assert random_net.training
    assert set(asked) <= {30, 240}  # eight draws an image, where not all copies are one
