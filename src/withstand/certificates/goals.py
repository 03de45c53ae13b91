"""What is to be proven of a network's outputs, and what came of it."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor


class Goal(NamedTuple):
    """What is to be proven of outputs y: in each group at least one row of weight @ y + bias is above 0.

    A counter-example is an input of which all rows of some group are at most 0.

    Attributes:
        weight: Float64 tensor (rows, outputs).
        bias: Float64 tensor (rows,).
        groups: Integer tensor (rows,): to which group, one conjunction of the property, each row belongs;
            0 … groups - 1, each at least once.
    """

    weight: Tensor
    bias: Tensor
    groups: Tensor

    @property
    def num_groups(self) -> int:
        """How many conjunctions there are."""
        return int(self.groups.max()) + 1 if len(self.groups) else 0

    def rows(self, outputs: Tensor) -> Tensor:
        """The rows (batch, rows) of outputs (batch, outputs)."""
        return outputs @ self.weight.T + self.bias

    def group_margins(self, rows: Tensor) -> Tensor:
        """The largest row of each group, (batch, groups): of a counter-example one is at most 0."""
        index = self.groups.expand(len(rows), -1)
        start = rows.new_full((len(rows), self.num_groups), -torch.inf)
        return start.scatter_reduce(1, index, rows, "amax")

    def margins(self, rows: Tensor) -> Tensor:
        """The least margin of the groups, (batch,): above 0 where the goal holds; infinity without groups."""
        if not self.num_groups:
            return rows.new_full((len(rows),), torch.inf)
        return self.group_margins(rows).amin(dim=1)


ProofVerdict: TypeAlias = Literal["proven", "refuted", "unknown", "timeout"]


class Proof(NamedTuple):
    """What came of an attempt to prove a goal.

    Attributes:
        verdict: ``"proven"``, ``"refuted"`` by a counter-example, ``"timeout"``, or ``"unknown"`` where all
            that was to be tried was.
        bound: A sound lower bound of the goal's margin over the set; minus infinity where there is none.
        counterexample: Tensor (*shape) of the set, or None.
        num_splits: Into how many parts less one the set was taken apart.
    """

    verdict: ProofVerdict
    bound: float
    counterexample: Tensor | None = None
    num_splits: int = 0
