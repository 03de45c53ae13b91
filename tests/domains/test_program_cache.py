"""A program that is kept as long as it fits its model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.domains import Gaussian, ProgramCache
from withstand.operators import GuaranteedNorms
from withstand.types import ModelError

IMAGES = torch.rand(2, 4)


def _net() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3))


def _mean(cache: ProgramCache, model: nn.Module, images: Tensor) -> Tensor:
    return cache.of(model, images).run(Gaussian(images, torch.zeros(())), GuaranteedNorms()).mean


def test_program_cache_gives_the_same_while_the_model_stays() -> None:
    cache, model = ProgramCache(), _net()
    program = cache.of(model, IMAGES)
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert cache.of(model, IMAGES) is program


def test_program_cache_builds_anew_for_a_layer_of_another_kind() -> None:
    cache, model, images = ProgramCache(), _net(), torch.rand(2, 4)
    before, program = _mean(cache, model, images), cache.of(model, IMAGES)
    model[1] = nn.Tanh()
    assert cache.of(model, IMAGES) is not program
    torch.testing.assert_close(_mean(cache, model, images), model(images))
    assert not torch.allclose(_mean(cache, model, images), before)


class _Chosen(nn.Module):
    """Its forward goes by an attribute of some kind."""

    def __init__(self, chosen: object) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)
        self.chosen = chosen

    @override
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self._layer(self.chosen)(x)
        return result

    def _layer(self, chosen: Any) -> nn.Module:
        while isinstance(chosen, tuple | list | dict | Settings):
            chosen = chosen.of if isinstance(chosen, Settings) else chosen[0]
        picked: object = chosen(self) if callable(chosen) else getattr(self, str(chosen))
        assert isinstance(picked, nn.Module)
        return picked


class Settings:
    """An object of the user's own."""

    def __init__(self, of: object) -> None:
        self.of = of


@pytest.mark.parametrize(
    "around",
    [
        lambda name: name,
        lambda name: (name, 1),
        lambda name: [[name]],
        lambda name: {0: (name,)},
        lambda name: lambda net: getattr(net, name),
        Settings,
        lambda name: [Settings({0: name})],
    ],
)
def test_program_cache_builds_anew_for_whatever_attribute_steers_the_forward(
    around: Callable[[str], object],
) -> None:
    cache, model, images = ProgramCache(), _Chosen(around("first")), torch.rand(2, 4)
    before = _mean(cache, model, images)
    model.chosen = around("second")
    torch.testing.assert_close(_mean(cache, model, images), model(images))
    assert not torch.allclose(_mean(cache, model, images), before)


@pytest.mark.parametrize("chosen", [["first"], {0: "first"}, Settings("first")])
def test_program_cache_builds_anew_for_an_attribute_that_is_changed_in_place(chosen: Any) -> None:
    cache, model, images = ProgramCache(), _Chosen(chosen), torch.rand(2, 4)
    _mean(cache, model, images)
    if isinstance(chosen, Settings):
        chosen.of = "second"
    else:
        chosen[0] = "second"
    torch.testing.assert_close(_mean(cache, model, images), model(images))


def test_program_cache_sees_within_some_runs_what_nobody_foresaw(monkeypatch: pytest.MonkeyPatch) -> None:
    cache, model, images = ProgramCache(), _Chosen(lambda net: getattr(net, STEERING[0])), torch.rand(2, 4)
    _mean(cache, model, images)
    monkeypatch.setitem(STEERING, 0, "second")
    with pytest.raises(ModelError, match="computes something else than the graph"):  # noqa: PT012
        for _ in range(200):
            _mean(cache, model, images)


def test_program_cache_gives_the_same_for_a_model_that_counts_its_passes() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.num_passes = nn.Linear(4, 3), 0
            self.seen: list[torch.Size] = []

        @override
        def forward(self, x: Tensor) -> Tensor:
            self.num_passes += 1
            self.seen.append(x.shape)
            result: Tensor = self.layer(x)
            return result

    cache, model = ProgramCache(), Counting()
    program = cache.of(model, IMAGES)
    assert (model.num_passes, model.seen) == (0, [])
    model(IMAGES)
    assert cache.of(model, IMAGES) is program


STEERING = {0: "first"}


def test_program_cache_reads_a_layer_of_the_same_kind_anew() -> None:
    cache, model, images = ProgramCache(), _net(), torch.rand(2, 4)
    _mean(cache, model, images)
    model[0] = nn.Linear(4, 5)
    torch.testing.assert_close(_mean(cache, model, images), model(images))


def test_program_cache_counts_modes_and_settings() -> None:
    cache, model = ProgramCache(), nn.Sequential(nn.Linear(4, 3), nn.LeakyReLU(0.1))
    program = cache.of(model, IMAGES)
    assert cache.of(model.eval(), IMAGES) is not program
    program = cache.of(model, IMAGES)
    model[1] = nn.LeakyReLU(0.3)
    assert cache.of(model, IMAGES) is not program


def test_program_cache_builds_anew_for_another_model() -> None:
    cache, first, second, images = ProgramCache(), _net(), _net(), torch.rand(2, 4)
    program = cache.of(first, IMAGES)
    assert cache.of(second, IMAGES) is not program
    torch.testing.assert_close(_mean(cache, second, images), second(images))


def test_program_cache_of_a_compiled_model_is_that_of_the_original() -> None:
    cache, model = ProgramCache(), _net()
    program = cache.of(cast(nn.Module, torch.compile(model, backend="eager")), IMAGES)
    assert cache.of(model, IMAGES) is program
    assert program.fits(model, IMAGES)


def test_program_cache_begins_anew_when_copied() -> None:
    """Else a copy of what keeps it would copy the model."""
    cache, model = ProgramCache(), _net()
    program = cache.of(model, IMAGES)
    copied = copy.deepcopy(cache)
    assert copied.of(model, IMAGES) is not program
    assert copied.of(model, IMAGES).fits(model, IMAGES)
    assert cache.of(model, IMAGES) is program


def test_program_cache_refuses_each_time_what_cannot_be_captured() -> None:
    class Branching(nn.Module):
        @override
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum() > 0 else -x

    cache = ProgramCache()
    for _ in range(2):
        with pytest.raises(ModelError, match="depends on the values of its input"):
            cache.of(Branching(), IMAGES)
    assert cache.of(_net(), IMAGES)
