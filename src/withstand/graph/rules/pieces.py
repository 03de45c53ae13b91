"""What rules are made of: functions of each coordinate, picks with repetitions, maps along a dimension."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from withstand.graph.domain import Domain, Moments
from withstand.graph.primitives import Elementwise, Rearrange, Unimodal, moved
from withstand.graph.rule_registry import Site
from withstand.operators import Diagonal, Selection, Separable

_FAR = 1e9  # stands for infinity in distributions, whose deviations could not be told from it


def scaled(site: Site, value: Domain, factor: Tensor | float) -> Domain:
    """The image under a multiplication by a constant that broadcasts to it."""
    if not isinstance(factor, Tensor) and factor == 1:
        return value
    like = value.center  # a number is not to be rounded to torch's default precision on the way
    scale = factor.to(like) if isinstance(factor, Tensor) else like.new_full((), factor)
    return value.affine(Diagonal(scale), None, site.norm)


def scaled_and_shifted(site: Site, value: Domain, weight: Tensor | None, bias: Tensor | None) -> Domain:
    """The image under a multiplication and an addition, each of a constant or of none."""
    if weight is not None:
        return value.affine(Diagonal(weight), bias, site.norm)
    return value if bias is None else value.shift(bias)


def applied(value: Domain, function: Elementwise | Unimodal) -> Domain:
    """The image under a function of each coordinate."""
    return value.unimodal(function) if isinstance(function, Unimodal) else value.monotone(function)


def cut(value: Domain, pieces_of: Callable[[Tensor], Sequence[Tensor]]) -> list[Domain]:
    """The pieces that a tensor (batch, …) is cut into."""

    def piece(x: Tensor, index: int) -> Tensor:
        return pieces_of(x)[index]

    count = len(pieces_of(value.center))
    return [value.monotone(moved(partial(piece, index=index))) for index in range(count)]


def picked(site: Site, value: Domain, function: Callable[[Tensor], Tensor]) -> Domain:
    """The image under what moves coordinates of each example, and may repeat them.

    Args:
        site: The place.
        value: The operator's first value.
        function: Of that value as the graph has it, for a batch of one; sets no constants.
    """
    layout, after = site.layouts[0], site.outputs[0].stored
    places = torch.arange(math.prod(layout.sizes), dtype=torch.float64, device=value.center.device)
    index = function(places.reshape(layout.sizes)).long().reshape(after)
    if bool(index.flatten().bincount().max() <= 1):
        return value.monotone(moved(lambda x: x.flatten(1)[:, index]))
    return value.affine(Selection(value.center.new_ones(()), index), None, site.norm)


def along(site: Site, value: Domain, functions: Mapping[int, Callable[[Tensor], Tensor]]) -> Domain:
    """The image under linear maps along some dimensions, each known from what it makes of unit vectors.

    Args:
        site: The place.
        value: Its domain.
        functions: Dimension of the domain -> map of the last dimension of a tensor (n, side).
    """
    like = value.center
    units = [torch.eye(like.shape[dim], dtype=like.dtype, device=like.device) for dim in functions]
    factors = [function(unit).T for function, unit in zip(functions.values(), units, strict=True)]
    return value.affine(Separable([*functions], factors), None, site.norm)


def along_last(site: Site, value: Domain, functions: Sequence[Callable[[Tensor], Tensor]]) -> Domain:
    """The same along as many of the last dimensions as there are functions."""
    dims = [site.dim(place - len(functions)) for place in range(len(functions))]
    return along(site, value, dict(zip(dims, functions, strict=True)))


def with_constants(value: Domain, function: Callable[[Tensor], Tensor]) -> Domain:
    """The image under what picks coordinates of each example and sets constants, which may be infinite.

    Args:
        value: Its domain.
        function: Of a tensor (batch, …).
    """
    if isinstance(value, Moments):
        return value.monotone(Rearrange(lambda x: function(x).clamp(-_FAR, _FAR)))
    return value.monotone(Rearrange(function))
