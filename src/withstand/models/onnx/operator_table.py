"""The table of operators of ONNX that are read, and how one is added to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

from withstand.models.onnx.examples import Examples
from withstand.models.onnx.onnx_file import Known, Node


class Operator(NamedTuple):
    """How an operator is computed.

    Attributes:
        compute: From the node and its inputs, in order, to its result, or all its results. Inputs are
            ``Examples``, tensors for constants, arrays for those that are ``known``, and None.
        known: Places of inputs that must not depend on the network's input.
        fixed: Places of constants that training leaves as they are, as the range that inputs are scaled by.
        layer: From the node, its first input and all others as arrays to a layer of torch which has them as
            weights, and which ``compute`` is given in their place; None where there is no such.
    """

    compute: Callable[..., Any]
    known: tuple[int, ...] = ()
    fixed: tuple[int, ...] = ()
    layer: Callable[[Node, Examples, Weights, list[Known | None]], nn.Module | None] | None = None


class Weights:
    """Makes parameters of arrays: of one array one parameter, also where several layers have it."""

    def __init__(self) -> None:
        self._made: dict[tuple[int, bool, float], tuple[Known, nn.Parameter]] = {}  # an array held has its id

    def of(self, array: Known, *, transposed: bool = False, factor: float = 1.0) -> nn.Parameter:
        """The parameter of an array: a copy.

        Args:
            array: Of floats.
            transposed: Whether it is of the transposed matrix.
            factor: That it is multiplied by.
        """
        key = id(array), transposed, factor
        if key not in self._made:
            values = torch.tensor(array.T if transposed else array)
            self._made[key] = array, nn.Parameter(values if factor == 1.0 else values * factor)
        return self._made[key][1]


OPERATORS: dict[str, Operator] = {}
"""Name in the standard -> how it is computed."""


def operator(
    *names: str, known: tuple[int, ...] = (), fixed: tuple[int, ...] = ()
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Enters a function in the table, by the names of its operators."""

    def enter(compute: Callable[..., Any]) -> Callable[..., Any]:
        OPERATORS.update(dict.fromkeys(names, Operator(compute, known, fixed)))
        return compute

    return enter
