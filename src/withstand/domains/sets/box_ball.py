"""Ball ∩ box: box constraint propagation (Lee et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self, final

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from withstand.core import norms
from withstand.domains.sets.ball import Ball
from withstand.domains.sets.box import Box
from withstand.domains.sets.worst_case import ball_box_gains
from withstand.graph.domain import NormOf, Region
from withstand.graph.primitives import Bilinear, Coupled, Monotone, Unimodal
from withstand.operators import LinearOperator


@final
@dataclass(frozen=True, eq=False)
class BoxBall(Region):
    """The reduced product of a ball and a box: every tensor in both.

    After each linear map the box is cut to the box around the image of the ball. A monotone function,
    sum, maximum or concatenation needs no such thing: where a box lies in the box around a ball, it still
    does after them. After what stretches more in one place than in another each is cut to the other.

    Args:
        ball: The ball; its center must be in the box.
        box: The box; the one around the ball where None.
        num_steps: Newton steps for the worst difference of logits, which is an upper bound after
            any number of them; until it is exact where None.
    """

    ball: Ball
    box: Box | None = None
    num_steps: int | None = None

    def with_steps(self, num_steps: int | None) -> Self:
        """The same set, whose worst differences take so many Newton steps."""
        return replace(self, num_steps=num_steps)

    @property
    @override
    def center(self) -> Tensor:
        return self.ball.center

    @property
    @override
    def ends(self) -> tuple[Tensor, Tensor]:
        return self.ball.ends if self.box is None else self.box.ends

    @override
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        ball = self.ball.affine(operator, bias, norm)
        reach = norms.per_example(self.ball.radius, ball.center) * operator.row_norms(self.example_shape)
        around = Box.around(ball.center, reach.expand(len(reach), *ball.example_shape))
        if self.box is None:
            return replace(self, ball=ball, box=around)
        midpoint, halfwidth = self._image_of_box(self.box, ball, operator, bias).parts
        if midpoint is ball.center:  # both boxes are around it
            return replace(self, ball=ball, box=Box.around(midpoint, torch.minimum(halfwidth, reach)))
        return replace(self, ball=ball, box=Box(*_cut(midpoint, halfwidth, ball.center, reach)))

    def _image_of_box(self, box: Box, ball: Ball, operator: LinearOperator, bias: Tensor | None) -> Box:
        midpoint, halfwidth = box.parts
        reach = operator.entrywise(torch.abs).apply(halfwidth)
        if midpoint is self.ball.center:  # so far, and not to be computed twice
            return Box.around(ball.center, reach)
        image = operator.apply(midpoint)
        return Box.around(image if bias is None else image + bias, reach)

    @override
    def monotone(self, function: Monotone) -> Self:
        ball, box = self.ball.image(function, self), Box(*self.ends).monotone(function)
        return self._cut_to_each_other(ball, box) if callable(function.lipschitz) else self._of(ball, box)

    @override
    def unimodal(self, function: Unimodal) -> Self:
        ball, box = self.ball.image(function, self), Box(*self.ends).unimodal(function)
        return self._cut_to_each_other(ball, box) if callable(function.slope) else self._of(ball, box)

    @override
    def coupled(self, function: Coupled) -> Self:
        return self._cut_to_each_other(self.ball.image(function, self), Box(*self.ends).coupled(function))

    @override
    def shift(self, constant: Tensor | float) -> Self:
        box = None if self.box is None else self.box.shift(constant)
        return replace(self, ball=self.ball.shift(constant), box=box)

    @override
    def add(self, other: Self) -> Self:
        return self._of(self.ball.add(other.ball), Box(*self.ends).add(Box(*other.ends)))

    @override
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        own = Box(*self.ends)
        box = own.product(own if other is self else Box(*other.ends), bilinear)
        # Each output is at most as far from its center as Cauchy and Schwarz say of its own sum of products.
        (x, y), ones = (self.center, other.center), torch.ones_like
        radius, other_radius = (norms.per_example(value.ball.radius, box.center) for value in (self, other))
        rows, columns = norms.root(bilinear(x.square(), ones(y))), norms.root(bilinear(ones(x), y.square()))
        reach = rows * other_radius + columns * radius + radius * other_radius
        return self._cut_to_each_other(self.ball.product(other.ball, bilinear), box, reach)

    @override
    def larger(self, other: Self) -> Self:
        return self._of(self.ball.larger(other.ball), Box(*self.ends).larger(Box(*other.ends)))

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        box = Box(*self.ends).cat([Box(*other.ends) for other in others], dim)
        return self._of(self.ball.cat([other.ball for other in others], dim), box)

    @override
    def meet(self, other: Self) -> Self:
        return self._of(self.ball.meet(other.ball), Box(*self.ends).meet(Box(*other.ends)))

    @override
    def worst_differences(self, weight: Tensor, labels: Tensor) -> Tensor:
        lower, upper = self.ends
        # The center is in the box but for rounding; widening the box to hold it is sound.
        below, above = (lower - self.center).clamp_max(0), (upper - self.center).clamp_min(0)
        radius = self.ball.radius.expand(len(labels))
        return ball_box_gains(weight, labels, below, above, radius, num_steps=self.num_steps)

    def _of(self, ball: Ball, box: Box) -> Self:
        return replace(self, ball=ball, box=box)

    def _cut_to_each_other(self, ball: Ball, box: Box, reach: Tensor | None = None) -> Self:
        """Of a ball, no larger than it takes to hold the box, and a box cut to what is around the ball.

        Args:
            ball: The ball.
            box: The box.
            reach: How far members are from the center in each coordinate, (batch, …); the radius where None.
        """
        around = ball if reach is None else Box.around(ball.center, reach)
        lower, upper = torch.maximum(box.lower, around.ends[0]), torch.minimum(box.upper, around.ends[1])
        corner = norms.norm(torch.maximum(upper - ball.center, ball.center - lower), 2.0)
        return self._of(replace(ball, radius=torch.minimum(ball.radius, corner)), Box(lower, upper))


def _cut(midpoint: Tensor, halfwidth: Tensor, center: Tensor, reach: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper ends of midpoint ± halfwidth, cut to center ± reach."""
    lower, upper = _Cut.apply(midpoint, halfwidth, center, reach)  # type: ignore[no-untyped-call]
    return lower, upper


class _Cut(torch.autograd.Function):
    """With two masks for its gradient, where maximum and minimum keep four floats and compare again."""

    @staticmethod
    @override
    def forward(
        ctx: Any, midpoint: Tensor, halfwidth: Tensor, center: Tensor, reach: Tensor
    ) -> tuple[Tensor, Tensor]:
        lower, least = midpoint - halfwidth, center - reach
        upper, most = midpoint + halfwidth, center + reach
        ctx.save_for_backward(lower > least, upper < most)
        ctx.shapes = halfwidth.shape, reach.shape
        return torch.maximum(lower, least), torch.minimum(upper, most)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, to_lower: Tensor, to_upper: Tensor) -> tuple[Tensor, ...]:
        is_lower, is_upper = ctx.saved_tensors
        box_lower, box_upper = to_lower * is_lower, to_upper * is_upper
        ball_lower, ball_upper = to_lower - box_lower, to_upper - box_upper
        for_halfwidth, for_reach = ctx.shapes
        return (
            box_lower + box_upper,
            (box_upper - box_lower).sum_to_size(for_halfwidth),
            ball_lower + ball_upper,
            (ball_upper - ball_lower).sum_to_size(for_reach),
        )
