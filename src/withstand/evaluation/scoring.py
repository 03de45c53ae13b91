"""Goes through test data batch by batch: rows, what is proven of them, and what else is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from withstand.data import Split, batches
from withstand.evaluation.averaging import Judging
from withstand.evaluation.laws import Outcome, require_lawful
from withstand.evaluation.noise import NoiseMeter
from withstand.evaluation.proofs import Evidence, Prover, outcomes_of
from withstand.evaluation.rows import CLEAN, AttackPlan, Columns, Scores, score_batch
from withstand.evaluation.uncertainty_meter import UncertaintyMeter
from withstand.run_folder import RunFolder
from withstand.types import Batch, RunFolderError

__all__ = ["Wanted", "batch_seed", "observe_others", "score_split"]


@dataclass(frozen=True)
class Wanted:
    """What is found out of each batch.

    Args:
        judging: Who says what is right.
        plans: The attacks.
        proving: What is proven.
        noise: Looks at answers under noise, where they are asked for.
        uncertainty: Looks at clean and attacked images, where it is asked for.
    """

    judging: Judging
    plans: Sequence[AttackPlan]
    proving: Sequence[Prover]
    noise: NoiseMeter | None
    uncertainty: UncertaintyMeter | None

    def scores(self, batch: Batch, first_index: int) -> Scores:
        """The rows of a batch, and the images that fooled the model."""
        meter = self.uncertainty
        if meter is None:
            return score_batch(self.judging.judge, batch, self.plans, first_index)

        def on_attacked(name: str, images: Tensor) -> None:
            meter.observe(name, "attacked", images, batch.labels)

        columns = meter.observe(CLEAN, "clean", *batch)
        scores = score_batch(self.judging.judge, batch, self.plans, first_index, on_attacked)
        return Scores({**scores.columns, **columns}, scores.fooling)

    def under_noise(self, batch: Batch, scores: Scores, seed: int) -> Columns:
        """The columns of the noise; none where it is not asked for."""
        if self.noise is None:
            return {}
        prediction = torch.from_numpy(scores.columns["prediction"]).to(batch.labels.device)
        return self.noise.score(self.judging.judge.predictor, batch, prediction, seed=seed)

    def measured(self) -> dict[str, Any]:
        """The entries of ``metrics.json`` beside the accuracies, of all batches so far."""
        noise = None if self.noise is None else self.noise.summary()
        if noise is not None and self.judging.entry is not None:
            noise["description"] += (
                "; each answer is a fresh prediction, so agreement falls below 1 by the draws of the weights "
                "alone"
            )
        entries = {
            "noise": noise,
            "sampling": self.judging.entry,
            "uncertainty": None if self.uncertainty is None else self.uncertainty.summary(),
        }
        return {name: entry for name, entry in entries.items() if entry is not None}


def score_split(
    test: Split,
    wanted: Wanted,
    *,
    seed: int,
    out: RunFolder | None,
    on_batch: Callable[[int, int], None] | None,
) -> tuple[pd.DataFrame, Counter[str]]:
    """The rows, and how many examples each certificate lost to rounding.

    Args:
        test: On the model's device.
        wanted: What to find out.
        seed: Of the attacks' random starts and of the noise; each batch has its own.
        out: Where ``examples.csv`` grows batch by batch; nothing is written where None.
        on_batch: Told after each batch how many examples are done, of how many.

    Raises:
        AttackError: an attack left its ball or [0, 1].
        CertificateError: a certificate is wrong; the rows so far are written.
        RunFolderError: the folder cannot be written.
    """
    frames = []
    withdrawn: Counter[str] = Counter()
    done = 0
    for batch in batches(test, wanted.judging.batch_size):
        torch.manual_seed(batch_seed(seed, done))
        scores = wanted.scores(batch, done)
        outcomes = outcomes_of(scores.columns, wanted.plans)
        evidence = _evidence(batch, scores)
        proven = {each.plan.name: each.prove(batch, outcomes, evidence) for each in wanted.proving}
        columns = {name: values for each in proven.values() for name, values in each.columns.items()}
        columns |= wanted.under_noise(batch, scores, batch_seed(seed, done))
        frames.append(pd.DataFrame({**scores.columns, **columns}))
        if out is not None:
            _append(frames[-1], out, is_first=not done)
        violations = [violation for each in proven.values() for violation in each.violations]
        require_lawful(violations, done, "" if out is None else str(out.examples))
        withdrawn.update({name: each.num_withdrawn for name, each in proven.items()})
        done += len(batch.labels)
        if on_batch is not None:
            on_batch(done, len(test))
    return pd.concat(frames, ignore_index=True), withdrawn


def observe_others(
    meter: UncertaintyMeter, others: Mapping[str, Split], *, batch_size: int, seed: int
) -> None:
    """Looks at the images of other data sets.

    Args:
        meter: Takes them up.
        others: Name -> images, on the model's device.
        batch_size: Examples a batch.
        seed: Of the draws; each batch has its own.
    """
    for name, split in others.items():
        for number, batch in enumerate(batches(split, batch_size)):
            torch.manual_seed(batch_seed(seed, number * batch_size))
            meter.observe(name, "out-of-distribution", batch.images)


def batch_seed(seed: int, first_index: int) -> int:
    """Of a batch's random starts and of its noise, whatever was drawn for those before it."""
    return seed * 1_000_003 + first_index


def _evidence(batch: Batch, scores: Scores) -> Evidence:
    """The images that fooled the model, which the scoring kept."""

    def images(outcome: Outcome, rows: Tensor) -> Tensor:
        return scores.fooling.get(outcome.attack, batch.images)[rows]

    return images


def _append(frame: pd.DataFrame, out: RunFolder, *, is_first: bool) -> None:
    try:
        frame.to_csv(out.examples, mode="w" if is_first else "a", header=is_first, index=False)
    except OSError as error:
        raise RunFolderError(
            f"Cannot write {out.examples}: {error.strerror or error}. "
            "The rows written before are still there."
        ) from error
