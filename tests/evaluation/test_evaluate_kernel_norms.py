"""Kernel norms as an evaluation measures them and a run folder keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD
from withstand.data import Dataset
from withstand.evaluation import evaluate
from withstand.evaluation.kernel_norms import measure_kernel_norms
from withstand.kernel_norms import KernelNorms
from withstand.reporting.conform import misfit
from withstand.reporting.schema import Metrics
from withstand.run_folder import RunFolder

FEW = KernelNorms(num_examples=10, num_perturbed=4, num_deformations=2)


class Squares(nn.Module):
    """Has an operation without a rule."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return (images * images).mean(dim=(1, 2))[:, :3]


def measured(model: nn.Module, dataset: Dataset, **options: Any) -> dict[str, Any]:
    found: dict[str, Any] = evaluate(model, dataset, [], [], **options).metrics["kernel_norms"]
    return found


def test_metrics_hold_the_bounds_of_each_class(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    metrics = evaluate(tiny_model, tiny_dataset, [], [], kernel_norms=FEW, out=tmp_path).metrics
    found = metrics["kernel_norms"]
    assert [each["class"] for each in found["classes"]] == ["left", "middle", "right"]
    assert [each["name"] for each in found["layers"]] == ["0", "5"]
    assert found["num_examples"] == 10
    assert found["settings"]["deform"]["rotation"] == 15.0
    assert found["reason"] is None
    for name in ("gradient", "perturbation", "deformation", "deformation_change", "spectral"):
        assert found["summary"][name] == max(each[name] for each in found["classes"]) > 0
    kept = RunFolder(tmp_path).read_json(RunFolder(tmp_path).metrics)
    assert kept == metrics
    assert misfit(kept, Metrics, "") is None


def test_only_what_is_scored_is_looked_at(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    assert measured(tiny_model, tiny_dataset, kernel_norms=FEW, num_examples=6)["num_examples"] == 6
    assert measured(tiny_model, tiny_dataset, kernel_norms=KernelNorms())["num_examples"] == 45


def test_the_model_is_left_as_it_was(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    tiny_model.train()
    tiny_model[1].eval()  # type: ignore[index]
    measured(tiny_model, tiny_dataset, kernel_norms=FEW)
    assert [module.training for module in tiny_model.children()] == [True, False, True, True, True, True]
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_attacks_find_the_same_beside_it(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    attacks = [PGD(norm=float("inf"), num_steps=2, random_start=True)]
    plain, beside = (
        evaluate(tiny_model, tiny_dataset, attacks, [0.1], kernel_norms=each) for each in (None, FEW)
    )
    assert "kernel_norms" not in plain.metrics
    assert beside.rows.equals(plain.rows)


def test_without_an_upper_bound_the_reason_is_kept(tiny_dataset: Dataset) -> None:
    found = measured(Squares(), tiny_dataset, kernel_norms=FEW)
    assert "depend on the input" in found["reason"]
    assert found["summary"]["spectral"] is None
    assert found["summary"]["gradient"] > 0
    assert found["layers"] == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_metrics_are_json_whatever_the_weights(
    tiny_model: nn.Module, tiny_dataset: Dataset, wrong: float
) -> None:
    with torch.no_grad():
        tiny_model[5].weight.fill_(wrong)  # type: ignore[index]
    names = tiny_dataset.info.class_names
    found = measure_kernel_norms(tiny_model.eval(), tiny_dataset.test, FEW, names, seed=0)
    assert json.loads(json.dumps(found, allow_nan=False))["layers"][1]["operator_norm"] is None
