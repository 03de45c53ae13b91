"""How many draws a gradient needs: the rule, and that it reveals what a noisy gradient hides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from withstand import bayes
from withstand.attacks import PGD, AtMeans, Attack, Cascade, Noise, fgsm
from withstand.data import Dataset
from withstand.evaluation import Sampling
from withstand.evaluation.averaging import ScoringPlan, Shares, find_predictor, has_settled, sufficient
from withstand.evaluation.meters import Attacks
from withstand.evaluation.store import Store


def _levels(*accuracies: float, number: int = 1000) -> list[Shares]:
    """Of examples that are always correct or never, broken one after the other: hardly any noise."""
    return [(np.arange(number) < accuracy * number).astype(np.float64) for accuracy in accuracies]


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.5], False),
        ([0.5, 0.5], False),  # one doubling shows too little
        ([0.5, 0.5, 0.5], True),
        ([0.5, 0.495, 0.491], True),
        ([0.5, 0.49, 0.48], False),
        ([0.9, 0.5, 0.5, 0.5], True),
        ([0.9, 0.9, 0.5], False),
        ([0.5, 0.4, 0.6], True),
    ],
)
def test_has_settled_where_two_doublings_no_longer_lower_the_accuracy(
    accuracies: list[float], expected: bool
) -> None:
    assert has_settled(_levels(*accuracies), 0.01) is expected


def test_has_settled_ignores_a_decrease_within_twice_its_paired_error() -> None:
    falling = np.repeat([1.0, -1.0, 0.0], [12, 4, 84])  # mean 0.08, standard error 0.0394
    level = np.full(100, 0.5)
    after = level - falling
    assert not has_settled([level, level, after], 0.01)
    assert has_settled([level, level, after], 0.1)
    noisier = level - np.repeat([1.0, -1.0, 0.0], [14, 6, 80])  # as far, standard error 0.0442
    assert has_settled([level, level, noisier], 0.01)
    apart = np.repeat([1.0, 0.0], 50)  # all examples are broken alike, however they differ
    assert not has_settled([apart, apart, apart - 0.02], 0.01)


def test_has_settled_without_tolerance_ignores_chance_alone() -> None:
    assert has_settled(_levels(0.5, 0.5, 0.5), 0.0)
    assert has_settled(_levels(0.5, 0.5, 0.499), 0.0)  # a single example
    assert not has_settled(_levels(0.5, 0.5, 0.49), 0.0)


def test_has_settled_needs_no_error_of_a_single_example() -> None:
    one, none = np.ones(1), np.zeros(1)
    assert has_settled([one, one, one], 0.01)
    assert not has_settled([one, one, none], 0.01)


def test_sufficient_is_the_fewest_draws_that_attack_as_well() -> None:
    assert sufficient([1, 2, 4, 8, 16], _levels(0.9, 0.7, 0.505, 0.5, 0.501), 0.01) == 4
    assert sufficient([1, 2, 4, 8, 16], _levels(0.9, 0.7, 0.505, 0.5, 0.502), 0.0) == 8
    assert sufficient([1, 2, 4], _levels(0.5, 0.5, 0.5), 0.0) == 1
    assert sufficient([1, 2, 4], _levels(0.9, 0.7, 0.5), 0.01) == 4  # still lowered
    assert sufficient([1, 2, 4], _levels(0.5, 0.4, 0.6), 0.01) == 2
    assert sufficient([1, 2, 4], _levels(0.52, 0.5, 0.5, number=100), 0.01) == 2  # be it by chance


@pytest.fixture
def noisy() -> nn.Module:
    """Knows the stripes by its mean weights, which a single draw drowns."""
    plain = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    layer = plain.get_submodule("1")
    assert isinstance(layer, nn.Linear)
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.zero_()
        for label in range(3):
            layer.weight[label, label::4] = 2.0
    return bayes.convert(plain, bayes.Posterior(initial_std=4.0)).eval()


def _find(
    model: nn.Module,
    dataset: Dataset,
    attacks: list[Attack],
    epsilons: list[float],
    sampling: Sampling | None,
) -> ScoringPlan:
    is_random = sampling is not None
    plans = Attacks(attacks, epsilons).attack_plans(dataset.info, is_random=is_random) if attacks else []
    with torch.random.fork_rng():
        return find_predictor(model, dataset.test, plans, sampling, Store(None, ""), batch_size=500, seed=0)


def test_find_predictor_averages_a_gradient_that_needs_it(noisy: nn.Module, tiny_dataset: Dataset) -> None:
    settings = Sampling(num_samples=100, tolerance=0.02)
    plan = _find(noisy, tiny_dataset, [Noise(), fgsm()], [0.0, 0.01, 0.3], settings)
    assert plan.sampling is not None
    sweep = plan.sampling.sweep
    assert sweep is not None
    # Neither 0 nor where nothing is lost.
    assert (sweep.attack, sweep.epsilon, sweep.num_examples) == ("pgd-1-linf", 0.3, 45)
    assert [level.num_samples for level in sweep.levels] == [1, 2, 4, 8, 16, 32]
    assert all(level.total == 45 * 20 for level in sweep.levels)
    shares = [level.value for level in sweep.levels]
    assert shares[0] > min(shares) + 0.1
    target = plan.predictor.attack_model
    assert isinstance(target, bayes.Predictor)
    assert target.num_samples == plan.sampling.attack_samples
    assert target.num_samples > 1
    assert plan.batch_size == 500 // target.num_samples


def test_find_predictor_warns_of_an_attack_that_still_gains(noisy: nn.Module, tiny_dataset: Dataset) -> None:
    settings = Sampling(num_samples=100, most_attack_samples=4, tolerance=0.0)
    many = replace(tiny_dataset, test=tiny_dataset.test.subset(torch.arange(45).repeat(4)))
    plan = _find(noisy, many, [fgsm()], [0.2], settings)
    assert plan.sampling is not None
    assert plan.sampling.sweep is not None
    assert [level.num_samples for level in plan.sampling.sweep.levels] == [1, 2, 4]
    assert plan.sampling.sweep.has_settled is False
    assert plan.sampling.attack_samples == 4
    assert len(plan.warnings) == 1
    assert "raise most_attack_samples" in plan.warnings[0]


@pytest.mark.parametrize("number", [1, 3])
def test_find_predictor_takes_a_fixed_number_of_draws(
    number: int, noisy: nn.Module, tiny_dataset: Dataset
) -> None:
    plan = _find(noisy, tiny_dataset, [PGD()], [0.1], Sampling(attack_samples=number))
    assert plan.sampling is not None
    assert (plan.sampling.attack_samples, plan.sampling.sweep) == (number, None)
    assert not plan.warnings


@pytest.mark.parametrize("attacks", [[], [Noise()], [AtMeans(PGD()), Noise(num_samples=3)]])
@pytest.mark.parametrize("attack_samples", [None, 1])
def test_find_predictor_sweeps_nothing_where_no_gradient_has_draws(
    attacks: list[Attack], attack_samples: int | None, noisy: nn.Module, tiny_dataset: Dataset
) -> None:
    plan = _find(noisy, tiny_dataset, attacks, [0.1], Sampling(attack_samples=attack_samples))
    assert plan.sampling is not None
    assert (plan.sampling.attack_samples, plan.sampling.sweep) == (None, None)
    assert "gradient" not in plan.sampling.description
    assert "chosen by one set of predictions and counted on another" in plan.sampling.description
    assert not plan.warnings


def test_find_predictor_of_fixed_weights_is_the_model(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    plan = _find(tiny_model.eval(), tiny_dataset, [PGD()], [0.1], None)
    assert plan.predictor.model is plan.predictor.attack_model is tiny_model
    assert (plan.predictor.num_repeats, plan.batch_size, plan.sampling, list(plan.warnings)) == (
        1,
        500,
        None,
        [],
    )


def test_find_predictor_sweeps_one_attack_of_a_suite(noisy: nn.Module, tiny_dataset: Dataset) -> None:
    attacks = [Noise(), Cascade([PGD(num_steps=90), PGD(num_steps=80)], "all")]
    plan = _find(noisy, tiny_dataset, attacks, [0.1], Sampling(most_attack_samples=4, sweep_examples=10))
    assert plan.sampling is not None
    assert plan.sampling.sweep is not None
    assert plan.sampling.sweep.attack == "pgd-20-linf"
