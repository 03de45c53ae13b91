"""The training loop: repeatable, resumable, and stopped by NaN."""

from __future__ import annotations

import copy
import math
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from tests.training.stop_after import StopAfter
from withstand.attacks import PGD
from withstand.constraints import Constraint, SpectralBall
from withstand.core.numerics import seed_of
from withstand.core.schedules import Stages
from withstand.data import Augment, Dataset, batches, epoch_order
from withstand.loss.terms import Objective
from withstand.models import load_weights
from withstand.objectives import Adversarial, CrossEntropy
from withstand.operators import GuaranteedNorms, places
from withstand.training import TrainingResult, TrainingSettings, fit
from withstand.training.checkpoint import read_checkpoint
from withstand.types import (
    CheckpointError,
    DataError,
    LossTerms,
    ModelError,
    NonFiniteLossError,
    RunFolderError,
)

SETTINGS = TrainingSettings(
    epochs=3,
    batch_size=20,
    optimizer=partial(torch.optim.SGD, lr=0.2, momentum=0.9),
    selection=PGD(epsilon=0.05, num_steps=2),
    accelerator="cpu",
)
ATTACK = PGD(epsilon=0.05, num_steps=3)


class NanAfter(Objective):
    """Cross-entropy that turns into NaN at a step."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.left = step

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        loss = F.cross_entropy(model(images), labels)
        self.left -= 1
        return LossTerms(loss * math.nan if self.left < 0 else loss, {})


def weights_of(path: Path, like: nn.Module) -> dict[str, Tensor]:
    model = copy.deepcopy(like)
    load_weights(model, path)
    return model.state_dict()


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def trained(
    model: nn.Module, dataset: Dataset, out: Path, settings: TrainingSettings = SETTINGS, seed: int = 5
) -> TrainingResult:
    return fit(copy.deepcopy(model), dataset, Adversarial(ATTACK), settings, out=out, seed=seed)


def test_fit_gives_the_same_weights_for_the_same_seed_alone(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        trained(tiny_model, tiny_dataset, tmp_path / name, seed=seed)
        torch.rand(3)  # what came before must not matter
    first, same, other = (
        weights_of(tmp_path / name / "last.safetensors", tiny_model) for name in ("a", "b", "c")
    )
    assert_same(first, same)
    assert not torch.equal(first["5.weight"], other["5.weight"])


@pytest.mark.parametrize("step", [1, 4, 5, 6, 9, 15])  # 5 steps an epoch
@pytest.mark.parametrize("checkpoint_seconds", [0.0, 1e9])
def test_fit_resumed_ends_with_the_same_weights(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, step: int, checkpoint_seconds: float
) -> None:
    varied = {"checkpoint_seconds": checkpoint_seconds, "augment": Augment(crop_padding=1, flip=True)}
    settings = TrainingSettings(**{**vars(SETTINGS), **varied})
    trained(tiny_model, tiny_dataset, tmp_path / "whole", settings)
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        fit(
            copy.deepcopy(tiny_model),
            tiny_dataset,
            Adversarial(ATTACK),
            settings,
            out=out,
            seed=5,
            observers=[StopAfter(step)],
        )
    trained(tiny_model, tiny_dataset, out, settings)
    for name in ("last.safetensors", "model.safetensors"):
        assert_same(weights_of(tmp_path / "whole" / name, tiny_model), weights_of(out / name, tiny_model))
    whole, cut = (pd.read_csv(folder / "train.csv") for folder in (tmp_path / "whole", out))
    pd.testing.assert_frame_equal(whole.drop(columns="seconds"), cut.drop(columns="seconds"))


def test_fit_keeps_constraints_after_each_epoch_and_through_an_interruption(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    def settings() -> TrainingSettings:
        # Fresh vectors each time, as a new process has them.
        return replace(SETTINGS, constraints=[SpectralBall(0.5, every=4, subspace=2)])

    start = copy.deepcopy(tiny_model)
    fit(tiny_model, tiny_dataset, CrossEntropy(), settings(), out=tmp_path / "whole")
    interrupted = copy.deepcopy(start)
    for step in (7, 11):
        with pytest.raises(KeyboardInterrupt):
            fit(
                interrupted,
                tiny_dataset,
                CrossEntropy(),
                replace(settings(), checkpoint_seconds=0.0),
                out=tmp_path / "parts",
                observers=[StopAfter(step)],
            )
        interrupted = copy.deepcopy(start)
    fit(interrupted, tiny_dataset, CrossEntropy(), settings(), out=tmp_path / "parts")
    assert_same(tiny_model.state_dict(), interrupted.state_dict())
    for layer in tiny_model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            norm = torch.linalg.matrix_norm(layer.weight.detach().flatten(1).double(), 2)
            assert 0.4 < norm <= 0.5 * (1 + 1e-6)


def test_fit_tells_constraints_how_large_images_are(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, epochs=1, constraints=[SpectralBall(0.5, form="operator", every=3)])
    fit(tiny_model, tiny_dataset, CrossEntropy(), settings, out=tmp_path)
    norms = GuaranteedNorms()
    for place in places(tiny_model.eval(), torch.zeros(1, 1, 4, 4)):
        assert norms.of(place.operator, place.input_shape, place.name) <= 0.5 * (1 + 1e-5)


def test_fit_projects_onto_a_constraint_after_every_step(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    calls: list[float] = []

    class Noting(Constraint):
        @override
        def project_(self, model: nn.Module, *, progress: float = math.inf) -> None:
            calls.append(progress)

    settings = replace(SETTINGS, epochs=1, constraints=[Noting()])
    fit(tiny_model, tiny_dataset, CrossEntropy(), settings, out=tmp_path)
    assert calls == [0.0, 0.2, 0.4, pytest.approx(0.6), 0.8, 1.0]  # five steps and the end of the epoch


def test_fit_equals_a_loop_written_by_hand(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    by_hand = copy.deepcopy(tiny_model)
    optimizer = torch.optim.SGD(by_hand.parameters(), lr=0.05)
    for epoch in range(2):
        torch.manual_seed(seed_of(7, epoch))
        by_hand.train()
        order = epoch_order(len(tiny_dataset.train), seed=7, epoch=epoch)
        for images, labels in batches(tiny_dataset.train, 20, order=order):
            optimizer.zero_grad()
            F.cross_entropy(by_hand(images), labels).backward()
            optimizer.step()
    settings = TrainingSettings(
        epochs=2, batch_size=20, optimizer=partial(torch.optim.SGD, lr=0.05), accelerator="cpu"
    )
    ours = copy.deepcopy(tiny_model)
    fit(ours, tiny_dataset, CrossEntropy(), settings, out=tmp_path, seed=7)
    assert_same(ours.state_dict(), by_hand.state_dict())


def test_fit_logs_every_term_and_the_scheduled_learning_rate(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    settings = TrainingSettings(
        **{**vars(SETTINGS), "lr_factor": Stages(values=[1.0, 0.1], epochs=[2, 1]), "tensorboard": True}
    )
    result = trained(tiny_model, tiny_dataset, tmp_path, settings)
    log = pd.read_csv(tmp_path / "train.csv")
    assert list(log["epoch"]) == [1, 2, 3]
    assert list(log["learning_rate"]) == pytest.approx([0.2, 0.2, 0.02])
    assert list(log["epsilon"]) == pytest.approx([0.05] * 3)
    assert log["validation_robust_accuracy"].max() == pytest.approx(result.best_score)
    assert (log["validation_robust_accuracy"] <= log["validation_accuracy"]).all()
    assert log["adversarial"].iloc[-1] < log["adversarial"].iloc[0]
    assert result.steps == 15
    assert list((tmp_path / "tensorboard").glob("events*"))


def test_fit_saves_the_weights_of_the_best_epoch(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    # The last epoch ruins the weights, so that the best cannot be the last.
    ruin = TrainingSettings(
        **{**vars(SETTINGS), "lr_factor": Stages(values=[1.0, 1e4], epochs=[2, 1]), "selection": None}
    )
    fit(copy.deepcopy(tiny_model), tiny_dataset, CrossEntropy(), ruin, out=tmp_path, seed=5)
    log = pd.read_csv(tmp_path / "train.csv")
    best = copy.deepcopy(tiny_model)
    load_weights(best, tmp_path / "model.safetensors")
    best.eval()
    images, labels = next(batches(tiny_dataset.validation, 100))
    accuracy = float((best(images).argmax(1) == labels).float().mean())
    assert accuracy == pytest.approx(log["validation_accuracy"].max())
    assert log["validation_accuracy"].iloc[-1] < log["validation_accuracy"].max()


def test_fit_of_no_epochs_leaves_the_model_as_it_is(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    settings = TrainingSettings(**{**vars(SETTINGS), "epochs": 0})
    trained(tiny_model, tiny_dataset, tmp_path, settings)
    assert_same(weights_of(tmp_path / "model.safetensors", tiny_model), tiny_model.state_dict())


def test_fit_takes_initial_weights(tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path) -> None:
    trained(tiny_model, tiny_dataset, tmp_path / "first")
    start = tmp_path / "first" / "last.safetensors"
    settings = TrainingSettings(**{**vars(SETTINGS), "epochs": 0, "initial_weights": str(start)})
    trained(tiny_model, tiny_dataset, tmp_path / "second", settings)
    assert_same(
        weights_of(tmp_path / "second" / "last.safetensors", tiny_model), weights_of(start, tiny_model)
    )


def test_fit_stops_at_nan_names_the_step_and_leaves_the_last_good_checkpoint(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(NonFiniteLossError, match=r"step 3 of 5 in epoch 2.*initial_weights"):
        fit(tiny_model, tiny_dataset, NanAfter(7), SETTINGS, out=tmp_path, seed=5)
    content = torch.load(tmp_path / "checkpoint" / "last.pt", weights_only=True)
    assert content["position"]["epoch"] == 1
    assert all(bool(torch.isfinite(value).all()) for value in content["model"].values())
    assert (tmp_path / "model.safetensors").exists()


def test_checkpoint_that_would_run_code_is_refused_without_advice_to_run_it(tmp_path: Path) -> None:
    torch.save({"run": Path.cwd}, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged \(it is no checkpoint") as refused:
        read_checkpoint(tmp_path / "last.pt")
    assert "two options" not in str(refused.value)
    assert "weights_only" not in str(refused.value)


def test_fit_explains_what_to_do_about_a_damaged_checkpoint(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    trained(tiny_model, tiny_dataset, tmp_path / "whole")
    out = tmp_path / "cut"
    with pytest.raises(KeyboardInterrupt):
        fit(
            copy.deepcopy(tiny_model),
            tiny_dataset,
            Adversarial(ATTACK),
            SETTINGS,
            out=out,
            seed=5,
            observers=[StopAfter(11)],
        )
    last = out / "checkpoint" / "last.pt"
    last.write_bytes(last.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"last\.pt is damaged.*Delete it to go on"):
        trained(tiny_model, tiny_dataset, out)
    last.unlink()  # what the message says, and nothing is lost but the epoch under way
    trained(tiny_model, tiny_dataset, out)
    assert_same(
        weights_of(out / "last.safetensors", tiny_model),
        weights_of(tmp_path / "whole" / "last.safetensors", tiny_model),
    )


def test_fit_refuses_the_checkpoint_of_another_run(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    trained(tiny_model, tiny_dataset, tmp_path, seed=5)
    with pytest.raises(CheckpointError, match=r"another run \(seed: 5 then, 6 now\)"):
        trained(tiny_model, tiny_dataset, tmp_path, seed=6)


def test_fit_takes_another_optimiser_for_another_run(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    trained(tiny_model, tiny_dataset, tmp_path)
    other = TrainingSettings(**{**vars(SETTINGS), "optimizer": partial(torch.optim.Adam, lr=0.1)})
    with pytest.raises(CheckpointError, match=r"another run.*optimizer: SGD.* then, Adam"):
        trained(tiny_model, tiny_dataset, tmp_path, other)


def test_fit_takes_another_weight_of_a_term_for_another_run(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    for_half = 0.5 * CrossEntropy() + CrossEntropy()
    fit(copy.deepcopy(tiny_model), tiny_dataset, for_half, SETTINGS, out=tmp_path)
    for_more = 0.7 * CrossEntropy() + CrossEntropy()
    with pytest.raises(CheckpointError, match=r"another run.*weight=0\.5.*weight=0\.7"):
        fit(copy.deepcopy(tiny_model), tiny_dataset, for_more, SETTINGS, out=tmp_path)


def test_fit_refuses_a_folder_whose_checkpoints_were_deleted(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    """It would train anew beside the weights and measurements of the old training."""
    trained(tiny_model, tiny_dataset, tmp_path, seed=5)
    shutil.rmtree(tmp_path / "checkpoint")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}
    with pytest.raises(RunFolderError, match=r"checkpoints are gone.*Delete the folder to start anew"):
        trained(tiny_model, tiny_dataset, tmp_path, seed=5)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir() if file.is_file()}


def test_fit_without_validation_data_takes_the_last_epoch_as_the_best(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    empty = tiny_dataset.validation.subset(torch.arange(0))
    trained(tiny_model, replace(tiny_dataset, validation=empty), tmp_path)
    best = weights_of(tmp_path / "model.safetensors", tiny_model)
    assert_same(best, weights_of(tmp_path / "last.safetensors", tiny_model))


def test_fit_refuses_data_of_no_whole_batch(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    settings = TrainingSettings(**{**vars(SETTINGS), "batch_size": 500, "drop_last": True})
    with pytest.raises(DataError, match="96 training images make no whole batch of 500"):
        trained(tiny_model, tiny_dataset, tmp_path, settings)


def test_fit_restores_a_lost_last_row_of_the_log(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    trained(tiny_model, tiny_dataset, tmp_path)
    log = tmp_path / "train.csv"
    whole = log.read_text()
    log.write_text("".join(whole.splitlines(keepends=True)[:-1]))  # killed before it was written
    trained(tiny_model, tiny_dataset, tmp_path)
    assert log.read_text() == whole


def test_fit_reports_an_unwritable_run_folder(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunFolderError, match="Choose another with --out"):
        trained(tiny_model, tiny_dataset, tmp_path / "file" / "run")


def test_fit_refuses_a_model_that_does_not_fit_before_training(tiny_dataset: Dataset, tmp_path: Path) -> None:
    wide = nn.Sequential(nn.Flatten(), nn.Linear(16, 4))
    with pytest.raises(ModelError, match="4"):
        trained(wide, tiny_dataset, tmp_path / "wide")
    soft = nn.Sequential(nn.Flatten(), nn.Linear(16, 3), nn.Softmax(dim=1))
    with pytest.raises(ModelError, match=r"[Ss]oftmax"):
        trained(soft, tiny_dataset, tmp_path / "soft")


def test_fit_in_bf16_leaves_float32_weights(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    settings = TrainingSettings(**{**vars(SETTINGS), "precision": "bf16"})
    trained(tiny_model, tiny_dataset, tmp_path, settings)
    state = weights_of(tmp_path / "last.safetensors", tiny_model)
    assert state["5.weight"].dtype == torch.float32
    assert not torch.equal(state["5.weight"], tiny_model.state_dict()["5.weight"])


@pytest.mark.parametrize("file", ["last.safetensors", "metrics.json", "measurements.csv"])
def test_fit_refuses_a_folder_of_another_network(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, file: str
) -> None:
    (tmp_path / file).write_text("{}")
    with pytest.raises(RunFolderError, match=rf"{file} of a network that was not trained there.*out="):
        fit(tiny_model, tiny_dataset, CrossEntropy(), TrainingSettings(epochs=1), out=tmp_path)
    assert (tmp_path / file).read_text() == "{}"
