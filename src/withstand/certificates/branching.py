"""Branch and bound over neurons: what is on one side of where a function bends, and what on the other.

Bunel et al., "Branch and bound for piecewise linear neural network verification" (JMLR 2020); bounds of the
parts with multipliers for what was split, Wang et al., "Beta-CROWN" (NeurIPS 2021); which neuron is split next is
looked up among a few by the bounds of both parts, De Palma et al., "Improved branch and bound for neural network
verification via Lagrangian decomposition" (2021).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from withstand.certificates.splits import Layout, Parts, Store
from withstand.core.deadlines import is_time_up
from withstand.domains.linear.slopes import Bounds, Functions, Record

_ENTRIES = 2**21
_MEMORY = 2**30
_STEPS = 10
_LAST_STEPS = 200
_CANDIDATES = 3


class Branched(NamedTuple):
    bound: float
    num_splits: int
    found: Tensor | None
    is_whole: bool


def branched(
    layout: Layout,
    functions: Functions,
    parts: Parts,
    check: Callable[[Tensor], Tensor | None],
    *,
    steps: int = _STEPS,
    candidates: int = _CANDIDATES,
) -> Branched:
    search = _Tree(layout, functions, check, steps, candidates)
    return search.run(parts)


class _Tree:
    def __init__(self, layout, functions, check, steps, candidates) -> None:
        self._layout, self._functions, self._check = layout, functions, check
        self._steps, self._num_candidates = steps, candidates
        self._batch = max(1, _ENTRIES // max(1, layout.num_entries))
        self.done = math.inf
        self.num_splits = 0
        self.found = None

    def run(self, parts: Parts) -> Branched:
        store = Store(self.bounded(parts, 30))
        while len(store) and self.found is None and not is_time_up() and store.num_bytes < _MEMORY:
            batch = store.take(max(1, self._batch // 2), worst=True)
            can_split = batch.next_split >= 0
            if not can_split.all():
                self.done = min(self.done, float(batch.bound[~can_split].min()))
                batch = batch.of(can_split)
                if not len(batch.bound):
                    continue
            store.put(self.bounded(self.children(batch), self._steps))
            self.num_splits += len(batch.bound)
        bounds = store.bounds
        bound = min(self.done, float(bounds.min()) if len(bounds) else math.inf)
        return Branched(bound, self.num_splits, self.found, not len(store))

    def children(self, parts: Parts) -> Parts:
        column = parts.next_split
        place = self._layout.cut_places(parts, column)
        pair = [parts.cut(column, place, above=above) for above in (False, True)]
        return Parts(*(torch.cat(both) for both in zip(*pair, strict=True)))

    def bounded(self, parts: Parts, steps: int) -> Parts:
        """Those that are not proven, with bounds and what to split next."""
        search = self._layout.search(parts, self._functions)
        search.improve(steps)
        bounds = search.bounds()
        least = bounds.least.where(bounds.least.isfinite(), -math.inf)
        parts = self._layout.found(parts, search)._replace(bound=torch.maximum(parts.bound, least))
        is_open = parts.bound <= 0
        self.done = min(self.done, float(parts.bound[~is_open].min()) if (~is_open).any() else math.inf)
        parts = parts.of(is_open)
        if not len(parts.bound):
            return parts
        self.found = self._check(self.minimisers(bounds.at_inputs[is_open]))
        scores = self._layout.looseness(parts, [seen[is_open] for seen in bounds.seen])
        return parts._replace(next_split=self._choice(parts, scores))

    def minimisers(self, at_inputs: Tensor) -> Tensor:
        inputs = self._layout.record.inputs
        owner = torch.zeros(len(at_inputs), dtype=torch.int64, device=at_inputs.device)
        with torch.enable_grad():
            rows = at_inputs.detach().requires_grad_()
            return torch.autograd.grad(inputs.least(rows, owner).sum(), rows)[0]

    def _choice(self, parts: Parts, scores: Tensor) -> Tensor:
        best, columns = scores.topk(min(self._num_candidates, scores.shape[1]), 1)
        if columns.shape[1] == 1:
            return columns[:, 0].where(best[:, 0] > 0, -1)
        values = []
        for column in columns.unbind(1):
            place = self._layout.cut_places(parts, column)
            sides = [
                self._layout.search(parts.cut(column, place, above=above), self._functions).quick_bounds()
                for above in (False, True)
            ]
            low, high = (side.clamp(max=0).maximum(parts.bound.float()) for side in sides)
            values.append(low + high)
        values = torch.stack(values, 1).where(best > 0, -math.inf)
        chosen = columns.gather(1, values.argmax(1, keepdim=True))[:, 0]
        return chosen.where(best[:, 0] > 0, -1)
