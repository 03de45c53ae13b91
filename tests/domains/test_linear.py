"""The linear domain is CROWN: against the textbook's on matrices, and against what nets really do."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache
from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.domains.dense_crown import InputSet, layers_of, least
from withstand.core import norms
from withstand.domains import Ball, Box, BoxBall, Linear, Program
from withstand.domains.linear import backward
from withstand.domains.linear.linear_inputs import input_set_of
from withstand.models import MinMax
from withstand.operators import GuaranteedNorms, Shape

SETS = [(p, clip) for p in (1.0, 2.0, math.inf) for clip in (False, True)]
FAR = 1e4


class Case(NamedTuple):
    """A net, images, labels, and the set that an attacker chooses from."""

    model: nn.Sequential
    program: Program
    images: Tensor
    norm: float
    clip: bool
    epsilon: float

    @property
    def labels(self) -> Tensor:
        return torch.arange(len(self.images)) % 3

    def differences(self, value: Linear) -> Tensor:
        """Of each logit minus the true one, at most, (batch, classes)."""
        with torch.no_grad():
            return self.program.run_to_last_layer(value, GuaranteedNorms()).differences(self.labels)

    def textbook(self, *, with_box: bool) -> Tensor:
        """The same by the dense reference."""
        unit, layers = torch.eye(3).double(), layers_of(self.model, tuple(self.images.shape[1:]))
        result = []
        for image, label in zip(self.images.flatten(1), self.labels, strict=True):
            inputs = InputSet(image, self.norm, self.epsilon, self.clip)
            bound = least(unit[label] - unit, layers, inputs, box=inputs.box if with_box else None)
            result.append(-bound)
        return torch.stack(result)

    def linear(self) -> Linear:
        """The set, and beside it the box around it that the reference has; its ball says nothing."""
        inputs = input_set_of(self.images, self.norm, self.epsilon, self.clip)
        box = Box(self.images - self.epsilon, self.images + self.epsilon)
        if self.clip:
            box = Box(box.lower.clamp_min(0), box.upper.clamp_max(1))
        far = self.images.new_full((len(self.images),), FAR)
        return Linear.of(inputs, box if self.norm == math.inf else BoxBall(Ball(self.images, far), box))


def _dense(bend: Callable[[], nn.Module], *widths: int) -> nn.Sequential:
    hidden = [part for sizes in pairwise(widths) for part in (nn.Linear(*sizes), bend())]
    return nn.Sequential(*hidden, nn.Linear(widths[-1], 3))


def _convs(features: int, *layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, 4), nn.LeakyReLU(0.1), nn.Linear(4, 3))


NETS: Mapping[str, tuple[Callable[[], nn.Sequential], Shape]] = {
    "shallow": (lambda: _dense(nn.ReLU, 4, 7), (4,)),
    "deep": (lambda: _dense(nn.ReLU, 3, 5, 4, 6), (3,)),
    "deep and narrow": (lambda: _dense(lambda: nn.LeakyReLU(0.2), 1, 2, 1, 2, 3), (1,)),
    "leaky": (lambda: _dense(lambda: nn.LeakyReLU(0.6), 6, 5, 5), (6,)),
    "strided": (lambda: _convs(12, nn.Conv2d(2, 3, 3, 2, 1), nn.ReLU()), (2, 4, 3)),
    "dilated": (lambda: _convs(40, nn.Conv2d(2, 2, (2, 3), (1, 2), (1, 2), (2, 1), 2), nn.ReLU()), (2, 5, 5)),
    "pooled": (
        lambda: _convs(
            8, nn.Conv2d(1, 2, 2), nn.ReLU(), nn.AvgPool2d(2, 1, 1), nn.Conv2d(2, 2, 2, 2), nn.LeakyReLU(0.1)
        ),
        (1, 4, 4),
    ),
    "series": (
        lambda: _convs(6, nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.BatchNorm1d(3), nn.AvgPool1d(2)),
        (2, 5),
    ),
}


@cache
def _program(name: str) -> tuple[nn.Sequential, Shape, Program]:
    """The weights of a net are read anew at each run."""
    build, shape = NETS[name]
    model = build().double().eval()
    return model, shape, Program(model, torch.rand(1, *shape).double())


@st.composite
def _cases(draw: st.DrawFn, name: str) -> Case:
    model, shape, program = _program(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(draw(st.integers(0, 2**31)))
        for parameter in model.parameters():
            nn.init.normal_(parameter, std=draw(st.sampled_from([0.3, 1.0])))
        images = torch.rand(2, *shape, dtype=torch.float64)
    return Case(
        model, program, images, *draw(st.sampled_from(SETS)), draw(st.sampled_from([0.0, 0.02, 0.1, 0.5]))
    )


@pytest.mark.parametrize("name", NETS)
@given(data=st.data())
@settings(max_examples=12, deadline=None)
def test_linear_bounds_are_those_of_the_textbook(name: str, data: st.DataObject) -> None:
    case = data.draw(_cases(name))
    actual = case.differences(case.linear())
    torch.testing.assert_close(actual, case.textbook(with_box=True), rtol=1e-6, atol=1e-6)
    if name == "shallow":  # where the box says nothing of the hidden layer that CROWN does not
        assert (actual <= case.textbook(with_box=False) + 1e-9).all()


# Whatever is pulled back together


@pytest.mark.parametrize("name", ["deep", "pooled"])
def test_linear_bounds_are_the_same_row_by_row(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, shape, program = _program(name)
    images = torch.rand(5, *shape).double()
    for norm, clip in SETS:
        case = Case(model, program, images, norm, clip, 0.3)
        together = case.differences(case.linear())
        with monkeypatch.context() as patch:
            patch.setattr(backward, "_MEMORY", 1)
            apart = case.differences(case.linear())
        torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)


def test_linear_bounds_in_float32_are_those_in_float64_but_for_rounding() -> None:
    model, shape, program = _program("pooled")
    images = torch.rand(5, *shape)
    small = Program(copy.deepcopy(model).float(), images)
    for norm, clip in SETS:
        double = Case(model, program, images.double(), norm, clip, 0.1)
        single = double._replace(program=small, images=images)
        actual, expected = (case.differences(case.linear()) for case in (single, double))
        assert actual.dtype == torch.float32
        torch.testing.assert_close(actual.double(), expected, rtol=1e-4, atol=1e-4)


# What paths share


class _Shared(nn.Module):
    """An affine function, or one that is the same only where what paths share is known."""

    def __init__(self, is_bent: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer, self.is_bent = nn.Linear(4, 4).double(), is_bent

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.layer(x)
        if self.is_bent:
            one, other = hidden.relu(), (-hidden).relu()
            hidden = MinMax()(hidden)  # a pair adds up to itself
            return torch.cat(
                [hidden[:, :2] + hidden[:, 2:], one - (x[:, :1] + one), other - 2 * other + other], 1
            )
        first, second = hidden.chunk(2, 1)
        return torch.cat([first + second, -x[:, :1].expand_as(x), 0 * x], 1)


def test_linear_bounds_know_what_paths_share() -> None:
    models = [_Shared(is_bent) for is_bent in (True, False)]
    images = torch.rand(5, 4).double()
    programs = [Program(model, images) for model in models]
    for norm, clip in SETS:
        bent, straight = (
            Case(nn.Sequential(model), program, images, norm, clip, 0.4)
            for model, program in zip(models, programs, strict=True)
        )
        torch.testing.assert_close(
            bent.differences(bent.linear()), straight.differences(straight.linear()), rtol=0, atol=1e-9
        )


# CROWN-IBP


@pytest.mark.parametrize("name", ["deep", "strided"])
def test_linear_bounds_with_intervals_inside_are_sound(name: str) -> None:
    model, shape, program = _program(name)
    images = torch.rand(20, *shape).double()
    gains = []
    for norm, clip in SETS:
        case = Case(model, program, images, norm, clip, 0.2)
        by_intervals = case.differences(replace(case.linear(), refines=False))
        steps = norms.project(torch.randn(200, *images.shape).flatten(0, 1).double(), norm, 0.2)
        points = images + steps.reshape(200, *images.shape)
        logits = model((points.clamp(0, 1) if clip else points).flatten(0, 1)).reshape(200, 20, 3)
        gaps = logits - logits.gather(2, case.labels.expand(200, 20)[..., None])
        assert (gaps <= by_intervals + 1e-9).all()
        gains.append(by_intervals - case.differences(case.linear()))
    assert (torch.stack(gains) > 1e-6).any()
