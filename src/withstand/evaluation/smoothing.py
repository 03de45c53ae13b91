"""How far the answers of the smoothed classifier hold, over the examples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from typing_extensions import override

from withstand.evaluation.judge import Judge
from withstand.evaluation.meter import Counts, Found, Meter
from withstand.evaluation.summary import share
from withstand.smoothing import ABSTAINED, Smoothing, smoothed_radius
from withstand.types import Batch

__all__ = ["SMOOTHED_PREDICTION", "SMOOTHED_RADIUS", "SmoothingMeter"]

SMOOTHED_PREDICTION = "smoothed-prediction"
"""The column with the smoothed classifier's class; -1 where it abstains."""

SMOOTHED_RADIUS = "smoothed-radius-l2"
"""The column with the l2 radius in which it is right; 0 where it is wrong or abstains."""


class SmoothingMeter(Meter):
    """Smooths the judge's predictor by Gaussian noise, and bounds the radius of each answer.

    Args:
        settings: The noise, how many draws, and how sure to be.
    """

    def __init__(self, settings: Smoothing) -> None:
        self._settings = settings

    @property
    @override
    def entry(self) -> str:
        return "smoothing"

    @property
    @override
    def settings(self) -> Smoothing:
        # What is drawn depends neither on the budgets to report at nor on how many rows a pass has.
        return replace(self._settings, epsilons=None, batch_rows=1)

    @override
    def score(self, judge: Judge, batch: Batch, prediction: Tensor, *, seed: int) -> Found:
        generator = torch.Generator(batch.images.device).manual_seed(seed)
        found = smoothed_radius(
            judge.predictor,
            batch.images,
            settings=self._settings,
            generator=generator,
            is_random=judge.is_random,
        )
        radii = found.radius.where(found.prediction == batch.labels, 0.0)
        columns = {
            SMOOTHED_PREDICTION: found.prediction.cpu().numpy(),
            SMOOTHED_RADIUS: radii.cpu().numpy(),
        }
        return Found(columns, {})

    @override
    def summary(self, rows: pd.DataFrame, counts: Counts) -> dict[str, Any]:
        """As the interface has it; what counts at an epsilon is a radius above it."""
        settings, radii = self._settings, rows[SMOOTHED_RADIUS]
        curve = [{"epsilon": epsilon, **share(radii > epsilon)} for epsilon in settings.budgets]
        return {
            "description": settings.describe(),
            "noise_std": settings.noise_std,
            "failure_probability": settings.failure_probability,
            "num_selection": settings.num_selection,
            "num_estimation": settings.num_estimation,
            "num_examples": len(rows),
            "accuracy": share(rows[SMOOTHED_PREDICTION] == rows["label"]),
            "abstained": share(rows[SMOOTHED_PREDICTION] == ABSTAINED),
            "curve": curve,
            "radius": {
                "mean": float(radii.mean()),
                "median": float(radii.median()),
                "largest": float(radii.max()),
            },
        }
