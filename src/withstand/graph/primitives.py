"""What the layers of networks are made of: the operations that every domain has a rule for.

Linear maps are ``operators.LinearOperator``. All else that networks do to one tensor is monotone
(the functions below), unimodal: it falls to one minimum and rises again (GELU), or couples coordinates
(softmax). Two tensors are added, multiplied, compared or joined. A new kind of layer is one rule that says
which of these it is; then every domain can pass through it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import TypeAlias

from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.moments import ClosedMoments, Hinges

Slope: TypeAlias = float | Tensor | Callable[[Tensor, Tensor], Tensor]
"""The steepest slope of a function of each coordinate: a number, or what makes it for each coordinate of the
ends (lower, upper) between which it is wanted; infinite or NaN where the function is not defined there."""


class Monotone(ABC):
    """A function f of a batched tensor with f(x) ≤ f(y) wherever x ≤ y in every coordinate.

    It must also be Lipschitz in l2, and in linf with the same constant or a smaller one.
    """

    @property
    @abstractmethod
    def lipschitz(self) -> Slope:
        """A bound on ‖f(x) - f(y)‖₂ / ‖x - y‖₂."""

    @property
    def slack(self) -> float:
        """How far f may fall where it should not, and rise beyond its steepest slope; in each coordinate."""
        return 0.0

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """f(x), for a tensor (batch, …)."""


@dataclass(frozen=True)
class _OfFunction(Monotone):
    """A function that stretches nothing, unless it says otherwise."""

    function: Callable[[Tensor], Tensor]

    @property
    @override
    def lipschitz(self) -> Slope:
        return 1.0

    @override
    def __call__(self, x: Tensor) -> Tensor:
        return self.function(x)


@dataclass(frozen=True)
class Curvature:
    """Where a continuous function of one number is convex and where it is concave.

    On each closed stretch from one turn to the next it is one of both; at a turn its slope may jump. It is
    the same function in all coordinates, and torch can differentiate it.

    Args:
        is_convex: Whether it is convex on the far left, up to the first turn; else it is concave there.
        turns: Where it turns from one into the other, ascending.
    """

    is_convex: bool = True
    turns: Sequence[float] = ()

    def stretches(self, *, convex: bool) -> list[tuple[float, float]]:
        """Where each stretch on which it is convex, or concave, begins and ends."""
        ends = [-math.inf, *self.turns, math.inf]
        return [*pairwise(ends)][0 if convex == self.is_convex else 1 :: 2]


CONVEX = Curvature()
CONCAVE = Curvature(is_convex=False)
RISING_S = Curvature(turns=(0.0,))
"""Convex up to 0, concave from there: tanh and its like."""


@dataclass(frozen=True)
class Elementwise(_OfFunction):
    """A monotone activation: ReLU, tanh, softplus and the like.

    Args:
        function: The activation.
        slope: Its steepest slope.
        jump: How far it may fall all the same, at a step of which it is otherwise monotone.
        hinges: The same function where it is piecewise linear, so that its moments are closed forms.
        moments: Its moments where they are other closed forms; by quadrature where there are neither.
        curvature: Where it is convex, so that close lines bound it; looser ones where that is not known. Of a
            function that jumps, where one is convex that is no farther from it than the jump.
    """

    slope: Slope = 1.0
    jump: float = 0.0
    hinges: Hinges | None = None
    moments: ClosedMoments | None = None
    curvature: Curvature | None = None

    @property
    @override
    def lipschitz(self) -> Slope:
        return self.slope

    @property
    @override
    def slack(self) -> float:
        return self.jump


@dataclass(frozen=True)
class Unimodal:
    """An activation that falls until one point and rises from there: GELU, SiLU, abs.

    Args:
        function: The activation.
        slope: Its steepest slope, of either sign.
        position: Where it is least; infinite where it falls all along.
        value: A lower bound on what it is there.
        hinges: The same function where it is piecewise linear, so that its moments are closed forms.
        moments: Its moments where they are other closed forms; by quadrature where there are neither.
        pole: Where it is infinite and may begin anew; an interval that holds it has no bounds. None: nowhere.
        curvature: Where it is convex, so that close lines bound it; looser ones where that is not known.
    """

    function: Callable[[Tensor], Tensor]
    slope: Slope
    position: float
    value: float
    hinges: Hinges | None = None
    moments: ClosedMoments | None = None
    pole: float | None = None
    curvature: Curvature | None = None


class Coupled(ABC):
    """A function of several coordinates of each example that is not monotone: softmax, normalisation.

    Dimensions that it is told are those of the batched tensor, so at least 1.
    """

    @abstractmethod
    def __call__(self, x: Tensor) -> Tensor:
        """f(x), for a tensor (batch, …)."""

    @abstractmethod
    def bounds(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """What f(x) is between, coordinate by coordinate, wherever lower ≤ x ≤ upper, (batch, …) each."""

    @abstractmethod
    def lipschitz(self, midpoint: Tensor, radius: Tensor, lower: Tensor, upper: Tensor) -> Tensor | float:
        """A bound on ‖f(x) - f(midpoint)‖₂ / ‖x - midpoint‖₂ over a set.

        Args:
            midpoint: Tensor (batch, …).
            radius: Tensor (batch,), or (1,): only x with ‖x - midpoint‖₂ ≤ radius count,
            lower: and of these only x of at least this, (batch, …),
            upper: and at most that, (batch, …). The midpoint lies between.

        Returns:
            Tensor (batch,), or a number that holds for all examples; nowhere negative.
        """


class Bilinear(ABC):
    """A map B(x, y) of two batched tensors, linear in each: every output is a sum of products x_i y_j.

    No product stands in two outputs, so ‖B(x, y)‖₂ ≤ ‖x‖₂ ‖y‖₂ wherever each x_i y_j occurs once, as in
    the two kinds of it that are in ``graph.bilinear``. Both tensors have as many dimensions; further ones
    may stand before the batch.
    """

    @abstractmethod
    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """B(x, y), (batch, …)."""

    @abstractmethod
    def norms(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Bounds on ‖B(x, d)‖₂ / ‖d‖₂ and on ‖B(d, y)‖₂ / ‖d‖₂ for any d, (batch,) each."""


