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
    norms = evaluate(model, dataset, [meter], **options).results.kernel_norms
    assert norms is not None
    return norms


def test_kernel_norms_results_hold_the_bounds_of_each_class(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    result = evaluate(tiny_model, tiny_dataset, [FEW], out=tmp_path)
    norms = result.results.kernel_norms
    assert norms is not None
    assert [of_class.name for of_class in norms.classes] == ["left", "middle", "right"]
    assert [layer.name for layer in norms.layers] == ["0", "5"]
    assert (norms.num_examples, norms.description, norms.reason) == (10, FEW.describe(), None)
    for name in BOUNDS:
        row = one(result.table, "kernel norm, largest over classes", by=name)
        assert row is not None
        assert (
            row.value
            == getattr(norms.largest, name)
            == max(getattr(of_class, name) for of_class in norms.classes)
        )
        assert row.value > 0
    stored = read_results(RunFolder(tmp_path))
    assert stored is not None
    assert stored[0] == result.results


def test_kernel_norms_look_only_at_scored_examples(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    assert measured(tiny_model, tiny_dataset, num_examples=6).num_examples == 6
    assert measured(tiny_model, tiny_dataset, KernelNorms()).num_examples == 45


def test_kernel_norms_leave_the_model_as_it_was(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    tiny_model.train()
    tiny_model[1].eval()  # type: ignore[index]
    measured(tiny_model, tiny_dataset)
    assert [module.training for module in tiny_model.children()] == [True, False, True, True, True, True]
    assert all(parameter.grad is None for parameter in tiny_model.parameters())


def test_kernel_norms_change_no_attack_beside_them(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    attacks = Attacks([PGD(norm=float("inf"), num_steps=2, random_start=True)], [0.1])
    plain, beside = (evaluate(tiny_model, tiny_dataset, [attacks, *meters]) for meters in ([], [FEW]))
    assert plain.results.kernel_norms is None
    assert beside.rows.equals(plain.rows)


def test_kernel_norms_hold_the_reason_for_no_upper_bound(tiny_dataset: Dataset) -> None:
    norms = measured(Squares(), tiny_dataset)
    assert norms.reason is not None
    assert "near an image only" in norms.reason
    assert norms.largest.spectral is None
    assert norms.largest.gradient > 0
    assert norms.layers == []


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_kernel_norms_are_json_whatever_the_weights(
    tiny_model: nn.Module, gather: Gather, wrong: float
) -> None:
    with torch.no_grad():
        tiny_model[5].weight.fill_(wrong)  # type: ignore[index]
    subject = gather(pd.DataFrame(), Predictor.of(tiny_model.eval())).subject
    result = FEW.measure(subject)
    assert json.loads(json.dumps(result, allow_nan=False))["layers"][1]["operator_norm"] is None
