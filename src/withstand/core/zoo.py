"""The zoo: trained nets that come with the package, each a run folder with weights, recipe and figures."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from withstand.core.run_folder import RunFolder
from withstand.types import RunFolderError

HOME = Path(__file__).parents[1] / "zoo"
ABOUT = "about.json"


@dataclass(frozen=True)
class ZooNet:
    """A net of the zoo.

    Attributes:
        folder: Where it lies, in the form of a run folder, which is only read; named after the net.
        norm: Of the ball at which its figures are shown, ``inf``, ``2`` or ``1``.
        epsilon: Radius of that ball, in [0, 1] units.
        num_parameters: How many numbers were trained.
        data_licence: Of the data that it was trained on.
        sha256: File of the folder -> SHA-256 of its content, in hex.
    """

    folder: Path
    norm: str
    epsilon: float
    num_parameters: int
    data_licence: str
    sha256: Mapping[str, str]

    def __post_init__(self) -> None:
        if not isinstance(self.sha256, Mapping) or not self.sha256:
            raise TypeError("it has no checksums")

    @property
    def num_bytes(self) -> int:
        """Size of all its files."""
        return sum((self.folder / name).stat().st_size for name in self.sha256)

    def require_whole(self) -> None:
        """Accepts files that are as they were packaged.

        Raises:
            RunFolderError: one is gone or was changed.
        """
        for name, expected in self.sha256.items():
            file = self.folder / name
            content = file.read_bytes() if file.is_file() else b""
            if hashlib.sha256(content).hexdigest() != expected:
                raise RunFolderError(
                    f"{file} is gone, or not as it was packaged (its SHA-256 is another), so this net of the "
                    "zoo is not used. Install withstand again: pip install --force-reinstall withstand"
                )


def zoo_nets(home: Path | None = None) -> dict[str, ZooNet]:
    """Name -> net, by name; their files are not compared with their checksums yet.

    Args:
        home: Where the folders of the nets lie; in the package where None.

    Raises:
        RunFolderError: what describes a net is damaged.
    """
    return {file.parent.name: _read(file) for file in sorted((home or HOME).glob(f"*/{ABOUT}"))}


def _read(file: Path) -> ZooNet:
    try:
        return ZooNet(folder=file.parent, **json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise RunFolderError(
            f"{file} is damaged ({error}). Install withstand again: pip install --force-reinstall withstand"
        ) from error


def is_run(path: Path) -> bool:
    """Whether a path is a file, or a folder with a run in it; any other folder hides no net of its name."""
    run = RunFolder(path)
    files = (run.recipe, run.model_spec, run.metrics, run.train_log)
    return path.is_file() or any(file.exists() for file in files)


def run_path(name: str) -> Path:
    """The folder that a name leads to: its own path, or, where no run is there, that of a net of the zoo.

    Args:
        name: A path, or the name of a net.

    Raises:
        RunFolderError: the net's files are damaged.
    """
    net = None if is_run(Path(name)) else zoo_nets().get(name)
    if net is None:
        return Path(name)
    net.require_whole()
    return net.folder
