"""Bounds of a model's kernel norms, from below and from above."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from typing_extensions import override

from withstand.data import few
from withstand.evaluation.kernel_norms import KernelNormSettings, kernel_norm_bounds
from withstand.evaluation.meter import Gathered, Meter, Needs, Subject, Summary
from withstand.evaluation.unanswered import unanswered
from withstand.results import analytic as results
from withstand.results.measurements import Measurement

_BOUNDS = ("gradient", "perturbation", "deformation", "deformation_change", "spectral")
_MEASURE = "kernel norm, largest over classes"


@dataclass(frozen=True)
class KernelNorms(KernelNormSettings, Meter):
    """Bounds the kernel norm of each class logit; its settings are those of ``KernelNormSettings``."""

    name = "kernel norms"
    needs = Needs(batches=False, fixed_weights=True)

    @override
    def measure(self, subject: Subject) -> Any:
        """The result of ``kernel_norm_bounds`` on a sample of the test examples.

        Raises:
            ModelError: the model is no function of one image.
            CertificateError: a lower bound is above the upper one.
        """
        images = few(subject.test, self.num_examples).images
        names = subject.info.class_names
        bounds = kernel_norm_bounds(subject.model, images, self, class_names=names, seed=subject.seed)
        return asdict(bounds)

    @override
    def summary(self, gathered: Gathered) -> Summary:
        once = gathered.once
        classes = [results.KernelNormsOf(**bounds) for bounds in once["classes"]]
        largest: dict[str, Any] = {
            name: _largest([getattr(bounds, name) for bounds in classes]) for name in _BOUNDS
        }
        norms = results.KernelNorms(
            num_examples=once["num_examples"],
            description=self.describe(),
            classes=classes,
            layers=[results.KernelNormsOfLayer(**layer) for layer in once["layers"]],
            largest=results.KernelNormsOf("largest", **largest),
            reason=once["reason"],
            num_unknown=once.get("num_unknown", 0),
        )
        measurements = [
            Measurement(_MEASURE, name, "2", value=value)
            for name, value in largest.items()
            if value is not None
        ]
        what = "images, or for the gradient there,"
        parts = unanswered(norms.num_unknown, norms.num_examples, what, "they bound no kernel norm")
        return Summary(measurements, parts | {"kernel_norms": norms})


def _largest(values: list[float | None]) -> float | None:
    """None where some class has no bound."""
    known = [value for value in values if value is not None]
    return max(known) if len(known) == len(values) else None
