"""How a model answers on images that are blurred, turned, noisy or otherwise corrupted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from withstand.core.answers import NO_ANSWER
from withstand.core.dataset_info import DatasetInfo, require_images
from withstand.core.setting_rules import Whole, list_of, settle
from withstand.core.suggest import nearest
from withstand.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from withstand.evaluation.meter import Gathered, Meter, PartResult, Summary
from withstand.evaluation.predictor import Predictor
from withstand.evaluation.unanswered import UNANSWERED, unanswered
from withstand.results import results
from withstand.results.measurements import CORRUPTED, example_column, measured
from withstand.results.shares import share_of
from withstand.types import Batch

_HITS = "corruptions"


@dataclass(frozen=True)
class Corruptions(Meter):
    """Which corruptions to look at, and how severe (see ``withstand.corruptions``).

    Args:
        kinds: Names of ``corruptions.CORRUPTIONS``, all of them by default; or corruptions of your own, in a
            recipe each a class_path.
        severities: Of 1 to 5; all of them by default.

    Raises:
        ValueError: there is no such kind or severity, none is named, or one is named twice.
    """

    name = "corruptions"
    kinds: list[str | Corruption] = field(default_factory=lambda: list(CORRUPTIONS))
    severities: list[int] = field(default_factory=lambda: list(SEVERITIES))

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if isinstance(kind, str) and kind not in CORRUPTIONS:
                raise ValueError(f"There is no corruption {kind!r}; {nearest(kind, CORRUPTIONS)}")
        settle(self, severities=list_of(Whole(least=1, most=SEVERITIES[-1]), least=0))
        names = [kind.name for kind in self._kinds]
        for name, values in (("kinds", names), ("severities", self.severities)):
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f"Expected {name} of the corruptions, one at least and each once, but got {values}."
                )

    def describe(self) -> str:
        """A sentence of the settings, for a report."""
        kinds = ", ".join(kind.title for kind in self._kinds)
        severities = ", ".join(str(severity) for severity in self.severities)
        return (
            f"Corrupted images, each once a kind and severity; {kinds}; severities {severities} of 1 to "
            f"{SEVERITIES[-1]}; lengths are shares of the image's side"
        )

    @override
    def fits(self, info: DatasetInfo) -> bool:
        return len(info.shape) == 3

    @override
    def require(self, info: DatasetInfo) -> None:
        require_images(
            info.shape,
            "Corruptions change",
            "Leave the meter out: NoiseCurve, Attacks, Suite and Certificate measure data of every shape.",
        )

    @override
    @torch.no_grad()
    def score(self, predictor: Predictor, batch: Batch, prediction: Tensor, *, seed: int) -> PartResult:
        """As the interface has it; the predictor is asked once about each corrupted image."""
        given = [
            torch.stack([_answers(predictor, batch, kind, severity, seed) for severity in self.severities])
            for kind in self._kinds
        ]
        answers = torch.stack(given)  # (kinds, severities, batch)
        is_correct = (answers == batch.labels).cpu().numpy()
        columns = {str(example_column(CORRUPTED)): is_correct.mean(axis=(0, 1))}
        none = (answers == NO_ANSWER).sum(dim=(0, 1)).cpu().numpy()
        return PartResult(columns, {_HITS: is_correct.sum(axis=2, dtype=np.int64)}, {UNANSWERED: none})

    @override
    def summary(self, gathered: Gathered) -> Summary:
        total, counts = len(gathered.rows), gathered.counts[_HITS]
        measurements = [
            measured(CORRUPTED, share_of(int(correct), total), by=kind.name, level=severity)
            for kind, hits in zip(self._kinds, counts, strict=True)
            for severity, correct in zip(self.severities, hits, strict=True)
        ]
        kinds = [
            results.CorruptionKind(
                kind.name,
                kind.title,
                kind.parameter,
                list(self.severities),
                [kind.value(severity) for severity in self.severities],
            )
            for kind in self._kinds
        ]
        parts = unanswered(gathered.state.get(UNANSWERED, 0), total * counts.size, "corrupted images")
        return Summary(measurements, parts | {"corruptions": results.Corruptions(self.describe(), kinds)})

    @property
    def _kinds(self) -> list[Corruption]:
        return [CORRUPTIONS[kind] if isinstance(kind, str) else kind for kind in self.kinds]


def _answers(predictor: Predictor, batch: Batch, kind: Corruption, severity: int, seed: int) -> Tensor:
    """The class of each corrupted image: int64 (batch,)."""
    generator = torch.Generator(batch.images.device).manual_seed(_seed(seed, kind.name, severity))
    return predictor.predict(kind(batch.images, severity, generator))


def _seed(seed: int, kind: str, severity: int) -> int:
    """Of its own for each kind and severity, whichever others there are."""
    digest = hashlib.blake2b(f"{seed} {kind} {severity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
