"""Lines below and above functions of one number: what bends smoothly, or in a way that is not known.

Where it is known where a function is convex, the line below touches its convex envelope in the middle of
the interval, and so leaves the least area: a tangent there, or one through an end, or the chord (as in
Zhang et al., NeurIPS 2018, and Singh et al., POPL 2019, for S-shaped functions). The line above is that
of the function upside down. How a slope is chosen proves nothing; any has its offset, the least of f(x) -
slope · x, which is bounded from below by tangents, or by steepest slopes where no more is known, and less
a few units of rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from withstand.domains.linear.nodes import Bent, Ends, Lines
from withstand.domains.sets.box import Box
from withstand.graph.primitives import Elementwise, Unimodal

_STEPS = 24
"""Of bisections. What a tangent leaves is of the order of the square of the interval that remains."""
_CELLS = 32
"""Into which an interval is cut where no more is known of a function than how steep it is."""
_ROUNDING = 8.0
"""Units of the last place by which values, slopes and products of them may be wrong."""


class _Line(NamedTuple):
    slope: Tensor
    offset: Tensor


@dataclass(frozen=True, eq=False)
class Curved(Bent):
    """A function of each coordinate, between lines that are found by its curvature.

    Args:
        function: The function.
    """

    function: Elementwise | Unimodal
    own: Lines = field(init=False)
    """Between the node's own ends."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "own", lines_of(self.function, self.ends))

    @override
    def lines(self, ends: Ends) -> Lines:
        return self.own if ends is self.ends else lines_of(self.function, ends)


def lines_of(
    function: Elementwise | Unimodal, ends: Ends, slopes: tuple[Tensor, Tensor] | None = None
) -> Lines:
    """A line nowhere above a function between two ends and one nowhere below.

    Where ends are equal, or not finite, or a constant is closer in the middle, lines are constants.

    Args:
        function: The function.
        ends: Tensors of one shape, the first nowhere above the second.
        slopes: Of the line below and of that above, of that shape; those of least area where None.

    Returns:
        Not finite where the function has no bounds there. Differentiable in the ends, where that makes sense.
    """
    image = image_of(function, ends)
    below = _line(_Side(function, 1.0), ends, image[0], None if slopes is None else slopes[0])
    above = _line(_Side(function, -1.0), ends, -image[1], None if slopes is None else -slopes[1])
    return Lines(*below, -above.slope, -above.offset)


def image_of(function: Elementwise | Unimodal, ends: Ends) -> Ends:
    """What a function is between, where its argument is between two ends."""
    box = Box(*ends)
    return (box.unimodal(function) if isinstance(function, Unimodal) else box.monotone(function)).ends


def gap(function: Elementwise | Unimodal, ends: Ends) -> Tensor:
    """About how far apart the lines are: what closer ends could gain; of the shape of the ends."""
    lower, upper = image_of(function, ends)
    if function.curvature is None:
        return upper - lower
    side = _Side(function, 1.0)
    slopes = torch.stack([side.slope(turn) for turn in side.turns(ends)])
    return torch.minimum(upper - lower, (slopes.amax(0) - slopes.amin(0)) * (ends[1] - ends[0]))


class _Side:
    """The function, or the function upside down; a line is sought below it."""

    def __init__(self, function: Elementwise | Unimodal, sign: float) -> None:
        self.function, self.sign = function, sign
        self.apply = function.function
        self.jump = function.jump if isinstance(function, Elementwise) else 0.0

    def value(self, x: Tensor) -> Tensor:
        return self.sign * self.apply(x)

    def slope(self, x: Tensor) -> Tensor:
        """The derivative; with a graph of its own where x has one."""
        return self.value_and_slope(x)[1]

    def value_and_slope(self, x: Tensor) -> tuple[Tensor, Tensor]:
        has_graph = torch.is_grad_enabled() and x.requires_grad
        with torch.inference_mode(False), torch.enable_grad():
            # A view of its own, so that what x was made of does not count.
            point = x.view_as(x) if has_graph else x.detach().clone().requires_grad_()
            value = self.value(point)
            (slope,) = torch.autograd.grad(value.sum(), point, create_graph=has_graph)
        return (value, slope) if has_graph else (value.detach(), slope)

    def turns(self, ends: Ends) -> list[Tensor]:
        """The ends, and where between them the function turns; an end again where it turns elsewhere."""
        assert self.function.curvature is not None
        lower, upper = ends
        return [lower, upper, *(_between(lower, turn, upper) for turn in self.function.curvature.turns)]

    def stretches(self, ends: Ends) -> list[Ends]:
        """Where it is convex between the ends, just inside each stretch; empty ones have crossed ends."""
        assert self.function.curvature is not None
        lower, upper = ends
        cut = []
        for start, stop in self.function.curvature.stretches(convex=self.sign > 0):
            first, last = _between(lower, start, upper), _between(lower, stop, upper)
            cut.append((_next_to(first, upper), _next_to(last, lower)))
        return [(first, last) for first, last in cut if bool((first < last).any())]

    def steepest(self, lower: Tensor, upper: Tensor) -> tuple[Tensor, Tensor]:
        """The least and the largest slope between ends; infinite or NaN where there is no bound."""
        slope = self.function.slope
        size = torch.as_tensor(slope(lower, upper) if callable(slope) else slope).to(lower).expand_as(lower)
        if isinstance(self.function, Elementwise):
            falls, rises = torch.zeros_like(size), size
        else:
            falls = -size.where(lower < self.function.position, 0.0)
            rises = size.where(upper > self.function.position, 0.0)
        return (falls, rises) if self.sign > 0 else (-rises, -falls)


