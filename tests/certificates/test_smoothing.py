"""Randomised smoothing against classifiers whose smoothed selves are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, norm
from torch import Tensor, nn
from typing_extensions import override

from withstand.certificates.smoothing import (
    ABSTAINED,
    Smoothed,
    Smoothing,
    lower_confidence_bound,
    radius,
    smoothed_radius,
)
from withstand.core.contract import contract_of
from withstand.types import DataError

FEW = Smoothing(noise_std=0.5, num_selection=20, num_estimation=200, failure_probability=0.05)


class Sides(nn.Module):
    """Two classes, parted by the plane on which the pixels' sum is the offset."""

    def __init__(self, offset: float) -> None:
        super().__init__()
        self.offset = offset
        self.seen: list[Tensor] = []

    @override
    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images.clone())
        side = images.flatten(1).sum(dim=1) - self.offset
        return torch.stack([-side, side], dim=1)


def at_distance(distance: float, num: int = 1) -> Tensor:
    """Images (num, 1, 4, 4) whose distance from the plane of ``Sides(8.0)`` is this, on the side of 1."""
    return torch.full((num, 1, 4, 4), 0.5 + distance / 4)  # a step of d along (1, …, 1) / 4


def smoothed(model: nn.Module, images: Tensor, settings: Smoothing = FEW, seed: int = 0) -> Smoothed:
    return smoothed_radius(model, images, settings=settings, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.3, 0.05, 0.001, 1e-6]))
def test_lower_confidence_bound_is_that_of_the_exact_test(
    successes: int, failures: int, alpha: float
) -> None:
    trials = max(1, successes + failures)
    expected = binomtest(successes, trials, alternative="greater").proportion_ci(1 - alpha, "exact").low
    assert float(lower_confidence_bound(successes, trials, alpha)) == pytest.approx(expected, abs=1e-9)


def test_lower_confidence_bound_takes_many_counts_at_once() -> None:
    bounds = lower_confidence_bound(np.array([[0, 5], [9, 10]]), 10, 0.01)
    assert bounds.shape == (2, 2)
    assert bounds[0, 0] == 0.0
    assert bounds[1, 1] == pytest.approx(0.01**0.1)
    assert (np.diff(bounds.flatten()) > 0).all()


def test_lower_confidence_bound_fails_as_often_as_stated() -> None:
    """At most the stated share of bounds lies above the truth, and not much fewer."""
    draws = np.random.default_rng(0).binomial(150, 0.8, size=20_000)
    failed = float((lower_confidence_bound(draws, 150, 0.05) > 0.8).mean())
    assert 0.02 < failed < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 20_000)


def test_radius_is_as_computed_by_hand() -> None:
    radii = radius(np.array([0.0, 0.3, 0.5, norm.cdf(1.0), norm.cdf(2.0)]), 0.25)
    assert radii.tolist() == pytest.approx([0.0, 0.0, 0.0, 0.25, 0.5])


def test_smoothed_radius_exceeds_the_distance_from_a_plane_as_rarely_as_stated() -> None:
    """The smoothed classifier of a plane is the plane itself, so the true radius is the distance."""
    for distance in (0.2, 0.5):
        answers = smoothed(Sides(8.0), at_distance(distance, 3000))
        assert (answers.prediction != 0).all()
        failed = float((answers.radius > distance).double().mean())
        assert 0.01 < failed < 0.05 + 4 * math.sqrt(0.05 * 0.95 / 3000)
        chance = norm.cdf(distance / 0.5)
        hits = torch.maximum(
            answers.successes, 200 - answers.successes
        )  # where selection chose the other class
        assert float(hits.double().mean()) == pytest.approx(200 * chance, rel=0.01)
        expected = radius(lower_confidence_bound(answers.successes.numpy(), 200, 0.05), 0.5)
        np.testing.assert_array_equal(answers.radius.numpy(), expected)


