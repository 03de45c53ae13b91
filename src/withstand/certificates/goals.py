"""What is to be proven of a network's outputs, bounds of that over a set, and what came of it."""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from withstand.domains import LastLayer
from withstand.domains.linear.slopes import Functions

ROUNDING = 1e-12
"""Of the sizes of what is added up in a row: a margin below it is rounding."""


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


def functions_of(last: LastLayer, weight: Tensor, bias: Tensor) -> Functions:
    """Functions of the outputs as ones of the features, less what of rounding is accounted for.

    Args:
        last: What a batch of sets became before the last layer.
        weight: Float64 tensor (functions, outputs).
        bias: Float64 tensor (functions,).
    """
    if last.bias is not None:
        bias = weight @ last.bias + bias
    weight = weight @ last.weight
    sizes = weight.abs() @ last.features.center.abs().amax(0) + bias.abs()
    return Functions(weight, bias - ROUNDING * sizes)


def least_rows(last: LastLayer, functions: Functions) -> Tensor:
    """Sound lower bounds (batch, functions) over the sets; minus infinity where there is none."""
    weight, bias, _ = functions
    center = last.features.center
    # Row i falls by as much as class i + 1, whose weights are its negated, gains on class 0, which has none.
    against = torch.cat([torch.zeros_like(weight[:1]), -weight])
    labels = torch.zeros(len(center), dtype=torch.int64, device=weight.device)
    bounds = center @ weight.T + bias - last.features.worst_differences(against, labels)[:, 1:]
    return bounds.where(bounds.isfinite(), -math.inf)


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
