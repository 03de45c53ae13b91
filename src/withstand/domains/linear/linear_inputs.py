"""Sets of inputs over which linear functions are bounded exactly: boxes; l1 and l2 balls cut to them."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from withstand.core import norms
from withstand.domains.linear.nodes import along, chosen
from withstand.domains.sets.worst_case import most_over_ball_and_box


class InputSet(ABC):
    """The interface of a convex set of inputs for each example of a batch."""

    @property
    @abstractmethod
    def center(self) -> Tensor:
        """A member of each example's set, (batch, …)."""

    @abstractmethod
    def least(self, rows: Tensor, owner: Tensor) -> Tensor:
        """The minimum of linear functions of the inputs.

        Args:
            rows: Coefficients of one function each, (rows, …).
            owner: Integers (rows,): over whose set each is bounded.

        Returns:
            Tensor (rows,): nowhere above the minimum of row · x.
        """

    def minimiser(self, rows: Tensor) -> Tensor:
        """Where linear functions of the inputs are least, but for rounding, in a batch of one.

        Args:
            rows: Coefficients of one function each, (rows, …).

        Returns:
            Tensor of that shape.
        """
        owner = torch.zeros(len(rows), dtype=torch.int64, device=rows.device)
        with torch.enable_grad():  # how the minimum changes with a coefficient is where it is
            rows = rows.detach().requires_grad_()
            (points,) = torch.autograd.grad(self.least(rows, owner).sum(), rows)
        return points

    def least_of_examples(self, rows: Tensor) -> Tensor:
        """The same of as many functions of each example.

        Args:
            rows: Coefficients (batch, functions, …).

        Returns:
            Tensor (batch, functions).
        """
        batch, count = rows.shape[:2]
        owner = torch.arange(batch, device=rows.device).repeat_interleave(count)
        return self.least(rows.flatten(0, 1), owner).reshape(batch, count)

    @abstractmethod
    def of(self, owner: Tensor) -> InputSet:
        """The sets of some examples, as often as they are named.

        Args:
            owner: Integers (examples,).
        """

    def with_steps(self, num_steps: int | None) -> InputSet:
        """The same sets, whose minima take so many Newton steps, where they take any; None: until exact."""
        return self

    @abstractmethod
    def cut(self, owner: Tensor, cut: Callable[[Tensor], Tensor]) -> InputSet:
        """The sets of some examples, as far as some coordinates of theirs go.

        Args:
            owner: Integers (rows,): of which examples.
            cut: From a tensor (batch, …) to these coordinates (rows, …) of those examples; 0 for those that
                are none of the input's.
        """


@dataclass(frozen=True, eq=False)
class Interval(InputSet):
    """All inputs between two ends, coordinate by coordinate.

    Args:
        lower: Tensor (batch, …).
        upper: Tensor of the same shape, nowhere below.
    """

    lower: Tensor
    upper: Tensor

    @property
    @override
    def center(self) -> Tensor:
        return (self.lower + self.upper) / 2

    @override
    def least(self, rows: Tensor, owner: Tensor) -> Tensor:
        halfwidth, flat = norms.flat((self.upper - self.lower) / 2), norms.flat(rows)
        at_center = along(flat, chosen(norms.flat(self.center), owner))
        return at_center - along(flat.abs(), chosen(halfwidth, owner))

    @override
    def least_of_examples(self, rows: Tensor) -> Tensor:
        halfwidth, flat = norms.flat((self.upper - self.lower) / 2), rows.flatten(2)
        at_center = flat @ norms.flat(self.center)[..., None]
        return (at_center - flat.abs() @ halfwidth[..., None]).squeeze(2)

    @override
    def of(self, owner: Tensor) -> Interval:
        return Interval(self.lower[owner], self.upper[owner])

    @override
    def cut(self, owner: Tensor, cut: Callable[[Tensor], Tensor]) -> Interval:
        return Interval(cut(self.lower), cut(self.upper))


@dataclass(frozen=True, eq=False)
class NormBall(InputSet):
    """All inputs within an l1 or l2 distance of an image, in [0, 1] alone where that is asked for.

    Args:
        images: Tensor (batch, …).
        norm: 1 or 2.
        radius: Tensor (batch,), nowhere negative.
        clip: Whether only inputs in [0, 1] count; the images lie there.
        num_steps: Newton steps of an l2 minimum in [0, 1], which is a bound after any number of them;
            until it is exact where None.
    """

    images: Tensor
    norm: float
    radius: Tensor
    clip: bool
    num_steps: int | None = None

    @property
    @override
    def center(self) -> Tensor:
        return self.images

    @override
    def least(self, rows: Tensor, owner: Tensor) -> Tensor:
        flat, images, radius = norms.flat(rows), chosen(norms.flat(self.images), owner), self.radius[owner]
        along = (flat * images).sum(1)
        if not self.clip:
            return along - radius * norms.norm(flat, norms.dual(self.norm))
        below = (0 - images).clamp_min(-radius[:, None]).expand_as(flat)
        above = (1 - images).clamp_max(radius[:, None]).expand_as(flat)
        if self.norm == 2:
            return along - most_over_ball_and_box(-flat, below, above, radius, num_steps=self.num_steps)
        return along - _most_over_l1_and_box(-flat, below, above, radius)

    @override
    def of(self, owner: Tensor) -> NormBall:
        return replace(self, images=self.images[owner], radius=self.radius[owner])

    @override
    def with_steps(self, num_steps: int | None) -> NormBall:
        return replace(self, num_steps=num_steps)

    @override
    def cut(self, owner: Tensor, cut: Callable[[Tensor], Tensor]) -> NormBall:
        return replace(self, images=cut(self.images), radius=self.radius[owner])


def _most_over_l1_and_box(direction: Tensor, below: Tensor, above: Tensor, radius: Tensor) -> Tensor:
    """Max w·d, ‖d‖₁ ≤ r, below ≤ d ≤ above: the steepest coordinates first, each as far as the box goes.

    In dual form, t r + Σ (|w| - t)⁺ far, far the way to the box's wall, which bounds it at any t ≥ 0 and
    is the maximum itself at the size of the coordinate at which r is spent.

    Args:
        direction: w, (rows, n).
        below: Tensor (rows, n), nowhere positive.
        above: Tensor (rows, n), nowhere negative.
        radius: r, (rows,).
    """
    far = torch.where(direction > 0, above, -below)
    sizes, order = direction.abs().sort(dim=1, descending=True)
    far = far.gather(1, order)
    is_spent = far.cumsum(1) >= radius[:, None]
    first = is_spent.to(torch.uint8).argmax(1, keepdim=True)  # the first of the largest
    price = sizes.gather(1, first).squeeze(1).where(is_spent.any(1), 0.0)
    return price * radius + ((sizes - price[:, None]).clamp_min(0) * far).sum(1)


def input_set_of(images: Tensor, norm: float, epsilon: float | Tensor, clip: bool) -> InputSet:
    """All inputs within epsilon of each image.

    Args:
        images: Tensor (batch, …), in [0, 1].
        norm: 1, 2 or inf.
        epsilon: At least 0, in [0, 1] units; a float, or a tensor (batch,).
        clip: Whether only inputs in [0, 1] count.
    """
    if norm == math.inf:
        reach = norms.per_example(epsilon, images)
        lower, upper = images - reach, images + reach
        return Interval(lower.clamp_min(0), upper.clamp_max(1)) if clip else Interval(lower, upper)
    radius = epsilon.to(images) if isinstance(epsilon, Tensor) else images.new_full((1,), epsilon)
    return NormBall(images, norm, radius.reshape(-1).expand(len(images)), clip)
