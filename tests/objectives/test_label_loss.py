"""Label smoothing and class weights against their formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import withstand as ws
from withstand.core.spelling import spelled
from withstand.objectives import TRADES, Adversarial, CrossEntropy, LabelLoss, NoisyCrossEntropy, Objective
from withstand.recipes.parsing import parse_recipe
from withstand.types import ModelError

CLASSES = 4
ATTACK = ws.attacks.PGD(epsilon=0.1, num_steps=1)
OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "cross-entropy": CrossEntropy,
    "noisy": lambda **options: NoisyCrossEntropy(0.1, num_copies=2, **options),
    "adversarial": lambda **options: Adversarial(ATTACK, **options),
    "trades": lambda **options: TRADES(ATTACK, weight=0.0, **options),
}


def made(seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(7, CLASSES, generator=generator), torch.arange(7) % CLASSES


@given(
    st.floats(0.0, 0.99),
    st.lists(st.floats(0.01, 100.0), min_size=CLASSES, max_size=CLASSES),
    st.integers(0, 99),
)
def test_loss_is_that_of_its_formula(smoothing: float, weights: list[float], seed: int) -> None:
    logits, labels = made(seed)
    loss = LabelLoss(smoothing, weights)
    minus_log = -logits.log_softmax(dim=1)
    softened = (1 - smoothing) * F.one_hot(labels, CLASSES) + smoothing / CLASSES
    scaled = torch.tensor(weights) / (sum(weights) / CLASSES)
    expected = scaled[labels] * (softened * minus_log).sum(dim=1)
    torch.testing.assert_close(loss.example_losses(logits, labels), expected)
    torch.testing.assert_close(loss(logits, labels), expected.mean())
    torch.testing.assert_close(
        LabelLoss(smoothing, [3 * w for w in weights])(logits, labels), expected.mean()
    )


def test_without_settings_it_is_cross_entropy_bit_for_bit() -> None:
    logits, labels = made()
    assert torch.equal(LabelLoss()(logits, labels), F.cross_entropy(logits, labels))
    torch.testing.assert_close(LabelLoss(0.0, [2, 2, 2, 2])(logits, labels), F.cross_entropy(logits, labels))
    assert LabelLoss(0.0, [1, 2, 3, 4]).state_dict() == {}  # checkpoints from before are read


def test_parts_of_a_batch_add_up_to_it() -> None:
    logits, labels = made()
    loss = LabelLoss(0.1, [1, 5, 2, 0])
    parts = [loss(logits[rows], labels[rows]) * len(labels[rows]) for rows in (slice(0, 2), slice(2, 7))]
    torch.testing.assert_close(torch.stack(parts).sum() / 7, loss(logits, labels))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives_take_class_weights_and_smoothing(name: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))
    images, labels = torch.rand(6, 1, 2, 2), torch.tensor([0, 1, 2, 3, 0, 1])

    def loss(rows: list[int], **options: Any) -> Tensor:
        torch.manual_seed(0)
        of_rows: Tensor = OBJECTIVES[name](**options)(model, images[rows], labels[rows]).loss
        return of_rows

    only_first = {"class_weights": [1, 0, 0, 0]}
    assert loss([1, 2, 3], **only_first) == 0
    torch.testing.assert_close(loss([0, 4], **only_first), 4 * loss([0, 4]))
    assert loss([0, 1], label_smoothing=0.5) != loss([0, 1])


@pytest.mark.parametrize("name", OBJECTIVES)
def test_another_number_of_weights_than_classes_is_refused(name: str) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, CLASSES))
    objective = OBJECTIVES[name](class_weights=[1.0, 2.0, 3.0])
    with pytest.raises(ModelError, match="each of the model's 4 classes, but got 3"):
        objective(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_smoothing": 1.0}, "label_smoothing of at least 0 and below 1"),
        ({"class_weights": [1.0, -1.0]}, "class_weights of at least 0, but got -1"),
        ({"class_weights": [0, 0]}, "all are 0"),
        ({"class_weights": [1e308, 1e308]}, "a sum that is finite"),
        ({"class_weights": [1.0]}, "at least 2 in class_weights"),
        ({"class_weights": 2.0}, "class_weights as a list"),
    ],
)
def test_wrong_settings_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        CrossEntropy(**options)


@pytest.mark.parametrize(
    "objective",
    [
        *(make(label_smoothing=0.1, class_weights=[1, 2, 3, 4]) for make in OBJECTIVES.values()),
        ws.objectives.WeightPerturbation(ws.objectives.MART(ATTACK, 2.0), 0.02),
    ],
    ids=lambda objective: type(objective).__name__,
)
def test_objectives_made_in_python_are_recorded_as_recipes_spell_them(
    objective: Objective, tmp_path: Path
) -> None:
    file = tmp_path / "recipe.yaml"
    content = {"name": "made", "data": {"name": "digits"}, "objective": spelled(objective)}
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    assert str(parse_recipe(file).recipe.objective) == str(objective)
