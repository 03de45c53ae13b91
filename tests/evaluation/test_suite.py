"""Suites of attacks: which are run, what each felled, and that the worst of all counts."""

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
from withstand.evaluation import Certificate, Sampling, Suite, evaluate, suite_budgets
from withstand.recipe_file import parse_recipe
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


@pytest.mark.parametrize(
    ("settings", "attacks", "certificates", "epsilons", "expected"),
    [
        (Suite(), [], [], [0.2, 0.1], {math.inf: [0.1, 0.2]}),
        (Suite(), [PGD(norm=2), PGD()], [], [0.1], {2.0: [0.1], math.inf: [0.1]}),
        (Suite(), [PGD()], [Certificate(norm=2, epsilons=[1.5])], [0.1], {math.inf: [0.1], 2.0: [1.5]}),
        (Suite(), [], [Certificate(norm=2)], [1.0], {2.0: [1.0]}),
        (Suite(), [], [Certificate(norm=2, epsilons=[1.5])], [0.1], {math.inf: [0.1], 2.0: [1.5]}),
        (Suite(), [], [Certificate(norm=math.inf, epsilons=[0.2])], [0.1], {math.inf: [0.1, 0.2]}),
        (Suite(), [], [Certificate(norm=2, epsilons=[1.5])], [], {2.0: [1.5]}),
        (Suite(), [PGD(norm=2)], [Certificate(norm=2, epsilons=[1.5])], [0.5], {2.0: [0.5, 1.5]}),
        (Suite(norms=[1], epsilons=[5.0]), [PGD()], [], [0.1], {1: [5.0]}),
    ],
)
def test_norms_and_budgets_are_those_of_the_evaluation_unless_given(
    settings: Suite, attacks: Any, certificates: Any, epsilons: Any, expected: Any
) -> None:
    assert suite_budgets(settings, attacks, certificates, epsilons) == expected


def test_a_suite_without_a_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="needs at least one epsilon to be run at in norm inf"):
        suite_budgets(Suite("fast"), [], [], [])


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"level": "slow"}, "Expected a suite of fast, standard, thorough, but got 'slow'"),
        ({"norms": [3]}, "norm"),
        ({"norms": []}, "at least one norm"),
        ({"epsilons": [-1.0]}, "finite and at least 0"),
        ({"epsilons": [math.inf]}, "finite and at least 0"),
    ],
)
def test_what_cannot_be_is_refused(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Suite(**wrong)


def test_the_stages_account_for_every_example(linear: nn.Module, tiny_dataset: Dataset) -> None:
    found = evaluate(linear, tiny_dataset, epsilons=[0.05, 0.15, 0.3], suite="fast", batch_size=20)
    (entry,) = found.metrics["attacks"]
    assert entry["name"] == "fast-linf"
    assert [stage["kind"] for stage in entry["stages"]] == ["white-box", "white-box"]
    standing = found.metrics["clean"]["correct"]
    for point in entry["curve"]:
        for stage in point["stages"]:
            assert stage["num_attacked"] == standing
            standing -= stage["num_felled"]
        assert standing == point["correct"]
    assert 0 < entry["curve"][1]["correct"] < 45
    name = "fast-linf@0.3"
    fell = (found.rows[name] == 0) & (found.rows["clean"] == 1)
    assert set(found.rows.loc[fell, f"{name}:by"]) <= {stage["name"] for stage in entry["stages"]}
    assert (found.rows.loc[~fell, f"{name}:by"] == "").all()
    assert (found.rows[f"{name}:prediction"] == found.rows["label"]).sum() == entry["curve"][2]["correct"]


def test_what_any_member_fells_has_fallen(linear: nn.Module, tiny_dataset: Dataset) -> None:
    pgd = PGD(num_steps=1, random_start=False)
    members = [Noise(num_samples=3), pgd, replace(pgd, num_steps=5, loss=margin)]
    together = evaluate(linear, tiny_dataset, [Cascade(members, "all")], [0.12]).rows["all-linf@0.12"]
    alone = evaluate(linear, tiny_dataset, members[1:], [0.12]).rows  # noise draws otherwise
    for member in members[1:]:
        assert (together <= alone[f"{member.name}@0.12"]).all()
    assert 0 < together.mean() < 1


def test_another_models_images_are_tried_too(linear: nn.Module, tiny_dataset: Dataset) -> None:
    class Rounded(nn.Module):
        """No gradient passes, so only another model's images can fell it."""

        @override
        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = linear((images * 32).round() / 32)
            return logits

    found = evaluate(Rounded(), tiny_dataset, epsilons=[0.2], suite="fast", surrogates={"plain net": linear})
    (entry,) = found.metrics["attacks"]
    stage, felled = entry["stages"][-1], entry["curve"][0]["stages"][-1]
    assert (stage["kind"], stage["name"]) == ("transfer", "transfer-plain-net-linf")
    assert felled["num_felled"] > 5
    checks = {check["name"]: check for check in found.metrics["checks"]}
    assert checks["transfer"]["passed"] is False
    assert checks["vanishing-gradients"]["passed"] is False
    text = " ".join(found.metrics["warnings"])
    assert "transfer-plain-net-linf felled" in text
    assert "the margin has no gradient" in text


def test_random_weights_are_attacked_by_averages(tiny_dataset: Dataset) -> None:
    torch.manual_seed(0)
    net = bayes.convert(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), bayes.Posterior(initial_std=0.1))
    few = Sampling(num_samples=3, num_repeats=2, attack_samples=1, uncertainty=None)
    found = evaluate(net, tiny_dataset, epsilons=[0.1], suite="fast", sampling=few, num_examples=20).metrics
    (entry,) = found["attacks"]
    assert entry["curve"][0]["total"] == 40
    assert all(stage["num_felled"] >= 0 for stage in entry["curve"][0]["stages"])
    checks = {check["name"]: check["passed"] for check in found["checks"]}
    assert checks["random-answers"] is False
    assert any("Gradients not averaged" in warning for warning in found["warnings"])


def test_a_recipe_names_it_in_a_word_or_in_full(tmp_path: Path) -> None:
    plain = parse_recipe(
        _recipe(tmp_path), ["--evaluation.suite=standard", "--evaluation.epsilons=[0.1]"]
    ).recipe
    assert plain.evaluation.chosen_suite == Suite("standard")
    full = parse_recipe(
        _recipe(tmp_path), ["--evaluation.suite.level=fast", "--evaluation.suite.norms=[2]",
                            "--evaluation.suite.epsilons=[8/255]"]
    ).recipe  # fmt: skip
    assert full.evaluation.chosen_suite == Suite("fast", [2.0], [8 / 255])
    again = tmp_path / "again.yaml"
    again.write_text(parse_recipe(_recipe(tmp_path), ["--evaluation.suite.epsilons=[0.1]"]).text)
    assert parse_recipe(again).recipe.evaluation.chosen_suite == Suite(epsilons=[0.1])
    with pytest.raises(RecipeError, match="needs at least one epsilon"):
        parse_recipe(_recipe(tmp_path), ["--evaluation.suite=fast"])
    with pytest.raises(RecipeError, match="slow"):
        parse_recipe(_recipe(tmp_path), ["--evaluation.suite=slow", "--evaluation.epsilons=[0.1]"])


def _recipe(folder: Path) -> Path:
    file = folder / "plain.yaml"
    file.write_text("name: plain\n")
    return file
