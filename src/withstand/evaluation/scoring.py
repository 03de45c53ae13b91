"""Goes through test data batch by batch: rows, what is proven of them, and what else is measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from typing_extensions import override

from withstand.data import Split, batches
from withstand.evaluation.attacking import Memory, attack_batch
from withstand.evaluation.averaging import Judging
from withstand.evaluation.evidence import evidence_of
from withstand.evaluation.identity import identity
from withstand.evaluation.judge import Answer
from withstand.evaluation.kept_proofs import prove
from withstand.evaluation.laws import Attained, Violation, require_lawful
from withstand.evaluation.meter import Counts, Found, Meter
from withstand.evaluation.proofs import Prover, outcomes_of
from withstand.evaluation.rows import CLEAN, AttackPlan, Columns, Scores, column, shown
from withstand.evaluation.rows_file import RowsFile
from withstand.evaluation.same_answers import differ
from withstand.evaluation.store import BatchStore, Store
from withstand.evaluation.uncertainty_meter import UncertaintyMeter
from withstand.numerics import seed_of as batch_seed
from withstand.types import Batch

__all__ = ["Progress", "Scored", "Wanted", "batch_seed", "observe_others", "score_split"]

Progress = Callable[[int, int], None]
"""Told how many examples are done, of how many."""

_ANSWER = ("prediction", "confidence", "_right")  # the columns of the parts of an ``Answer``


@dataclass(frozen=True)
class Wanted:
    """What is found out of each batch.

    Args:
        judging: Who says what is right.
        plans: The attacks.
        proving: What is proven.
        meters: What else looks at the images.
        uncertainty: Looks at clean and attacked images, where it is asked for.
    """

    judging: Judging
    plans: Sequence[AttackPlan]
    proving: Sequence[Prover]
    meters: Sequence[Meter]
    uncertainty: UncertaintyMeter | None

    @cached_property
    def identities(self) -> dict[str, str]:
        """Name of an attack -> all it depends on beside its budget."""
        return {plan.name: identity(plan.form) for plan in self.plans}

    @property
    def num_parts(self) -> int:
        """How many things are found out of a batch."""
        attacks = sum(len(plan.epsilons) for plan in self.plans)
        return 1 + attacks + len(self.proving) + len(self.meters)


@dataclass
class Scored:
    """What all batches gave.

    Attributes:
        rows: One row an example.
        counts: Entry of a meter, or column of an attack at a budget -> the sums over all batches.
        withdrawn: How many examples each certificate lost to rounding.
    """

    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    counts: dict[str, Counts] = field(default_factory=dict)
    withdrawn: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, counts: Mapping[str, Any]) -> None:
        """Adds what one more batch gave."""
        before = self.counts.get(name, {})
        self.counts[name] = {key: value + before.get(key, 0) for key, value in counts.items()}


def score_split(
    test: Split,
    wanted: Wanted,
    store: Store,
    *,
    seed: int,
    rows_file: RowsFile,
    on_batch: Progress | None,
) -> Scored:
    """The rows of all examples, and what was counted of them.

    Args:
        test: On the model's device.
        wanted: What to find out.
        store: What is known already; takes up what is found.
        seed: Of the attacks' random starts and of the noise; each part of a batch has its own.
        rows_file: Where the rows grow batch by batch.
        on_batch: Told how many examples are done, of how many.

    Raises:
        AttackError: an attack left its ball or [0, 1].
        CertificateError: a certificate is wrong; the rows so far are written.
        RunFolderError: the folder cannot be written.
    """
    scored = Scored()
    frames: list[pd.DataFrame] = []
    done = 0
    for batch in batches(test, wanted.judging.batch_size):
        stop = done + len(batch.labels)
        with store.batch(done, stop) as kept:
            tell = _tell(on_batch, done, stop, len(test), wanted.num_parts)
            one = _OneBatch(wanted, batch, kept, seed, done, tell)
            columns = one.columns(scored)
            frames.append(pd.DataFrame(shown(columns)))
        rows_file.add(frames[-1])
        require_lawful(one.violations, done, rows_file.shown_name())
        if not done:  # after the batch, of which more can be said
            for prover in wanted.proving:
                prover.require_known_answers(batch.images[0])
        done = stop
        if on_batch is not None:
            on_batch(done, len(test))
    scored.rows = pd.concat(frames, ignore_index=True)
    return scored


def _tell(on_batch: Progress | None, start: int, stop: int, total: int, num_parts: int) -> Callable[[], None]:
    """Tells of each part of a batch as so many examples."""
    parts = iter(range(1, num_parts + 1))

    def tell() -> None:
        if on_batch is not None:
            on_batch(start + (stop - start) * next(parts, num_parts) // num_parts, total)

    return tell


class _OneBatch(Memory):
    """Finds out of one batch what is not known of it.

    Args:
        wanted: What to find out.
        batch: On the model's device.
        kept: What is known.
        seed: Of all batches.
        first_index: Of the batch.
        tell: Is called after each part.
    """

    def __init__(
        self,
        wanted: Wanted,
        batch: Batch,
        kept: BatchStore,
        seed: int,
        first_index: int,
        tell: Callable[[], None],
    ) -> None:
        self.violations: list[Violation] = []
        self._attained: list[tuple[float, Attained]] = []
        self._wanted, self._batch, self._kept = wanted, batch, kept
        self._seed, self._first_index, self._tell = seed, first_index, tell
        self._drawn = (seed, wanted.judging.draws)

    def columns(self, scored: Scored) -> Columns:
        """All columns of the batch; what is counted goes to ``scored``."""
        wanted, batch = self._wanted, self._batch
        clean = self._clean()
        answer = Answer(*(torch.from_numpy(clean.columns[name]).to(batch.labels.device) for name in _ANSWER))
        scores = attack_batch(wanted.judging.judge, batch, answer, wanted.plans, self._on_attacked, self)
        for name, counts in scores.counts.items():
            scored.add(name, counts)
            if wanted.uncertainty is not None:
                wanted.uncertainty.take(name, "attacked", scores.columns)
        columns = {**clean.columns, **scores.columns}
        columns |= self._proofs(columns, scores, scored, answer)
        for meter in wanted.meters:
            found = self._measured(meter, answer.prediction)
            columns |= found.columns
            scored.add(meter.entry, found.counts)
        return columns

    # -- clean ------------------------------------------------------------------------------------------

    def _clean(self) -> Found:
        """The clean answers; always asked for where they are sure, since they tell whether the rest fits."""
        judge = self._wanted.judging.judge
        key = f"{CLEAN} {identity(self._drawn, self._uncertainty_settings())}"
        known = self._kept.find(key)
        if known is None or not judge.is_random:
            found = self._answers()
            if known is not None and differ(known.columns, found.columns):
                self._kept.forget()  # of another forward than the weights tell
            self._kept.put(key, found)
        else:
            found = known
        if self._wanted.uncertainty is not None:
            self._wanted.uncertainty.take(CLEAN, "clean", found.columns)
        self._tell()
        return found

    def _answers(self) -> Found:
        batch, wanted = self._batch, self._wanted
        self._prepare(CLEAN)
        clean = wanted.judging.judge.answer(*batch)
        columns: dict[str, Tensor] = {
            "index": torch.arange(self._first_index, self._first_index + len(batch.labels)),
            "label": batch.labels,
            "prediction": clean.prediction,
            "confidence": clean.confidence,
            CLEAN: wanted.judging.judge.share(clean.right),
            "_right": clean.right,
        }
        found = {name: values.cpu().numpy() for name, values in columns.items()}
        if wanted.uncertainty is not None:
            found |= wanted.uncertainty.observe(CLEAN, *batch)
        return Found(found, {})

    # -- attacks: the memory of ``attack_batch`` ----------------------------------------------------------

    @override
    def recall(self, plan: AttackPlan, epsilon: float) -> Found | None:
        found = self._kept.find(self._attack_key(plan, epsilon))
        if found is not None:
            self._tell()
        return found

    @override
    def prepare(self, plan: AttackPlan, epsilon: float) -> None:
        self._prepare(column(plan.name, epsilon))

    @override
    def keep(self, plan: AttackPlan, epsilon: float, found: Found) -> None:
        self._kept.put(self._attack_key(plan, epsilon), found)
        self._tell()

    def _attack_key(self, plan: AttackPlan, epsilon: float) -> str:
        # Where answers are drawn, a budget goes on from the images of all smaller ones.
        budgets = list(plan.epsilons) if plan.is_random else [epsilon]
        settings = identity(
            self._wanted.identities[plan.name], budgets, self._drawn, self._uncertainty_settings()
        )
        return f"{column(plan.name, epsilon)} {settings}"

    @override
    def wants_images(self, plan: AttackPlan) -> bool:
        return bool(self._wanted.proving)

    def _on_attacked(self, plan: AttackPlan, epsilon: float, images: Tensor) -> Columns:
        """Looks at the images that an attack left."""
        name, wanted = column(plan.name, epsilon), self._wanted
        proving = next((each for each in wanted.proving if each.plan.certificate.norm == plan.norm), None)
        if proving is not None and plan.norm is not None:
            margins = proving.margins_at(self._batch, images, epsilon)
            self._attained.append((plan.norm, Attained(plan.name, epsilon, margins)))
        if wanted.uncertainty is None:
            return {}
        return wanted.uncertainty.observe(name, images, self._batch.labels)

    def _uncertainty_settings(self) -> Any:
        meter = self._wanted.uncertainty
        return None if meter is None else meter.settings

    # -- proofs and meters --------------------------------------------------------------------------------

    def _proofs(self, columns: Columns, scores: Scores, scored: Scored, answer: Answer) -> Columns:
        wanted, batch = self._wanted, self._batch
        outcomes = outcomes_of(columns, wanted.plans)
        judge, is_right = wanted.judging.judge, answer.right > 0
        evidence = evidence_of(judge, batch, scores, wanted.plans, is_right, self.prepare)
        found: Columns = {}
        for prover in wanted.proving:
            norm = prover.plan.certificate.norm
            attained = [each for of_norm, each in self._attained if of_norm == norm]
            attained = [*(attained or self._probed(prover)), prover.clean_margins(batch)]
            proven = prove(prover, batch, outcomes, evidence, attained, self._kept)
            found |= proven.columns
            self.violations += proven.violations
            scored.withdrawn[prover.plan.name] += proven.num_withdrawn
            self._tell()
        return found

    def _probed(self, prover: Prover) -> list[Attained]:
        """What a short attack comes down to, for where all attacks are known and their images are gone."""
        budgets = [each for each in prover.plan.epsilons if each > 0]
        key = f"probe {prover.plan.certificate.norm:g} {identity(min(budgets, default=0.0), self._drawn)}"
        known = self._kept.find(key)
        if known is None:
            self._prepare(key)
            found = prover.probe(self._wanted.judging.judge.target, self._batch)
            known = Found({f"{each.attack}@{each.epsilon!r}": each.margins for each in found}, {})
            self._kept.put(key, known)
        return [
            Attained(attack, float(epsilon), margins.astype(np.float64))
            for name, margins in known.columns.items()
            for attack, _, epsilon in [name.rpartition("@")]
        ]

    def _measured(self, meter: Meter, prediction: Tensor) -> Found:
        key = f"{meter.entry} {identity(meter.settings, self._drawn)}"
        found = self._kept.find(key)
        if found is None:
            seed = batch_seed(self._seed, self._first_index)
            self._prepare(meter.entry)
            found = meter.score(self._wanted.judging.judge, self._batch, prediction, seed=seed)
            self._kept.put(key, found)
        self._tell()
        return found

    def _prepare(self, part: str) -> None:
        torch.manual_seed(batch_seed(self._seed, self._first_index) + crc32(part.encode()))


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
            meter.take(name, "out-of-distribution", meter.observe(name, batch.images))
