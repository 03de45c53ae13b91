"""Branch and bound over neurons: what is on one side of where a function bends, and what on the other.

Bunel et al., "Branch and bound for piecewise linear neural network verification" (JMLR 2020); bounds with
multipliers for what was split, Wang et al., "Beta-CROWN" (NeurIPS 2021); which neuron is split next is chosen
among a few by the bounds of both parts, De Palma et al., "Improved branch and bound for neural network
verification via Lagrangian decomposition" (2021).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from withstand.certificates.programs import solved
from withstand.certificates.splits import Branched, Check, Layout, Parts, Store
from withstand.core.deadlines import OutOfTime, is_time_up
from withstand.domains.linear.linear import Linear
from withstand.domains.linear.slopes import LEAST_SHARE, Functions, Record, Search, closer_ends

_ENTRIES = 2**21  # of the values before bent nodes, for all subproblems of a batch
_MEMORY = 2**30  # bytes of the subproblems that wait
_CLOSER_STEPS, _FIRST_STEPS, _STEPS = 20, 50, 10
_LAST_STEPS, _MOST_LAST = 200, 100  # where nothing is left to be split, of a search, and how many searches
_CANDIDATES = 3


def branched(features: Linear, functions: Functions, groups: Tensor, check: Check) -> Branched:
    """Tries to prove of linear functions of a network's features that in each group one of them is above 0.

    Args:
        features: Of a batch of one, in float64.
        functions: The functions (functions, features).
        groups: Of which each is, integers (functions,).
        check: Decides which inputs are counter-examples.

    Returns:
        What came of it until the time was up (``core.deadlines``); sound then too.
    """
    record = Record.of(features.node, features.inputs)
    if not record.bent:
        return Branched(-math.inf, 0, None, is_complete=True)
    single = record.cast(torch.float32)
    ends = closer_ends(record, single, [node.ends for node in record.bent], _CLOSER_STEPS)
    layout = Layout(record, single, ends)
    owner = torch.zeros_like(groups)
    rows = Search.of(record, single, functions, owner, ends).bounds().least
    names = torch.unique(groups)
    is_member = groups == names[:, None]
    best = rows.where(is_member, -math.inf).argmax(1, keepdim=True)
    shares = (LEAST_SHARE * is_member.float()).scatter(1, best, 1.0)
    return _Tree(layout, functions, check).run(layout.whole(names, shares))


@dataclass(eq=False)
class _Tree:
    layout: Layout
    functions: Functions
    check: Check
    done: float = field(default=math.inf, init=False)
    """The least bound of all that nothing is left to be done of."""
    broken_at: Tensor | None = field(default=None, init=False)

    def run(self, parts: Parts) -> Branched:
        """Takes subproblems apart, those of the lowest bounds first."""
        size = max(1, _ENTRIES // (2 * max(1, self.layout.num_entries)))
        num_splits, num_last, bound, is_complete = 0, 0, -math.inf, False
        try:
            store = Store(self._bounded(parts, _FIRST_STEPS))
            leaves = Store(parts.of(slice(0)))  # of which nothing is left to be split
            while num_last < _MOST_LAST:
                waiting = [*store.bounds.tolist(), *leaves.bounds.tolist()]
                bound, is_complete = min([self.done, *waiting]), not waiting
                if is_complete or self.broken_at is not None or is_time_up() or store.num_bytes > _MEMORY:
                    break
                if not len(store):
                    left = self._bounded(leaves.take(size), _LAST_STEPS)
                    leaves.put(left.of(~self._are_solved(left)))
                    num_last += 1
                    continue
                batch = store.take(size)
                can_split = batch.next_split >= 0
                leaves.put(batch.of(~can_split))
                store.put(self._bounded(self._halves(batch.of(can_split)), _STEPS))
                num_splits += int(can_split.sum())
        except OutOfTime:
            pass  # what was known before is
        return Branched(bound, num_splits, self.broken_at, is_complete)

    def _finish(self, bounds: Tensor) -> None:
        self.done = min([self.done, *bounds.tolist()])

    def _halves(self, parts: Parts) -> Parts:
        place = self.layout.cut_places(parts, parts.next_split)
        pair = [parts.cut(parts.next_split, place, above=above) for above in (False, True)]
        return Parts(*(torch.cat(both) for both in zip(*pair, strict=True)))

    def _bounded(self, parts: Parts, steps: int) -> Parts:
        """Those that are not proven, with what was found and what to split next."""
        if not len(parts.bound):
            return parts
        search = self.layout.search(parts, self.functions)
        search.improve(steps)
        least, at_inputs, seen = search.bounds()
        least = least.where(least.isfinite(), -math.inf)
        parts = self.layout.refreshed(parts, search)._replace(bound=torch.maximum(parts.bound, least))
        is_open = parts.bound <= 0
        self._finish(parts.bound[~is_open])
        parts = parts.of(is_open)
        if not len(parts.bound):
            return parts
        if self.broken_at is None:
            self.broken_at = self.check(self.layout.record.inputs.minimiser(at_inputs[is_open]))
        return parts._replace(next_split=self._next_split(parts, [part[is_open] for part in seen]))

    def _are_solved(self, parts: Parts) -> Tensor:
        """Solves those that are linear programs, until one gives a counter-example; the others stay open."""
        are_solved = torch.zeros_like(parts.group, dtype=torch.bool)
        for row in range(len(are_solved)):
            if self.broken_at is not None or is_time_up():
                break
            part = parts.of(slice(row, row + 1))
            solution = solved(self.layout.search(part, self.functions), self.layout.cuts(part))
            if solution is None:
                continue
            least = solution.search.bounds().least.nan_to_num(-math.inf, math.inf, -math.inf)
            self._finish(torch.maximum(part.bound, least))
            are_solved[row] = True
            if float(least) <= 0:
                self.broken_at = self.check(solution.point)
        return are_solved

    def _next_split(self, parts: Parts, seen: Sequence[Tensor]) -> Tensor:
        """Of the few most promising coordinates the one whose halves have the highest bounds; -1 for none."""
        scores = self.layout.looseness(parts, seen)
        if not scores.shape[1]:
            return torch.full_like(parts.group, -1)
        best, columns = scores.topk(min(_CANDIDATES, scores.shape[1]), 1)
        gains = []
        for column in columns.unbind(1):
            halves = self._halves(parts._replace(next_split=column))
            bounds = self.layout.search(halves, self.functions).quick_bounds()
            low, high = bounds.clamp_max(0).nan_to_num(-math.inf).maximum(halves.bound.float()).chunk(2)
            gains.append(low + high)
        gain = torch.stack(gains, 1).where(best > 0, -math.inf)
        column = columns.gather(1, gain.argmax(1, keepdim=True))[:, 0]
        return column.where(best[:, 0] > 0, -1)
