"""Lightning: modules that train on objectives, what they log, constraints, accuracy under attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import withstand as ws

lightning = pytest.importorskip("lightning")
# Its advice on data loaders and checkpoints, and what it calls that is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:::lightning")

SIDE, CLASSES = 4, 3
PGD = ws.attacks.PGD(epsilon=0.3, num_steps=2)
GROWING = ws.schedules.Linear(start=0.0, end=0.2, epochs=2)


def loader(num: int = 24) -> DataLoader[Any]:
    images = torch.rand(num, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    return DataLoader(TensorDataset(images, torch.arange(num) % CLASSES), batch_size=6)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 8), nn.ReLU(), nn.Linear(8, CLASSES))


def module(objective: ws.objectives.Objective, model: nn.Module) -> Any:
    class Mine(ws.integrations.lightning.RobustTraining):
        def __init__(self) -> None:
            super().__init__()
            self.model, self.objective = model, objective
            self.seen = list[dict[str, float]]()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), lr=0.5)

        def on_train_batch_end(self, *_: Any) -> None:
            self.seen.append({name: float(value) for name, value in self.trainer.callback_metrics.items()})

    return Mine()


def trainer(folder: Path, *callbacks: Any, epochs: int = 2, **options: Any) -> Any:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    how = {"max_epochs": epochs, "accelerator": "cpu", "default_root_dir": folder, "num_sanity_val_steps": 0}
    return lightning.Trainer(callbacks=list(callbacks), **{**quiet, **how, **options})


@pytest.mark.parametrize(
    ("objective", "terms"),
    [
        (ws.objectives.Adversarial(ws.attacks.PGD(epsilon=GROWING, num_steps=2)), {"adversarial", "epsilon"}),
        (ws.objectives.Certified(norm=2, epsilon=GROWING), {"worst", "epsilon"}),
        (ws.objectives.GaussianExpectation(noise_std=GROWING), {"expectation"}),
        (ws.objectives.Variational(), {"kl"}),
    ],
    ids=["adversarial", "certified", "Gaussian", "variational"],
)
def test_module_trains_on_an_objective_and_logs_its_terms(
    objective: ws.objectives.Objective, terms: set[str], tmp_path: Path
) -> None:
    is_random = isinstance(objective, ws.objectives.Variational)
    mine = module(objective, ws.bayes.convert(net()) if is_random else net())
    before = [weight.detach().clone() for weight in mine.parameters()]
    trainer(tmp_path, enable_checkpointing=False).fit(mine, loader())
    assert not any(torch.equal(*pair) for pair in zip(before, mine.parameters(), strict=True))
    assert all({"loss", *terms} <= set(step) for step in mine.seen)
    assert len(mine.seen) == 8
    if "epsilon" in terms:  # of two epochs of four batches
        epsilons = [step["epsilon"] for step in mine.seen]
        assert epsilons == pytest.approx([0.1 * step / 4 for step in range(8)], abs=1e-6)
    if is_random:
        assert objective.num_data == 24


@pytest.mark.parametrize("inference_mode", [True, False])
def test_accuracy_under_attack_is_measured_in_validation_and_test(
    inference_mode: bool, tmp_path: Path
) -> None:
    mine = module(ws.objectives.CrossEntropy(), net())
    attacked = ws.integrations.lightning.AttackedAccuracy(PGD)
    loop = trainer(tmp_path, attacked, enable_checkpointing=False, inference_mode=inference_mode)
    loop.fit(mine, loader(), loader())
    scores = {name: float(value) for name, value in loop.callback_metrics.items()}
    assert scores["validation_attacked_accuracy"] <= scores["validation_accuracy"]
    (tested,) = loop.test(mine, loader(), verbose=False)
    images, labels = next(iter(DataLoader(loader().dataset, batch_size=24)))
    clean = (mine(images).argmax(1) == labels).float().mean()
    assert tested["test_accuracy"] == pytest.approx(float(clean))
    assert tested["test_attacked_accuracy"] < tested["test_accuracy"]


def test_constraints_hold_after_each_step_and_go_through_checkpoints(tmp_path: Path) -> None:
    mine = module(ws.objectives.CrossEntropy(), net())
    ball = ws.constraints.SpectralBall(0.3, every=3, subspace=8)
    held, norms = ws.integrations.lightning.Constrained(ball), list[float]()

    class Looks(lightning.Callback):  # type: ignore[misc, name-defined]
        def on_train_batch_end(self, *_: Any) -> None:
            weights = [layer.weight.detach() for layer in mine.model[1::2]]
            norms.append(max(float(torch.linalg.matrix_norm(weight, 2)) for weight in weights))

    loop = trainer(tmp_path, held, Looks(), accumulate_grad_batches=2)
    loop.fit(mine, loader())
    assert norms[0] > 0.5  # no step yet
    assert all(norm < 0.31 for norm in norms[1:])
    assert len(ball.bases) == 2
    again = ws.integrations.lightning.Constrained(ws.constraints.SpectralBall(0.3, every=3, subspace=8))
    path = loop.checkpoint_callback.best_model_path
    trainer(tmp_path, again, epochs=3).fit(
        module(ws.objectives.CrossEntropy(), net()), loader(), ckpt_path=path
    )
    assert len(cast(Any, again.constraints[0]).bases) == 2
