"""Hugging Face: objectives in Trainer, and on models that accelerate has prepared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import withstand as ws
from withstand.types import DataError

accelerate = pytest.importorskip("accelerate")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore:'pin_memory' argument:UserWarning")

NORMALIZE = ws.models.Normalize([0.4], [0.2])
CLASSES = 3


@pytest.fixture(autouse=True)
def _fresh_state() -> Iterator[None]:
    """What accelerate keeps for a whole process begins anew."""
    yield
    accelerate.state.AcceleratorState._reset_state(reset_partial_state=True)


def vit() -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    config = transformers.ViTConfig(image_size=4, patch_size=2, num_channels=1, num_labels=CLASSES, **sizes)
    return transformers.ViTForImageClassification(config)


def examples(num: int = 12) -> list[dict[str, Any]]:
    images = torch.rand(num, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return [{"pixel_values": NORMALIZE(image), "labels": n % CLASSES} for n, image in enumerate(images)]


def trainer(
    folder: Path, objective: Any, *, train: Any = None, normalize: Any = NORMALIZE, **options: Any
) -> Any:
    constraints = options.pop("constraints", ())
    how = {"per_device_train_batch_size": 4, "num_train_epochs": 2, "logging_steps": 1, "max_grad_norm": 0.0}
    quiet = {"report_to": [], "disable_tqdm": True, "save_strategy": "no", "use_cpu": True, "optim": "sgd"}
    return ws.integrations.hugging_face.RobustTrainer(
        vit(),
        transformers.TrainingArguments(str(folder), **{**how, **quiet, **options}),
        train_dataset=examples(),
        eval_dataset=examples(),
        objective=objective,
        normalize=normalize,
        constraints=constraints,
    )


@pytest.mark.filterwarnings("ignore:The weights of torch.s own layers:UserWarning")  # a token, positions
def test_trainer_minimises_an_objective_on_images_without_their_normalisation(tmp_path: Path) -> None:
    seen = list[Tensor]()

    class Watching(ws.objectives.Adversarial):
        def forward(self, model: nn.Module, images: Tensor, labels: Tensor, **progress: float) -> Any:
            seen.append(images)
            return super().forward(model, images, labels, **progress)

    epsilon = ws.schedules.Linear(start=0.0, end=0.2, epochs=2)
    ball = ws.constraints.SpectralBall(0.5)
    loop = trainer(tmp_path, Watching(ws.attacks.PGD(epsilon=epsilon, num_steps=1)), constraints=[ball])
    loop.train()
    assert torch.cat(seen).min() >= 0
    assert torch.cat(seen).max() <= 1
    logs = [log for log in loop.state.log_history if "loss" in log]
    assert [log["epsilon"] for log in logs] == pytest.approx([step / 30 for step in range(6)], abs=1e-6)
    assert all(log["adversarial"] == pytest.approx(log["loss"], abs=1e-3) for log in logs)
    assert torch.linalg.matrix_norm(loop.model.classifier.weight, 2) < 0.501
    assert "adversarial" not in loop.evaluate()
    given = examples(1)[0]["pixel_values"][None]
    image = given * NORMALIZE.std + NORMALIZE.mean
    torch.testing.assert_close(loop.on_images()(image), loop.model(given).logits)


def test_trainer_accumulates_gradients_to_those_of_the_whole_batch(tmp_path: Path) -> None:
    weights = []
    for parts in (1, 3):
        size = {"per_device_train_batch_size": 12 // parts, "gradient_accumulation_steps": parts}
        loop = trainer(tmp_path, ws.objectives.CrossEntropy(), learning_rate=1.0, num_train_epochs=1, **size)
        loop.model.vit.eval()  # its dropout has a share of 0
        loop.train()
        weights.append(loop.model.classifier.weight.detach())
    assert not torch.equal(weights[0], vit().classifier.weight)
    torch.testing.assert_close(*weights)


def test_trainer_refuses_a_normalisation_that_is_not_that_of_the_images(tmp_path: Path) -> None:
    objective = ws.objectives.CrossEntropy()
    with pytest.raises(DataError, match=r"span .* but must be images in \[0, 1\]. Give normalize=Normalize"):
        trainer(tmp_path, objective, normalize=ws.models.Normalize([0.0], [1.0])).train()
    with pytest.raises(DataError, match="images in"):
        trainer(tmp_path, objective, normalize=None).train()
    with pytest.raises(TypeError, match="Expected normalize to be Normalize"):
        trainer(tmp_path, objective, normalize="imagenet")


@pytest.mark.parametrize(
    "objective",
    [
        ws.objectives.Certified(norm=2, epsilon=0.1),
        ws.objectives.GaussianExpectation(noise_std=0.1),
        ws.penalties.LossGradient(),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_what_needs_float32_has_it_in_models_that_accelerate_casts(objective: Any) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    images, labels = torch.rand(6, 1, 4, 4), torch.arange(6) % CLASSES
    exact = objective(model, images, labels).loss.detach()
    prepared = accelerate.Accelerator(cpu=True, mixed_precision="bf16").prepare(model)
    cast = prepared(images)
    loss = objective(prepared, images, labels).loss
    loss.backward()
    torch.testing.assert_close(loss.detach(), exact, rtol=1e-4, atol=0)
    plain = ws.objectives.CrossEntropy()(prepared, images, labels).loss
    torch.testing.assert_close(plain, nn.functional.cross_entropy(cast, labels))  # and all else is cast
    assert torch.equal(prepared(images), cast)