def _line(side: _Side, ends: Ends, least: Tensor, slope: Tensor | None) -> _Line:
    """A line below, of a slope that is given or chosen; the constant, ``least``, where that is no worse."""
    (lower, upper), is_given = ends, slope is not None
    if side.function.curvature is None:
        slope = _chord(side, ends) if slope is None else slope
        offset = _offset_by_cells(side, slope, ends)
    else:
        tangents = [_touching(side, ends, stretch) for stretch in side.stretches(ends)]
        slope = _best_slope(side, ends, tangents) if slope is None else slope
        offset = _offset_by_tangents(side, slope, ends, tangents)
    offset = offset - side.jump - _rounding(side, slope, ends)
    is_line = (lower < upper) & slope.isfinite() & offset.isfinite() & ~least.isnan()
    if not is_given:
        is_line = is_line & (slope * (lower + upper) / 2 + offset > least)
    return _Line(slope.where(is_line, 0.0), offset.where(is_line, least))


def _rounding(side: _Side, slope: Tensor, ends: Ends) -> Tensor:
    """How wrong an offset may be: as if values and arguments were off by a few units of the last place."""
    sizes = torch.maximum(*(end.detach().abs() for end in ends)).clamp_min(1)
    values = torch.maximum(*(side.value(end.detach()).abs() for end in ends))
    steep = side.function.slope if isinstance(side.function.slope, float | int) else 0.0
    precision = torch.finfo(sizes.dtype)
    return _ROUNDING * precision.eps * (values + (slope.detach().abs() + steep) * sizes) + precision.tiny


def _chord(side: _Side, ends: Ends) -> Tensor:
    lower, upper = ends
    width = (upper - lower).where(lower < upper, 1.0)
    return (side.value(upper) - side.value(lower)) / width


class _Tangents(NamedTuple):
    """Lines that touch a convex stretch of a function, one a coordinate.

    Attributes:
        stretch: From where to where; empty where these are crossed.
        place: Where they touch it: as near to the middle of the interval as none of its ends is crossed.
        slope: Of the lines.
        is_below: Where there is such a line.
    """

    stretch: Ends
    place: Tensor
    slope: Tensor
    is_below: Tensor


def _best_slope(side: _Side, ends: Ends, tangents: Sequence[_Tangents]) -> Tensor:
    """Of the line that is highest in the middle; of the chord where there is none."""
    middle = (ends[0] + ends[1]) / 2
    slope, height = _chord(side, ends), torch.full_like(middle, -torch.inf)
    for tangent in tangents:
        at_middle = (side.value(tangent.place) + tangent.slope * (middle - tangent.place)).detach()
        is_best = tangent.is_below & (at_middle > height)
        slope, height = tangent.slope.where(is_best, slope), at_middle.where(is_best, height)
    return slope


def _touching(side: _Side, ends: Ends, stretch: Ends) -> _Tangents:
    (first, last), (lower, upper) = stretch, ends
    middle = (lower + upper) / 2
    place = torch.minimum(torch.maximum(middle.detach(), first), last)
    crosses_lower, crosses_upper = _crossed(side, ends, place)
    moves = (first < last) & (crosses_lower ^ crosses_upper)
    if bool(moves.any()):  # away from the end that is crossed, no farther than it takes
        crosses, far = crosses_lower[moves], last.where(crosses_lower, first)[moves].detach()
        part = lower[moves], upper[moves]
        _, met = _bisected(
            place[moves].detach(), far, lambda x: torch.where(crosses, *_crossed(side, part, x))
        )
        # The line goes through an end now: so the place is stationary, and a constant.
        place = place.masked_scatter(moves, met)
        crosses_lower, crosses_upper = _crossed(side, ends, place)
    place = middle.where(place == middle, place)
    end = lower.where(place > middle, upper)
    through_end = (side.value(end) - side.value(place)) / (end - place).where(end != place, 1.0)
    own = side.slope(place)
    met = own.detach() + (through_end - through_end.detach())  # the tangent's own, which lies below
    slope = own.where(place == middle, met.where(moves, through_end))
    return _Tangents(stretch, place, slope, (first < last) & ~(crosses_lower | crosses_upper))


