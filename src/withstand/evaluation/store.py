"""The results of an evaluation so far, batch by batch and part by part, so that nothing is computed twice.

A part is the smallest thing that is measured at once: the clean answers, one attack at one budget, one
certificate, one kind of noise. Its results are stored under a key that holds all it depends on, so an
evaluation that was stopped goes on, and one that asks for more computes only that.
"""

from __future__ import annotations

import json
import logging
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from withstand.core.run_folder import replaced
from withstand.evaluation.meter import PartResult
from withstand.types import RunFolderError

_logger = logging.getLogger(__name__)
_Note = TypeVar("_Note")
_BETWEEN = "\t"  # in the names of arrays: part, field of ``PartResult``, name
_KNOWN = "known"
_SECONDS = 2.0  # between two writes of a batch, so that writing takes next to no time


class Store:
    """The results of one model on one data set.

    Args:
        folder: Where they are stored; nowhere if None.
        owner: Identity of the model and the data; what is stored of any other is dropped.
        of: What the owner is made of, by name, so that what is dropped can be said.
        shared: Computes what several processes need in one of them; by default there is no other.

    Raises:
        RunFolderError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | None,
        owner: str,
        of: Mapping[str, str] = MappingProxyType({}),
        shared: Callable[[Callable[[], Any]], Any] = lambda find: find(),
    ) -> None:
        self._folder, self._shared = folder, shared
        self._notes: dict[str, Any] = {"owner": owner, "of": dict(of)}
        if folder is None:
            return
        notes = _read_notes(folder / "about.json")
        if notes.get("owner") == owner:
            self._notes = notes
            return
        former = notes.get("of", {})
        others = [name for name, text in of.items() if former.get(name, text) != text]
        if others:
            _logger.warning(
                "What %s holds was measured of another %s, and is replaced by what is measured now.",
                folder.parent,
                " and of other ".join(others),
            )
        _empty(folder)
        self._write_notes()

    @property
    def owner(self) -> str:
        """Identity of the model and the data."""
        return str(self._notes["owner"])

    @contextmanager
    def batch(self, start: int, stop: int, examples: str = "") -> Iterator[BatchStore]:
        """The store of one batch; written when the block is left.

        Args:
            start: How many examples come before it.
            stop: How many there are up to its end.
            examples: Identity of which they are, since a sample has others at the same places.
        """
        # By its owner's name, so that an evaluation of other weights that still runs writes beside it.
        name = f"{start:07d}-{stop:07d}-{examples}-{self._notes['owner']}.npz"
        path = None if self._folder is None else self._folder / name
        batch_store = BatchStore(path)
        try:
            yield batch_store
        finally:
            batch_store.write()

    def noted(self, key: str, find: Callable[[], _Note]) -> _Note:
        """A result of the whole; computed only where it is not stored.

        Args:
            key: Of all that it depends on, beside the model and the data.
            find: Computes it: whatever JSON can hold, a tuple among it read back as a list.
        """

        def note_of_key() -> _Note:
            if key not in self._notes:
                self._notes[key] = find()
                self._write_notes()
            note: _Note = self._notes[key]
            return note

        shared: _Note = self._shared(note_of_key)
        return shared

    def _write_notes(self) -> None:
        if self._folder is not None:
            with replaced(self._folder / "about.json") as temporary:
                temporary.write_text(json.dumps(self._notes), encoding="utf-8")


class BatchStore:
    """The results of one batch.

    Args:
        path: Its file; nothing is written where None.
        known: What is known of it where there is no file.
    """

    def __init__(self, path: Path | None, known: Mapping[str, PartResult] = MappingProxyType({})) -> None:
        self._path = path
        self._results = dict(known) if path is None else _read(path)
        self._is_written = True
        self._written_at = time.monotonic()

    @property
    def results(self) -> dict[str, PartResult]:
        """The results of all parts."""
        return dict(self._results)

    def replace(self, results: Mapping[str, PartResult]) -> None:
        """Takes what another process knows of the batch in the place of all that is here."""
        self._results, self._is_written = dict(results), False

    def find(self, part: str) -> PartResult | None:
        """The result of a part; None where nothing is."""
        return self._results.get(part)

    def put(self, part: str, result: PartResult) -> None:
        """Stores the result of a part; on disk soon, or when the batch is left."""
        self._results[part] = result
        self._is_written = False
        if time.monotonic() - self._written_at > _SECONDS:
            self.write()

    def forget(self) -> None:
        """Drops all results of the batch."""
        self._is_written = not self._results
        self._results = {}

    def write(self) -> None:
        """Brings to disk what is not there yet."""
        if self._path is None or self._is_written:
            return
        arrays: dict[str, Any] = {
            _BETWEEN.join((part, kind, name)): np.asarray(values)
            for part, result in self._results.items()
            for kind, named in vars(result).items()
            for name, values in named.items()
        }
        # A part may hold nothing, and be known all the same.
        arrays |= {_BETWEEN.join((part, _KNOWN, "")): np.ones(1, np.int8) for part in self._results}
        with replaced(self._path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
        self._is_written = True
        self._written_at = time.monotonic()


def _read(path: Path) -> dict[str, PartResult]:
    """What a file holds; nothing where it is not there, or damaged, since all can be computed anew."""
    results: dict[str, PartResult] = {}
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            for key in arrays.files:
                part, kind, name = key.split(_BETWEEN)
                known = results.setdefault(part, PartResult())
                if kind != _KNOWN:
                    getattr(known, kind)[name] = arrays[key]
    except (OSError, ValueError, KeyError, AttributeError, EOFError, RuntimeError, zipfile.BadZipFile):
        return {}
    return results


def _read_notes(path: Path) -> dict[str, Any]:
    try:
        notes = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return notes if isinstance(notes, dict) else {}


def _empty(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in [*folder.glob("*.npz"), *folder.glob("about.json"), *folder.glob(".*.part")]:
            file.unlink()
    except OSError as error:
        raise RunFolderError(f"Cannot write {folder}: {error.strerror or error}.") from error
