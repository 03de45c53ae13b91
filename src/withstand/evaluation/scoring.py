"""Goes through test data batch by batch and part by part: rows, what is proven of them, what meters see."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from zlib import crc32

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from typing_extensions import override

from withstand.certificates.consistency import AttackMargins, Violation, require_consistent
from withstand.core.identity import identity
from withstand.core.numerics import seed_of
from withstand.data import batches
from withstand.evaluation.attacking import Memory, Scores, attack_batch, column
from withstand.evaluation.averaging import ScoringPlan
from withstand.evaluation.meter import Columns, Counts, Meter, PartResult, Subject
from withstand.evaluation.plans import AttackPlan
from withstand.evaluation.predictor import Answer
from withstand.evaluation.proofs import Prover, evidence_of, outcomes_of
from withstand.evaluation.run_files import RowsFile
from withstand.evaluation.store import BatchStore, Store
from withstand.results.results import Target
from withstand.types import Batch

Progress = Callable[[int, int], None]
"""Called with how many examples are done, of how many."""

_CLEAN = "clean"
_ANSWER = ("prediction", "confidence")  # columns of the clean answers
_CORRECT = "right"  # its key in the store
_MOST_OTHERS = 0.005  # of a batch: answers that another device may round to another class
_SAME_CONFIDENCE = 0.01


@dataclass(frozen=True)
class BatchPlan:
    """What is measured of each batch.

    Args:
        scoring_plan: Decides what is correct.
        plans: The attacks.
        provers: The certificates.
        meters: What else looks at the images.
    """

    scoring_plan: ScoringPlan
    plans: Sequence[AttackPlan]
    provers: Sequence[Prover]
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
        """How many things are measured of a batch."""
        attacks = sum(len(plan.epsilons) for plan in self.plans)
        return 1 + attacks + len(self.provers) + len(self.of_batches)


@dataclass
class SplitScores:
    """What all batches gave, by what it is of: a meter's or certificate's name, or an attack at a budget.

    Attributes:
        rows: One row an example.
        counts: Sums over all batches.
        states: Arrays (examples, …); of an attack by meter and name.
    """

    rows: pd.DataFrame = field(default_factory=pd.DataFrame)
    counts: dict[str | Target, Counts] = field(default_factory=lambda: defaultdict(dict))
    _states: dict[str | Target, list[Columns]] = field(default_factory=lambda: defaultdict(list))

    def add(self, owner: str | Target, result: PartResult) -> None:
        """Adds what one more batch gave."""
        before = self.counts[owner]
        self.counts[owner] = {key: value + before.get(key, 0) for key, value in result.counts.items()}
        self._states[owner].append(result.state)

    def state(self, owner: str | Target, prefix: str = "") -> Columns:
        """The state of all batches, of the names that begin so."""
        parts = self._states.get(owner, [])
        names = [name for name in (parts[0] if parts else {}) if name.startswith(prefix)]
        return {name.removeprefix(prefix): np.concatenate([part[name] for part in parts]) for name in names}


def score_split(
    subject: Subject, batch_plan: BatchPlan, store: Store, rows_file: RowsFile, on_batch: Progress | None
) -> SplitScores:
    """The rows of all examples, and what was counted of them.

    Args:
        subject: What is measured.
        batch_plan: What to measure.
        store: What is known already; takes up the results.
        rows_file: Where the rows grow batch by batch.
        on_batch: Called with how many examples are done, of how many.

    Raises:
        AttackError: an attack left its ball or [0, 1].
        CertificateError: a certificate is wrong; the rows so far are written.
        RunFolderError: the folder cannot be written.
    """
    split_scores, total = SplitScores(), len(subject.test)
    frames: list[pd.DataFrame] = []
    done = 0
    places = torch.split(subject.places, subject.batch_size)
    for batch, index in zip(batches(subject.test, subject.batch_size), places, strict=True):
        stop = done + len(index)
        with store.batch(done, stop, identity(index)) as batch_store:
            on_part = _part_progress(on_batch, done, stop, total, batch_plan.num_parts)
            one = _OneBatch(batch_plan, batch, batch_store, subject.seed, index, on_part)
            frames.append(pd.DataFrame(one.columns(split_scores)))
        rows_file.add(frames[-1])
        named = [replace(wrong, rows=index[list(wrong.rows)].tolist()) for wrong in one.violations]
        require_consistent(named, 0, rows_file.shown_name())
        if not done:  # after the batch, whose contradictions name examples
            for prover in batch_plan.provers:
                prover.require_known_answers(batch.images[0])
        done = stop
        if on_batch is not None:
            on_batch(done, total)
    split_scores.rows = pd.concat(frames, ignore_index=True)
    return split_scores


def _part_progress(
    on_batch: Progress | None, start: int, stop: int, total: int, num_parts: int
) -> Callable[[], None]:
    """Reports each part of a batch as so many examples."""
    parts = iter(range(1, num_parts + 1))

    def on_part() -> None:
        if on_batch is not None:
            on_batch(start + (stop - start) * next(parts, num_parts) // num_parts, total)

    return on_part


class _OneBatch(Memory):
    """Measures of one batch what is not stored of it.

    Args:
        batch_plan: What to measure.
        batch: On the model's device.
        store: What is known.
        seed: Of all batches.
        index: int64 tensor (batch,) of where its examples stand in the test split.
        on_part: Is called after each part.
    """

    def __init__(
        self,
        batch_plan: BatchPlan,
        batch: Batch,
        store: BatchStore,
        seed: int,
        index: Tensor,
        on_part: Callable[[], None],
    ) -> None:
        self.violations: list[Violation] = []
        self._attack_margins: list[tuple[float, AttackMargins]] = []
        self._plan, self._batch, self._store, self._on_part = batch_plan, batch, store, on_part
        self._predictor, self._index = batch_plan.scoring_plan.predictor, index
        self._seed = seed_of(seed, int(index[0]))
        self._drawn = (seed, batch_plan.scoring_plan.draws)
        self.wants_images = bool(batch_plan.provers)

    def columns(self, split_scores: SplitScores) -> Columns:
        """All columns of the batch; counts and states go to ``split_scores``."""
        answer, clean = self._clean()
        self._draw_for("unattacked")  # alike, whether the clean answers were known or drawn just now
        scores = attack_batch(self._predictor, self._batch, answer, self._plan.plans, self)
        for target, result in scores.results.items():
            split_scores.add(target, result)
        columns = clean | scores.columns
        columns |= self._proofs(clean[_CLEAN].astype(bool), scores, split_scores, answer)
        for meter in self._plan.of_batches:
            result = self._measured(meter, answer.prediction, columns)
            split_scores.add(meter.name, result)
            columns |= result.columns
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
        """The clean answers; computed anew where nothing is drawn, since they show whether the rest fits."""
        key = f"{_CLEAN} {identity(self._drawn)}"
        known = self._store.find(key)
        if known is None or not self._predictor.is_random:
            result = self._answers()
            if known is not None and _differ(known.columns, result.columns):
                self._store.forget()  # of another forward, though the weights are the same
            self._store.put(key, result)
        else:
            result = known
        self._on_part()
        parts = [*(result.columns[name] for name in _ANSWER), result.state[_CORRECT]]
        answer = Answer(*(torch.from_numpy(part).to(self._batch.labels.device) for part in parts))
        return answer, result.columns

    def _answers(self) -> PartResult:
        batch = self._batch
        self._draw_for(_CLEAN)
        clean = self._predictor.answer(*batch)
        columns: dict[str, Tensor] = {
            "index": self._index,
            "label": batch.labels,
            "prediction": clean.prediction,
            "confidence": clean.confidence,
            _CLEAN: self._predictor.share(clean.correct),
        }
        arrays = {name: values.cpu().numpy() for name, values in columns.items()}
        return PartResult(arrays, {}, {_CORRECT: clean.correct.cpu().numpy()})

    # -- attacks: the memory of ``attack_batch`` ----------------------------------------------------------

    @override
    def recall(self, plan: AttackPlan, epsilon: float) -> PartResult | None:
        result = self._store.find(self._attack_key(plan, epsilon))
        if result is not None:
            self._on_part()
        return result

    @override
    def prepare(self, plan: AttackPlan, epsilon: float) -> None:
        self._draw_for(column(plan.name, epsilon))

    @override
    def keep(self, plan: AttackPlan, epsilon: float, result: PartResult) -> None:
        self._store.put(self._attack_key(plan, epsilon), result)
        self._on_part()

    def _attack_key(self, plan: AttackPlan, epsilon: float) -> str:
        # Where answers are drawn, a budget goes on from the images of all smaller ones. The images are not
        # stored, so the meters that look at them are part of the key.
        smaller = [budget for budget in plan.epsilons if budget < epsilon]
        budgets = [*smaller, epsilon] if self._predictor.is_random else [epsilon]
        watching = [(type(meter), meter.name, meter.depends_on) for meter in self._plan.of_attacked]
        attack = self._plan.identities[plan.name]
        return f"{column(plan.name, epsilon)} {identity(attack, budgets, self._drawn, watching)}"

    @override
    def attacked(self, plan: AttackPlan, epsilon: float, images: Tensor) -> Columns:
        prover = next((prover for prover in self._plan.provers if prover.plan.norm == plan.norm), None)
        if prover is not None and plan.norm is not None:
            margins = prover.margins_at(self._batch, images, epsilon)
            self._attack_margins.append((plan.norm, AttackMargins(plan.name, epsilon, margins)))
        results: Columns = {}
        for meter in self._plan.of_attacked:
            columns = meter.score_attacked(self._predictor, images, self._batch.labels)
            self._require_fitting(meter, columns, {})
            results |= {f"{meter.name}/{name}": values for name, values in columns.items()}
        return results

    # -- proofs and meters --------------------------------------------------------------------------------

    def _proofs(
        self,
        clean: np.ndarray[tuple[int], np.dtype[np.bool_]],
        scores: Scores,
        split_scores: SplitScores,
        answer: Answer,
    ) -> Columns:
        plans, batch, is_correct = self._plan.plans, self._batch, answer.correct > 0
        outcomes = outcomes_of(clean, scores, plans)
        evidence = evidence_of(self._predictor, batch, scores, plans, is_correct, self.prepare)
        columns: Columns = {}
        for prover in self._plan.provers:
            attack_margins = [attack for norm, attack in self._attack_margins if norm == prover.plan.norm]
            attack_margins = [*(attack_margins or self._probed(prover)), prover.clean_margins(batch)]
            result, violations = prover.prove(batch, outcomes, evidence, attack_margins, self._store)
            columns |= result.columns
            split_scores.add(prover.plan.name, result)
            self.violations += violations
            self._on_part()
        return columns

    def _probed(self, prover: Prover) -> list[AttackMargins]:
        """The margins that a short attack reaches, where attacks are stored and their images are not."""
        epsilon = min((epsilon for epsilon in prover.plan.epsilons if epsilon > 0), default=0.0)
        key = f"probe {prover.plan.norm:g} {identity(epsilon, self._drawn)}"
        known = self._store.find(key)
        if known is None:
            self._draw_for(key)
            probed = prover.probe(self._predictor.attack_model, self._batch)
            known = PartResult(
                {}, {}, {attack_margins.attack: attack_margins.margins for attack_margins in probed}
            )
            self._store.put(key, known)
        return [
            AttackMargins(attack, epsilon, margins.astype(np.float64))
            for attack, margins in known.state.items()
        ]

    def _measured(self, meter: Meter, prediction: Tensor, taken: Columns) -> PartResult:
        key = f"{meter.name} {identity(type(meter), meter.depends_on, self._drawn)}"
        known = self._store.find(key)
        if known is None:
            self._draw_for(meter.name)
        result = known or meter.score(self._predictor, self._batch, prediction, seed=self._seed)
        # Before it is stored, so that a corrected meter is run again.
        self._require_fitting(meter, result.columns, taken)
        if known is None:
            self._store.put(key, result)
        self._on_part()
        return result

    def _draw_for(self, part: str) -> None:
        """Seeds torch for a part of the batch, whatever was drawn for others."""
        torch.manual_seed(self._seed + crc32(part.encode()))


def _differ(known: Columns, fresh: Columns) -> bool:
    """Whether clean answers are another model's, not the same rounded by another device."""
    confidences = [columns["confidence"].astype(np.float64) for columns in (known, fresh)]
    is_other = known["prediction"] != fresh["prediction"]
    is_other |= np.abs(confidences[0] - confidences[1]) > _SAME_CONFIDENCE
    return int(is_other.sum()) > 1 + _MOST_OTHERS * len(is_other)
