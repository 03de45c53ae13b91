"""What onnxruntime computes of a file, and whether a network of ours computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from withstand.models.hosted import imported
from withstand.models.onnx.examples import Shape
from withstand.models.onnx.onnx_file import COMMAND
from withstand.models.onnx.onnx_network import OnnxNetwork
from withstand.types import ModelError

_KINDS = {"tensor(float)": "float32", "tensor(double)": "float64"}
_EXAMPLES = 4
_LAST_DIGITS = 64  # of the largest output; and as many roundings as these are off by
_ROUNDINGS = 32


def runtime(file: Path, file_shape: Shape) -> Callable[[Tensor], Tensor]:
    """What onnxruntime computes of a file.

    Args:
        file: The ONNX file.
        file_shape: Of its input, for a batch of one or of more.

    Returns:
        From one input, or a batch as the file takes it, to the output as a row of numbers for each of the
        first size; on the CPU.

    Raises:
        ModelError: onnxruntime is not installed, or does not take the file.
    """
    onnxruntime = imported("onnxruntime", f"{file}:", COMMAND)
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # of many kinds
        raise ModelError(f"onnxruntime does not take {file}: {_said(error)}") from error
    (name, kind), *_ = ((part.name, _KINDS[part.type]) for part in session.get_inputs())

    def run(inputs: Tensor) -> Tensor:
        array = inputs.detach().cpu().numpy().astype(kind).reshape(file_shape)
        return torch.from_numpy(np.asarray(session.run(None, {name: array})[0]))

    return run


def require_same(network: OnnxNetwork, file: Path, file_shape: Shape, *, is_open: bool) -> None:
    """Accepts a network that computes what onnxruntime does of its file, up to rounding.

    Rounding is measured: by how much the network is off itself in double precision.

    Args:
        network: Of the file.
        file: The ONNX file.
        file_shape: Of its input for a batch of one.
        is_open: Whether the file takes batches of any size: they must be answered one by one, too.

    Raises:
        ModelError: it does not.
    """
    inputs = _inputs(network)
    one = runtime(file, file_shape)
    try:
        answers = torch.stack([one(row).flatten() for row in inputs])
    except Exception as error:
        raise ModelError(f"onnxruntime cannot run {file}: {_said(error)}") from error
    expected, digit = answers.double(), torch.finfo(answers.dtype).eps
    with torch.no_grad():
        given = network(inputs).double()
        exact = copy.deepcopy(network).double()(inputs.double())
    size = exact.abs().nan_to_num(0.0, 0.0, 0.0).amax(dim=1, keepdim=True)
    rounding = (given - exact).abs().nan_to_num(0.0, 0.0, 0.0).amax(dim=1, keepdim=True)
    allowed = _LAST_DIGITS * digit * size + _ROUNDINGS * rounding + 1e-30
    _require_close(given, expected, allowed, file, "the first outputs are")
    if is_open:
        _require_rows(runtime(file, (len(inputs), *file_shape[1:])), inputs, expected, allowed, file)


def _inputs(network: OnnxNetwork) -> Tensor:
    """A few in [0, 1], and a few around it."""
    generator = torch.Generator().manual_seed(0)
    shape = (_EXAMPLES, *network.input_shape)
    inputs = torch.rand(shape, generator=generator, dtype=torch.float64)
    inputs[_EXAMPLES // 2 :] = 4 * inputs[_EXAMPLES // 2 :] - 2
    dtypes = [part.dtype for part in (*network.parameters(), *network.buffers()) if part.is_floating_point()]
    return inputs.float().to(next(iter(dtypes), torch.float32))


def _require_rows(
    run: Callable[[Tensor], Tensor], inputs: Tensor, expected: Tensor, allowed: Tensor, file: Path
) -> None:
    try:
        batch = run(inputs)
    except Exception:  # its constants are for a batch of one, in spite of what it says
        return
    if batch.numel() == expected.numel():
        rows = batch.reshape(expected.shape).double()
        _require_close(
            expected, rows, allowed, file, "it mixes the examples of a batch: alone and in a batch it gives"
        )


def _require_close(given: Tensor, expected: Tensor, allowed: Tensor, file: Path, what: str) -> None:
    if given.shape != expected.shape:
        raise ModelError(
            f"{file} was read wrongly: it gives {given.shape[1]} numbers, but by onnxruntime "
            f"{expected.shape[1]}. Please report it, with the file."
        )
    is_close = (
        ((given - expected).abs() <= allowed) | (given == expected) | (given.isnan() & expected.isnan())
    )
    if not is_close.all():
        row = int((~is_close).any(dim=1).nonzero()[0])
        ours, theirs = ([f"{value:.6g}" for value in part[row, :3].tolist()] for part in (given, expected))
        raise ModelError(
            f"{file} is not used, since it does not give what onnxruntime gives: {what} "
            f"{', '.join(ours)} here and {', '.join(theirs)} there. Please report it, with the file."
        )


def _said(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
