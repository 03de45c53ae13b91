"""Lower bounds whose relaxations are chosen for each row: slopes (alpha) and multipliers (beta).

Below a ReLU any line of a slope in [0, 1] through 0 will do: Xu et al., "Fast and complete: enabling complete
neural network verification with rapid and massively parallel incomplete verifiers" (ICLR 2021). And whatever
is known of the value z before it, lower ≤ z ≤ upper, is used with a multiplier b: b (z - lower) with b > 0
and b (z - upper) with b < 0 are nowhere below 0, and may be taken away. Where it is the sign of z that is
known, since neurons were split, that is Wang et al., "Beta-CROWN" (NeurIPS 2021). Every choice is sound, so
that the search for good ones may stop at any time, and is in float32; its end is evaluated in float64.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import torch
from torch import Tensor

from withstand.core import norms
from withstand.core.deadlines import is_time_up
from withstand.domains.linear.backward import Pulls, all_before, pulled_back
from withstand.domains.linear.casting import nodes_in, value_in
from withstand.domains.linear.linear_inputs import InputSet
from withstand.domains.linear.nodes import Bent, Ends, Lines, Node, Rows, along, chosen

_SLOPE_RATE, _MULTIPLIER_RATE, _SHARE_RATE = 0.1, 0.1, 0.1
_DECAY = 0.97  # of the rates, a step
_ENTRIES = 2**22  # of the values before bent nodes, for all rows that are searched together
LEAST_SHARE = 1e-6  # of a function in a combination, which is thus never empty


class Record(NamedTuple):
    """A value of a network, and how it came about.

    Attributes:
        node: Of the value.
        inputs: The sets of inputs.
        bent: What bends before the value, in order.
    """

    node: Node
    inputs: InputSet
    bent: Sequence[Bent]

    @classmethod
    def of(cls, node: Node, inputs: InputSet) -> Self:
        """The record that a node ends."""
        return cls(node, inputs, [part for part in all_before(node) if isinstance(part, Bent)])

    def cast(self, dtype: torch.dtype) -> Record:
        """The same in another precision."""
        copy = nodes_in(all_before(self.node), dtype)[self.node]
        return Record.of(copy, value_in(self.inputs, dtype))


class Functions(NamedTuple):
    """Linear functions of a value, one a row; or convex combinations of some, one a row.

    Attributes:
        weight: Tensor (functions, *shape).
        bias: Tensor (functions,).
        shares: Of each function in a row's combination, at least 0, (rows, functions); None where the
            functions are the rows.
    """

    weight: Tensor
    bias: Tensor
    shares: Tensor | None = None

    def rows(self) -> tuple[Tensor, Tensor]:
        """Coefficients (rows, *shape) and constants (rows,)."""
        if self.shares is None:
            return self.weight, self.bias
        shares = (self.shares / self.shares.sum(1, keepdim=True)).to(self.weight)
        return torch.tensordot(shares, self.weight, dims=1), shares @ self.bias


@dataclass(eq=False)
class Tuned:
    """A bent node between lines of each row's own.

    Args:
        lines: (rows or 1, *shape); the lower slopes (rows, *shape).
        ends: Of the value before the node, (rows or 1, *shape).
        multiplier: b, (rows, *shape).
    """

    lines: Lines
    ends: Ends
    multiplier: Tensor

    @property
    def slope(self) -> Tensor:
        """Of the lower lines."""
        return self.lines.lower_slope

    def pull_back(self, rows: Rows) -> tuple[Sequence[Tensor], Tensor]:
        """As of a node."""
        self.seen = rows.values.detach()
        back, constant = self.lines.applied(rows.values, along)
        nearest = torch.where(self.multiplier > 0, *self.ends)
        return [back - self.multiplier], constant + norms.flat(self.multiplier * nearest).sum(1)


class Bounds(NamedTuple):
    """What rows were found to be at least.

    Attributes:
        least: Tensor (rows,).
        at_inputs: Coefficients of functions of the inputs below the rows, (rows, *shape of an input).
        seen: Coefficients that arrived at each bent node, (rows, *shape).
    """

    least: Tensor
    at_inputs: Tensor
    seen: Sequence[Tensor]


@dataclass(eq=False)
class Search:
    """Rows whose relaxations are sought.

    Args:
        record: Of the value that they are functions of, in float64.
        single: The same in float32.
        functions: The rows, in float64; shares in float32.
        owner: Integers (rows,): over the inputs of which example each is bounded.
        ends: Before each bent node of the record, in float64, (rows or 1, *shape).
        slopes: Of each bent node, in float32, (rows, *shape).
        multipliers: Of each bent node, in float32, (rows, *shape).
    """

    record: Record
    single: Record
    functions: Functions
    owner: Tensor
    ends: Sequence[Ends]
    slopes: Sequence[Tensor]
    multipliers: Sequence[Tensor]

    @classmethod
    def of(
        cls, record: Record, single: Record, functions: Functions, owner: Tensor, ends: Sequence[Ends]
    ) -> Self:
        """The start of a search: slopes as the nodes have them, and no multipliers.

        Args:
            record: As of the class, as all that is not said here.
            single: The same in float32.
            functions: The rows.
            owner: Of each.
            ends: Before each bent node, (batch, *shape).
        """
        ends = [(chosen(lower, owner), chosen(upper, owner)) for lower, upper in ends]
        lines = [node.lines(end) for node, end in zip(record.bent, ends, strict=True)]
        slopes = [
            line.lower_slope.float().expand(len(owner), *line.lower_slope.shape[1:]).clone() for line in lines
        ]
        return cls(
            record, single, functions, owner, ends, slopes, [torch.zeros_like(part) for part in slopes]
        )

    def bounds(self) -> Bounds:
        """In float64, by what has been found so far."""
        tuned = self.tuned(self.record, torch.float64)
        return _bounds(self.record, tuned, self.functions, self.owner)

    def quick_bounds(self) -> Tensor:
        """In float32, (rows,): not sound."""
        tuned = self.tuned(self.single, torch.float32)
        weight, bias, shares = self.functions
        return _bounds(self.single, tuned, Functions(weight.float(), bias.float(), shares), self.owner).least

    @torch.no_grad()
    def improve(self, steps: int, enough: float = 0.0) -> None:
        """Searches by Adam until each row is above what is enough, or time is up; keeps the best of each.

        Args:
            steps: How many at most.
            enough: Above which a bound needs no more.
        """
        climb = _Climb(self)
        for step in range(steps + 1):
            climb.evaluate()
            if step == steps or is_time_up() or bool((climb.best > enough).all()):
                break
            climb.step()
        count = len(self.slopes)
        self.slopes, self.multipliers = climb.kept[:count], climb.kept[count : 2 * count]
        if len(climb.kept) > 2 * count:
            self.functions = self.functions._replace(shares=climb.kept[-1])

    def tuned(self, record: Record, dtype: torch.dtype) -> list[Tuned]:
        """What pulls the rows back through the bent nodes of the record, in its precision."""
        parts = zip(record.bent, self.ends, self.slopes, self.multipliers, strict=True)
        return [_tuned(node, value_in(ends, dtype), *of_rows) for node, ends, *of_rows in parts]


class _Climb:
    """Gradient ascent of the bounds of rows, each alone, in float32.

    Attributes:
        best: Bounds (rows,).
        kept: Slopes, multipliers and, of combinations, shares that gave them.
    """

    def __init__(self, search: Search) -> None:
        self._search = search
        weight, bias, shares = search.functions
        self._functions = Functions(weight.float(), bias.float(), shares)
        self._tuned = search.tuned(search.single, torch.float32)
        self._free = [
            node.has_free_slope(part.ends) for node, part in zip(search.record.bent, self._tuned, strict=True)
        ]
        self._variables = [*(part.slope for part in self._tuned), *(part.multiplier for part in self._tuned)]
        rates = [_SLOPE_RATE] * len(self._tuned) + [_MULTIPLIER_RATE] * len(self._tuned)
        if shares is not None and shares.shape[1] > 1:
            own = shares.clone()
            self._functions, self._is_member = self._functions._replace(shares=own), shares > 0
            self._variables.append(own)
            rates.append(_SHARE_RATE)
        self.kept = [variable.clone() for variable in self._variables]
        groups = [
            {"params": [variable.requires_grad_()], "lr": rate}
            for variable, rate in zip(self._variables, rates, strict=True)
        ]
        self._adam = torch.optim.Adam(groups, maximize=True, fused=True)
        self._are_rates_scaled = False
        self.best = torch.full((len(search.owner),), -torch.inf).to(weight.device)

    def evaluate(self) -> None:
        """Bounds the rows as they now are, and keeps what is better than before."""
        search = self._search
        with torch.enable_grad():
            self._least = _bounds(search.single, self._tuned, self._functions, search.owner).least
        least = self._least.detach()
        is_better = least > self.best
        self.best = torch.where(is_better, least, self.best)
        for kept, variable in zip(self.kept, self._variables, strict=True):
            kept[is_better] = variable.detach()[is_better]

    def step(self) -> None:
        """One step of the ascent, from where was evaluated last."""
        if not self._are_rates_scaled:  # multipliers are as large as the coefficients that they change
            for group, part in zip(self._adam.param_groups[len(self._tuned) :], self._tuned, strict=False):
                group["lr"] *= float(part.seen.square().mean().sqrt())
            self._are_rates_scaled = True
        gradients = torch.autograd.grad(self._least, self._variables, torch.ones_like(self._least))
        count = len(self._tuned)
        for part, is_free, slope, multiplier in zip(
            self._tuned, self._free, gradients, gradients[count:], strict=False
        ):
            part.slope.grad = slope * is_free
            part.multiplier.grad = _steepest(part, multiplier)
        if len(gradients) > 2 * count:
            self._variables[-1].grad = gradients[-1]
        self._adam.step()
        for group in self._adam.param_groups:
            group["lr"] *= _DECAY
        for part in self._tuned:
            part.slope.clamp_(0, 1)
        if len(gradients) > 2 * count:
            self._variables[-1].clamp_(min=LEAST_SHARE).mul_(self._is_member)


def _steepest(part: Tuned, gradient: Tensor) -> Tensor:
    """The gradient of multipliers; at 0, where there is one on either side, that of the side that rises."""
    lower, upper = part.ends
    to_the_right = (gradient - (upper - lower)).clamp_min(0)
    return torch.where(part.multiplier == 0, to_the_right + gradient.clamp_max(0), gradient)


def _tuned(node: Bent, ends: Ends, slope: Tensor, multiplier: Tensor) -> Tuned:
    lines, is_free = node.lines(ends), node.has_free_slope(ends)
    slope = torch.where(is_free, slope.to(ends[0]).clamp(0, 1), lines.lower_slope)
    return Tuned(lines._replace(lower_slope=slope), ends, multiplier.to(ends[0]).clone())


def _bounds(record: Record, tuned: Sequence[Tuned], functions: Functions, owner: Tensor) -> Bounds:
    values, bias = functions.rows()
    own: dict[Node, Pulls] = dict(zip(record.bent, tuned, strict=True))
    at_inputs, constant = pulled_back(record.node, Rows(values, owner), record.inputs, own)
    least = constant + bias + record.inputs.least(at_inputs, owner)
    return Bounds(least, at_inputs, [part.seen for part in tuned])


def rows_at_once(ends: Sequence[Ends]) -> int:
    """For how many rows lines are searched together, where these are the ends (batch, *shape)."""
    return max(1, _ENTRIES // max(1, sum(lower[:1].numel() for lower, _ in ends)))


def closer_ends(record: Record, single: Record, ends: Sequence[Ends], steps: int) -> list[Ends]:
    """The ends before all bent nodes, made closer one node after another by a search for each end.

    Args:
        record: Of a batch of one, in float64.
        single: The same in float32.
        ends: Before each bent node, (1, *shape).
        steps: Of each search.

    Returns:
        Nowhere farther apart; where time is up, those of the later nodes are as they were.
    """
    closer = list(ends)
    for index, node in enumerate(record.bent):
        known = [record.bent.index(part) for part in Record.of(node.parents[0], record.inputs).bent]
        wanted = norms.flat(node.bend(closer[index])[0])[0].nonzero()[:, 0]
        if not known or not len(wanted) or is_time_up():
            continue
        heads = [Record.of(of.bent[index].parents[0], of.inputs) for of in (record, single)]
        least = _least_and_most(heads[0], heads[1], [closer[part] for part in known], wanted, steps)
        shape = closer[index][0].shape
        lower, upper = (norms.flat(end)[0] for end in closer[index])
        below, above = least.chunk(2)
        lower = lower.index_put((wanted,), torch.maximum(lower[wanted], below))
        upper = upper.index_put((wanted,), torch.minimum(upper[wanted], -above))
        closer[index] = lower.reshape(shape), upper.reshape(shape)
    return closer


def _least_and_most(
    record: Record, single: Record, ends: Sequence[Ends], wanted: Tensor, steps: int
) -> Tensor:
    """Lower bounds of some coordinates, and of them negated, (2 · coordinates,)."""
    size = rows_at_once(ends)
    places = torch.cat([wanted, wanted])
    signs = torch.ones_like(places, dtype=torch.float64)
    signs[len(wanted) :] = -1
    least = []
    for place, sign in zip(torch.split(places, size), torch.split(signs, size), strict=True):
        rows = sign.new_zeros(len(place), torch.Size(record.node.shape).numel())
        rows[torch.arange(len(place), device=place.device), place] = sign
        functions = Functions(rows.reshape(-1, *record.node.shape), torch.zeros_like(sign))
        search = Search.of(record, single, functions, torch.zeros_like(place), ends)
        search.improve(steps)
        bound = search.bounds().least
        least.append(bound.where(bound.isfinite(), -torch.inf))
    return torch.cat(least)
