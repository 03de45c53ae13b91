"""The run folder: where each stage leaves its files for the next.

Every stage reads only what the former wrote. Files are replaced in one step, so that a killed
process leaves either the old file or the new one.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from withstand.types import RunFolderError

_logger = logging.getLogger(__name__)


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise RunFolderError(
            f"Cannot write {path}: {error.strerror or error}. Free the disk or choose another folder "
            "with --out; what was written before is still there."
        ) from error
    finally:
        with suppress(OSError):  # the error has been raised, or the file is in place
            temporary.unlink()


@dataclass(frozen=True)
class _Inside:
    """A path of a run folder, by its name in it."""

    name: str

    def __get__(self, run: RunFolder, kind: type[RunFolder]) -> Path:
        return run.path / self.name


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, and its small files.

    Args:
        path: The folder.
    """

    path: Path

    recipe = _Inside("recipe.yaml")
    """All values of the recipe, resolved."""
    environment = _Inside("environment.json")
    """Versions, device, seed, command, cost."""
    train_log = _Inside("train.csv")
    """One row an epoch."""
    model_spec = _Inside("model.json")
    """How to build the model."""
    best_weights = _Inside("model.safetensors")
    """The weights that did best on validation data."""
    last_weights = _Inside("last.safetensors")
    """The weights at the end of training."""
    checkpoints = _Inside("checkpoint")
    """What resuming needs."""
    examples = _Inside("examples.csv")
    """One row a test example."""
    metrics = _Inside("metrics.json")
    """What no table of figures can hold: settings, checks, warnings."""
    measurements = _Inside("measurements.csv")
    """All figures of the evaluation, one a row."""
    gallery = _Inside("gallery.npz")
    """A few clean and adversarial images."""
    extremes = _Inside("extremes.npz")
    """The examples proven with the smallest and the largest radii."""
    evaluation = _Inside("evaluation")
    """Results of an evaluation so far, so that nothing is measured twice."""
    report = _Inside("report.html")
    """The page for people."""

    @contextmanager
    def held(self, doing: str) -> Iterator[None]:
        """Keeps other processes from writing to the folder meanwhile; a process that ends lets go of it.

        Args:
            doing: What is done, for whoever comes second: ``evaluating``.

        Raises:
            RunFolderError: another process holds it, which the text names; or the folder cannot be written.
        """
        lock = FileLock(self.path / ".lock", is_singleton=True, thread_local=False)
        holder = self.path / ".holder"
        is_first = self._acquire(lock, holder)
        try:
            if is_first:
                self._take(holder, doing)
            yield
        finally:
            if is_first:
                holder.unlink(missing_ok=True)
            lock.release()

    def _acquire(self, lock: BaseFileLock, holder: Path) -> bool:
        """Takes the lock; whether this process did not have it before."""
        try:
            lock.acquire(timeout=0)
        except Timeout as error:
            known = holder.read_text() if holder.exists() else "another process"
            raise RunFolderError(
                f"{self.path} is in use by {known}. Wait until it is done, or choose another folder."
            ) from error
        except NotImplementedError:  # as some network file systems have it
            _logger.warning("The file system of %s has no locks: let one process at a time write.", self.path)
            return False
        except OSError as error:
            raise RunFolderError(f"Cannot write {self.path}: {error.strerror or error}.") from error
        return lock.lock_counter == 1

    def _take(self, holder: Path, doing: str) -> None:
        """Says who holds the folder, and removes what a process left that was killed while it wrote."""
        since = datetime.now().isoformat(" ", timespec="seconds")
        try:
            holder.write_text(f"process {os.getpid()} on {platform.node()}, {doing} since {since}")
            for partial_file in (*self.path.glob(".*.part"), *self.checkpoints.glob(".*.part")):
                partial_file.unlink(missing_ok=True)
        except OSError as error:
            raise RunFolderError(f"Cannot write {self.path}: {error.strerror or error}.") from error

    def is_begun(self) -> bool:
        """Whether anything was trained that can be gone on from.

        Training writes a checkpoint before its first step as well; that alone is nothing trained.
        """
        later = (self.checkpoints / "last.pt", self.best_weights)
        return any(self.checkpoints.glob("*.pt")) and any(file.exists() for file in later)

    def require_no_other_network(self) -> None:
        """Refuses a folder that holds a network which was not trained there, or measurements of one.

        Raises:
            RunFolderError: it does; training would leave them beside other weights.
        """
        others = (self.last_weights, self.best_weights, self.metrics, self.measurements)
        held = next((file for file in others if file.exists()), None)
        if held is not None and not (self.is_begun() or self.train_log.exists()):
            raise RunFolderError(
                f"{self.path} holds {held.name} of a network that was not trained there, so that training "
                "would mix two networks. Choose another folder with --out, or out= in Python."
            )

    def forget_start(self) -> None:
        """Removes the checkpoint of a training that came to nothing, where there is one."""
        if not self.is_begun():
            for file in self.checkpoints.glob("*.pt"):
                file.unlink()

    def create(self) -> RunFolder:
        """Makes the folder where it is not, and tries whether it can be written.

        Raises:
            RunFolderError: it cannot.
        """
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise RunFolderError(
                f"Cannot write the run folder {self.path}: {error.strerror or error}. "
                "Choose another with --out."
            ) from error
        return self

    def require(self, file: Path, command: str) -> Path:
        """The file, where it exists.

        Raises:
            RunFolderError: it does not; the text names the command that makes it.
        """
        if not file.exists():
            raise RunFolderError(f"{file} does not exist. Make it with `{command}`.")
        return file

    def damaged(self, file: Path, fault: str) -> RunFolderError:
        """The error of a file that cannot be used; ``fault`` is a sentence."""
        return RunFolderError(
            f"{file} is damaged: {fault} Delete it and run the command that writes it again."
        )

    def text_of(self, file: Path) -> str:
        """The text of one of the files, which must exist.

        Raises:
            RunFolderError: it cannot be read, or is no UTF-8 text.
        """
        try:
            return file.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise self.damaged(file, "it is not UTF-8 text.") from error
        except OSError as error:
            raise RunFolderError(f"{file} cannot be read: {error.strerror}.") from error

    def read_json(self, file: Path) -> dict[str, Any]:
        """The content of one of the JSON files; empty where there is none.

        Raises:
            RunFolderError: the file is damaged.
        """
        if not file.exists():
            return {}
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise RunFolderError(
                f"Cannot read {file}: {error}. Delete it and run that stage again."
            ) from error
        if not isinstance(content, dict):
            raise RunFolderError(f"Expected a JSON object in {file}. Delete it and run that stage again.")
        return content

    def write_json(self, file: Path, content: Mapping[str, Any]) -> None:
        """Replaces one of the JSON files.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        with replaced(file) as temporary:
            temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