@dataclass(frozen=True)
class Rearrange(_OfFunction):
    """Moves or picks out coordinates of each example, or sets constants beside them: no one twice.

    Args:
        function: Of a tensor (batch, …); must leave the batch first, whatever its size.
        sets_constants: Whether it may set constants; where it does not, distributions are saved some work.
    """

    sets_constants: bool = True


def moved(function: Callable[[Tensor], Tensor]) -> Rearrange:
    """A rearrangement that sets no constants.

    Args:
        function: Of a tensor (batch, …); must leave the batch first, whatever its size.
    """
    return Rearrange(function, sets_constants=False)


@dataclass(frozen=True)
class SortGroups(_OfFunction):
    """GroupSort, of which MinMax is the case of pairs (Anil et al., ICML 2019): a permutation.

    Args:
        function: The activation.
        split: Takes a tensor (batch, channels, …) apart: the first of each group, the second, and so on.
        arrange: Moves to its place what was taken apart and joined along the channels.
    """

    split: Callable[[Tensor], Sequence[Tensor]]
    arrange: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class MaxPool(Monotone):
    """Max pooling over one to three dimensions.

    Where windows overlap, a coordinate stands in several of them, at most
    ∏ ⌈kernel / (stride / gcd(stride, dilation))⌉, and the squared norm can grow by that.

    Args:
        kernel: Size of the window, one a dimension.
        stride: One a dimension.
        padding: One a dimension.
        dilation: One a dimension.
        ceil_mode: As in torch.
    """

    kernel: Sequence[int]
    stride: Sequence[int]
    padding: Sequence[int]
    dilation: Sequence[int]
    ceil_mode: bool = False

    @property
    @override
    def lipschitz(self) -> float:
        steps = [
            stride // math.gcd(stride, dilation)
            for stride, dilation in zip(self.stride, self.dilation, strict=True)
        ]
        return math.sqrt(
            math.prod(-(-kernel // step) for kernel, step in zip(self.kernel, steps, strict=True))
        )

    @override
    def __call__(self, x: Tensor) -> Tensor:
        pool = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}[len(self.kernel)]
        pooled: Tensor = pool(
            x, [*self.kernel], [*self.stride], [*self.padding], [*self.dilation], ceil_mode=self.ceil_mode
        )
        return pooled


# Stands for the -inf of padding; far below any activation, and its square is still a float32.
_PADDED = -1e9


def window_places(pool: MaxPool, sides: Sequence[int]) -> Iterator[Sequence[Rearrange]]:
    """What picks out the first of each window, the second, and so on; for each dimension in turn.

    The maximum over a window is that over its columns of the maximum over each column. Padding is given
    a value far below all others.

    Args:
        pool: The pooling.
        sides: Of the images, (…) without batch and channels.

    Yields:
        For each dimension one ``Rearrange`` a place in the window, of tensors whose former dimensions
        have been pooled already.
    """
    for index, side in enumerate(sides):
        kernel, stride, padding, dilation = (
            setting[index] for setting in (pool.kernel, pool.stride, pool.padding, pool.dilation)
        )
        count = _num_windows(side, kernel, stride, padding, dilation, ceil_mode=pool.ceil_mode)
        reach = (count - 1) * stride + dilation * (kernel - 1) + 1
        after = max(reach - side - padding, 0)
        yield [
            Rearrange(
                partial(
                    _picked,
                    dim=2 + index,
                    margins=(padding, after),
                    start=place * dilation,
                    stride=stride,
                    count=count,
                ),
                sets_constants=bool(padding or after),
            )
            for place in range(kernel)
        ]


def _num_windows(side: int, kernel: int, stride: int, padding: int, dilation: int, *, ceil_mode: bool) -> int:
    left = side + 2 * padding - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return left // stride + 1
    count = -(-left // stride) + 1
    # A window may not begin in the padding at the far end.
    return count - 1 if (count - 1) * stride >= side + padding else count


def _picked(x: Tensor, dim: int, margins: tuple[int, int], start: int, stride: int, count: int) -> Tensor:
    if any(margins):
        x = F.pad(x, [*[0] * (2 * (x.dim() - 1 - dim)), *margins], value=_PADDED)
    return x.narrow(dim, start, (count - 1) * stride + 1)[(slice(None),) * dim + (slice(None, None, stride),)]
