"""Bounds of a value by pulling coefficients back to the inputs (CROWN, DeepPoly).

Zhang et al., "Efficient neural network robustness certification" (NeurIPS 2018);
Singh et al., "An abstract domain for certifying neural networks" (POPL 2019).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from withstand.core import norms
from withstand.core.deadlines import require_time
from withstand.domains.linear.linear_inputs import InputSet
from withstand.domains.linear.nodes import Ends, Inputs, Node, Rows

_MEMORY = 2**28
"""Bytes of the coefficients of one layer, for as many rows as are pulled back together."""


def least(node: Node, rows: Rows, inputs: InputSet) -> Tensor:
    """Lower bounds of linear functions of a node's value over the inputs.

    Args:
        node: Of the value.
        rows: The functions.
        inputs: The sets of inputs.

    Returns:
        Tensor (rows,).
    """
    size = _rows_at_once(node, rows.values.element_size())
    parts = zip(torch.split(rows.values, size), torch.split(rows.owner, size), strict=True)
    return torch.cat([_least(node, Rows(*part), inputs) for part in parts])


def _least(node: Node, rows: Rows, inputs: InputSet) -> Tensor:
    pending = {node: rows.values}
    total = rows.values.new_zeros(len(rows.values))
    while pending:
        require_time()
        latest = max(pending, key=lambda waiting: waiting.index)
        values = pending.pop(latest)
        if isinstance(latest, Inputs):
            total = total + inputs.least(values, rows.owner)
            continue
        parts, constant = latest.pull_back(Rows(values, rows.owner))
        total = total + constant
        for parent, part in zip(latest.parents, parts, strict=True):
            pending[parent] = pending[parent] + part if parent in pending else part
    return total


def refined(node: Node, ends: Ends, wanted: Tensor, inputs: InputSet) -> Ends:
    """The ends of a node's value, made closer where that is wanted.

    Args:
        node: Of the value.
        ends: What is known of it.
        wanted: Bools (batch, *shape): of which coordinates closer ends are wanted.
        inputs: The sets of inputs.

    Returns:
        Nowhere farther apart than ``ends``.
    """
    lower, upper = ends
    owner, place = norms.flat(wanted).nonzero(as_tuple=True)
    least_of, most_of = [], []
    size = _rows_at_once(node, lower.element_size())
    for owners, places in zip(torch.split(owner, size), torch.split(place, size), strict=True):
        units = lower.new_zeros(len(places), math.prod(node.shape))
        units[torch.arange(len(places), device=units.device), places] = 1
        rows = units.reshape(-1, *node.shape)
        least_of.append(_least(node, Rows(rows, owners), inputs))
        most_of.append(-_least(node, Rows(-rows, owners), inputs))
    if not least_of:
        return ends
    chosen = (owner, place)
    closer_lower = norms.flat(lower).index_put(chosen, torch.cat(least_of)).reshape(lower.shape)
    closer_upper = norms.flat(upper).index_put(chosen, torch.cat(most_of)).reshape(upper.shape)
    # A bound that is not a number says nothing.
    return torch.fmax(lower, closer_lower), torch.fmin(upper, closer_upper)


def _rows_at_once(node: Node, itemsize: int) -> int:
    largest = max(math.prod(earlier.shape) for earlier in all_before(node))
    return max(1, _MEMORY // (largest * itemsize))


def all_before(node: Node) -> list[Node]:
    """The node and all that it is made of, the inputs first."""
    seen, waiting = {node}, [node]
    while waiting:
        for parent in waiting.pop().parents:
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return sorted(seen, key=lambda known: known.index)
