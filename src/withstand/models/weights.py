"""Weights on disk: safetensors, and state dicts of others read without running their code."""

from __future__ import annotations

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from withstand.core.identity import bytes_of
from withstand.core.run_folder import replaced
from withstand.core.wrappers import load_own_state, own_state
from withstand.types import ModelError

_NAMED = 5
_DIGEST = "sha256"  # among the metadata of a file of this package
_REMEDY = "Take a whole copy of it, or train again into another folder."


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
    state = _portable(model)
    content = safetensors.torch.save(state, metadata={_DIGEST: _digest(state)})
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
    state = read_weights(file)
    differences = _differences(own_state(model), state)
    if differences:
        more = len(differences) - _NAMED
        shown = "; ".join(differences[:_NAMED]) + (f"; and {more} more" if more > 0 else "")
        raise ModelError(
            f"Weights of {file} do not fit the model: {shown}. "
            "Build the model as it was when they were saved."
        )
    load_own_state(model, state)


def is_saved_in(model: nn.Module, path: str | os.PathLike[str]) -> bool:
    """Whether a file holds the weights of a model, in whatever dtype and on whatever device these are now.

    Names are not compared, so that a model may have been put into another.

    Args:
        model: Any module.
        path: As ``save_weights`` wrote it; a damaged file holds nothing.
    """
    try:
        saved = read_weights(Path(path))
    except ModelError:
        return False
    state = {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}
    pairs = zip(sorted(saved.items()), sorted(state.items()), strict=False)
    return len(saved) == len(state) and all(_are_same(then, now) for (_, then), (_, now) in pairs)


def _are_same(then: Tensor, now: Tensor) -> bool:
    """Whether two tensors hold the same values, but for the rounding of the coarser dtype."""
    now = now.detach().cpu()
    if then.shape != now.shape:
        return False
    rounded = ((then, now.to(then.dtype)), (then.to(now.dtype), now))
    return any(torch.allclose(*pair, rtol=0.0, atol=0.0, equal_nan=True) for pair in rounded)


def _portable(model: nn.Module) -> dict[str, Tensor]:
    state = own_state(model)
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise ModelError(f"Only tensors can be saved as weights, but {name} is a {type(value).__name__}.")
    # Copies, because the format refuses tensors that share their memory (tied weights).
    return {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, on the CPU.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
    """
    if not file.is_file():
        raise ModelError(f"There is no weights file {file}; check the path.")
    if file.suffix not in _READERS:
        raise ModelError(f"Weights end in .safetensors, .pt or .pth, but got {file}.")
    try:
        content = _READERS[file.suffix](file)
    except Exception as error:  # torch's own texts advise to read it unsafely
        raise ModelError(
            f"Weights file {file} is damaged or holds more than weights, which could run code and is not "
            f"read. Make it again by torch.save(model.state_dict(), FILE), or as .safetensors. {_REMEDY}"
        ) from error
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise ModelError(f"{file} holds no state dict of tensors; save model.state_dict() alone.")
    return dict(content)


def _digest(state: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """Tensors, compared with the digest that was written beside them, where there is one."""
    with safetensors.safe_open(file, framework="pt") as opened:
        noted = (opened.metadata() or {}).get(_DIGEST)
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    if noted not in (None, _digest(state)):
        raise ValueError("its values are not those that were written")
    return state


def read_torch(file: Path) -> Any:
    """What ``torch.save`` wrote, on the CPU; no code of it is run.

    Raises:
        ValueError: its bytes are not those that were written.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as parts:  # torch does not compare the checksums that it writes
            if (part := parts.testzip()) is not None:
                raise ValueError(f"its part {part} is not what was written")
    return torch.load(file, map_location="cpu", weights_only=True)


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".safetensors": _read_safetensors,
    ".pt": read_torch,
    ".pth": read_torch,
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
