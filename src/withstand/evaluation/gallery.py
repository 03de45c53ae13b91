"""A few clean and adversarial images for people to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from withstand.dataset_info import DatasetInfo
from withstand.evaluation.rows import AttackPlan
from withstand.run_folder import replaced
from withstand.types import Batch

__all__ = ["save_gallery"]


def save_gallery(model: nn.Module, batch: Batch, plan: AttackPlan, info: DatasetInfo, path: Path) -> None:
    """Attacks a few images at the largest sensible budget and writes them as ``gallery.npz``.

    Args:
        model: In eval mode.
        batch: Images (n, channels, height, width) in [0, 1] and labels (n,).
        plan: The attack; its largest budget below 0.5 is used (at linf 0.5 all turns grey).
        info: Names the classes.
        path: Where to write.

    Raises:
        RunFolderError: the file cannot be written.
    """
    epsilon = max((e for e in plan.epsilons if e < 0.5), default=plan.epsilons[-1])
    adversarial = plan.attack.at(epsilon).for_evaluation()(model, batch.images, batch.labels)
    with torch.no_grad():
        before, after = model(batch.images).argmax(dim=1), model(adversarial).argmax(dim=1)
    with replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            clean=_pixels(batch.images),
            adversarial=_pixels(adversarial),
            label=batch.labels.cpu().numpy(),
            clean_prediction=before.cpu().numpy(),
            adversarial_prediction=after.cpu().numpy(),
            epsilon=np.float64(epsilon),
            attack=np.array(plan.name),
            class_names=np.array(list(info.class_names)),
        )


def _pixels(images: Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """(n, channels, height, width) in [0, 1] as (n, height, width, channels) of 0 … 255."""
    return (images * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
