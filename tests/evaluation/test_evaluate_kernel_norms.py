"""Kernel norms as an evaluation measures them and a run folder keeps them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset
from withstand.evaluation import Predictor, evaluate
from withstand.evaluation.meters import Attacks, KernelNorms
from withstand.reporting.table import one
from withstand.results import read_results
from withstand.results.analytic import KernelNorms as PartResult

if TYPE_CHECKING:
    from tests.evaluation.conftest import Gather

FEW = KernelNorms(num_examples=10, num_perturbed=4, num_deformations=2)
BOUNDS = ("gradient", "perturbation", "deformation", "deformation_change", "spectral")


class Squares(nn.Module):
    """Has an operation without a rule."""

    @override
    def forward(self, images: Tensor) -> Tensor:
        return (images * images).mean(dim=(1, 2))[:, :3]


def measured(model: nn.Module, dataset: Dataset, meter: KernelNorms = FEW, **options: Any) -> PartResult:
    found = evaluate(model, dataset, [meter], **options).results.kernel_norms
    assert found is not None
    return found


def test_results_hold_the_bounds_of_each_class(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    result = evaluate(tiny_model, tiny_dataset, [FEW], out=tmp_path)
    found = result.results.kernel_norms
    assert found is not None
    assert [each.name for each in found.classes] == ["left", "middle", "right"]
    assert [each.name for each in found.layers] == ["0", "5"]
    assert (found.num_examples, found.description, found.reason) == (10, FEW.describe(), None)
    for name in BOUNDS:
        row = one(result.table, "kernel norm, largest over classes", by=name)
        assert row is not None
        assert row.value == getattr(found.largest, name) == max(getattr(each, name) for each in found.classes)
        assert row.value > 0
    kept = read_results(RunFolder(tmp_path))
    assert kept is not None
    assert kept[0] == result.results


def test_only_what_is_scored_is_looked_at(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    assert measured(tiny_model, tiny_dataset, num_examples=6).num_examples == 6
    assert measured(tiny_model, tiny_dataset, KernelNorms()).num_examples == 45


def test_the_model_is_left_as_it_was(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    tiny_model.train()
    tiny_model[1].eval()  # type: ignore[index]
    measured(tiny_model, tiny_dataset)
    assert [module.training for module in tiny_model.children()] == [True, False, True, True, True, True]
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_attacks_find_the_same_beside_it(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    attacks = Attacks([PGD(norm=float("inf"), num_steps=2, random_start=True)], [0.1])
    plain, beside = (evaluate(tiny_model, tiny_dataset, [attacks, *each]) for each in ([], [FEW]))
    assert plain.results.kernel_norms is None
    assert beside.rows.equals(plain.rows)


def test_without_an_upper_bound_the_reason_is_kept(tiny_dataset: Dataset) -> None:
    found = measured(Squares(), tiny_dataset)
    assert found.reason is not None
    assert "depend on the input" in found.reason
    assert found.largest.spectral is None
    assert found.largest.gradient > 0
    assert found.layers == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_what_is_found_is_json_whatever_the_weights(
    tiny_model: nn.Module, gather: Gather, wrong: float
) -> None:
    with torch.no_grad():
        tiny_model[5].weight.fill_(wrong)  # type: ignore[index]
    subject = gather(pd.DataFrame(), Predictor.of(tiny_model.eval())).subject
    found = FEW.measure(subject)
    assert json.loads(json.dumps(found, allow_nan=False))["layers"][1]["operator_norm"] is None
