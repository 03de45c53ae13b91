"""The checks that catch false robustness: defences that are broken on purpose, and honest nets that pass."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import norms
from withstand.attacks import PGD
from withstand.data import Dataset
from withstand.evaluation import evaluate
from withstand.evaluation.checks import check_all, failures
from withstand.evaluation.probes import draws_answers, grey_radius


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


def _checks(model: nn.Module, dataset: Dataset, **options: Any) -> dict[str, Any]:
    found = evaluate(model, dataset, epsilons=[0.3], suite="fast", num_examples=30, **options).metrics
    checks = {check["name"]: check for check in found["checks"]}
    failed = [check for check in found["checks"] if check["passed"] is False]
    assert all(any(check["finding"] in warning for warning in found["warnings"]) for check in failed)
    return checks


def test_an_honest_net_passes(tiny_dataset: Dataset) -> None:
    checks = _checks(Stripes(), tiny_dataset)
    assert {name for name, check in checks.items() if check["passed"]} == {
        "vanishing-gradients",
        "huge-epsilon",
        "above-clean",
        "random-answers",
    }
    assert not [name for name, check in checks.items() if check["passed"] is False]
    assert "Not run" in checks["more-steps"]["finding"]


def test_rounding_of_inputs_is_caught_twice(tiny_dataset: Dataset) -> None:
    checks = _checks(Stripes(rounds=True), tiny_dataset)
    assert checks["vanishing-gradients"]["passed"] is False
    assert "the margin has no gradient" in checks["vanishing-gradients"]["finding"]
    assert checks["huge-epsilon"]["passed"] is False
    assert "withstand PGD" in checks["huge-epsilon"]["finding"]


def test_a_large_scale_of_the_logits_is_caught(tiny_dataset: Dataset) -> None:
    checks = _checks(Stripes(scale=1e4), tiny_dataset)
    assert checks["vanishing-gradients"]["passed"] is False
    assert "cross-entropy has no gradient in this precision" in checks["vanishing-gradients"]["finding"]
    assert checks["huge-epsilon"]["passed"] is True  # the margin fells them all


def test_answers_that_are_drawn_are_found_to_be(tiny_dataset: Dataset) -> None:
    images = tiny_dataset.test.images[:4] / 255
    assert draws_answers(Stripes(noise=0.2), images)
    assert not draws_answers(Stripes(), images)
    found = evaluate(Stripes(noise=0.2), tiny_dataset, num_examples=10).metrics
    assert found["sampling"]["num_samples"] == 20


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_a_grey_image_is_within_the_radius_of_every_image(norm: float) -> None:
    images = torch.rand(20, 1, 4, 4, dtype=torch.float64).round()  # black and white lie farthest
    distance = norms.norm(images - 0.5, norm)
    assert distance.max() <= grey_radius(norm, 16) + 1e-12
    assert distance.max() >= grey_radius(norm, 16) * 0.999


def _metrics(felled: int, *, stage: str = "square-linf", kind: str = "black-box") -> dict[str, Any]:
    share = {"accuracy": 0.5, "lower": 0.45, "upper": 0.55}
    point = {"epsilon": 0.1, **share, "stages": [{"name": stage, "num_attacked": 500, "num_felled": felled}]}
    attack = {"name": "standard-linf", "stages": [{"name": stage, "kind": kind}], "curve": [point]}
    return {"num_examples": 1000, "clean": share, "attacks": [attack]}


@pytest.mark.parametrize(("felled", "passed"), [(0, True), (1, True), (4, True), (5, False), (80, False)])
@pytest.mark.parametrize(
    ("stage", "kind", "name"),
    [
        ("square-linf", "black-box", "black-box"),
        ("transfer-a-linf", "transfer", "transfer"),
        ("pgd-400-margin-linf", "white-box", "more-steps"),
    ],
)
def test_a_later_attack_that_fells_many_is_a_sign(
    felled: int, passed: bool, stage: str, kind: str, name: str
) -> None:
    checks = check_all(_metrics(felled, stage=stage, kind=kind), [], is_random=False)
    found = next(check for check in checks if check.name == name)
    assert found.passed is passed
    assert f"{stage} felled {felled} of 1000 examples at epsilon 0.1" in found.finding
    assert len(failures(checks)) == (not passed)
    others = [
        check.passed for check in checks if check.name in {"black-box", "transfer", "more-steps"} - {name}
    ]
    assert others == [None, None]


def test_of_drawn_answers_no_stage_is_judged() -> None:
    checks = check_all(_metrics(80), [], is_random=True)
    assert next(check for check in checks if check.name == "black-box").passed is None


@pytest.mark.parametrize(("lower", "passed"), [(0.5, True), (0.6, False)])
def test_accuracy_above_clean_is_a_sign(lower: float, passed: bool) -> None:
    metrics = _metrics(0)
    metrics["attacks"][0]["curve"][0] |= {"accuracy": lower + 0.02, "lower": lower, "upper": lower + 0.05}
    found = next(check for check in check_all(metrics, [], is_random=False) if check.name == "above-clean")
    assert found.passed is passed


@pytest.mark.parametrize(("standing", "passed"), [(0, True), (20, True), (35, True), (60, False)])
def test_what_withstands_everything_is_more_than_one_class_only_by_masking(
    standing: int, passed: bool
) -> None:
    grey = {"norm": "inf", "epsilon": 0.5, "standing": standing, "total": 200, "largest_class": 28}
    found = next(
        each for each in check_all(_metrics(0), [grey], is_random=False) if each.name == "huge-epsilon"
    )
    assert found.passed is passed


def test_attacks_alone_are_checked_too(tiny_dataset: Dataset) -> None:
    checks = evaluate(Stripes(), tiny_dataset, [PGD(num_steps=2)], [0.1]).metrics["checks"]
    assert [check["passed"] for check in checks] == [True, None, None, None, None, True, True]
    assert "checks" not in evaluate(Stripes(), tiny_dataset).metrics


@pytest.mark.parametrize(
    ("draws", "sweep", "passed"),
    [
        (8, None, True),
        (1, None, False),
        (None, None, None),
        (1, {"has_settled": True, "attack": "pgd-20-linf", "levels": [{"num_samples": 32}]}, True),
    ],
)
def test_a_single_draw_is_a_sign_unless_it_was_found_to_suffice(
    draws: int | None, sweep: dict[str, Any] | None, passed: bool | None
) -> None:
    metrics = {**_metrics(0), "sampling": {"attack_samples": draws, "sweep": sweep}}
    found = next(check for check in check_all(metrics, [], is_random=True) if check.name == "random-answers")
    assert found.passed is passed
