"""What other libraries' attacks need to keep to the rules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from withstand.attacks.adapters import Answers, keep_inside, load, own_draws, weights_at_rest
from withstand.core import norms
from withstand.types import AttackError


def test_load_names_a_missing_library_with_the_remedy() -> None:
    with pytest.raises(AttackError, match=r"Fog needs the package no_such_thing.*'withstand\[attacks\]'"):
        load("no_such_thing.part", user="Fog")


def test_own_draws_leave_the_draws_of_others_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with own_draws(7):
        first = torch.rand(3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    with own_draws(7):
        assert torch.equal(torch.rand(3), first)


def test_weights_at_rest_need_no_gradient_until_the_end() -> None:
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    with weights_at_rest(model):
        assert not model.weight.requires_grad
    assert model.weight.requires_grad
    assert not model.bias.requires_grad


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_keep_inside_brings_back_what_left_and_leaves_the_rest(norm: float) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(5, 3, 4, generator=generator)
    result = (images + norms.random_in_ball(images, norm, 0.1, generator=generator)).clamp(0, 1)
    result[1] = images[1] + 0.4  # out of the ball, and of [0, 1]
    result[2, 0, 0] = math.nan
    result[3] = math.inf
    with pytest.warns(RuntimeWarning, match="made NaN of 1 of 5 images"):
        inside = keep_inside(images, result, norm, 0.1)
    assert torch.equal(inside[[0, 4]], result[[0, 4]])
    assert torch.equal(inside[2], images[2])
    assert inside.min() >= 0
    assert inside.max() <= 1
    assert norms.norm(inside - images, norm).max() <= 0.1 * (1 + 1e-5)
    assert norms.norm(inside - images, norm)[1] > 0


def test_answers_are_float32_of_whatever_model() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3)).double()
    images = torch.rand(4, 2, 3, dtype=torch.float64)
    answers = Answers(model, images)
    assert answers(images.float().reshape(4, 1, 1, 6)).dtype == torch.float32
    assert model.training  # as it was