def _crossed(side: _Side, ends: Ends, place: Tensor) -> tuple[Tensor, Tensor]:
    """Whether the tangent at a place is above the function at the lower end, and at the upper one."""
    place = place.detach()
    value, slope = side.value_and_slope(place)
    slack = _ROUNDING * torch.finfo(place.dtype).eps * (value.abs() + (slope * place).abs())
    lower, upper = (
        value + slope * (end - place) > side.value(end) + slack for end in map(Tensor.detach, ends)
    )
    return lower, upper


def _offset_by_tangents(side: _Side, slope: Tensor, ends: Ends, tangents: Sequence[_Tangents]) -> Tensor:
    """A lower bound of g(x) = f(x) - slope · x: of concave stretches at ends, of convex ones by tangents."""
    at_turns = torch.stack([side.value(turn) - slope * turn for turn in side.turns(ends)]).amin(0)
    bounds = [at_turns]
    for tangent in tangents:
        first, last = tangent.stretch
        place = tangent.place
        bound = _bound_by_tangent(side, slope, place, tangent.stretch)
        # Where the slope is that of another stretch, or given, the place is not where g is least.
        slack = _ROUNDING * torch.finfo(place.dtype).eps * (at_turns.abs() + (slope * place).abs())
        is_loose = (first < last) & (bound < at_turns - slack) & (slope != tangent.slope)
        if bool(is_loose.any()):
            is_before = partial(_is_flatter, side, slope.detach()[is_loose])
            near, far = _bisected(first[is_loose], last[is_loose], is_before)
            place = place.detach().masked_scatter(is_loose, (near + far) / 2)
            bound = _bound_by_tangent(side, slope, place, tangent.stretch).where(is_loose, bound)
        bounds.append(bound.where(first < last, at_turns))
    return torch.stack(bounds).amin(0)


def _is_flatter(side: _Side, slope: Tensor, x: Tensor) -> Tensor:
    return side.slope(x) < slope


def _bound_by_tangent(side: _Side, slope: Tensor, place: Tensor, stretch: Ends) -> Tensor:
    """What g is at least on a convex stretch: its tangent at a place, at the stretch's lower end of that."""
    value, own = side.value_and_slope(place)
    (first, last), tilt, at = stretch, (own - slope).detach(), place.detach()
    return value - slope * place + torch.minimum(tilt * (last - at), -tilt * (at - first)).clamp_max(0)


def _offset_by_cells(side: _Side, slope: Tensor, ends: Ends) -> Tensor:
    """A lower bound of f(x) - slope · x, cell by cell, from the values at ends and the steepest slopes."""
    lower, upper = ends
    places = [lower + (upper - lower) * (index / _CELLS) for index in range(_CELLS)] + [upper]
    values = [side.value(place) for place in places]
    bounds = [value - slope * place for value, place in zip(values, places, strict=True)]
    for index in range(_CELLS):
        start, stop = places[index], places[index + 1]
        falls, rises = side.steepest(start, stop)
        width, climb = stop - start, values[index + 1] - values[index]
        # Where the steepest fall from the start meets the steepest rise to the stop.
        way = (rises * width - climb) / (rises - falls).clamp_min(torch.finfo(width.dtype).tiny)
        way = torch.minimum(way.clamp_min(0), width)
        bound = values[index] + falls * way - slope * (start + way)
        bounds.append(bound.where((rises - falls).isfinite(), -torch.inf))
    return torch.stack(bounds).amin(0)


def _bisected(near: Tensor, far: Tensor, is_before: Callable[[Tensor], Tensor]) -> Ends:
    """What is left between two places of where something ceases to hold, after a number of halvings.

    Halves are those of asinh x, so that intervals of any size are cut down to where functions bend.
    """
    least, most = torch.minimum(near, far), torch.maximum(near, far)
    before, after = near.asinh(), far.asinh()
    for _ in range(_STEPS):
        half = (before + after) / 2
        middle = torch.minimum(torch.maximum(half.sinh(), least), most)
        is_half_before = is_before(middle)
        before, after = half.where(is_half_before, before), after.where(is_half_before, half)
        near, far = middle.where(is_half_before, near), far.where(is_half_before, middle)
    return near, far


def _next_to(place: Tensor, other: Tensor) -> Tensor:
    """The next number from a place towards another one, which moves as the place does."""
    return place + (place.detach().nextafter(other.detach()) - place.detach())


def _between(lower: Tensor, place: float, upper: Tensor) -> Tensor:
    return torch.minimum(lower.clamp_min(place), upper)
