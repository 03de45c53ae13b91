"""What an evaluation leaves in a run folder beside its results: all rows, and a few images to look at.

Rows grow batch by batch, beside those of a former evaluation until they are whole. The images are attacked
ones, and those with the smallest and largest radii.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from withstand.attacks import Attack
from withstand.core.dataset_info import DatasetInfo, feature_name
from withstand.core.run_folder import RunFolder, part_of, put_in_place, replaced
from withstand.data import Split, unscale
from withstand.evaluation.predictor import Predictor
from withstand.models.weights import is_saved_in
from withstand.results.measurements import radius_column
from withstand.types import Batch, CertificateError, RunFolderError

_logger = logging.getLogger(__name__)

_MOST_AXES = 4  # of an example that is shown


def weights_in(run: RunFolder | None, model: nn.Module) -> str | None:
    """Which weights of a training in a folder are those of a model, best or last; None where there are none.

    Args:
        run: The run folder, if any.
        model: As it was given, before any forward pass.
    """
    known = {} if run is None else {"best": run.best_weights, "last": run.last_weights}
    return next((name for name, file in known.items() if file.exists() and is_saved_in(model, file)), None)


def warnings_of_other_weights(run: RunFolder | None, weights: str | None) -> list[str]:
    """A warning where a folder holds weights of a training and none of them are the model's; it is logged.

    Args:
        run: The run folder, if any.
        weights: What ``weights_in`` has found.
    """
    files = [] if run is None else [file for file in (run.best_weights, run.last_weights) if file.exists()]
    if run is None or not files or weights is not None:
        return []
    text = (
        f"Other weights: the network measured is not the one that was trained in {run.path}, whose weights "
        f"are in {' and '.join(file.name for file in files)}. Load these by load_weights, or choose another "
        "out=."
    )
    _logger.warning(text)
    return [text]


class RowsFile:
    """``examples.csv`` of a run folder, as a context.

    Rows are written to a file beside it. That takes its place when all is well; when the run folder holds
    no whole evaluation that would be lost; or when a certificate is wrong, since the former figures are not
    to be trusted then either.

    Args:
        run: The run folder; nothing is written where None.
    """

    def __init__(self, run: RunFolder | None) -> None:
        self._run = run
        self._has_rows = False

    def __enter__(self) -> RowsFile:
        if self._run is not None:
            self._growing(self._run).unlink(missing_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        run = self._run
        if run is None or not self._has_rows:
            return
        if isinstance(error, CertificateError):
            for former in (run.metrics, run.measurements):
                former.unlink(missing_ok=True)
        if kind is None or isinstance(error, CertificateError) or not run.metrics.exists():
            self._show(run)
        else:
            self._growing(run).unlink(missing_ok=True)

    def _show(self, run: RunFolder) -> None:
        try:
            put_in_place(self._growing(run), run.examples)
        except OSError as error:
            raise RunFolderError(
                f"Cannot write {run.examples}: {error.strerror or error}. All results are stored, and the "
                "same command goes on."
            ) from error

    def add(self, frame: pd.DataFrame) -> None:
        """Writes the rows of one more batch.

        Raises:
            RunFolderError: the folder cannot be written.
        """
        if self._run is None:
            return
        path, is_first = self._growing(self._run), not self._has_rows
        try:
            frame.to_csv(path, mode="w" if is_first else "a", header=is_first, index=False)
        except OSError as error:
            raise RunFolderError(
                f"Cannot write {path}: {error.strerror or error}. Earlier results are stored: free the "
                "disk, and the same command goes on."
            ) from error
        self._has_rows = True

    def shown_name(self) -> str:
        """Where the rows so far are after a wrong certificate; empty if nowhere."""
        return "" if self._run is None else str(self._run.examples)

    @staticmethod
    def _growing(run: RunFolder) -> Path:
        return part_of(run.examples)


def save_gallery(path: Path, predictor: Predictor, batch: Batch, attack: Attack, info: DatasetInfo) -> None:
    """Attacks a few examples and writes them as ``gallery.npz``.

    Of images it holds their levels, of volumes those of the middle slice, of vectors and series the values in
    the user's units. What has more axes than a volume is not shown.

    Args:
        path: Where to write.
        predictor: Of a model in eval mode.
        batch: Examples (n, …) in [0, 1] and labels (n,).
        attack: As it is run, at the budget to show.
        info: What they are, in which range.

    Raises:
        RunFolderError: the file cannot be written.
    """
    adversarial = attack(predictor.attack_model, batch.images, batch.labels)
    with torch.no_grad():
        before, after = (predictor.predict(images) for images in (batch.images, adversarial))
    has_pictures = _have_pictures(batch.images)
    arrays = {
        **(
            _pictures(batch.images, adversarial) if has_pictures else _values(batch.images, adversarial, info)
        ),
        "label": batch.labels.cpu().numpy(),
        "clean_prediction": before.cpu().numpy(),
        "adversarial_prediction": after.cpu().numpy(),
        "epsilon": np.float64(attack.epsilon_at()),
        "attack": np.array(attack.name),
    }
    _save(path, arrays, info.class_names)


def is_shown(info: DatasetInfo) -> bool:
    """Whether a page can show examples: they have no more axes than volumes."""
    return len(info.shape) <= _MOST_AXES


def save_extremes(
    path: Path,
    test: Split,
    rows: pd.DataFrame,
    *,
    certificate: str,
    class_names: Sequence[str],
    number: int = 6,
) -> None:
    """Writes images, labels and radii at either end of a certificate's radii, as ``extremes.npz``.

    Of volumes the image is the middle slice; of vectors and series there is none. The smallest
    radii above 0 ascend, the largest descend, and no example is at both ends.

    Args:
        path: Where to write.
        test: The test split that the rows are of.
        rows: With ``index`` and the certificate's radii.
        certificate: Its name: ``certified-l2``.
        class_names: In label order.
        number: At either end, at most. Where fewer than twice so many are proven, either end has half.

    Raises:
        RunFolderError: the file cannot be written.
    """
    radii = rows.set_index("index")[radius_column(certificate)].astype(np.float64)
    proven = radii[radii > 0].sort_values(kind="stable")
    smallest, largest = min(number, (len(proven) + 1) // 2), min(number, len(proven) // 2)
    arrays: dict[str, Any] = {"certificate": np.array(certificate)}
    for part, of_part in (("smallest", proven[:smallest]), ("largest", proven[::-1][:largest])):
        chosen = test.subset(of_part.index.tolist())
        if _have_pictures(chosen.images):
            arrays[f"{part}_images"] = _pixels(_flat_pictures(chosen.images))
            arrays |= _slices(chosen.images)
        arrays[f"{part}_index"] = of_part.index.to_numpy(dtype=np.int64)
        arrays[f"{part}_label"] = chosen.labels.cpu().numpy()
        arrays[f"{part}_radius"] = of_part.to_numpy()
    _save(path, arrays, class_names)


def _save(path: Path, arrays: dict[str, Any], class_names: Sequence[str]) -> None:
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, class_names=np.array(list(class_names)), **arrays)


def _have_pictures(images: Tensor) -> bool:
    return images.ndim in (4, 5)


def _pictures(clean: Tensor, adversarial: Tensor) -> dict[str, Any]:
    before, after = _flat_pictures(clean), _flat_pictures(adversarial)
    return {
        "clean": _pixels(before),
        "adversarial": _pixels(after),
        "change": _levels(after - before).astype(np.float16),
        **_slices(clean),
    }


def _flat_pictures(images: Tensor) -> Tensor:
    """Images, or the middle slice of volumes, (n, channels, height, width)."""
    return images if images.ndim == 4 else images[:, :, images.shape[2] // 2]


def _slices(images: Tensor) -> dict[str, Any]:
    return {} if images.ndim == 4 else {"num_slices": np.int64(images.shape[2])}


def _values(clean: Tensor, adversarial: Tensor, info: DatasetInfo) -> dict[str, Any]:
    """Vectors or series in the user's units, and how long the range of each feature or channel is."""
    low, high = info.input_range or ((0.0,) * info.shape[0], (1.0,) * info.shape[0])
    before, after = (
        unscale(images, info.input_range).cpu().numpy().astype(np.float64) for images in (clean, adversarial)
    )
    names = [feature_name(info.shape, info.feature_names, index) for index in range(info.shape[0])]
    return {
        "clean_values": before,
        "adversarial_values": after,
        "range_length": np.subtract(high, low),
        "feature_names": np.array(names),
    }


def _pixels(images: Tensor) -> NDArray[np.uint8]:
    levels = images if images.dtype == torch.uint8 else (images * 255).round().byte()
    return levels.permute(0, 2, 3, 1).cpu().numpy()


def _levels(images: Tensor) -> NDArray[np.float32]:
    """(n, channels, height, width) in [0, 1] as (n, height, width, channels) of 0 … 255."""
    return (images.float() * 255).permute(0, 2, 3, 1).cpu().numpy()
