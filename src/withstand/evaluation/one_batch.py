"""Measures one batch part by part: clean answers, attacks, certificates, meters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple
from zlib import crc32

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from withstand.certificates.consistency import AttackMargins, Violation
from withstand.core.identity import identity
from withstand.core.numerics import seed_of
from withstand.evaluation.attacking import Memory, Scores, attack_batch, column
from withstand.evaluation.averaging import ScoringPlan
from withstand.evaluation.meter import Columns, Meter, PartResult
from withstand.evaluation.plans import AttackPlan
from withstand.evaluation.predictor import Answer
from withstand.evaluation.proofs import Prover, evidence_of, outcomes_of
from withstand.evaluation.store import BatchStore
from withstand.results.results import Target
from withstand.types import Batch

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


@dataclass(frozen=True)
class Job:
    """A batch to measure.

    Attributes:
        number: Of the batch, from 0.
        start: How many examples come before it.
        batch: On the model's device.
        index: int64 tensor (batch,) of where its examples stand in the test split.
    """

    number: int
    start: int
    batch: Batch
    index: Tensor

    @property
    def stop(self) -> int:
        """How many examples there are up to its end."""
        return self.start + len(self.index)


class BatchScores(NamedTuple):
    """What a batch gave.

    Attributes:
        columns: For ``examples.csv``.
        results: What each attack at a budget, certificate and meter gave, for sums over all batches.
        violations: What is certified and yet wrong; ``rows`` are those of the batch.
    """

    columns: Columns
    results: Sequence[tuple[str | Target, PartResult]]
    violations: Sequence[Violation]


def score_batch(
    batch_plan: BatchPlan, seed: int, job: Job, store: BatchStore, on_part: Callable[[], None]
) -> BatchScores:
    """Measures of a batch what is not stored of it; the same in whichever process.

    Args:
        batch_plan: What to measure.
        seed: Of all batches.
        job: The batch.
        store: What is known of it; takes up the results.
        on_part: Is called after each part.

    Raises:
        AttackError: an attack left its ball or [0, 1].
        ModelError: the model does not fit.
    """
    one = _OneBatch(batch_plan, job, store, seed, on_part)
    return BatchScores(one.columns(), one.results, one.violations)


class _OneBatch(Memory):
    """Measures of one batch what is not stored of it.

    Args:
        batch_plan: What to measure.
        job: The batch.
        store: What is known.
        seed: Of all batches.
        on_part: Is called after each part.
    """

    def __init__(
        self,
        batch_plan: BatchPlan,
        job: Job,
        store: BatchStore,
        seed: int,
        on_part: Callable[[], None],
    ) -> None:
        self.results: list[tuple[str | Target, PartResult]] = []
        self.violations: list[Violation] = []
        self._attack_margins: list[tuple[float, AttackMargins]] = []
        self._plan, self._batch, self._store, self._on_part = batch_plan, job.batch, store, on_part
        self._predictor, self._index = batch_plan.scoring_plan.predictor, job.index
        self._seed = seed_of(seed, int(job.index[0]))
        self._drawn = (seed, batch_plan.scoring_plan.draws)
        self.wants_images = bool(batch_plan.provers)

    def columns(self) -> Columns:
        """All columns of the batch; counts and states go to ``results``."""
        answer, clean = self._clean()
        self._draw_for("unattacked")  # alike, whether the clean answers were known or drawn just now
        scores = attack_batch(self._predictor, self._batch, answer, self._plan.plans, self)
        self.results += scores.results.items()
        columns = clean | scores.columns
        columns |= self._proofs(clean[_CLEAN].astype(bool), scores, answer)
        for meter in self._plan.of_batches:
            result = self._measured(meter, answer.prediction, columns)
            self.results.append((meter.name, result))
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
            self.results.append((prover.plan.name, result))
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
