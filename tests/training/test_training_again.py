"""Training again: with objects that were trained with before, or from where it was interrupted."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from tests.training.stop_after import StopAfter
from withstand.attacks import PGD
from withstand.constraints import SpectralBall
from withstand.core.schedules import Linear, Schedule
from withstand.data import Dataset
from withstand.evaluation import evaluate
from withstand.evaluation.meters import Attacks
from withstand.objectives import CrossEntropy, Objective
from withstand.penalties import AdversarialPerturbation, SpectralNorm
from withstand.training import Rollback, TrainingSettings, fit
from withstand.training.setup import describe_run, make_optimizer
from withstand.types import LossTerms

SETTINGS = TrainingSettings(
    epochs=2, batch_size=20, optimizer=partial(torch.optim.SGD, lr=0.2, momentum=0.9), accelerator="cpu"
)


def weights_after(model: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in model.state_dict().values()]


@pytest.mark.parametrize("form", ["kernel", "operator"])
def test_fit_can_be_called_again_with_the_same_objects(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, form: str
) -> None:
    ball = SpectralBall(0.5, every=4, subspace=2) if form == "kernel" else SpectralBall(0.5, form="operator")
    objective = CrossEntropy() + 0.05 * SpectralNorm(num_power_iterations=1)
    settings = replace(SETTINGS, constraints=[ball])
    result = []
    for name in ("first", "second"):
        model = copy.deepcopy(tiny_model)
        fit(model, tiny_dataset, objective, settings, out=tmp_path / name)
        result.append(weights_after(model))
    assert all(map(torch.equal, *result))
    assert ball.input_shape is None  # the next data set may have others


@pytest.mark.parametrize("steps", [(3,), (7,), (4, 8)])  # five steps an epoch
def test_fit_resumed_with_everything_scheduled_ends_with_the_same_weights(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    """Of the operator form and of weights that rise from 0; with the same objects, as in a notebook."""
    weight = Linear(0.0, 1.0, epochs=1, begin=0.5)
    objective = CrossEntropy() + weight * AdversarialPerturbation(0.1, num_steps=2, candidates=2)
    objective += 0.01 * SpectralNorm("operator", num_power_iterations=1)
    ball = SpectralBall(Linear(2.0, 0.5, epochs=2), form="operator", every=3)
    settings = replace(SETTINGS, constraints=[ball])
    whole = copy.deepcopy(tiny_model)
    fit(whole, tiny_dataset, objective, settings, out=tmp_path / "whole")
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            fit(
                copy.deepcopy(tiny_model),
                tiny_dataset,
                objective,
                replace(settings, checkpoint_seconds=0.0),
                out=tmp_path / "parts",
                observers=[StopAfter(step)],
            )
    resumed = copy.deepcopy(tiny_model)
    fit(resumed, tiny_dataset, objective, settings, out=tmp_path / "parts")
    assert all(map(torch.equal, weights_after(whole), weights_after(resumed)))


class Slowing(Objective):
    """Shows a collapse in its first epoch until it was slowed."""

    def __init__(self) -> None:
        super().__init__()
        self.slowed = 0

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        loss, _ = CrossEntropy()(model, images, labels)
        shown = (0.1, 0.9) if self.slowed else (math.log(3), 0.0)
        names = ("adversarial", "adversarial_accuracy")
        return LossTerms(loss, dict(zip(names, map(torch.tensor, shown), strict=True)))

    @override
    def slow_down(self, at: float) -> bool:
        self.slowed += 1
        return True

    @override
    def extra_repr(self) -> str:
        return f"slowed={self.slowed}"


def test_fit_slows_an_objective_for_one_training_alone(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    objective, settings = Slowing(), replace(SETTINGS, rollback=Rollback())
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_model, tiny_dataset, objective, settings, out=tmp_path, observers=[StopAfter(7)])
    fit(tiny_model, tiny_dataset, objective, settings, out=tmp_path)
    assert objective.slowed == 0


class Wordless(Schedule):
    @override
    def __call__(self, progress: float = math.inf) -> float:
        return 0.5


def test_fit_resumes_with_a_schedule_without_words_of_its_own(
    tiny_model: nn.Module, tiny_dataset: Dataset
) -> None:
    def words() -> dict[str, str]:
        settings = replace(SETTINGS, lr_factor=Wordless(), constraints=[SpectralBall(Wordless())])
        objectives.append(objective := Wordless() * CrossEntropy())
        optimizer = make_optimizer(settings, tiny_model, [*tiny_model.parameters()])
        return describe_run(tiny_model, tiny_dataset, objective, optimizer, settings)

    objectives: list[Objective] = []
    assert words() == words()
    assert "Wordless" in words()["objective"]


def test_fit_tells_constraints_the_size_for_the_operator_form() -> None:
    first, second = (str(SpectralBall(1.0, form="operator", input_shape=(1, s, s))) for s in (4, 8))
    assert first != second


def test_fit_that_trains_further_takes_the_figures_of_former_weights_out_and_says_so(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fit(tiny_model, tiny_dataset, CrossEntropy(), SETTINGS, out=tmp_path)
    evaluate(tiny_model, tiny_dataset, [Attacks([PGD(num_steps=1)], epsilons=[0.1])], out=tmp_path)
    figures = ("metrics.json", "measurements.csv", "examples.csv", "gallery.npz")
    fit(tiny_model, tiny_dataset, CrossEntropy(), SETTINGS, out=tmp_path)  # of no more epochs
    assert all((tmp_path / name).exists() for name in figures)
    assert not caplog.messages
    fit(tiny_model, tiny_dataset, CrossEntropy(), replace(SETTINGS, epochs=3), out=tmp_path)
    assert not any((tmp_path / name).exists() for name in figures)
    assert (tmp_path / "evaluation").is_dir()
    assert "of the former weights" in caplog.text
    assert f"withstand evaluate {tmp_path}" in caplog.text


@pytest.mark.parametrize("epochs", [0, 1])
def test_fit_to_fewer_epochs_than_were_done_says_that_nothing_was_trained(
    tiny_model: nn.Module,
    tiny_dataset: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    epochs: int,
) -> None:
    fit(tiny_model, tiny_dataset, CrossEntropy(), SETTINGS, out=tmp_path)
    caplog.clear()
    fit(tiny_model, tiny_dataset, CrossEntropy(), replace(SETTINGS, epochs=epochs), out=tmp_path)
    assert f"Nothing was trained: {epochs} epochs were asked for" in caplog.text
    assert "has 2 already" in caplog.text
