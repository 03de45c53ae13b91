"""A few clean and adversarial images for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from withstand.attacks import Attack
from withstand.evaluation.judge import Judge
from withstand.run_folder import replaced
from withstand.types import Batch

__all__ = ["save_gallery"]


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


def _pixels(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(n, channels, height, width) in [0, 1] as (n, height, width, channels) of 0 … 255."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
