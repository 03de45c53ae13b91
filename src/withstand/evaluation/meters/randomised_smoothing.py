"""How far the answers of the smoothed classifier hold, over the examples."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor
from typing_extensions import override

from withstand.certificates.smoothing import ABSTAINED, Smoothing, smoothed_radius
from withstand.evaluation.meter import Gathered, Meter, PartResult, Summary
from withstand.evaluation.predictor import Predictor
from withstand.evaluation.unanswered import UNANSWERED, unanswered
from withstand.results import measurements, results
from withstand.results.measurements import Measurement, measured
from withstand.results.shares import share
from withstand.types import Batch

_PREDICTION = "smoothed-prediction"  # the smoothed classifier's class; -1 where it abstains
_RADIUS = "smoothed-radius-l2"  # in which it is correct; 0 where it is wrong or abstains
_BY = "smoothed"


@dataclass(frozen=True)
class RandomizedSmoothing(Smoothing, Meter):
    """Smooths the predictor by Gaussian noise, and bounds the radius of each answer.

    Its settings are those of ``Smoothing``.
    """

    name = "smoothing"

    @property
    @override
    def depends_on(self) -> object:
        # What is drawn depends neither on the budgets to report at nor on how many rows a pass has.
        return replace(self, epsilons=None, batch_rows=1)

    @override
    def score(self, predictor: Predictor, batch: Batch, prediction: Tensor, *, seed: int) -> PartResult:
        generator = torch.Generator(batch.images.device).manual_seed(seed)
        smoothed = smoothed_radius(
            predictor.model, batch.images, settings=self, generator=generator, is_random=predictor.is_random
        )
        radii = smoothed.radius.where(smoothed.prediction == batch.labels, 0.0)
        columns = {_PREDICTION: smoothed.prediction.cpu().numpy(), _RADIUS: radii.cpu().numpy()}
        return PartResult(columns, {}, {UNANSWERED: smoothed.unanswered.cpu().numpy()})

    @override
    def summary(self, gathered: Gathered) -> Summary:
        """As the interface has it; what counts at an epsilon is a radius above it."""
        rows, radii = gathered.rows, gathered.rows[_RADIUS]
        figures = [
            measured(measurements.SMOOTHED, share(rows[_PREDICTION] == rows["label"]), by=_BY),
            measured(measurements.ABSTENTION, share(rows[_PREDICTION] == ABSTAINED), by=_BY),
            *(
                measured(
                    measurements.SMOOTHED_CERTIFIED, share(radii > epsilon), by=_BY, norm="2", level=epsilon
                )
                for epsilon in self.budgets
            ),
            Measurement(measurements.MEAN_SMOOTHED_RADIUS, _BY, "2", value=float(radii.mean())),
            Measurement(measurements.MEDIAN_SMOOTHED_RADIUS, _BY, "2", value=float(radii.median())),
            Measurement(measurements.LARGEST_SMOOTHED_RADIUS, _BY, "2", value=float(radii.max())),
        ]
        settings = results.Smoothing(
            self.describe(),
            self.noise_std,
            self.failure_probability,
            self.num_selection,
            self.num_estimation,
        )
        total = len(rows) * (self.num_selection + self.num_estimation)
        what = "noisy images of the smoothing, which are not clipped to [0, 1],"
        none, consequence = gathered.state.get(UNANSWERED, 0), "that is a vote for no class"
        return Summary(figures, unanswered(none, total, what, consequence) | {"smoothing": settings})
