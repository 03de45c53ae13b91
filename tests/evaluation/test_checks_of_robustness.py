"""The checks that catch false robustness: defences that are broken on purpose, and plain nets that pass."""

from __future__ import annotations

import math
from typing import Literal

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD, AtMeans
from withstand.attacks.suites import suite
from withstand.certificates import Unproven
from withstand.core import norms
from withstand.data import Dataset
from withstand.evaluation import evaluate
from withstand.evaluation.meters import Attacks, Suite
from withstand.evaluation.meters.gradient_checks import LARGEST_CLASS, large_epsilon
from withstand.evaluation.red_flags import check_all
from withstand.results.measurements import (
    ATTACKED,
    CLEAN,
    LARGE_EPSILON,
    VANISHING_GRADIENTS,
    Measurement,
    table_of,
)
from withstand.results.random_answers import Sampling, Sweep, SweepLevel
from withstand.results.results import AttackInfo, Check, StageCounts, StageInfo


class Stripes(nn.Module):
    """The brightest column wins, behind whatever a defence does to images and to logits."""

    def __init__(self, *, rounds: bool = False, scale: float = 10.0, noise: float = 0.0) -> None:
        super().__init__()
        self.rounds, self.scale, self.noise = rounds, scale, noise

    @override
    def forward(self, images: Tensor) -> Tensor:
        if self.rounds:
            images = (images * 8).round() / 8
        if self.noise:
            images = images + self.noise * torch.randn_like(images)
        return self.scale * images.mean(dim=(1, 2))[:, :3]


def _checks(model: nn.Module, dataset: Dataset) -> dict[str, Check]:
    results = evaluate(model, dataset, [Suite("fast", [0.3])], num_examples=30).results
    failed = [check for check in results.checks if check.passed is False]
    assert all(any(check.finding in warning for warning in results.warnings) for check in failed)
    return {check.name: check for check in results.checks}


def test_checks_pass_on_a_plain_net(tiny_dataset: Dataset) -> None:
    checks = _checks(Stripes(), tiny_dataset)
    assert {name for name, check in checks.items() if check.passed} == {
        "vanishing-gradients",
        "large-epsilon",
        "above-clean",
    }
    assert checks["random-answers"].outcome == "not needed"  # answers are the same each time
    assert not [name for name, check in checks.items() if check.passed is False]
    assert "Not run" in checks["more-steps"].finding


def test_checks_catch_rounding_of_inputs_twice(tiny_dataset: Dataset) -> None:
    checks = _checks(Stripes(rounds=True), tiny_dataset)
    assert checks["vanishing-gradients"].passed is False
    assert "the margin has no gradient" in checks["vanishing-gradients"].finding
    assert checks["large-epsilon"].passed is False
    assert "withstand PGD" in checks["large-epsilon"].finding


def test_checks_catch_a_large_scale_of_the_logits(tiny_dataset: Dataset) -> None:
    checks = _checks(Stripes(scale=1e4), tiny_dataset)
    assert checks["vanishing-gradients"].passed is False
    assert "cross-entropy has no gradient in this precision" in checks["vanishing-gradients"].finding
    assert checks["large-epsilon"].passed is True  # the margin breaks them all


def test_evaluate_notices_answers_that_are_drawn(tiny_dataset: Dataset) -> None:
    drawn, fixed = (evaluate(Stripes(noise=noise), tiny_dataset, num_examples=10) for noise in (0.2, 0.0))
    assert drawn.results.sampling is not None
    assert drawn.results.sampling.num_samples == 20
    assert fixed.results.sampling is None


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_large_epsilon_reaches_a_grey_image_from_every_image(norm: float) -> None:
    images = torch.rand(20, 1, 4, 4, dtype=torch.float64).round()  # black and white lie farthest
    distance = norms.norm(images - 0.5, norm)
    assert distance.max() <= large_epsilon(norm, 16) + 1e-12
    assert distance.max() >= large_epsilon(norm, 16) * 0.999


CLEAN_ROW = Measurement(CLEAN, value=0.5, lower=0.45, upper=0.55)
NO_STAGES = AttackInfo("standard-linf", "inf")


def _attacked(lower: float = 0.45, value: float = 0.5, upper: float = 0.55) -> Measurement:
    return Measurement(ATTACKED, "standard-linf", "inf", 0.1, value, lower, upper)


def _check(
    name: str,
    attack: AttackInfo = NO_STAGES,
    *measurements: Measurement,
    sampling: Sampling | None = None,
) -> Check:
    """The check of a name; it alone of those that stages decide may be run."""
    table: pd.DataFrame = table_of([CLEAN_ROW, *(measurements or [_attacked()])])
    checks, warnings = check_all(table, [attack], sampling, 1000)
    assert len(warnings) == sum(check.passed is False for check in checks)
    of_stages = {"black-box", "transfer", "more-steps"} - {name}
    assert [check.passed for check in checks if check.name in of_stages] == [None] * len(of_stages)
    return next(check for check in checks if check.name == name)


def _suite(
    broken: int, stage: str = "square-linf", kind: Literal["white-box", "black-box", "transfer"] = "black-box"
) -> AttackInfo:
    return AttackInfo(
        "standard-linf", "inf", "", [StageInfo(stage, kind)], [StageCounts(0.1, [500], [broken])]
    )


