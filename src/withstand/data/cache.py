"""Decoded pictures kept on disk, so that the next run need not decode them again."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pooch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from withstand.data.split import Parts, Split
from withstand.types import DataError

__all__ = ["cache_folder", "cached"]

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder for decoded data: ``WITHSTAND_CACHE``, else the system's cache folder."""
    return Path(os.environ.get("WITHSTAND_CACHE") or pooch.os_cache("withstand")).expanduser()


def cached(name: str, key: str, build: Callable[[], Parts]) -> Parts:
    """What ``build`` returns, from the cache where it holds it.

    A cache that cannot be read or written costs time and a logged warning, never the run.

    Args:
        name: The data set.
        key: Hex string that changes whenever what ``build`` reads changes.
        build: Reads the data the slow way.
    """
    path = cache_folder() / f"{name}-{key}.safetensors"
    if path.is_file():
        try:
            return _read(path)
        except (OSError, SafetensorError, KeyError, DataError) as error:
            _log.warning("Ignoring the damaged cache file %s: %s", path, error)
    parts = build()
    try:
        _write(path, parts)
    except (OSError, SafetensorError) as error:
        _log.warning("Cannot keep decoded images in %s, so the next run decodes again: %s", path, error)
    return parts


def _read(path: Path) -> Parts:
    tensors = load_file(path)
    return Parts(*(Split(tensors[f"{part}_images"], tensors[f"{part}_labels"]) for part in Parts._fields))


def _write(path: Path, parts: Parts) -> None:
    tensors = {f"{part}_images": split.images for part, split in parts._asdict().items()}
    tensors |= {f"{part}_labels": split.labels for part, split in parts._asdict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    # Written beside its place and moved in one step: a killed run leaves no half file.
    with TemporaryDirectory(dir=path.parent, prefix=".partial-") as stage:
        save_file(tensors, Path(stage) / path.name)
        os.replace(Path(stage) / path.name, path)
