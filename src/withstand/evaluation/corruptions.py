"""How a model answers on images that are blurred, turned, noisy or otherwise corrupted."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from typing_extensions import override

from withstand.corruptions import CORRUPTIONS, SEVERITIES, Corruption
from withstand.evaluation.judge import Judge
from withstand.evaluation.meter import Counts, Found, Meter
from withstand.evaluation.summary import share_of
from withstand.suggest import nearest
from withstand.types import Batch

__all__ = ["CORRUPTION_ACCURACY", "CorruptionMeter", "Corruptions"]

CORRUPTION_ACCURACY = "corruption-accuracy"
"""The column with the share of kinds and severities at which an example is right."""

_HITS = "corruptions"


@dataclass(frozen=True)
class Corruptions:
    """Which corruptions to look at, and how severe (see ``withstand.corruptions``).

    Args:
        kinds: Of ``corruptions.CORRUPTIONS``; all of them by default.
        severities: Of 1 to 5; all of them by default.

    Raises:
        ValueError: there is no such kind or severity, none is named, or one is named twice.
    """

    kinds: list[str] = field(default_factory=lambda: list(CORRUPTIONS))
    severities: list[int] = field(default_factory=lambda: list(SEVERITIES))

    def __post_init__(self) -> None:
        for kind in self.kinds:
            if kind not in CORRUPTIONS:
                raise ValueError(f"There is no corruption {kind!r}; {nearest(kind, CORRUPTIONS)}")
        for severity in self.severities:
            if severity not in SEVERITIES:
                raise ValueError(
                    f"Expected severities of the corruptions from 1 to {SEVERITIES[-1]}, but got {severity}."
                )
        for name, given in (("kinds", self.kinds), ("severities", self.severities)):
            if not given or len(set(given)) < len(given):
                raise ValueError(
                    f"Expected {name} of the corruptions, one at least and each once, but got {given}."
                )

    def describe(self) -> str:
        """A sentence of the settings, for a report."""
        kinds = ", ".join(CORRUPTIONS[kind].title for kind in self.kinds)
        severities = ", ".join(str(severity) for severity in self.severities)
        return (
            f"Corrupted images, each once a kind and severity; {kinds}; severities {severities} of 1 to "
            f"{SEVERITIES[-1]}; lengths are shares of the image's side"
        )


class CorruptionMeter(Meter):
    """Asks the judge's predictor once about each corrupted image.

    Args:
        settings: Which corruptions.
    """

    def __init__(self, settings: Corruptions) -> None:
        self._settings = settings

    @property
    @override
    def entry(self) -> str:
        return "corruptions"

    @property
    @override
    def settings(self) -> Corruptions:
        return self._settings

    @override
    @torch.no_grad()
    def score(self, judge: Judge, batch: Batch, prediction: Tensor, *, seed: int) -> Found:
        hits = torch.stack(
            [
                torch.stack([_hits(judge, batch, kind, severity, seed) for severity in self._severities])
                for kind in self._kinds
            ]
        )
        found = hits.cpu().numpy()  # (kinds, severities, batch)
        columns = {CORRUPTION_ACCURACY: found.mean(axis=(0, 1))}
        return Found(columns, {_HITS: found.sum(axis=2, dtype=np.int64)})

    @override
    def summary(self, rows: pd.DataFrame, counts: Counts) -> dict[str, Any]:
        total = len(rows)
        kinds = [
            {
                "name": kind.name,
                "title": kind.title,
                "parameter": kind.parameter,
                "levels": [
                    {"severity": severity, "value": kind.value(severity), **share_of(int(correct), total)}
                    for severity, correct in zip(self._severities, hits, strict=True)
                ],
            }
            for kind, hits in zip(self._kinds, counts[_HITS], strict=True)
        ]
        return {
            "description": self._settings.describe(),
            "num_examples": total,
            "kinds": kinds,
            "mean": float(counts[_HITS].mean() / total),
        }

    @property
    def _kinds(self) -> list[Corruption]:
        return [CORRUPTIONS[kind] for kind in self._settings.kinds]

    @property
    def _severities(self) -> list[int]:
        return self._settings.severities


def _hits(judge: Judge, batch: Batch, kind: Corruption, severity: int, seed: int) -> Tensor:
    """Whether the model is right on each corrupted image: bool (batch,)."""
    generator = torch.Generator(batch.images.device).manual_seed(_seed(seed, kind.name, severity))
    corrupted = kind(batch.images, severity, generator)
    answers: Tensor = judge.predictor(corrupted).argmax(dim=1)
    return answers == batch.labels


def _seed(seed: int, kind: str, severity: int) -> int:
    """Of its own for each kind and severity, whichever others there are."""
    digest = hashlib.blake2b(f"{seed} {kind} {severity}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
