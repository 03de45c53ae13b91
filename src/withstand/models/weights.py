"""Weights on disk: safetensors, and state dicts of others read without running their code."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from withstand.core.run_folder import replaced
from withstand.types import ModelError

_NAMED = 5


def save_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Writes a model's parameters and buffers; the file is complete or not there at all.

    Args:
        model: What to save, on any device.
        path: Where to, ending in ``.safetensors``; a former file is replaced.

    Raises:
        ModelError: the ending differs, or the state is not made of tensors.
        RunFolderError: the file cannot be written.
    """
    file = Path(path)
    if file.suffix != ".safetensors":
        raise ModelError(f"Weights are saved as .safetensors, but got {file}; change the ending.")
    content = safetensors.torch.save(_portable(model), metadata={"format": "pt"})
    with replaced(file) as unfinished:
        unfinished.write_bytes(content)


def load_weights(model: nn.Module, path: str | os.PathLike[str]) -> None:
    """Reads weights into a model, on the device where it is; all of them or none.

    Args:
        model: As it was when saved.
        path: A ``.safetensors`` file, or a state dict in a ``.pt`` or ``.pth`` file, which is
            read with ``weights_only=True`` and so runs no code.

    Raises:
        ModelError: the file is missing, damaged or of another kind, or its names or shapes are
            not the model's; the model is then unchanged.
    """
    file = Path(path)
    if not file.is_file():
        raise ModelError(f"There is no weights file {file}; check the path.")
    state = _read(file)
    differences = _differences(model.state_dict(), state)
    if differences:
        more = len(differences) - _NAMED
        shown = "; ".join(differences[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise ModelError(
            f"Weights of {file} do not fit the model: {shown}. "
            "Build the model as it was when they were saved."
        )
    model.load_state_dict(state)


def _portable(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"Only tensors can be saved as weights, but {name} is a {type(value).__name__}.")
    # Copies, because the format refuses tensors that share their memory (tied weights).
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def _read(file: Path) -> dict[str, Tensor]:
    if file.suffix not in _READERS:
        raise ModelError(f"Weights end in .safetensors, .pt or .pth, but got {file}.")
    try:
        content = _READERS[file.suffix](file)
    except Exception as error:  # torch's own texts advise to read it unsafely
        raise ModelError(
            f"Weights file {file} is damaged or holds more than weights, which could run code and is not "
            "read. Make it again by torch.save(model.state_dict(), FILE), or as .safetensors."
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{file} holds no state dict of tensors; save model.state_dict() alone.")
    return dict(content)


_read_state_dict = partial(torch.load, map_location="cpu", weights_only=True)
_READERS: Mapping[str, Callable[[Path], object]] = {
    ".safetensors": safetensors.torch.load_file,
    ".pt": _read_state_dict,
    ".pth": _read_state_dict,
}


def _differences(expected: Mapping[str, Tensor], actual: Mapping[str, Tensor]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in actual]
    surplus = [f"{name} is not in the model" for name in sorted(actual) if name not in expected]
    shapes = [
        f"{name} has shape {tuple(actual[name].shape)} instead of {tuple(value.shape)}"
        for name, value in expected.items()
        if name in actual and actual[name].shape != value.shape
    ]
    return missing + surplus + shapes
