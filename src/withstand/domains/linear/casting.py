"""Records, operators and sets of inputs in another precision."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from withstand.domains.linear.nodes import Node


def nodes_in(nodes: Sequence[Node], dtype: torch.dtype) -> dict[Node, Node]:
    """Copies of nodes, made of copies of their parents.

    Args:
        nodes: With all that they are made of, in the order of their index.
        dtype: Of all floats of the copies.

    Returns:
        Node -> copy; the copies are in the same order.
    """
    copies: dict[Node, Node] = {}
    for node in nodes:
        values = {
            field.name: value_in(getattr(node, field.name), dtype)
            for field in fields(node)
            if field.init and field.name != "parents"
        }
        copies[node] = replace(node, parents=[copies[parent] for parent in node.parents], **values)
    return copies


def value_in(value: Any, dtype: torch.dtype) -> Any:
    """A value, such as an operator, with all its float tensors in another precision.

    Args:
        value: A tensor, a dataclass, a list or tuple of them; anything else stays what it is.
        dtype: The precision.
    """
    match value:
        case Tensor():
            return value.to(dtype) if value.is_floating_point() else value
        case tuple() if hasattr(value, "_fields"):  # a NamedTuple stays one
            return type(value)(*(value_in(part, dtype) for part in value))
        case list() | tuple():
            return [value_in(part, dtype) for part in value]
        case _ if is_dataclass(value) and not isinstance(value, type):
            parts = {
                field.name: value_in(getattr(value, field.name), dtype)
                for field in fields(value)
                if field.init
            }
            return replace(value, **parts)
    return value
