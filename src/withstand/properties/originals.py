"""A model as it was given, run in its own precision: what a counter-example is held against."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand.core.outputs import taken_out
from withstand.core.wrappers import unwrapped_copy
from withstand.models.onnx import OnnxNetwork, runtime


class Original(NamedTuple):
    """A model as it was given.

    Attributes:
        answer: Maps a float64 tensor of inputs (*shape) to its outputs, float64 (outputs,).
        dtype: In which it takes its inputs.
    """

    answer: Callable[[Tensor], Tensor]
    dtype: torch.dtype


def original_module(model: nn.Module) -> Original:
    """A module in eval mode, in the precision of its first weight."""
    network = unwrapped_copy(model).eval()
    like = _like(network)

    def answer(point: Tensor) -> Tensor:
        with torch.no_grad():
            outputs = taken_out(network(point.to(like)[None]))
        return outputs.detach().cpu().double().flatten()

    return Original(answer, like.dtype)


def original_onnx(file: Path, network: OnnxNetwork) -> Original:
    """An ONNX file as onnxruntime runs it.

    Args:
        file: The ONNX file.
        network: What was read of it.

    Raises:
        ModelError: onnxruntime is not installed, or does not take the file.
    """
    run, like = runtime(file), _like(network)

    def answer(point: Tensor) -> Tensor:
        return run(point.to(like.dtype).reshape(network.file_shape)).double().flatten()

    return Original(answer, like.dtype)


def representable(point: Tensor, lower: Tensor, upper: Tensor, dtype: torch.dtype) -> Tensor:
    """The nearest point of a box, each coordinate a number of a precision where the box holds one.

    Where it holds none, such as a side from 0.1 to 0.1, the coordinate stays what it is, and the model takes
    it rounded, as it would take any.

    Args:
        point: Float64 tensor, within the box.
        lower: The least values.
        upper: The largest.
        dtype: The precision.
    """
    near = point.to(dtype)
    result = point.clone()
    for away in (-math.inf, math.inf):
        beside = torch.nextafter(near, torch.full_like(near, away)) if dtype.itemsize >= 4 else near
        for candidate in (beside.double(), near.double()):
            result = torch.where((candidate >= lower) & (candidate <= upper), candidate, result)
    return result


def _like(network: nn.Module) -> Tensor:
    """A tensor in whose precision and place a network computes."""
    tensors = (*network.parameters(), *network.buffers())
    return next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(1))
