"""A program that is kept as long as it fits its model."""

from __future__ import annotations

import copy
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.domains import Gaussian, ProgramCache
from withstand.operators import GuaranteedNorms
from withstand.types import ModelError


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def _mean(cache: ProgramCache, model: nn.Module, images: Tensor) -> Tensor:
    return cache.of(model).run(Gaussian(images, torch.zeros(())), GuaranteedNorms()).mean


def test_program_cache_gives_the_same_while_the_model_stays() -> None:
    cache, model = ProgramCache(), _net()
    program = cache.of(model)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert cache.of(model) is program


def test_program_cache_builds_anew_for_a_layer_of_another_kind() -> None:
    cache, model, images = ProgramCache(), _net(), torch.rand(2, 4)
    before, program = _mean(cache, model, images), cache.of(model)
    model[1] = nn.Tanh()
    assert cache.of(model) is not program
    torch.testing.assert_close(_mean(cache, model, images), model(images))
    assert not torch.allclose(_mean(cache, model, images), before)


def test_program_cache_reads_a_layer_of_the_same_kind_anew() -> None:
    cache, model, images = ProgramCache(), _net(), torch.rand(2, 4)
    _mean(cache, model, images)
    model[0] = nn.Linear(4, 5)
    torch.testing.assert_close(_mean(cache, model, images), model(images))


def test_program_cache_counts_modes_and_settings() -> None:
    cache, model = ProgramCache(), nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(0.1))
    program = cache.of(model)
    assert cache.of(model.eval()) is not program
    program = cache.of(model)
    model[1] = nn.LeakyReLU(0.3)
    assert cache.of(model) is not program


def test_program_cache_builds_anew_for_another_model() -> None:
    cache, first, second, images = ProgramCache(), _net(), _net(), torch.rand(2, 4)
    program = cache.of(first)
    assert cache.of(second) is not program
    torch.testing.assert_close(_mean(cache, second, images), second(images))


def test_program_cache_of_a_compiled_model_is_that_of_the_original() -> None:
    cache, model = ProgramCache(), _net()
    program = cache.of(cast(nn.Module, torch.compile(model, backend="eager")))
    assert cache.of(model) is program
    assert program.fits(model)


def test_program_cache_begins_anew_when_copied() -> None:
    """Else a copy of what keeps it would copy the model."""
    cache, model = ProgramCache(), _net()
    program = cache.of(model)
    copied = copy.deepcopy(cache)
    assert copied.of(model) is not program
    assert copied.of(model).fits(model)
    assert cache.of(model) is program


def test_program_cache_refuses_each_time_what_cannot_be_traced() -> None:
    class Branching(nn.Module):
        @override
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    cache = ProgramCache()
    for _ in range(2):
        with pytest.raises(ModelError, match="cannot be traced"):
            cache.of(Branching())
    assert cache.of(_net())
