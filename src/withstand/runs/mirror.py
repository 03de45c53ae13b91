"""A run folder in a store, by its URL: worked on in a local copy, which is written back as it goes on."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from typing_extensions import override

from withstand.core.folder_lock import LOCK_FILES
from withstand.core.folder_path import is_url
from withstand.core.run_folder import RunFolder
from withstand.training import Observer
from withstand.training.checkpoint import Row
from withstand.types import RunFolderError

_LARGE = ("checkpoint", "evaluation")
_WEIGHTS = ".safetensors"
_PART = ".part"
_SECONDS = 60.0  # between two looks at whether a checkpoint was written inside an epoch


class WorkFolder(Observer):
    """Where a run folder is worked on: the folder itself.

    Args:
        run: The folder.
    """

    def __init__(self, run: RunFolder) -> None:
        self.run = run

    def fetch_rest(self) -> None:
        """Brings what takes long to come: checkpoints, weights, what an evaluation keeps."""
        return

    def store(self) -> None:
        """Writes what has changed to where it is kept."""
        return

    @override
    def on_epoch(self, rows: Sequence[Row]) -> None:
        self.store()


class Mirror(WorkFolder):
    """A local copy of a run folder of a store.

    Args:
        run: The copy, an empty folder.
        url: Of the run folder, such as ``s3://bucket/sweep/seed=0``; it need not exist.

    Raises:
        RunFolderError: the store cannot be reached.
    """

    def __init__(self, run: RunFolder, url: str) -> None:
        super().__init__(run)
        self._url, self._known = url, dict[str, tuple[int, int]]()
        self._files, self._root = file_system(url)
        with _reaching(url):
            self._files.invalidate_cache()
            there = self._files.find(self._root)
        names = [str(path)[len(self._root) :].lstrip("/") for path in there]
        self._absent = [name for name in names if not name.endswith(_PART)]
        self._stored = time.monotonic()
        self._fetch([name for name in self._absent if not _is_large(name)])

    @override
    def fetch_rest(self) -> None:
        self._fetch([*self._absent])

    @override
    def store(self) -> None:
        """Writes what has changed, in the order in which it was written here, and removes what was removed.

        A file is replaced in one step, so that a process that is killed leaves the former one.

        Raises:
            RunFolderError: the store cannot be written.
        """
        here = _stamps(self.run.path)
        gone = [name for name in self._known if name not in here]
        with _reaching(self._url):
            for name in gone:
                self._files.rm_file(self._at(name))
                del self._known[name]
            for name in sorted(here, key=lambda name: here[name]):
                if self._known.get(name) != here[name]:
                    self._put(name)
                    self._known[name] = here[name]
        self._stored = time.monotonic()

    @override
    def on_step(self, done: int, total: int) -> None:
        if time.monotonic() - self._stored > _SECONDS:
            self.store()

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _fetch(self, names: Sequence[str]) -> None:
        with _reaching(self._url):
            for name in names:
                file = self.run.path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                self._files.get_file(self._at(name), str(file))
                self._absent.remove(name)
        stamps = _stamps(self.run.path)
        self._known |= {name: stamps[name] for name in names if name in stamps}

    def _put(self, name: str) -> None:
        whole, place = self.run.path / name, self._at(name)
        self._files.makedirs(place.rpartition("/")[0], exist_ok=True)
        self._files.put_file(str(whole), place + _PART)
        self._files.mv(place + _PART, place)


@contextmanager
def working_on(place: str) -> Iterator[WorkFolder]:
    """The run folder of a place, or a copy of it that lasts as long as the work.

    Args:
        place: A path, or the URL of a folder in a store, of which the small files are brought at once.

    Raises:
        RunFolderError: the store cannot be reached, or needs a package that is not installed.
    """
    if not is_url(place):
        yield WorkFolder(RunFolder.at(place))
        return
    with TemporaryDirectory(prefix="withstand-") as folder:
        yield Mirror(RunFolder(Path(folder) / place.rpartition("/")[2]), place)


def write_to_store(url: str, file: Path) -> None:
    """Replaces a file of a store by a local one.

    Raises:
        RunFolderError: the store cannot be written.
    """
    files, path = file_system(url)
    with _reaching(url):
        files.makedirs(path.rpartition("/")[0], exist_ok=True)
        files.put_file(str(file), path + _PART)
        files.mv(path + _PART, path)


def file_system(url: str) -> tuple[Any, str]:
    """The file system of a URL, as fsspec has it, and the path there.

    Raises:
        RunFolderError: no store is known by that name, or it needs a package that is not installed.
    """
    import fsspec  # here, since most commands need none

    try:
        files, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        raise RunFolderError(f"{url} needs another package: {' '.join(str(error).split())}.") from error
    except Exception as error:  # of a store's own: without credentials, or of a name that is none
        raise _unreachable(url, error) from error
    return files, str(path).rstrip("/")


@contextmanager
def _reaching(url: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # each store has errors of its own
        raise _unreachable(url, error) from error


def _unreachable(url: str, error: Exception) -> RunFolderError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return RunFolderError(f"Cannot read or write {url}: {reason[:300]}. What was written before stays.")


def _is_large(name: str) -> bool:
    return name.partition("/")[0] in _LARGE or name.endswith(_WEIGHTS)


def _stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Name -> when each file of a folder was changed, and its size; not those of a process's own."""
    files = [file for file in folder.rglob("*") if file.is_file()]
    return {
        file.relative_to(folder).as_posix(): (file.stat().st_mtime_ns, file.stat().st_size)
        for file in files
        if file.name not in LOCK_FILES and not file.name.endswith(_PART)
    }
