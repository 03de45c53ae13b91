"""The run folder: where each stage leaves its files for the next.

Every stage reads only what the former wrote. Files are replaced in one step, so that a killed
process leaves either the old file or the new one.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence, Set
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from withstand.core.folder_lock import LOCK_FILES, held
from withstand.core.folder_path import as_folder_path, require_no_links
from withstand.types import RunFolderError

_MARK = ".withstand"
_ABOUT_MARK = "This is a run folder of withstand, which replaces and deletes its own files here.\n"
_FOLDERS = ("checkpoint", "evaluation", "source")
EVALUATED_FILES = (
    "examples.csv",
    "measurements.csv",
    "metrics.json",
    "gallery.npz",
    "extremes.npz",
    "evaluation",
)
"""Names of what an evaluation writes."""
_MODEL_FILES = ("model.json", "model.pt2", "source")
_TRAINED_FILES = ("recipe.yaml", *_MODEL_FILES, "environment.json", "train.csv", "checkpoint")
RUN_FILES = (*_TRAINED_FILES, "model.safetensors", "last.safetensors", *EVALUATED_FILES)
"""Names of all that a run folder may hold, but for its page."""
_ALL_NAMES = (*RUN_FILES, _MARK, *LOCK_FILES, "report.html", "trust.json", "tensorboard")


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    temporary = part_of(path)
    try:
        yield temporary
        put_in_place(temporary, path)
    except OSError as error:
        raise RunFolderError(
            f"Cannot write {path}: {error.strerror or error}. Free the disk or choose another folder "
            "with --out; what was written before is still there."
        ) from error
    finally:
        with suppress(OSError):  # the error has been raised, or the file is in place
            temporary.unlink()


def part_of(path: Path) -> Path:
    """Where a process writes what will be a file; ``held`` removes it where the process was killed."""
    return path.with_name(f".{path.name}.{os.getpid()}.part")


def put_in_place(temporary: Path, path: Path) -> None:
    """Replaces a file by one beside it, in one step that also holds when the power fails.

    Raises:
        OSError: it cannot be.
    """
    _synchronise(temporary)
    os.replace(temporary, path)
    with suppress(OSError):  # not every system synchronises folders
        _synchronise(path.parent)


def _synchronise(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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

    @classmethod
    def at(cls, out: Path | str) -> RunFolder:
        """The run folder of a path that someone gave.

        Raises:
            TypeError: it is no path.
            RunFolderError: it is empty, cannot be written as text, or is too long.
        """
        return cls(as_folder_path(out))

    recipe = _Inside("recipe.yaml")
    """All values of the recipe, resolved."""
    environment = _Inside("environment.json")
    """Versions, device, seed, command, cost."""
    train_log = _Inside("train.csv")
    """One row an epoch."""
    model_spec = _Inside("model.json")
    """How to build the model."""
    graph = _Inside("model.pt2")
    """What the model computes, where no name makes it anew."""
    source = _Inside("source")
    """The model's own file, and what it imports beside it, as they were."""
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
            RunFolderError: another process holds it, which the text names; or the folder cannot be written,
                or a link leads out of it.
        """
        require_no_links(self.path, _ALL_NAMES)
        with held(self.path, doing, cleaned=(self.path, self.source, self.checkpoints, self.evaluation)):
            yield

    def is_begun(self) -> bool:
        """Whether anything was trained that can be gone on from.

        Training writes a checkpoint before its first step as well; that alone is nothing trained.
        """
        later = (self.checkpoints / "last.pt", self.best_weights)
        return any(self.checkpoints.glob("*.pt")) and any(file.exists() for file in later)

    def is_trained(self) -> bool:
        """Whether there are weights at the end of a training, or, of a net of the zoo, no others."""
        return self.last_weights.exists() or (self.best_weights.exists() and not self.checkpoints.exists())

    def require_no_other_network(self) -> None:
        """Refuses a folder that holds a network which cannot be trained on, or measurements of one.

        Raises:
            RunFolderError: it does; training would leave them beside other weights.
        """
        others = (self.last_weights, self.best_weights, self.metrics, self.measurements, self.examples)
        held = next((file for file in others if file.exists()), None)
        if held is None or self.is_begun():
            return
        if self.train_log.exists():
            raise RunFolderError(
                f"{self.path} holds {held.name} of a training whose checkpoints are gone, so that it cannot "
                "be gone on with. Delete the folder to start anew, or choose another with --out, or out= in "
                "Python."
            )
        raise RunFolderError(
            f"{self.path} holds {held.name} of a network that was not trained there, so that training "
            "would mix two networks. Choose another folder with --out, or out= in Python."
        )

    def forget_start(self) -> None:
        """Removes the checkpoint of a training that came to nothing, where there is one."""
        if not self.is_begun():
            for file in self.checkpoints.glob("*.pt"):
                file.unlink()

    @contextmanager
    def starting(self, doing: str, writes: Sequence[str] = RUN_FILES) -> Iterator[None]:
        """Makes the folder and holds it; of a start that fails before it came to anything nothing stays.

        Args:
            doing: What is done, for whoever comes second: ``training``.
            writes: Names of the files that may be written (see ``create``).

        Raises:
            RunFolderError: as ``create`` and ``held`` have it.
        """
        before = {file.name for file in self.path.iterdir()} if self.path.is_dir() else None
        self.create(writes)
        with self.held(doing):
            try:
                yield
            except BaseException:
                if not self._has_come_to_anything():
                    self._forget(before)
                raise

    def _has_come_to_anything(self) -> bool:
        """Whether there is a checkpoint, or anything was measured."""
        results = (self.metrics, self.measurements, self.examples)
        stored = (*self.checkpoints.glob("*.pt"), *self.evaluation.glob("*.npz"))
        return bool(stored) or any(file.exists() for file in results)

    def _forget(self, before: Set[str] | None) -> None:
        """Removes what was not there before, as far as it can be, and the folder where it was not."""
        with suppress(OSError):
            for name in {*RUN_FILES, _MARK, *LOCK_FILES, "trust.json", "tensorboard"} - (before or set()):
                file = self.path / name
                shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)
            if before is None:
                self.path.rmdir()

    def create(self, writes: Sequence[str] = RUN_FILES) -> RunFolder:
        """Makes the folder where it is not, and tries whether it can be written.

        Args:
            writes: Names of the files that may be written there.

        Raises:
            RunFolderError: it cannot; or one of these files is there, and not of this package, or a link.
        """
        try:
            require_no_links(self.path, _ALL_NAMES)
            self._require_own(writes)
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
            if not (self.path / _MARK).exists():
                (self.path / _MARK).write_text(_ABOUT_MARK, encoding="utf-8")
        except RunFolderError:
            raise
        except OSError as error:
            raise RunFolderError(
                f"Cannot write the run folder {self.path}: {error.strerror or error}. "
                "Choose another with --out."
            ) from error
        return self

    def _require_own(self, writes: Sequence[str]) -> None:
        """Accepts a folder where nothing is in the way that someone else wrote."""
        if self.path.exists() and not self.path.is_dir():
            raise RunFolderError(
                f"Cannot write the run folder {self.path}: it is a file. Choose another with --out."
            )
        there = [file for name in writes if (file := self.path / name).exists()]
        for file in there:
            if file.is_dir() is not (file.name in _FOLDERS):
                kind, needed = ("folder", "file") if file.is_dir() else ("file", "folder")
                raise RunFolderError(
                    f"{file} is a {kind}, but a {needed} of the run belongs there. Move it away, or choose "
                    "another folder with --out, or out= in Python."
                )
        if there and not self._is_own():
            raise RunFolderError(
                f"{self.path} is no run folder, but holds {there[0].name}, which was not written by this "
                "package and would be replaced. Choose another folder with --out, or out= in Python."
            )

    def _is_own(self) -> bool:
        """Whether the folder was made as a run folder; those of older versions have no mark of it."""
        if (self.path / _MARK).exists():
            return True
        files = {self.environment: '"withstand"', self.metrics: '"schema"'}
        texts = {file: file.read_bytes() for file in files if file.is_file()}
        is_written = any(files[file].encode() in text for file, text in texts.items())
        return is_written or (self.train_log.exists() and (self.checkpoints / "good.pt").exists())

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
