"""Operators as the matrices that they never write out, and random convolutions."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from withstand.operators import Convolution, LinearOperator, Shape, guaranteed

Matrix: TypeAlias = Callable[[LinearOperator, Shape], Tensor]
Drawn: TypeAlias = tuple[Convolution, Shape]


def _matrix(operator: LinearOperator, input_shape: Shape) -> Tensor:
    size = torch.Size(input_shape).numel()
    units = torch.eye(size, dtype=operator.entries.dtype).view(size, *input_shape)
    return operator.apply(units).flatten(1).T.detach()


def _weight(kind: str, shape: Shape, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(shape, generator=generator, dtype=torch.float64)
    if kind == "positive":
        return weight.abs()
    if kind == "alike":
        return weight[:1, :1].expand(shape).clone()
    if kind == "orthogonal":
        flat = weight.flatten(1)
        left, _, right = torch.linalg.svd(flat, full_matrices=False)
        weight = (left @ right).view(shape) + 1e-9 * weight
    if kind == "sparse":
        return weight * (torch.rand(shape, generator=generator) < 0.2)
    return weight


@st.composite
def _convolutions(draw: st.DrawFn) -> Drawn:
    rank, groups = draw(st.integers(1, 2)), draw(st.integers(1, 3))

    def one_per_dimension(low: int, high: int) -> list[int]:
        return [draw(st.integers(low, high)) for _ in range(rank)]

    taps, stride, padding, dilation = (
        one_per_dimension(1, 4),
        one_per_dimension(1, 3),
        one_per_dimension(0, 4),
        one_per_dimension(1, 3),
    )
    sizes = []
    for tap, pad, spread in zip(taps, padding, dilation, strict=True):
        least = max(1, spread * (tap - 1) + 1 - 2 * pad)
        sizes.append(draw(st.integers(least, least + 5)))
    shape = (groups * draw(st.integers(1, 3)), draw(st.integers(1, 3)), *taps)
    kind = draw(st.sampled_from(["gaussian", "positive", "alike", "orthogonal", "sparse"]))
    scale = 10.0 ** draw(st.integers(-6, 6))
    weight = scale * _weight(kind, shape, draw(st.integers(0, 99)))
    return Convolution(weight, stride, padding, dilation, groups), (groups * shape[1], *sizes)


@pytest.fixture(scope="session")
def matrix() -> Matrix:
    """The matrix (outputs, inputs) of an operator."""
    return _matrix


@pytest.fixture(scope="session")
def convolutions() -> st.SearchStrategy[Drawn]:
    """Float64 convolutions of all kinds, each with an input shape that it takes."""
    return _convolutions()


@pytest.fixture(params=["exact", "circular"])
def route(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Which way the bound of a convolution is found."""
    chosen: str = request.param
    if chosen == "circular":
        monkeypatch.setattr(guaranteed, "_TIGHT", guaranteed._TIGHT._replace(work=-1))
    return chosen
