"""A model as it was given, run in its own precision: what a counter-example is held against."""

from __future__ import annotations

import gzip
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand.core.outputs import taken_out
from withstand.core.wrappers import unwrapped_copy
from withstand.types import ModelError


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
    tensors = (*network.parameters(), *network.buffers())
    like = next((tensor for tensor in tensors if tensor.is_floating_point()), torch.zeros(1))

    def answer(point: Tensor) -> Tensor:
        with torch.no_grad():
            outputs = taken_out(network(point.to(like)[None]))
        return outputs.detach().cpu().double().flatten()

    return Original(answer, like.dtype)


def original_onnx(path: Path) -> Original:
    """An ONNX file as onnxruntime runs it.

    Raises:
        ModelError: onnxruntime is not installed, or cannot run the file.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ModelError(
            "Counter-examples of ONNX files are checked by onnxruntime. Install it: pip install "
            "'withstand[onnx]'"
        ) from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # nothing below errors
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    raw = path.read_bytes()
    source = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else str(path)  # with its weights beside it
    try:
        session = onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        raise ModelError(f"onnxruntime cannot run {path}: {_first_line(error)}") from error
    constants = {part.name for part in session.get_overridable_initializers()}
    given = next(part for part in session.get_inputs() if part.name not in constants)
    sizes = [size if isinstance(size, int) and size > 0 else 1 for size in given.shape]
    dtype = torch.float64 if "double" in given.type else torch.float32

    def answer(point: Tensor) -> Tensor:
        values = point.detach().cpu().to(dtype).reshape(sizes).numpy()
        try:
            outputs = session.run(None, {given.name: values})
        except Exception as error:
            raise ModelError(f"onnxruntime fails on an input of {path}: {_first_line(error)}") from error
        return torch.as_tensor(outputs[0]).double().flatten()

    return Original(answer, dtype)


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


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0]