@pytest.mark.parametrize(("broken", "passed"), [(0, True), (1, True), (4, True), (5, False), (80, False)])
@pytest.mark.parametrize(
    ("stage", "kind", "name"),
    [
        ("square-linf", "black-box", "black-box"),
        ("transfer-a-linf", "transfer", "transfer"),
        ("pgd-400-margin-linf", "white-box", "more-steps"),
    ],
)
def test_check_fails_where_a_later_attack_breaks_many(
    broken: int, passed: bool, stage: str, kind: Literal["white-box", "black-box", "transfer"], name: str
) -> None:
    check = _check(name, _suite(broken, stage, kind))
    assert check.passed is passed
    assert f"{stage} broke {broken} of 1000 examples at epsilon 0.1" in check.finding


def test_check_of_more_steps_knows_the_last_attack_behind_others() -> None:
    attack = suite("standard", norm=math.inf, num_classes=10).at(0.1)
    last = [wrapped.stages[-1].name for wrapped in (attack, Unproven(attack), AtMeans(attack))]
    assert len(set(last)) == 3
    for name in last:
        assert _check("more-steps", _suite(80, name, "white-box")).passed is False


def test_check_of_stages_names_the_largest_budget_of_several_alike_and_what_was_left_out() -> None:
    """At a small budget of a certified net nothing may be left to attack, which is no finding."""
    counts = [StageCounts(epsilon, [500], [0]) for epsilon in (0.3, 0.01)]
    attack = AttackInfo("standard-linf", "inf", "", [StageInfo("unproven-square-linf", "black-box")], counts)
    finding = _check("black-box", attack).finding
    assert "broke 0 of 1000 examples, those that are proven left out, at epsilon 0.3, the most" in finding


def _sampling(draws: int | None, sweep: Sweep | None = None) -> Sampling:
    return Sampling("", 20, 5, draws, sweep)


def test_check_of_stages_is_not_run_on_drawn_answers() -> None:
    assert _check("black-box", _suite(80), sampling=_sampling(8)).passed is None


@pytest.mark.parametrize(("lower", "passed"), [(0.5, True), (0.6, False)])
def test_check_above_clean_fails_above_clean_accuracy(lower: float, passed: bool) -> None:
    attacked = _attacked(lower, lower + 0.02, lower + 0.05)
    assert _check("above-clean", NO_STAGES, attacked).passed is passed


@pytest.mark.parametrize(("robust", "passed"), [(0, True), (20, True), (35, True), (60, False)])
def test_check_large_epsilon_fails_above_the_largest_class(robust: int, passed: bool) -> None:
    rows = [
        Measurement(LARGE_EPSILON, by, "inf", 0.5, correct / 200, correct=correct, total=200)
        for by, correct in (("pgd-50-linf", robust), (LARGEST_CLASS, 28))
    ]
    check = _check("large-epsilon", NO_STAGES, _attacked(), *rows)
    assert check.passed is passed
    assert f"in linf at epsilon 0.5, {robust} of 200 examples withstand PGD, and at most 28" in check.finding


@pytest.mark.parametrize(
    ("entropy", "margin", "passed"),
    [(0, 0, True), (5, 5, True), (6, 0, False), (0, 6, False), (None, 0, None)],
)
def test_check_vanishing_gradients_fails_at_many_correct_examples(
    entropy: int | None, margin: int, passed: bool | None
) -> None:
    total = 0 if entropy is None else 100
    rows = [
        Measurement(VANISHING_GRADIENTS, by, value=number / 100, correct=number, total=total)
        for by, number in (("cross-entropy", entropy or 0), ("margin", margin))
    ]
    assert _check("vanishing-gradients", NO_STAGES, _attacked(), *rows).passed is passed


def test_checks_run_without_a_suite_too(tiny_dataset: Dataset) -> None:
    evaluation = evaluate(Stripes(), tiny_dataset, [Attacks([PGD(num_steps=2)], [0.1])])
    assert [check.passed for check in evaluation.results.checks] == [True, None, None, None, None, True, None]
    assert evaluate(Stripes(), tiny_dataset).results.checks == []


SETTLED = Sweep("pgd-20-linf", 0.1, 200, 0.01, [SweepLevel(0.5, 0.4, 0.6, 100, 200, 32)], True, 1)


@pytest.mark.parametrize(
    ("draws", "sweep", "passed"),
    [(8, None, True), (1, None, False), (None, None, None), (1, SETTLED, True)],
)
def test_check_random_answers_fails_for_a_single_draw_unless_it_suffices(
    draws: int | None, sweep: Sweep | None, passed: bool | None
) -> None:
    assert _check("random-answers", sampling=_sampling(draws, sweep)).passed is passed


@pytest.mark.parametrize("power", [0.5, 0.3])
@pytest.mark.parametrize("where", ["all", "some"])
def test_checks_fail_where_gradients_are_nan_or_infinite(
    tiny_dataset: Dataset, power: float, where: str
) -> None:
    class Power(Stripes):
        @override
        def forward(self, images: Tensor) -> Tensor:
            black = torch.zeros_like(images[:, :, :1])  # no pixel of these images is 0
            if where == "some":
                black = (images[:, :, :1] - 0.3).clamp_min(0)
            return (
                super().forward(images)
                + (0 * images[:, :, :1] + black).pow(power).mean(dim=(1, 2, 3))[:, None]
            )

    results = evaluate(Power(), tiny_dataset, [Attacks([PGD(num_steps=2)], [0.1])], num_examples=30).results
    check = next(check for check in results.checks if check.name == "vanishing-gradients")
    assert check.passed is False
    assert "NaN or infinite" in check.finding
    assert any(check.finding in warning for warning in results.warnings)
