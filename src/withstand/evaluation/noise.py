"""How a model answers as Gaussian noise grows: the same as without it, and rightly."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from withstand import norms
from withstand.evaluation.judge import Judge
from withstand.evaluation.meter import Counts, Found, Meter
from withstand.evaluation.rows import Columns
from withstand.evaluation.summary import NOISE_ACCURACY, NOISE_AGREEMENT, share_of
from withstand.types import Batch

__all__ = ["NOISE_MEASURES", "NoiseCurve", "NoiseMeter", "score_noise"]

NOISE_MEASURES = ("agreement", "accuracy", "clipped_agreement", "clipped_accuracy")
"""What is counted at each level: the same answer as without noise and the right one, of the noisy image and
of the noisy image clipped to [0, 1]."""

_HITS = "hits"
_DRAWN_AFRESH = (
    "; each answer is a fresh prediction, so agreement falls below 1 by the draws of the weights alone"
)


@dataclass(frozen=True)
class NoiseCurve:
    """How to measure what Gaussian noise does to a model's answers.

    As published (arXiv 1904.11005) are 30 levels from 0 to 0.5 and one draw. The published evaluation also
    rescales each draw to the length that it has on average, which ``shell`` does.

    Args:
        num_levels: Evenly spaced noise_std, from 0 on.
        largest: The last of them, in [0, 1] pixel units.
        num_draws: Draws an image and level.
        shell: Rescale each draw to l2 norm noise_std * sqrt(pixels), pixels counted with their channels.

    Raises:
        ValueError: a number is out of its range.
    """

    num_levels: int = 30
    largest: float = 0.5
    num_draws: int = 1
    shell: bool = False

    def __post_init__(self) -> None:
        if self.num_levels < 2:
            raise ValueError(f"Expected num_levels of the noise of at least 2, but got {self.num_levels}.")
        if not 0 < self.largest < math.inf:
            raise ValueError(
                f"Expected the largest noise_std to be finite and above 0, but got {self.largest:g}."
            )
        if self.num_draws < 1:
            raise ValueError(f"Expected num_draws of the noise of at least 1, but got {self.num_draws}.")

    @property
    def levels(self) -> list[float]:
        """Each noise_std, ascending from 0."""
        return [float(level) for level in np.linspace(0.0, self.largest, self.num_levels)]

    def describe(self) -> str:
        """A sentence of the settings, for a report."""
        draws = "one draw" if self.num_draws == 1 else f"{self.num_draws} draws"
        shell = ", each rescaled to l2 norm noise_std * sqrt(pixels)" if self.shell else ""
        return (
            f"Gaussian noise at {self.num_levels} levels of noise_std from 0 to {self.largest:g} in [0, 1] "
            f"pixel units, {draws} an image and level{shell}; the same draws serve with and without clipping"
        )


@torch.no_grad()
def score_noise(
    model: nn.Module, batch: Batch, prediction: Tensor, settings: NoiseCurve, *, seed: int
) -> Found:
    """Scores one batch under noise; level 0 is exact, since nothing is drawn for it.

    Args:
        model: In eval mode; maps images in [0, 1] to logits (batch, classes). Where its answers are drawn,
            those at level 0 are ``prediction`` itself, and all others are drawn anew.
        batch: Images (batch, …) in [0, 1] and labels (batch,).
        prediction: Its classes of the images without noise, (batch,).
        settings: How much noise.
        seed: Of the draws, which leave torch's own random state alone.

    Returns:
        Columns with the share of levels and draws at which the model is right, and at which it answers as
        without noise, without clipping; and the count ``hits`` (levels, measures) of images and draws that
        hold, in the order of ``NOISE_MEASURES``.
    """
    generator = torch.Generator(batch.images.device).manual_seed(seed)
    levels = [_hits_at(model, batch, prediction, settings, level, generator) for level in settings.levels]
    hits = torch.stack(levels).cpu().numpy()  # (levels, measures, batch)
    shares = hits.sum(axis=0) / (settings.num_levels * settings.num_draws)
    columns: Columns = {
        NOISE_ACCURACY: shares[NOISE_MEASURES.index("accuracy")],
        NOISE_AGREEMENT: shares[NOISE_MEASURES.index("agreement")],
    }
    return Found(columns, {_HITS: hits.sum(axis=2)})


class NoiseMeter(Meter):
    """Scores batches under noise.

    Args:
        settings: How much noise.
        is_random: Whether the model draws its answers, which the summary says then.
    """

    def __init__(self, settings: NoiseCurve, *, is_random: bool = False) -> None:
        self._settings = settings
        self._is_random = is_random

    @property
    @override
    def settings(self) -> NoiseCurve:
        return self._settings

    @property
    @override
    def entry(self) -> str:
        return "noise"

    @override
    def score(self, judge: Judge, batch: Batch, prediction: Tensor, *, seed: int) -> Found:
        return score_noise(judge.predictor, batch, prediction, self._settings, seed=seed)

    @override
    def summary(self, rows: pd.DataFrame, counts: Counts) -> dict[str, Any]:
        """As ``Meter.summary``.

        ``area`` is that under each curve by the trapezoid rule, divided by the range of noise_std;
        ``mean`` the mean over levels. Both lie in [0, 1].
        """
        draws = self._settings.num_draws
        total = len(rows) * draws
        hits = counts[_HITS]
        shares = hits / total
        levels = [
            {"noise_std": level} | {name: share_of(int(n), total, draws) for name, n in _named(found)}
            for level, found in zip(self._settings.levels, hits, strict=True)
        ]
        return {
            "description": self._settings.describe() + (_DRAWN_AFRESH if self._is_random else ""),
            "settings": asdict(self._settings),
            "num_draws": draws,
            "levels": levels,
            "area": {name: float(x) for name, x in _named(((shares[:-1] + shares[1:]) / 2).mean(axis=0))},
            "mean": {name: float(x) for name, x in _named(shares.mean(axis=0))},
        }


def _named(values: NDArray[Any]) -> list[tuple[str, Any]]:
    return list(zip(NOISE_MEASURES, values, strict=True))


def _hits_at(
    model: nn.Module,
    batch: Batch,
    prediction: Tensor,
    settings: NoiseCurve,
    noise_std: float,
    generator: torch.Generator,
) -> Tensor:
    """For each measure and image, at how many draws it holds: int64 (measures, batch)."""
    if noise_std == 0:
        return _hits(prediction, prediction, prediction, batch.labels) * settings.num_draws
    found = torch.zeros(len(NOISE_MEASURES), len(batch.labels), dtype=torch.int64, device=batch.labels.device)
    for _ in range(settings.num_draws):
        noisy = batch.images + _draw(batch.images, noise_std, generator, is_shell=settings.shell)
        plain, clipped = model(noisy).argmax(dim=1), model(noisy.clamp(0.0, 1.0)).argmax(dim=1)
        found += _hits(plain, clipped, prediction, batch.labels)
    return found


def _hits(plain: Tensor, clipped: Tensor, prediction: Tensor, labels: Tensor) -> Tensor:
    """Whether each measure holds, in the order of ``NOISE_MEASURES``."""
    measures = [plain == prediction, plain == labels, clipped == prediction, clipped == labels]
    return torch.stack(measures).long()


def _draw(images: Tensor, noise_std: float, generator: torch.Generator, *, is_shell: bool) -> Tensor:
    noise = torch.empty_like(images).normal_(generator=generator)
    if not is_shell:
        return noise * noise_std
    radius = noise_std * math.sqrt(images[0].numel())
    return noise * norms.per_example(radius / norms.norm(noise, 2.0), noise)
