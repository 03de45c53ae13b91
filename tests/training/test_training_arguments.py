"""What training is told that makes no sense is refused in one line, before anything is written or trained."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from withstand.attacks import PGD
from withstand.data import Dataset
from withstand.objectives import Adversarial, CrossEntropy, NoisyCrossEntropy
from withstand.training import TrainingSettings, WeightAverage, fit
from withstand.types import ModelError, OutOfMemoryError, RecipeError


@pytest.mark.parametrize(
    ("objective", "settings", "error", "message"),
    [
        (0, TrainingSettings(), TypeError, "objective to be an objective, .*, but got 0"),
        (nn.CrossEntropyLoss(), TrainingSettings(), TypeError, r"but got CrossEntropyLoss\(\)"),
        (CrossEntropy, TrainingSettings(), TypeError, r"the class itself: write CrossEntropy\("),
        (CrossEntropy(), {"epochs": 1}, TypeError, "settings to be TrainingSettings"),
        (CrossEntropy(), TrainingSettings(accelerator="nosuch"), RecipeError, "accelerator 'nosuch'"),
        (CrossEntropy(), TrainingSettings(accelerator="tpu"), RecipeError, "accelerator 'tpu'"),
        (
            CrossEntropy(),
            TrainingSettings(accelerator="cpu", optimizer=lambda parameters: None),  # type: ignore[arg-type,return-value]
            RecipeError,
            "must make a torch.optim.Optimizer, but gave None",
        ),
    ],
)
def test_fit_refuses_arguments_of_the_wrong_kind(
    tiny_model: nn.Module,
    tiny_dataset: Dataset,
    tmp_path: Path,
    objective: Any,
    settings: Any,
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message) as caught:
        fit(tiny_model, tiny_dataset, objective, settings, out=tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_fit_refuses_a_model_in_which_nothing_can_be_trained(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    settings = TrainingSettings(epochs=1, accelerator="cpu")
    with pytest.raises(ModelError, match="no parameter that requires a gradient"):
        fit(tiny_model.requires_grad_(False), tiny_dataset, CrossEntropy(), settings, out=tmp_path)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory."), MemoryError("none left")])
def test_fit_says_what_to_do_where_memory_runs_out(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, error: Exception
) -> None:
    class Large(CrossEntropy):
        def forward(self, *_: Any, **__: Any) -> Any:
            raise error

    settings = TrainingSettings(epochs=1, accelerator="cpu", batch_size=20)
    with pytest.raises(OutOfMemoryError, match="take batches smaller than 20 images"):
        fit(tiny_model, tiny_dataset, Large(), settings, out=tmp_path)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"precision": "fp8"}, ValueError, "precision of fp32, tf32, bf16, fp16, but got 'fp8'"),
        ({"precision": "fp16", "strategy": "fsdp"}, ValueError, "strategy ddp with precision fp16"),
        ({"optimizer": "adam"}, TypeError, "optimizer as a function .*, but got 'adam'"),
        ({"selection": PGD}, TypeError, r"the class itself: write PGD\("),
        ({"constraints": [1.0]}, TypeError, "constraints to be a constraint"),
        ({"lr_factor": -1}, ValueError, "lr_factor above 0, but got -1"),
        ({"checkpoint_seconds": -1}, ValueError, "checkpoint_seconds of at least 0, but got -1"),
    ],
)
def test_training_settings_refuse_what_makes_no_sense(
    settings: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        TrainingSettings(**settings)


def test_training_settings_refuse_an_optimiser_that_is_made_already() -> None:
    made = torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)
    with pytest.raises(TypeError, match=r"such as lambda parameters: .* but got the optimiser SGD itself\.$"):
        TrainingSettings(optimizer=made)  # type: ignore[arg-type]


@pytest.mark.parametrize("optimizer", [torch.optim.Rprop, torch.optim.Adafactor])
def test_fit_refuses_an_optimiser_that_needs_whole_weights_where_they_are_divided(
    optimizer: Any, tiny_model: nn.Module, tiny_dataset: Dataset
) -> None:
    settings = TrainingSettings(epochs=1, accelerator="cpu", strategy="fsdp", optimizer=optimizer)
    with pytest.raises(RecipeError, match=f"{optimizer.__name__} needs whole weights.*strategy=ddp"):
        fit(tiny_model, tiny_dataset, settings=settings, progress=False)


def test_fit_in_one_process_says_that_fsdp_divides_nothing(
    tiny_model: nn.Module, tiny_dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    settings = TrainingSettings(epochs=0, accelerator="cpu", strategy="fsdp")
    fit(tiny_model, tiny_dataset, settings=settings, progress=False)
    assert "strategy=fsdp divides nothing" in caplog.text


@pytest.mark.parametrize("attack", [PGD, None, "pgd"])
def test_adversarial_refuses_what_is_no_attack(attack: Any) -> None:
    with pytest.raises(TypeError, match="attack to be an attack, such as"):
        Adversarial(attack)


@pytest.mark.parametrize("weight", [-1, float("nan"), "x", None])
def test_an_objective_is_weighted_by_numbers_of_at_least_0(weight: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="the weight of an objective"):
        weight * CrossEntropy()


def test_what_is_no_objective_is_not_added() -> None:
    with pytest.raises(TypeError, match=r"to be an objective, .* but got the class itself"):
        CrossEntropy() + NoisyCrossEntropy  # type: ignore[operator]


def test_fit_says_that_no_epochs_train_nothing(
    tiny_model: nn.Module, tiny_dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    before = copy.deepcopy(tiny_model.state_dict())
    settings = TrainingSettings(epochs=0, accelerator="cpu", average=WeightAverage(begin=1.0))
    result = fit(tiny_model, tiny_dataset, settings=settings)
    assert [record.getMessage() for record in caplog.records] == [
        "Nothing is trained, as training.epochs is 0: the network stays as it begins."
    ]
    assert not result.rows
    assert all(map(torch.equal, tiny_model.state_dict().values(), before.values()))
