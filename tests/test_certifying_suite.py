"""What a certificate that joins a run is held against, where a suite of attacks was run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from withstand import certifying
from withstand.evaluation import FormerEvaluation, extend_evaluation
from withstand.pipeline import evaluate_run, train_recipe
from withstand.recipe_file import parse_recipe
from withstand.run_folder import RunFolder

_RECIPE = """\
data: {name: digits, train_size: 40, validation_size: 20}
model: {name: mlp, options: {hidden: [8]}}
training: {epochs: 1, batch_size: 20, accelerator: cpu}
evaluation: {num_examples: 20, batch_size: 20, weights: last, suite: fast, epsilons: [0.05]}
"""


@dataclass
class _Asked:
    former: FormerEvaluation | None = None


def test_a_suite_counts_at_the_budgets_it_was_run_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(_RECIPE)
    parsed, run, asked = parse_recipe(file), RunFolder(tmp_path / "run"), _Asked()
    train_recipe(parsed, run, command="train")
    evaluate_run(run, parsed, command="evaluate")

    def extend(model: Any, dataset: Any, former: FormerEvaluation, *others: Any, **options: Any) -> Any:
        asked.former = former
        return extend_evaluation(model, dataset, former, *others, **options)

    monkeypatch.setattr(certifying, "extend_evaluation", extend)
    request = certifying.Request(norm=math.inf, epsilons=[0.1])
    certifying.certify_run(run.path, request, command="certify")
    assert asked.former is not None
    assert [(plan.name, list(plan.epsilons)) for plan in asked.former.attacks] == [("fast-linf", [0.05])]