def test_smoothed_radius_holds_no_point_with_another_answer() -> None:
    settings = Smoothing(noise_std=0.5, num_selection=100, num_estimation=2000, failure_probability=1e-6)
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(200, 1, 4, 4, generator=generator)
    model = Sides(8.0)
    answers = smoothed(model, images, settings)
    assert 20 < int((answers.prediction == ABSTAINED).sum()) < 180
    proven = answers.prediction != ABSTAINED
    assert (answers.radius[proven] > 0).all()
    for sign in (-1, 1):  # the shortest way to the plane, and away from it
        moved = images + sign * 0.999 * answers.radius.float()[:, None, None, None] / 4
        assert torch.equal(model(moved).argmax(dim=1)[proven], answers.prediction[proven])
    distance = (images.flatten(1).sum(dim=1) - 8).abs() / 4
    assert (answers.radius <= distance)[proven].all()
    assert float((answers.radius / distance)[proven].mean()) > 0.4


def test_smoothed_prediction_abstains_where_the_draws_do_not_decide() -> None:
    answers = smoothed(Sides(8.0), at_distance(0.0, 400))
    is_abstained = answers.prediction == ABSTAINED
    # Of either answer the bound is above 1/2 by chance alone, in at most one of twenty cases.
    assert 0.9 < float(is_abstained.double().mean()) < 1.0
    assert (answers.radius[is_abstained] == 0).all()
    assert answers.prediction.dtype == answers.successes.dtype == torch.int64
    assert answers.radius.dtype == torch.float64


def test_smoothed_radius_of_a_constant_answer_is_the_largest() -> None:
    answers = smoothed(Sides(-1e9), at_distance(0.0, 2))
    assert answers.prediction.tolist() == [1, 1]
    assert answers.successes.tolist() == [200, 200]
    assert answers.radius.tolist() == [FEW.largest_radius] * 2
    assert FEW.largest_radius == pytest.approx(0.5 * norm.ppf(0.05 ** (1 / 200)))


def test_smoothing_noise_is_normal_unclipped_and_fresh_for_each_draw() -> None:
    model, images = Sides(8.0), torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(5))
    contract_of(model, images)
    model.seen.clear()
    smoothed(model, images, Smoothing(0.25, num_selection=7, num_estimation=20, batch_rows=9))
    seen = torch.cat(model.seen)
    assert max(len(rows) for rows in model.seen) == 9
    assert len(seen) == 27 * 3
    assert float(seen.min()) < 0
    assert float(seen.max()) > 1
    noise = (seen.reshape(27, 3, -1) - images.flatten(1)).flatten(0, 1)
    assert noise.std(dim=1).tolist() == pytest.approx([0.25] * 81, rel=0.25)
    assert float(noise.std()) == pytest.approx(0.25, rel=0.02)
    assert float(noise.mean()) == pytest.approx(0.0, abs=0.01)
    assert float((torch.corrcoef(noise) - torch.eye(81)).abs().max()) < 6 / 16


@pytest.mark.parametrize("rows", [1, 2, 3, 100])
def test_smoothed_radius_does_not_depend_on_the_rows_of_a_pass(rows: int) -> None:
    images = torch.rand(3, 1, 4, 4, generator=torch.Generator().manual_seed(6))
    whole, parts = (
        smoothed(Sides(8.0), images, Smoothing(0.25, num_selection=7, num_estimation=20, batch_rows=size))
        for size in (5000, rows)
    )
    assert all(torch.equal(a, b) for a, b in zip(whole, parts, strict=True))


