"""A few images for people to look at: attacked ones, and those with the smallest and largest radii."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from withstand.attacks import Attack
from withstand.data import Split
from withstand.evaluation.judge import Judge
from withstand.results.measurements import radius_column
from withstand.run_folder import replaced
from withstand.types import Batch


class Extremes(NamedTuple):
    """The proven examples with the smallest and the largest radius, by their index in the test split.

    Attributes:
        smallest: Those with the smallest radii above 0, ascending.
        largest: Those with the largest, descending; none of them is in ``smallest``.
    """

    smallest: NDArray[np.int64]
    largest: NDArray[np.int64]


def save_gallery(path: Path, judge: Judge, batch: Batch, attack: Attack, class_names: Sequence[str]) -> None:
    """Attacks a few images and writes them as ``gallery.npz``.

    Args:
        path: Where to write.
        judge: Of a model in eval mode.
        batch: Images (n, channels, height, width) in [0, 1] and labels (n,).
        attack: As it is run, at the budget to show.
        class_names: In label order.

    Raises:
        RunFolderError: the file cannot be written.
    """
    adversarial = attack(judge.target, batch.images, batch.labels)
    with torch.no_grad():
        before, after = (judge.predictor(images).argmax(dim=1) for images in (batch.images, adversarial))
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            clean=_pixels(batch.images),
            adversarial=_pixels(adversarial),
            label=batch.labels.cpu().numpy(),
            clean_prediction=before.cpu().numpy(),
            adversarial_prediction=after.cpu().numpy(),
            epsilon=np.float64(attack.epsilon_at()),
            attack=np.array(attack.name),
            class_names=np.array(list(class_names)),
        )


def extremes(rows: pd.DataFrame, certificate: str, number: int = 6) -> Extremes:
    """The examples at either end of a certificate's radii.

    Args:
        rows: With ``index`` and the certificate's radii.
        certificate: Its name: ``certified-l2``.
        number: At either end, at most. Where fewer than twice so many are proven, either end has half.
    """
    radii = rows[radius_column(certificate)]
    proven = rows.loc[radii[radii > 0].sort_values(kind="stable").index, "index"].to_numpy(dtype=np.int64)
    smallest, largest = min(number, (len(proven) + 1) // 2), min(number, len(proven) // 2)
    return Extremes(proven[:smallest], proven[::-1][:largest])


def save_extremes(
    path: Path,
    test: Split,
    rows: pd.DataFrame,
    found: Extremes,
    *,
    certificate: str,
    class_names: Sequence[str],
) -> None:
    """Writes their images, labels and radii as ``extremes.npz``.

    Args:
        path: Where to write.
        test: The test split that the rows are of.
        rows: With ``index`` and the certificate's radii.
        found: Which examples.
        certificate: Its name.
        class_names: In label order.

    Raises:
        RunFolderError: the file cannot be written.
    """
    radii = rows.set_index("index")[radius_column(certificate)]
    arrays: dict[str, Any] = {
        "certificate": np.array(certificate),
        "class_names": np.array(list(class_names)),
    }
    for part, index in found._asdict().items():
        chosen = test.subset(index.tolist())
        arrays[f"{part}_images"] = chosen.images.permute(0, 2, 3, 1).cpu().numpy()
        arrays[f"{part}_index"] = index
        arrays[f"{part}_label"] = chosen.labels.cpu().numpy()
        arrays[f"{part}_radius"] = radii.loc[index].to_numpy(dtype=np.float64)
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, **arrays)


def _pixels(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(n, channels, height, width) in [0, 1] as (n, height, width, channels) of 0 … 255."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
