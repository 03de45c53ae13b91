"""One tensor for each example, taken through the rules as a set of one member."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from withstand.graph.domain import NormOf, Region
from withstand.graph.primitives import Bilinear, Coupled, Monotone, Unimodal
from withstand.operators import LinearOperator


@dataclass(frozen=True, eq=False)
class Point(Region):
    """The set of one tensor: what shows whether the rules compute what the network does.

    Args:
        value: Tensor (batch, …).
    """

    value: Tensor

    @property
    @override
    def center(self) -> Tensor:
        return self.value

    @property
    @override
    def ends(self) -> tuple[Tensor, Tensor]:
        return self.value, self.value

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        image = operator.apply(self.value)
        return type(self)(image if bias is None else image + bias)

    @override
    def monotone(self, function: Monotone) -> Self:
        return type(self)(function(self.value))

    @override
    def unimodal(self, function: Unimodal) -> Self:
        return type(self)(function.function(self.value))

    @override
    def coupled(self, function: Coupled) -> Self:
        return type(self)(function(self.value))

    @override
    def shift(self, constant: Tensor | float) -> Self:
        return type(self)(self.value + constant)

    @override
    def add(self, other: Self) -> Self:
        return type(self)(self.value + other.value)

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        return type(self)(bilinear(self.value, other.value))

    @override
    def larger(self, other: Self) -> Self:
        return type(self)(torch.maximum(self.value, other.value))

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        return type(self)(torch.cat([self.value, *(other.value for other in others)], dim))

    @override
    def meet(self, other: Self) -> Self:
        return self

    @override
    def worst_differences(self, weight: Tensor, labels: Tensor) -> Tensor:
        return self.value.new_zeros(len(labels), len(weight))
