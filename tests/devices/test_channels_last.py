"""Images and models in the memory format channels_last give what contiguous ones give."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor, nn

from tests.attacks.conftest import ATTACKS
from tests.devices.test_steps_on_a_device import BALLS, CASES
from tests.objectives.test_in_loops import ALL, RANDOM, gradient_of
from withstand import bayes
from withstand.attacks import Attack
from withstand.corruptions import CORRUPTIONS, Corruption
from withstand.data import Augment, Deform
from withstand.objectives import Objective
from withstand.types import Batch

# One of each kind; the others differ in what they compute, not in what they read.
MORE = ("certified inf linear with batch norm", "moments cubature constant", "weights local")
OBJECTIVES = ALL | {name: CASES[name].objective for name in MORE}


def _net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(4, 6, 3, padding=1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)),
    ).double()


def _batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(6, 2, 6, 5, generator=generator, dtype=torch.float64)
    return Batch(images, torch.arange(6) % 3)


def _laid_out(model: nn.Module, batch: Batch, layout: torch.memory_format) -> tuple[nn.Module, Batch]:
    images = batch.images.to(memory_format=layout)
    assert images.is_contiguous(memory_format=layout)
    torch.manual_seed(2)  # what is drawn is the same in both
    return model.to(memory_format=layout), Batch(images, batch.labels)  # type: ignore[call-overload]


def _in_both(compute: Callable[[torch.memory_format], list[Tensor]]) -> None:
    rows, last = (compute(layout) for layout in (torch.contiguous_format, torch.channels_last))
    for one, other in zip(rows, last, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective_of_channels_last_has_the_loss_and_gradient_of_contiguous_images(name: str) -> None:
    def computed(layout: torch.memory_format) -> list[Tensor]:
        objective: Objective = OBJECTIVES[name]()
        objective.prepare(60)
        is_random = name in RANDOM or name.startswith("weights")
        model, batch = _laid_out(bayes.convert(_net()) if is_random else _net(), _batch(), layout)
        loss = objective(model, *batch, progress=1.0).loss
        loss.backward()
        return [loss.detach(), gradient_of(model)]

    _in_both(computed)


@pytest.mark.filterwarnings("ignore:epsilon .* lets an attack turn")
@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_attack_of_channels_last_finds_what_it_finds_of_contiguous_images(attack: Attack) -> None:
    def computed(layout: torch.memory_format) -> list[Tensor]:
        model, batch = _laid_out(_net(), _batch(), layout)
        return [attack(model, *batch), model(batch.images).detach()]

    _in_both(computed)


@pytest.mark.parametrize("make", BALLS.values(), ids=BALLS)
def test_constraint_projects_channels_last_as_contiguous_weights(make: Callable[[], nn.Module]) -> None:
    def computed(layout: torch.memory_format) -> list[Tensor]:
        model, ball = _laid_out(_net(), _batch(), layout)[0], make()
        ball.prepare((2, 6, 5))  # type: ignore[operator]
        for step in range(1, 4):
            with torch.no_grad():
                for weight in model.parameters():
                    weight.mul_(1.5)
            ball.after_step_(model, step=step, progress=0.0)  # type: ignore[operator]
        return [weight.detach() for weight in model.parameters()]

    _in_both(computed)


def _corrupted(kind: Corruption, images: Tensor) -> Tensor:
    return kind(images, 3, torch.Generator().manual_seed(0))


CHANGES: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: partial(_corrupted, kind) for name, kind in CORRUPTIONS.items()},
    "crop and flip": Augment(crop_padding=1, flip=True),
    "deform": Deform(translation=1.0, displacement=0.5, smoothness=1.0),
}


@pytest.mark.parametrize("name", CHANGES)
def test_images_that_are_changed_are_the_same_in_channels_last(name: str) -> None:
    _in_both(lambda layout: [CHANGES[name](_laid_out(_net(), _batch(), layout)[1].images)])
