"""The run folder: where each stage leaves its files for the next.

Every stage reads only what the former wrote. Files are replaced in one step, so that a killed
process leaves either the old file or the new one.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from withstand.types import RunFolderError

__all__ = ["RunFolder", "radius_column", "replaced"]


def radius_column(certificate: str) -> str:
    """The column of ``examples.csv`` with a certificate's radii: ``radius-l2`` for ``certified-l2``."""
    return certificate.replace("certified", "radius", 1)


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
        with suppress(OSError):  # what matters has been said, or is in place
            temporary.unlink()


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run, and its small files.

    Args:
        path: The folder.
    """

    path: Path

    @property
    def recipe(self) -> Path:
        """All values of the recipe, resolved."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        """Versions, device, seed, command, cost."""
        return self.path / "environment.json"

    @property
    def train_log(self) -> Path:
        """One row an epoch."""
        return self.path / "train.csv"

    @property
    def model_spec(self) -> Path:
        """How to build the model."""
        return self.path / "model.json"

    @property
    def best_weights(self) -> Path:
        """The weights that did best on validation data."""
        return self.path / "model.safetensors"

    @property
    def last_weights(self) -> Path:
        """The weights at the end of training."""
        return self.path / "last.safetensors"

    @property
    def checkpoints(self) -> Path:
        """What resuming needs."""
        return self.path / "checkpoint"

    @property
    def examples(self) -> Path:
        """One row a test example."""
        return self.path / "examples.csv"

    @property
    def metrics(self) -> Path:
        """What the evaluation found beside its figures."""
        return self.path / "metrics.json"

    @property
    def measurements(self) -> Path:
        """All figures of the evaluation, one a row."""
        return self.path / "measurements.csv"

    @property
    def gallery(self) -> Path:
        """A few clean and adversarial images."""
        return self.path / "gallery.npz"

    @property
    def extremes(self) -> Path:
        """The examples proven with the smallest and the largest radii."""
        return self.path / "extremes.npz"

    @property
    def evaluation(self) -> Path:
        """What an evaluation has found so far, so that it need not be found again."""
        return self.path / "evaluation"

    @property
    def report(self) -> Path:
        """The page for people."""
        return self.path / "report.html"

    def is_begun(self) -> bool:
        """Whether anything was trained that can be gone on from.

        Training writes a checkpoint before its first step as well; that alone is nothing trained.
        """
        later = (self.checkpoints / "last.pt", self.best_weights)
        return any(self.checkpoints.glob("*.pt")) and any(file.exists() for file in later)

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
            for left_over in (*self.path.glob(".*.part"), *self.checkpoints.glob(".*.part")):
                left_over.unlink()  # of a process killed while it wrote
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise RunFolderError(
                f"Cannot write the run folder {self.path}: {error.strerror or error}. "
                "Choose another with --out."
            ) from error
        return self

    def require(self, file: Path, made_by: str) -> Path:
        """The file, where it exists.

        Raises:
            RunFolderError: it does not; the text names the command that makes it.
        """
        if not file.exists():
            raise RunFolderError(f"{file} does not exist. Make it with `{made_by}`.")
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
