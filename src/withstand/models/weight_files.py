"""Files of weights as they come: safetensors, state dicts, checkpoints, several parts; no code is run."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from withstand.core.identity import bytes_of
from withstand.core.run_folder import RunFolder
from withstand.types import ModelError

DIGEST = "sha256"  # among the metadata of a file of this package
_INDEX = ".index.json"
_SHOWN = 5
_REMEDY = "Take a whole copy of it, or train again into another folder."


def weights_file(path: Path) -> Path:
    """The file that a path stands for: itself, or of a folder its weights.

    Args:
        path: A file; a run folder, for its best weights, or its last where it has no others; or a folder
            with an ``.index.json`` that names the parts.

    Raises:
        ModelError: the folder holds no weights.
    """
    if not path.is_dir():
        return path
    run = RunFolder(path)
    known = [run.best_weights, run.last_weights, *sorted(path.glob(f"*{_INDEX}"))]
    for file in known:
        if file.is_file():
            return file
    raise ModelError(
        f"There are no weights in the folder {path}: a run has {run.best_weights.name} or "
        f"{run.last_weights.name}, and weights of several parts a file ending in {_INDEX}. Name the file "
        "itself."
    )


def read_weights(file: Path) -> dict[str, Tensor]:
    """The tensors of a weights file that holds nothing else, on the CPU.

    Raises:
        ModelError: the file is missing, damaged or of another kind.
    """
    content = _content(file)
    if not _is_state_dict(content):
        raise _no_state_dict(file, content)
    return dict(content)


def state_dicts(file: Path) -> dict[str, dict[str, Tensor]]:
    """The state dicts that a file holds, on the CPU, each under the entry where it lies.

    Args:
        file: The file itself may be one, whose entry is empty; or a dictionary with one or several among
            its entries, as checkpoints are.

    Raises:
        ModelError: the file is missing, damaged or of another kind, or holds none.
    """
    content = _content(file)
    if _is_state_dict(content):
        return {"": dict(content)}
    entries = content if isinstance(content, Mapping) else {}
    nested = {str(entry): dict(part) for entry, part in entries.items() if _is_state_dict(part) and part}
    if not nested:
        raise _no_state_dict(file, content)
    return nested


def digest_of(state: Mapping[str, Tensor]) -> str:
    """A hash of names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(bytes_of(tensor))
    return digest.hexdigest()


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


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    """Tensors, compared with the digest that was written beside them, where there is one."""
    with safetensors.safe_open(file, framework="pt") as opened:
        noted = (opened.metadata() or {}).get(DIGEST)
        state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
    if noted not in (None, digest_of(state)):
        raise ValueError("its values are not those that were written")
    return state


def _read_parts(file: Path) -> dict[str, Tensor]:
    """The tensors that an index names, from the files beside it where it says that they lie."""
    places: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))["weight_map"]
    parts = {part: file.parent / part for part in sorted(set(places.values()))}
    if strange := [part for part in parts if Path(part).name != part]:
        raise ModelError(f"{file} names the part {strange[0]!r}, but parts lie beside it.")
    contents = {part: read_weights(path) for part, path in parts.items()}
    lost = [name for name, part in places.items() if name not in contents[part]]
    if lost:
        raise ModelError(f"{file} says that {lost[0]} is in {places[lost[0]]}, but it is not. {_REMEDY}")
    return {name: contents[part][name] for name, part in places.items()}


_READERS: Mapping[str, Callable[[Path], object]] = {
    ".safetensors": _read_safetensors,
    **dict.fromkeys((".pt", ".pth", ".bin", ".ckpt"), read_torch),
    _INDEX: _read_parts,
}


def _content(file: Path) -> Any:
    """What a file of any of the kinds holds."""
    if not file.is_file():
        raise ModelError(f"There is no weights file {file}; check the path.")
    reader = next((read for ending, read in _READERS.items() if file.name.endswith(ending)), None)
    if reader is None:
        *endings, last = _READERS
        raise ModelError(f"Weights end in {', '.join(endings)} or {last}, but got {file}.")
    try:
        return reader(file)
    except ModelError:
        raise
    except Exception as error:  # torch's own texts advise to read it unsafely
        raise ModelError(_refusal(file)) from error


def _refusal(file: Path) -> str:
    """Why a file is not read, and what to do; the classes that it names are listed, not imported."""
    names: list[str] = []
    with suppress(Exception):  # of a damaged file, or one that torch wrote long ago
        names = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    if not names:
        return (
            f"Weights file {file} is damaged or holds more than weights, which could run code and is not "
            f"read. Make it again by torch.save(model.state_dict(), FILE), or as .safetensors. {_REMEDY}"
        )
    of_lightning = (
        ", of a Lightning checkpoint with model = YourModule.load_from_checkpoint(…)"
        if file.suffix == ".ckpt"
        else ""
    )
    return (
        f"Weights file {file} holds more than weights, which could run code and is not read: "
        f"{_listed(names)}. In the program that made it, save the weights alone{of_lightning}: "
        "torch.save(model.state_dict(), FILE)."
    )


def _is_state_dict(content: object) -> bool:
    return isinstance(content, Mapping) and all(
        isinstance(name, str) and isinstance(value, Tensor) for name, value in content.items()
    )


def _no_state_dict(file: Path, content: object) -> ModelError:
    kind = (
        f"dictionary of {_listed([str(key) for key in content])}"
        if isinstance(content, Mapping)
        else type(content).__name__
    )
    return ModelError(
        f"{file} holds no state dict of tensors; save model.state_dict() alone. It is a {kind}."
    )


def _listed(names: list[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
