"""How a model answers as Gaussian noise grows: the same as without it, and correctly."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from withstand.core import norms
from withstand.core.answers import NO_ANSWER
from withstand.core.batch_shares import filled
from withstand.core.setting_rules import COUNT, POSITIVE, Whole, flag, settle
from withstand.evaluation.meter import Gathered, Meter, PartResult, Summary
from withstand.evaluation.predictor import Predictor
from withstand.evaluation.unanswered import UNANSWERED, unanswered
from withstand.results.measurements import (
    NOISE_ACCURACY,
    NOISE_AGREEMENT,
    Measurement,
    example_column,
    measured,
)
from withstand.results.results import Noise
from withstand.results.shares import share_of
from withstand.types import Batch

AGREEMENT_COLUMN = "noise-agreement"
"""The column with the share of levels and draws at which an example's prediction is that without noise."""

# What is counted at each level: of the noisy image, and of the noisy image clipped to [0, 1].
_MEASURES = (
    (NOISE_AGREEMENT, "unclipped"),
    (NOISE_ACCURACY, "unclipped"),
    (NOISE_AGREEMENT, "clipped"),
    (NOISE_ACCURACY, "clipped"),
)
_BY = ("unclipped", "clipped")
_HITS = "hits"
_DRAWN_AFRESH = (
    "; each answer is a fresh prediction, so agreement falls below 1 by the draws of the weights alone"
)


@dataclass(frozen=True)
class NoiseCurve(Meter):
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

    name = "noise"
    num_levels: int = 30
    largest: float = 0.5
    num_draws: int = 1
    shell: bool = False

    def __post_init__(self) -> None:
        settle(self, num_levels=Whole(least=2), largest=POSITIVE, num_draws=COUNT, shell=flag)

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

    @override
    @torch.no_grad()
    def score(self, predictor: Predictor, batch: Batch, prediction: Tensor, *, seed: int) -> PartResult:
        """As the interface has it; level 0 is exact, since nothing is drawn for it.

        Where the model's answers are drawn, those at level 0 are ``prediction`` itself, and all others are
        drawn anew. The columns are the share of levels and draws at which the model is correct, and at which
        it answers as without noise, without clipping; the counts are (levels, measures).
        """
        generator = torch.Generator(batch.images.device).manual_seed(seed)
        levels = [self._hits_at(level, predictor, batch, prediction, generator) for level in self.levels]
        counted = torch.stack(levels).cpu().numpy()  # (levels, measures and images without an answer, batch)
        hits, none = counted[:, : len(_MEASURES)], counted[:, len(_MEASURES) :]
        shares = hits.sum(axis=0) / (self.num_levels * self.num_draws)
        columns = {
            str(example_column(NOISE_ACCURACY)): shares[_MEASURES.index((NOISE_ACCURACY, "unclipped"))],
            AGREEMENT_COLUMN: shares[_MEASURES.index((NOISE_AGREEMENT, "unclipped"))],
        }
        return PartResult(columns, {_HITS: hits.sum(axis=2)}, {UNANSWERED: none.sum(axis=(0, 1))})

    @override
    def summary(self, gathered: Gathered) -> Summary:
        total = len(gathered.rows) * self.num_draws
        measurements: list[Measurement] = [
            measured(measure, share_of(int(correct), total, self.num_draws), by=by, level=level)
            for level, hits in zip(self.levels, gathered.counts[_HITS], strict=True)
            for (measure, by), correct in zip(_MEASURES, hits, strict=True)
        ]
        description = self.describe() + (_DRAWN_AFRESH if gathered.subject.predictor.is_random else "")
        of, what = len(_BY) * total * self.num_levels, f"noisy images, {' and '.join(_BY)},"
        parts = unanswered(gathered.state.get(UNANSWERED, 0), of, what)
        return Summary(measurements, parts | {"noise": Noise(description, self.num_draws, self.shell)})

    def _hits_at(
        self,
        noise_std: float,
        predictor: Predictor,
        batch: Batch,
        prediction: Tensor,
        generator: torch.Generator,
    ) -> Tensor:
        """At how many draws each measure holds of each image, and where there is no answer; as ``_hits``."""
        labels = batch.labels
        if noise_std == 0:
            return _hits(prediction, prediction, prediction, labels) * self.num_draws
        hits = torch.zeros(len(_MEASURES) + len(_BY), len(labels), dtype=torch.int64, device=labels.device)
        for _ in range(self.num_draws):
            noisy = batch.images + self._draw(batch.images, noise_std, generator)
            hits += _hits(
                predictor.predict(noisy), predictor.predict(noisy.clamp(0.0, 1.0)), prediction, labels
            )
        return hits

    def _draw(self, images: Tensor, noise_std: float, generator: torch.Generator) -> Tensor:
        noise = filled(images, lambda rows: rows.normal_(generator=generator))
        if not self.shell:
            return noise * noise_std
        radius = noise_std * math.sqrt(images[0].numel())
        return noise * norms.per_example(radius / norms.norm(noise, 2.0), noise)


def _hits(plain: Tensor, clipped: Tensor, prediction: Tensor, labels: Tensor) -> Tensor:
    """Whether each measure holds, in the order of ``_MEASURES``, and whether there is no answer, as ``_BY``.

    No answer agrees with nothing.
    """
    has_answer = prediction != NO_ANSWER
    measures = [
        (plain == prediction) & has_answer,
        plain == labels,
        (clipped == prediction) & has_answer,
        clipped == labels,
    ]
    return torch.stack([*measures, plain == NO_ANSWER, clipped == NO_ANSWER]).long()
