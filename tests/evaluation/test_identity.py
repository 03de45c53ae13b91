"""The same text for the same settings, another for any other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

import withstand
from withstand.attacks import PGD, Noise, cross_entropy, margin
from withstand.core.identity import identity, identity_of_model


@pytest.fixture
def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 3))


class Scaled(nn.Module):
    """Answers the same at any scale; a gradient there is at small ones only."""

    def __init__(self, model: nn.Module, scale: float, *, is_tensor: bool) -> None:
        super().__init__()
        self.model = model
        self.scale: Any = None if is_tensor else scale
        self.register_buffer("factor", torch.tensor(scale), persistent=False)

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.factor * self.model(images)
        return logits


@pytest.mark.parametrize("is_tensor", [True, False])
def test_identity_of_model_counts_settings_that_are_no_weights(is_tensor: bool, linear: nn.Module) -> None:
    one, other = (Scaled(linear, scale, is_tensor=is_tensor) for scale in (1.0, 2.0))
    if not is_tensor:
        other.factor = one.factor
    assert identity_of_model(one) == identity_of_model(Scaled(linear, 1.0, is_tensor=is_tensor))
    assert identity_of_model(one) != identity_of_model(other)


def test_identity_is_one_for_settings_alike_and_another_for_others() -> None:
    model = nn.Linear(2, 2)
    assert identity(PGD(num_steps=3)) == identity(PGD(num_steps=3))
    different: list[Callable[[], Any]] = [
        lambda: PGD(num_steps=4),
        lambda: PGD(num_steps=3, loss=margin),
        lambda: Noise(),
        lambda: [PGD(num_steps=3)],
        lambda: cross_entropy,
        lambda: model,
        lambda: torch.zeros(3),
        lambda: torch.zeros(4),
        lambda: 1.0,
        lambda: "1.0",
        lambda: lambda x: x,
        lambda: lambda x: -x,
        lambda: partial(max, 1),
    ]
    assert len({identity(make()) for make in different}) == len(different)
    before = identity_of_model(model)
    with torch.no_grad():
        model.weight[0, 0] += 1
    assert identity_of_model(model) != before


def test_identity_is_the_same_in_another_process() -> None:
    code = """
import math
from withstand.attacks import PGD, Noise, margin
from withstand.evaluation.meters import Attacks, Certificate
from withstand.core.identity import identity
SETTINGS = [
    Attacks([PGD(num_steps=3, loss=margin), Noise()], [0.1, 8 / 255]),
    Certificate(math.inf, [0.1], radius=True),
    {"b": [1.0, float("nan")], "a": (None, "x", True)},
]
print(*map(identity, SETTINGS))
"""
    path = {**os.environ, "PYTHONPATH": str(Path(withstand.__file__).parents[1])}
    process = subprocess.run(
        [sys.executable, "-c", code], env=path, capture_output=True, text=True, check=True
    )
    here: dict[str, Any] = {"print": lambda *texts: here.update(texts=texts)}
    exec(code, here)
    assert process.stdout.split() == list(here["texts"])


def test_identity_does_not_name_the_file_of_a_class_of_the_package() -> None:
    before = identity(PGD())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PGD, "__module__", "withstand.attacks.elsewhere")
        assert identity(PGD()) == before
        patch.setattr(PGD, "__module__", "of_a_user")
        assert identity(PGD()) != before


def test_identity_of_a_compiled_model_is_that_of_the_model(linear: nn.Module) -> None:
    assert identity_of_model(torch.compile(linear, backend="eager")) == identity_of_model(linear)  # type: ignore[arg-type]


class Holder:
    """Holds another one."""

    inside: Holder | None = None


def test_identity_of_a_model_with_objects_deep_inside_one_another_and_shared(linear: nn.Module) -> None:
    first = place = Holder()
    for _ in range(20):
        place.inside = Holder()
        place = place.inside
    linear.first, linear.second = first, first  # type: ignore[assignment]
    assert identity_of_model(linear) == identity_of_model(linear)
