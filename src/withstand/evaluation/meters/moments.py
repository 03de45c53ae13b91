"""Analytic moments of the logits under noise, held against samples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import override

from withstand.data import few
from withstand.evaluation.meter import Gathered, Meter, Needs, Subject, Summary
from withstand.evaluation.moment_check import MomentSettings, check_moments
from withstand.evaluation.unanswered import unanswered
from withstand.results.analytic import Moments, MomentsLevel
from withstand.results.measurements import MOMENTS_ERROR, MOMENTS_SPEED_UP, Measurement

_LEVELS = TypeAdapter(list[MomentsLevel])


@dataclass(frozen=True)
class MomentCheck(MomentSettings, Meter):
    """Holds analytic moments against samples; its settings are those of ``MomentSettings``."""

    name = "moments"
    needs = Needs(batches=False, fixed_weights=True)

    @override
    def measure(self, subject: Subject) -> Any:
        """The result of ``check_moments`` on a sample of the test examples.

        Raises:
            ModelError: moments cannot pass through the model.
        """
        images = few(subject.test, self.num_examples).images
        results = check_moments(subject.model, images, self, seed=subject.seed)
        return {
            "num_examples": results.num_examples,
            "levels": _LEVELS.dump_python(results.levels, mode="json"),
        }

    @override
    def summary(self, gathered: Gathered) -> Summary:
        levels = _LEVELS.validate_python(gathered.once["levels"])
        measurements = [
            Measurement(measure, method.name, level=level.noise_std, value=value)
            for level in levels
            for method in level.methods
            for measure, value in ((MOMENTS_ERROR, method.mean_error), (MOMENTS_SPEED_UP, method.speed_up))
            if value is not None
        ]
        total = gathered.once["num_examples"]
        count = sum(level.num_unknown for level in levels)
        what = "images, in a draw of some noise_std,"
        parts = unanswered(count, total * len(levels), what, "such logits count in no error")
        moments = Moments(
            gathered.once["num_examples"],
            self.num_samples,
            self.num_samples**-0.5,
            self.describe(),
            levels,
        )
        return Summary(measurements, parts | {"moments": moments})
