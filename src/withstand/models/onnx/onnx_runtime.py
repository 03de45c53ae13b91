"""What onnxruntime computes of a file, and whether a network of ours computes the same."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from withstand.models.hosted import imported
from withstand.models.onnx.onnx_file import COMMAND
from withstand.models.onnx.onnx_network import OnnxNetwork
from withstand.types import ModelError

_KINDS = {"tensor(float)": "float32", "tensor(double)": "float64"}
_EXAMPLES = 4
_LAST_DIGITS = 64  # of the largest output; and as many roundings as these are off by
_ROUNDINGS = 32
_SHOWN = 3  # numbers of an output in a message


def runtime(file: Path) -> Callable[[Tensor], Tensor]:
    """What onnxruntime computes of a file.

    Args:
        file: The ONNX file.

    Returns:
        From an input of the file's own shape (``OnnxNetwork.file_shape`` for one example) to its output; on
        the CPU.

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
        array = inputs.detach().cpu().numpy().astype(kind)
        return torch.from_numpy(np.asarray(session.run(None, {name: array})[0]))

    return run


def require_same(network: OnnxNetwork, file: Path, *, is_open: bool) -> None:
    """Accepts a network that computes what onnxruntime does of its file, up to rounding.

    Rounding is measured: by how much the network is off itself in double precision.

    Args:
        network: Of the file.
        file: The ONNX file.
        is_open: Whether the file takes batches of any size: they must be answered one by one, too.

    Raises:
        ModelError: it does not.
    """
    inputs, shape = _inputs(network), network.file_shape
    run = runtime(file)
    try:
        answers = torch.stack([run(row.reshape(shape)).flatten() for row in inputs])
    except Exception as error:
        raise ModelError(f"onnxruntime cannot run {file}: {_said(error)}") from error
    expected, digit = answers.double(), torch.finfo(answers.dtype).eps
    with torch.no_grad():
        given = network(inputs).double()
        exact = copy.deepcopy(network).double()(inputs.double())
    size = exact.abs().nan_to_num(0.0, 0.0, 0.0).amax(dim=1, keepdim=True)
    rounding = (given - exact).abs().nan_to_num(0.0, 0.0, 0.0).amax(dim=1, keepdim=True)
    allowed = _LAST_DIGITS * digit * size + _ROUNDINGS * rounding + 1e-30
    row = _row_that_differs(given, expected, allowed) if given.shape == expected.shape else 0
    if row is not None:
        raise ModelError(
            f"{file} is not used, since what was read of it does not give what onnxruntime gives: "
            f"{_shown(given[row])} here, and {_shown(expected[row])} there. Please report it, with the file."
        )
    if is_open and (batch := _in_a_batch(run, inputs.reshape(len(inputs), *shape[1:]), expected)) is not None:
        row = _row_that_differs(expected, batch, allowed)
        if row is not None:
            raise ModelError(
                f"{file} mixes the examples of a batch: onnxruntime gives {_shown(expected[row])} of one "
                f"alone, and {_shown(batch[row])} of the same in a batch. Such a network is no classifier of "
                "single examples; export it for a batch of 1."
            )


def _inputs(network: OnnxNetwork) -> Tensor:
    """A few in [0, 1], and a few around it."""
    generator = torch.Generator().manual_seed(0)
    shape = (_EXAMPLES, *network.input_shape)
    inputs = torch.rand(shape, generator=generator, dtype=torch.float64)
    inputs[_EXAMPLES // 2 :] = 4 * inputs[_EXAMPLES // 2 :] - 2
    dtypes = [part.dtype for part in (*network.parameters(), *network.buffers()) if part.is_floating_point()]
    return inputs.float().to(next(iter(dtypes), torch.float32))


def _in_a_batch(run: Callable[[Tensor], Tensor], batch: Tensor, alone: Tensor) -> Tensor | None:
    """A row an example; None where the file takes no batch, in spite of what it says."""
    try:
        answers = run(batch)
    except Exception:  # of many kinds, where constants are for a batch of one
        return None
    return answers.reshape(alone.shape).double() if answers.numel() == alone.numel() else None


def _row_that_differs(given: Tensor, expected: Tensor, allowed: Tensor) -> int | None:
    is_close = (given - expected).abs() <= allowed
    is_close |= (given == expected) | (given.isnan() & expected.isnan())
    rows = (~is_close).any(dim=1).nonzero().flatten().tolist()
    return rows[0] if rows else None


def _shown(row: Tensor) -> str:
    return ", ".join(f"{value:.6g}" for value in row[:_SHOWN].tolist())


def _said(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