def test_smoothing_draws_repeat_with_the_seed_and_leave_all_else_alone() -> None:
    model, images = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), Sides(8.0)), at_distance(0.1, 50)
    before = torch.random.get_rng_state()
    first, again, other = (smoothed(model, images, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)  # so it was in eval mode
    assert all(module.training for module in model.modules())
    assert torch.equal(first.successes, again.successes)
    assert not torch.equal(first.successes, other.successes)


class OneDraw(nn.Module):
    """Draws one answer a pass, for all images of it."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return torch.eye(3)[torch.randint(0, 2, ())].expand(len(images), 3)


def test_smoothed_radius_asks_a_random_model_anew_for_each_copy() -> None:
    """Otherwise copies of one pass would answer alike, and no draw would be one of its own."""
    torch.manual_seed(0)
    images, generator = at_distance(0.0, 2), torch.Generator().manual_seed(0)
    answers = smoothed_radius(OneDraw(), images, settings=FEW, generator=generator, is_random=True)
    assert 60 < int(answers.successes[0]) < 140
    alike = smoothed(OneDraw(), images)
    assert int(alike.successes[0]) in (0, 200)


def test_smoothed_radius_refuses_images_of_whole_numbers() -> None:
    with pytest.raises(DataError, match="as floats"):
        smoothed(Sides(8.0), torch.zeros(2, 1, 4, 4, dtype=torch.uint8))


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"noise_std": 0.0}, "noise_std above 0, but got 0"),
        ({"noise_std": math.nan}, "noise_std above 0 and finite"),
        ({"noise_std": math.inf}, "noise_std above 0 and finite"),
        ({"num_selection": 0}, "num_selection of at least 1"),
        ({"num_estimation": 0}, "num_estimation of at least 1"),
        ({"batch_rows": 0}, "batch_rows of at least 1"),
        ({"failure_probability": 0.0}, "between 0 and 1, but got 0"),
        ({"failure_probability": 1.0}, "between 0 and 1, but got 1"),
        ({"num_estimation": 9}, "9 draws prove nothing .* set num_estimation to 10 or more"),
        ({"num_estimation": 2, "failure_probability": 0.25}, "set num_estimation to 3 or more"),
        ({"epsilons": []}, "at least one in epsilons"),
        ({"epsilons": [-0.1]}, "every one of epsilons of at least 0"),
    ],
)
def test_smoothing_refuses_settings_out_of_range(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Smoothing(**wrong)


def test_smoothing_accepts_as_many_draws_as_its_error_asks_for() -> None:
    assert Smoothing(num_estimation=10).largest_radius > 0
    assert Smoothing(num_estimation=3, failure_probability=0.25).largest_radius > 0


def test_smoothing_has_budgets_and_a_description() -> None:
    settings = Smoothing()
    assert settings.largest_radius == pytest.approx(0.25 * norm.ppf(0.001**0.001))
    assert settings.budgets == pytest.approx([k * settings.largest_radius / 10 for k in range(10)])
    assert Smoothing(epsilons=[0.5, 0.1, 0.5]).budgets == [0.1, 0.5]
    words = settings.describe()
    assert "noise_std 0.25: 100 draws" in words
    assert "1000 others" in words
    assert "probability 0.999;" in words
    assert "the model itself is not certified" in words


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("place", [0, 1])
def test_smoothing_counts_no_answer_as_no_vote(value: float, place: int) -> None:
    class Spoilt(Sides):
        @override
        def forward(self, images: Tensor) -> Tensor:
            logits = super().forward(images)
            is_spoilt = images[:, 0, 0, 0] < 0.5  # of half the draws
            logits[:, place] = torch.where(is_spoilt, value, logits[:, place])
            return logits

    images = torch.cat([at_distance(1.9), at_distance(1.9)])
    images[:, 0, 0, 0] = 0.5
    given = smoothed(Spoilt(8.0), images)
    assert given.prediction.tolist() == [ABSTAINED, ABSTAINED]
    assert given.radius.tolist() == [0, 0]
    share = given.unanswered / (FEW.num_selection + FEW.num_estimation)
    assert ((share > 0.3) & (share < 0.7)).all()
    assert smoothed(Sides(8.0), images).unanswered.tolist() == [0, 0]
