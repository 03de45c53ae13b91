"""Goes through test data batch by batch and part by part: rows, what is proven of them, what meters see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from typing_extensions import override

from withstand.certificates.consistency import AttackMargins, Violation, require_consistent
from withstand.core.numerics import seed_of
from withstand.data import batches
from withstand.evaluation.attacking import Memory, Scores, attack_batch, column
from withstand.evaluation.averaging import ScoringPlan
from withstand.evaluation.identity import identity
from withstand.evaluation.meter import Columns, Counts, Meter, PartResult, Subject
from withstand.evaluation.plans import AttackPlan
from withstand.evaluation.predictor import Answer
from withstand.evaluation.proofs import Prover, evidence_of, outcomes_of
from withstand.evaluation.run_files import RowsFile
from withstand.evaluation.store import BatchStore, Store
from withstand.results.results import Target
from withstand.types import Batch

Progress = Callable[[int, int], None]
"""Told how many examples are done, of how many."""

_CLEAN = "clean"
_ANSWER = ("prediction", "confidence")  # columns of the clean answers
_RIGHT = "right"
_MOST_OTHERS = 0.005  # of a batch: answers that another device may round to another class
_SAME_CONFIDENCE = 0.01


@dataclass(frozen=True)
class BatchPlan:
    """What is found out of each batch.

    Args:
        scoring_plan: Who says what is right.
        plans: The attacks.
        proving: What is proven.
        meters: What else looks at the images.
    """

    scoring_plan: ScoringPlan
    plans: Sequence[AttackPlan]
    proving: Sequence[Prover]
    meters: Sequence[Meter]

    @property
    def of_batches(self) -> list[Meter]:
        """The meters that see batches."""
        return [meter for meter in self.meters if meter.needs.batches]

    @property
    def of_attacked(self) -> list[Meter]:
        """The meters that see attacked images."""
        return [meter for meter in self.meters if meter.needs.attacked_images]

    @cached_property
    def identities(self) -> dict[str, str]:
        """Name of an attack -> all it depends on beside its budget."""
        return {plan.name: identity(plan.attack.at(0.0)) for plan in self.plans}

    @property
    def num_parts(self) -> int:
        """How many things are found out of a batch."""
        attacks = sum(len(plan.epsilons) for plan in self.plans)
        return 1 + attacks + len(self.proving) + len(self.of_batches)


@dataclass
class Scored:
    """What all batches gave, by what it is of: a meter's or certificate's name, or an attack at a budget.

    Attributes:
        rows: One row an example.
        counts: Sums over all batches.
        states: Arrays (examples, …); of an attack by meter and name.
    """

    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    counts: dict[str | Target, Counts] = field(default_factory=lambda: defaultdict(dict))
    _states: dict[str | Target, list[Columns]] = field(default_factory=lambda: defaultdict(list))

    def add(self, owner: str | Target, found: PartResult) -> None:
        """Adds what one more batch gave."""
        before = self.counts[owner]
        self.counts[owner] = {key: value + before.get(key, 0) for key, value in found.counts.items()}
        self._states[owner].append(found.state)

    def state(self, owner: str | Target, prefix: str = "") -> Columns:
        """What was kept of all batches, of the names that begin so."""
        parts = self._states.get(owner, [])
        names = [name for name in (parts[0] if parts else {}) if name.startswith(prefix)]
        return {name.removeprefix(prefix): np.concatenate([part[name] for part in parts]) for name in names}


def score_split(
    subject: Subject, wanted: BatchPlan, store: Store, rows_file: RowsFile, on_batch: Progress | None
) -> Scored:
    """The rows of all examples, and what was counted of them.

    Args:
        subject: What is measured.
        wanted: What to find out.
        store: What is known already; takes up what is found.
        rows_file: Where the rows grow batch by batch.
        on_batch: Told how many examples are done, of how many.

    Raises:
        AttackError: an attack left its ball or [0, 1].
        CertificateError: a certificate is wrong; the rows so far are written.
        RunFolderError: the folder cannot be written.
    """
    scored, total = Scored(), len(subject.test)
    frames: list[pd.DataFrame] = []
    done = 0
    for batch in batches(subject.test, subject.batch_size):
        stop = done + len(batch.labels)
        with store.batch(done, stop) as kept:
            tell = _tell(on_batch, done, stop, total, wanted.num_parts)
            one = _OneBatch(wanted, batch, kept, subject.seed, done, tell)
            frames.append(pd.DataFrame(one.columns(scored)))
        rows_file.add(frames[-1])
        require_consistent(one.violations, done, rows_file.shown_name())
        if not done:  # after the batch, of which more can be said
            for prover in wanted.proving:
                prover.require_known_answers(batch.images[0])
        done = stop
        if on_batch is not None:
            on_batch(done, total)
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
        wanted: BatchPlan,
        batch: Batch,
        kept: BatchStore,
        seed: int,
        first_index: int,
        tell: Callable[[], None],
    ) -> None:
        self.violations: list[Violation] = []
        self._attack_margins: list[tuple[float, AttackMargins]] = []
        self._wanted, self._batch, self._kept, self._tell = wanted, batch, kept, tell
        self._predictor, self._first_index = wanted.scoring_plan.predictor, first_index
        self._seed = seed_of(seed, first_index)
        self._drawn = (seed, wanted.scoring_plan.draws)
        self.wants_images = bool(wanted.proving)

    def columns(self, scored: Scored) -> Columns:
        """All columns of the batch; what is counted and kept goes to ``scored``."""
        answer, clean = self._clean()
        self._draw_for("unattacked")  # alike, whether the clean answers were known or drawn just now
        scores = attack_batch(self._predictor, self._batch, answer, self._wanted.plans, self)
        for target, found in scores.found.items():
            scored.add(target, found)
        columns = clean | scores.columns
        columns |= self._proofs(clean[_CLEAN].astype(bool), scores, scored, answer)
        for meter in self._wanted.of_batches:
            found = self._measured(meter, answer.prediction, columns)
            scored.add(meter.name, found)
            columns |= found.columns
        return columns

    def _require_fitting(self, meter: Meter, columns: Columns, taken: Columns) -> None:
        """Accepts columns with an entry an example, of names that are not taken."""
        for name, values in columns.items():
            if name in taken:
                raise ValueError(f"The meter {meter.name} has a column {name!r}, which there is already.")
            if np.shape(values)[:1] != (len(self._batch.labels),):
                raise ValueError(
                    f"The meter {meter.name} has a column {name!r} of shape {np.shape(values)}, but the "
                    f"batch has {len(self._batch.labels)} examples."
                )

    # -- clean ------------------------------------------------------------------------------------------

    def _clean(self) -> tuple[Answer, Columns]:
        """The clean answers; always asked for where they are sure, since they tell whether the rest fits."""
        key = f"{_CLEAN} {identity(self._drawn)}"
        known = self._kept.find(key)
        if known is None or not self._predictor.is_random:
            found = self._answers()
            if known is not None and _differ(known.columns, found.columns):
                self._kept.forget()  # of another forward than the weights tell
            self._kept.put(key, found)
        else:
            found = known
        self._tell()
        parts = [*(found.columns[name] for name in _ANSWER), found.state[_RIGHT]]
        answer = Answer(*(torch.from_numpy(part).to(self._batch.labels.device) for part in parts))
        return answer, found.columns

    def _answers(self) -> PartResult:
        batch = self._batch
        self._draw_for(_CLEAN)
        clean = self._predictor.answer(*batch)
        columns: dict[str, Tensor] = {
            "index": torch.arange(self._first_index, self._first_index + len(batch.labels)),
            "label": batch.labels,
            "prediction": clean.prediction,
            "confidence": clean.confidence,
            _CLEAN: self._predictor.share(clean.right),
        }
        arrays = {name: values.cpu().numpy() for name, values in columns.items()}
        return PartResult(arrays, {}, {_RIGHT: clean.right.cpu().numpy()})

    # -- attacks: the memory of ``attack_batch`` ----------------------------------------------------------

    @override
    def recall(self, plan: AttackPlan, epsilon: float) -> PartResult | None:
        found = self._kept.find(self._attack_key(plan, epsilon))
        if found is not None:
            self._tell()
        return found

    @override
    def prepare(self, plan: AttackPlan, epsilon: float) -> None:
        self._draw_for(column(plan.name, epsilon))

    @override
    def keep(self, plan: AttackPlan, epsilon: float, found: PartResult) -> None:
        self._kept.put(self._attack_key(plan, epsilon), found)
        self._tell()

    def _attack_key(self, plan: AttackPlan, epsilon: float) -> str:
        # Where answers are drawn, a budget goes on from the images of all smaller ones. The images are gone
        # afterwards, so whoever looks at them is part of what is kept.
        budgets = (
            [each for each in plan.epsilons if each <= epsilon] if self._predictor.is_random else [epsilon]
        )
        watching = [(meter.name, meter.depends_on) for meter in self._wanted.of_attacked]
        attack = self._wanted.identities[plan.name]
        return f"{column(plan.name, epsilon)} {identity(attack, budgets, self._drawn, watching)}"

    @override
    def attacked(self, plan: AttackPlan, epsilon: float, images: Tensor) -> Columns:
        wanted = self._wanted
        proving = next((prover for prover in wanted.proving if prover.plan.norm == plan.norm), None)
        if proving is not None and plan.norm is not None:
            margins = proving.margins_at(self._batch, images, epsilon)
            self._attack_margins.append((plan.norm, AttackMargins(plan.name, epsilon, margins)))
        found: Columns = {}
        for meter in wanted.of_attacked:
            columns = meter.score_attacked(self._predictor, images, self._batch.labels)
            self._require_fitting(meter, columns, {})
            found |= {f"{meter.name}/{name}": values for name, values in columns.items()}
        return found

    # -- proofs and meters --------------------------------------------------------------------------------

    def _proofs(
        self,
        clean: np.ndarray[tuple[int], np.dtype[np.bool_]],
        scores: Scores,
        scored: Scored,
        answer: Answer,
    ) -> Columns:
        wanted, batch = self._wanted, self._batch
        outcomes = outcomes_of(clean, scores, wanted.plans)
        evidence = evidence_of(self._predictor, batch, scores, wanted.plans, answer.right > 0, self.prepare)
        columns: Columns = {}
        for prover in wanted.proving:
            attack_margins = [attack for norm, attack in self._attack_margins if norm == prover.plan.norm]
            attack_margins = [*(attack_margins or self._probed(prover)), prover.clean_margins(batch)]
            found, violations = prover.prove(batch, outcomes, evidence, attack_margins, self._kept)
            columns |= found.columns
            scored.add(prover.plan.name, found)
            self.violations += violations
            self._tell()
        return columns

    def _probed(self, prover: Prover) -> list[AttackMargins]:
        """What a short attack comes down to, for where all attacks are known and their images are gone."""
        epsilon = min((each for each in prover.plan.epsilons if each > 0), default=0.0)
        key = f"probe {prover.plan.norm:g} {identity(epsilon, self._drawn)}"
        known = self._kept.find(key)
        if known is None:
            self._draw_for(key)
            found = prover.probe(self._predictor.attack_model, self._batch)
            known = PartResult(
                {}, {}, {attack_margins.attack: attack_margins.margins for attack_margins in found}
            )
            self._kept.put(key, known)
        return [
            AttackMargins(attack, epsilon, margins.astype(np.float64))
            for attack, margins in known.state.items()
        ]

    def _measured(self, meter: Meter, prediction: Tensor, taken: Columns) -> PartResult:
        key = f"{meter.name} {identity(meter.depends_on, self._drawn)}"
        known = self._kept.find(key)
        if known is None:
            self._draw_for(meter.name)
        found = known or meter.score(self._predictor, self._batch, prediction, seed=self._seed)
        self._require_fitting(meter, found.columns, taken)  # before it is kept: a mended meter is asked again
        if known is None:
            self._kept.put(key, found)
        self._tell()
        return found

    def _draw_for(self, part: str) -> None:
        """Seeds torch for a part of the batch, whatever was drawn for others."""
        torch.manual_seed(self._seed + crc32(part.encode()))


def _differ(known: Columns, found: Columns) -> bool:
    """Whether clean answers are another model's, not the same rounded by another device."""
    confidences = [columns["confidence"].astype(np.float64) for columns in (known, found)]
    is_other = known["prediction"] != found["prediction"]
    is_other |= np.abs(confidences[0] - confidences[1]) > _SAME_CONFIDENCE
    return int(is_other.sum()) > 1 + _MOST_OTHERS * len(is_other)
