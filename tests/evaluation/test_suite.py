"""Suites of attacks: which are run, what each broke, and that the worst of all counts."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import bayes
from withstand.attacks import PGD, Cascade, Noise, margin
from withstand.data import Dataset
from withstand.evaluation import Sampling, evaluate
from withstand.evaluation.meters import Attacks, Suite
from withstand.recipes.parsing import parse_recipe
from withstand.reporting.table import rows, select
from withstand.results.measurements import ATTACKED, CLEAN
from withstand.types import RecipeError


@pytest.fixture
def linear() -> nn.Module:
    torch.manual_seed(0)
    layer = nn.Linear(16, 3)
    with torch.no_grad():
        layer.weight.zero_()
        for label in range(3):
            layer.weight[label].view(4, 4)[:, label] = 1.0
        layer.weight += 0.2 * torch.randn(3, 16)
    return nn.Sequential(nn.Flatten(), layer)


def test_suite_plans_one_attack_for_each_norm_at_all_budgets(tiny_dataset: Dataset) -> None:
    plans = Suite("fast", [0.2, 0.1, 0.2], [2, math.inf]).attack_plans(tiny_dataset.info, is_random=False)
    assert [(plan.name, plan.norm, list(plan.epsilons)) for plan in plans] == [
        ("fast-l2", 2, [0.1, 0.2]),
        ("fast-linf", math.inf, [0.1, 0.2]),
    ]


def test_suites_are_measured_beside_each_other(linear: nn.Module, tiny_dataset: Dataset) -> None:
    suites = [Suite("fast", [0.1]), Suite("fast", [0.5], [2])]
    evaluation = evaluate(linear, tiny_dataset, suites, num_examples=10)
    attacked = select(evaluation.table, ATTACKED)
    assert list(zip(attacked.by, attacked.level, strict=True)) == [("fast-linf", 0.1), ("fast-l2", 0.5)]


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"level": "slow"}, "Expected a suite of fast, standard, thorough, but got 'slow'"),
        ({"norms": [3]}, "norm"),
        ({"norms": []}, "at least one in norms"),
        ({"epsilons": []}, "at least one in epsilons"),
        ({"epsilons": [-1.0]}, "epsilons of at least 0"),
        ({"epsilons": [math.inf]}, "epsilons of at least 0"),
    ],
)
def test_suite_refuses_settings_out_of_range(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Suite(**{"level": "fast", "epsilons": [0.1], **wrong})


def test_suite_stages_account_for_every_example(linear: nn.Module, tiny_dataset: Dataset) -> None:
    evaluation = evaluate(linear, tiny_dataset, [Suite("fast", [0.05, 0.15, 0.3])], batch_size=20)
    (attack,) = evaluation.results.attacks
    assert attack.name == "fast-linf"
    assert [stage.kind for stage in attack.stages] == ["white-box", "white-box"]
    robust = select(evaluation.table, CLEAN).correct.item()
    curve = select(evaluation.table, ATTACKED)
    assert [counts.epsilon for counts in attack.counts] == list(curve.level) == [0.05, 0.15, 0.3]
    for row, counts in zip(rows(curve), attack.counts, strict=True):
        for attacked, broken in zip(counts.attacked, counts.broken, strict=True):
            assert attacked == robust
            robust -= broken
        assert robust == row.correct
    assert 0 < curve.correct.iloc[1] < 45
    name = "fast-linf@0.3"
    is_broken = (evaluation.rows[name] == 0) & (evaluation.rows["clean"] == 1)
    by = evaluation.rows[f"{name}:by"]
    assert set(by[is_broken]) <= {stage.name for stage in attack.stages}
    assert (by[~is_broken] == "").all()
    is_correct = evaluation.rows[f"{name}:prediction"] == evaluation.rows["label"]
    assert is_correct.sum() == curve.correct.iloc[2]


def test_suite_breaks_what_any_member_breaks(linear: nn.Module, tiny_dataset: Dataset) -> None:
    pgd = PGD(num_steps=1, random_start=False)
    members = [Noise(num_samples=3), pgd, replace(pgd, num_steps=5, loss=margin)]
    cascade = Attacks([Cascade(members, "all")], [0.12])
    together = evaluate(linear, tiny_dataset, [cascade]).rows["all-linf@0.12"]
    alone = evaluate(linear, tiny_dataset, [Attacks(members[1:], [0.12])]).rows  # noise draws otherwise
    for member in members[1:]:
        assert (together <= alone[f"{member.name}@0.12"]).all()
    assert 0 < together.mean() < 1


def test_suite_tries_another_models_images_too(linear: nn.Module, tiny_dataset: Dataset) -> None:
    class Rounded(nn.Module):
        """No gradient passes, so only another model's images can break it."""

        @override
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = linear((images * 32).round() / 32)
            return logits

    suite = Suite("fast", [0.2], transfer_from={"plain net": linear})
    results = evaluate(Rounded(), tiny_dataset, [suite]).results
    (attack,) = results.attacks
    assert (attack.stages[-1].kind, attack.stages[-1].name) == ("transfer", "transfer-plain-net-linf")
    assert attack.counts[0].broken[-1] > 5
    checks = {check.name: check for check in results.checks}
    assert checks["transfer"].passed is False
    assert checks["vanishing-gradients"].passed is False
    text = " ".join(results.warnings)
    assert "transfer-plain-net-linf broke" in text
    assert "the margin has no gradient" in text


def test_suite_attacks_random_weights_by_averages(tiny_dataset: Dataset) -> None:
    torch.manual_seed(0)
    net = bayes.convert(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), bayes.Posterior(initial_std=0.1))
    few = Sampling(num_samples=3, num_repeats=2, attack_samples=1)
    evaluation = evaluate(net, tiny_dataset, [Suite("fast", [0.1])], sampling=few, num_examples=20)
    assert select(evaluation.table, ATTACKED).total.item() == 40
    assert all(broken >= 0 for broken in evaluation.results.attacks[0].counts[0].broken)
    checks = {check.name: check.passed for check in evaluation.results.checks}
    assert checks["random-answers"] is False
    assert any("Gradients not averaged" in warning for warning in evaluation.results.warnings)


def test_suite_is_named_by_a_recipe(tmp_path: Path) -> None:
    added = ["--evaluation.meters+=Suite", "--evaluation.meters.level=fast"]
    budgets = "--evaluation.meters.epsilons=[8/255]"
    plain = parse_recipe(_recipe(tmp_path), [*added, budgets]).recipe
    assert plain.evaluation.meters == [Suite("fast", [8 / 255])]
    full = parse_recipe(_recipe(tmp_path), [*added, budgets, "--evaluation.meters.norms=[2]"])
    assert full.recipe.evaluation.meters == [Suite("fast", [8 / 255], [2.0])]
    again = tmp_path / "again.yaml"
    again.write_text(full.text)
    assert parse_recipe(again).recipe.evaluation.meters == full.recipe.evaluation.meters
    with pytest.raises(RecipeError, match="epsilons"):
        parse_recipe(_recipe(tmp_path), added)
    with pytest.raises(RecipeError, match="slow"):
        parse_recipe(_recipe(tmp_path), [*added, budgets, "--evaluation.meters.level=slow"])


def _recipe(folder: Path) -> Path:
    file = folder / "plain.yaml"
    file.write_text("name: plain\n")
    return file
