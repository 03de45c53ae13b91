"""Attacks a batch: one attack after another, from the smallest budget to the largest."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from withstand.attacks import Attack
from withstand.core import norms
from withstand.evaluation.meter import Columns, Counts, PartResult
from withstand.evaluation.plans import AttackPlan, worst_plans
from withstand.evaluation.predictor import Answer, Predictor
from withstand.results.measurements import ATTACKED, example_column
from withstand.results.results import Target
from withstand.types import AttackError, Batch

ATTACKED_COUNT, LOST_COUNT = "given", "taken"
"""What is counted of each stage of an attack: examples it was run on, correct predictions that it broke."""

_TOLERANCE = 1e-5  # of epsilon, for the rounding of float32
_ROBUST = -1  # the number of the stage that broke an example which none did
_CHOOSING, _REPORTED, _STAGE = "choosing", "reported", "stage"  # what is stored of the images held


def column(name: str, epsilon: float) -> str:
    """The column that says whether an example is still correct under an attack: ``pgd-40-linf@0.3``."""
    return str(example_column(ATTACKED, name, epsilon))


def prediction_column(name: str, epsilon: float) -> str:
    """The column of the class that is predicted under an attack."""
    return f"{column(name, epsilon)}:prediction"


class Scores(NamedTuple):
    """What attacks left of one batch.

    Attributes:
        results: Attack and epsilon -> a 0/1 column, or the share of correct predictions where they are
            repeated, one of the class that is predicted then, and, where there are several stages, one of the
            name of that which broke the example; what was counted of its stages; what is stored of the images
            held.
        worst: Columns for the worst of several attacks of one norm.
        fooling: Name of an attack's plan -> images (batch, …): for each example that it broke the
            one that fooled the model, for all others the clean one. Absent where none was.
    """

    results: Mapping[Target, PartResult]
    worst: Columns
    fooling: Mapping[str, Tensor]

    @property
    def columns(self) -> Columns:
        """All columns."""
        columns = {
            name: values for result in self.results.values() for name, values in result.columns.items()
        }
        return columns | self.worst


class Memory:
    """Where results of attacks on a batch are stored; this one stores nothing and seeds nothing."""

    wants_images = True
    """Whether the images that fooled the model are asked for afterwards."""

    def recall(self, plan: AttackPlan, epsilon: float) -> PartResult | None:
        """What is known of an attack at a budget; None where nothing is."""
        return None

    def prepare(self, plan: AttackPlan, epsilon: float) -> None:
        """Is called before an attack is run: it fixes what will be drawn."""

    def attacked(self, plan: AttackPlan, epsilon: float, images: Tensor) -> Columns:
        """Looks at the images held (batch, …) after an attack at a budget.

        They are those that the attack returned, now or at a smaller budget, or the clean ones.

        Returns:
            What is measured of them, to be stored with the rest.
        """
        return {}

    def keep(self, plan: AttackPlan, epsilon: float, result: PartResult) -> None:
        """Stores a result."""


_NO_MEMORY = Memory()


def attack_batch(
    predictor: Predictor,
    batch: Batch,
    clean: Answer,
    plans: Sequence[AttackPlan],
    memory: Memory = _NO_MEMORY,
) -> Scores:
    """Attacks one batch.

    An example that is broken at one budget is broken at every larger one, since the image that fooled the
    model lies in the larger ball too; so only those that are robust are attacked again. One that is
    wrong clean is wrong under every attack. Of an attack with several stages (``Attack.stages``) each is run
    on those that the ones before it left. One that draws by the batch (``Attack.draws_by_batch``, the parts
    of AutoAttack) is run on those broken at smaller budgets as well, until it breaks them again: only in the
    same company is every example broken here that the attack breaks by itself.

    Where answers are drawn, an example's image is chosen by one set of predictions and counted on another:
    the least of several counts would be too low by the luck of the draws, even where no attack changed
    anything. Of the image held so far, at first the clean one, and the attack's, that with fewer correct
    predictions is held on to; the share of a fresh set is reported, and is what the next budget's image must
    match. Likewise the worst of several attacks is chosen by the former set and counted on the
    latter. So what holds of single answers holds of shares up to sampling: they do not grow with the budget,
    nor is the worst above its members. Left alone is an example of which two sets in a row held no correct
    prediction; it is counted still.

    Args:
        predictor: Of a model in eval mode.
        batch: Images (batch, …) in [0, 1] and labels (batch,).
        clean: The model's answer without an attack.
        plans: The attacks.
        memory: Where results are stored; what it knows is not computed again.

    Raises:
        AttackError: an attack left its ball or [0, 1].
    """
    run = _Run(predictor, batch, clean.correct > 0, memory)
    unattacked = run.unattacked(clean)
    weights: dict[Target, _Weights] = {}
    fooling: dict[str, Tensor] = {}
    results: dict[Target, PartResult] = {}
    for plan in plans:
        held = unattacked
        known = [memory.recall(plan, epsilon) for epsilon in plan.epsilons]
        if predictor.is_random and None in known:  # a larger budget goes on from the images of a smaller
            known = [None] * len(known)
        for epsilon, before in zip(plan.epsilons, known, strict=True):
            target = plan.target(epsilon)
            if before is None:
                held, results[target] = run.attack(plan, epsilon, held)
            else:
                held, results[target] = run.recalled(plan, epsilon, held, before)
            weights[target] = held.weights
        if memory.wants_images and (broken := run.is_correct & ~held.weights.robust).any():
            fooling[plan.name] = batch.images.clone()
            fooling[plan.name][broken] = held.images[broken]
    return Scores(results, _worst_columns(predictor, plans, weights), fooling)


def _worst_columns(
    predictor: Predictor, plans: Sequence[AttackPlan], weights: Mapping[Target, _Weights]
) -> Columns:
    columns: Columns = {}
    for worst in worst_plans(plans):
        for epsilon in worst.epsilons:
            members = [weights[plan.target(epsilon)] for plan in plans if plan.name in worst.members]
            reported = _worst_of(members).reported
            columns[column(worst.name, epsilon)] = predictor.share(reported.long()).cpu().numpy()
    return columns


class _Weights(NamedTuple):
    """How often the images held are classified correctly: float64 (batch,), as in ``CorrectCounts``.

    Attributes:
        choosing: By this the images were chosen.
        reported: Of the chosen ones; the same numbers where answers are not drawn.
    """

    choosing: Tensor
    reported: Tensor

    @property
    def robust(self) -> Tensor:
        """Whether any prediction was correct (batch,)."""
        return (self.choosing >= 1) | (self.reported >= 1)


class _Held(NamedTuple):
    """The worst images so far.

    Attributes:
        images: Tensor (batch, …); the clean one where that which fooled the model is not known any more.
        weights: How often they are classified correctly.
        prediction: int64 tensor (batch,): the model's class for them.
        stage: int64 tensor (batch,): the stage that made them; ``_ROBUST`` where none did.
    """

    images: Tensor
    weights: _Weights
    prediction: Tensor
    stage: Tensor


class _Stage(NamedTuple):
    """One stage of an attack, at its budget."""

    plan: AttackPlan
    epsilon: float
    number: int
    attack: Attack


class _Run(NamedTuple):
    """One batch under attack."""

    predictor: Predictor
    batch: Batch
    is_correct: Tensor
    memory: Memory

    def unattacked(self, clean: Answer) -> _Held:
        """What is held before any attack."""
        correct = clean.correct.double()
        weights = _Weights(correct, self.predictor.recount_correct(*self.batch, correct))
        stage = torch.full_like(self.batch.labels, _ROBUST)
        return _Held(self.batch.images, weights, clean.prediction, stage)

    def attack(self, plan: AttackPlan, epsilon: float, before: _Held) -> tuple[_Held, PartResult]:
        """Runs all stages at a budget."""
        self.memory.prepare(plan, epsilon)
        held, num_attacked, num_lost = before, [], []
        stages = plan.attack.at(epsilon).stages
        broken_before = self.is_correct & ~held.weights.robust
        for number, stage in enumerate(stages):
            robust, num_correct = held.weights.robust, _total(held)
            again = broken_before if stage.draws_by_batch and not self.predictor.is_random else None
            held = self._after(_Stage(plan, epsilon, number, stage), held, again)
            num_attacked.append(int(robust.sum()))
            num_lost.append(num_correct - _total(held))
        result = self._result(
            plan, epsilon, held, {ATTACKED_COUNT: np.array(num_attacked), LOST_COUNT: np.array(num_lost)}
        )
        result.state.update(self.memory.attacked(plan, epsilon, held.images))
        self.memory.keep(plan, epsilon, result)
        return held, result

    def recalled(
        self, plan: AttackPlan, epsilon: float, before: _Held, known: PartResult
    ) -> tuple[_Held, PartResult]:
        """The stored result of a budget, with examples that a smaller one has broken since."""
        device = self.batch.labels.device
        choosing, reported, stage = (
            torch.from_numpy(known.state[name]).to(device) for name in (_CHOOSING, _REPORTED, _STAGE)
        )
        prediction = torch.from_numpy(known.columns[prediction_column(plan.name, epsilon)]).to(device)
        held = _Held(before.images, _Weights(choosing, reported), prediction, stage)
        is_newer = (reported >= 1) & ~before.weights.robust
        if self.predictor.is_random or not is_newer.any():
            return held, known
        weights = zip(before.weights, held.weights, strict=True)
        held = _Held(
            before.images,
            _Weights(*(torch.where(is_newer, *pair) for pair in weights)),
            torch.where(is_newer, before.prediction, prediction),
            torch.where(is_newer, before.stage, stage),
        )
        newer = self._result(plan, epsilon, held, known.counts)
        return held, replace(newer, state={**known.state, **newer.state})

    def _result(self, plan: AttackPlan, epsilon: float, held: _Held, counts: Counts) -> PartResult:
        name, stages = column(plan.name, epsilon), plan.attack.at(epsilon).stages
        columns: Columns = {
            name: self.predictor.share(held.weights.reported.long()).cpu().numpy(),
            prediction_column(plan.name, epsilon): held.prediction.cpu().numpy(),
        }
        stage = held.stage.cpu().numpy()
        if len(stages) > 1:
            columns[f"{name}:by"] = np.array(["", *(stage.name for stage in stages)])[stage - _ROBUST]
        state: Columns = {
            _CHOOSING: held.weights.choosing.cpu().numpy(),
            _REPORTED: held.weights.reported.cpu().numpy(),
            _STAGE: stage,
        }
        return PartResult(columns, counts, state)

    def _after(self, stage: _Stage, before: _Held, again: Tensor | None) -> _Held:
        """What is held after one stage has attacked what is robust.

        Args:
            stage: Which.
            before: The images held so far.
            again: Of those broken at smaller budgets, which to attack, too: bools (batch,), from which
                those that it breaks are taken.
        """
        images, choosing = before.images.clone(), before.weights.reported.clone()
        prediction, by_stage = before.prediction.clone(), before.stage.clone()
        robust = before.weights.robust
        index = (robust if again is None else robust | again).nonzero().squeeze(1)
        if len(index):
            subset = Batch(self.batch.images[index], self.batch.labels[index])
            # Whether its images fool the model is decided by the predictor, not by the attack.
            reached = stage.attack(self.predictor.attack_model, subset.images, subset.labels)
            _require_inside(subset.images, reached, stage.plan, stage.epsilon)
            correct, predicted = self.predictor.count_correct(reached, subset.labels)
            is_worse = correct.long() < choosing[index].long()
            # Of images classified correctly equally often the later one, since a larger budget rarely is the
            # weaker; but not the clean image, which is what some attacks return where they do not succeed.
            is_moved = (reached != subset.images).flatten(1).any(dim=1)
            is_taken = is_worse | ((correct.long() == choosing[index].long()) & is_moved)
            is_taken &= robust[index]  # of those broken at a smaller budget its image is what is held
            images[index[is_taken]] = reached[is_taken]
            choosing[index[is_taken]] = correct[is_taken]
            prediction[index[is_taken]] = predicted[is_taken]
            by_stage[index[is_worse]] = stage.number
            if again is not None:
                again[index[correct < 1]] = False
        reported = self.predictor.recount_correct(images, self.batch.labels, choosing)
        return _Held(images, _Weights(choosing, reported), prediction, by_stage)


def _total(held: _Held) -> int:
    """How many predictions are correct."""
    return int(held.weights.reported.long().sum())


def _worst_of(members: Sequence[_Weights]) -> _Weights:
    """An example's attack is the one that is least often correct by the predictions that chose images."""
    choosing, member = torch.stack([weights.choosing for weights in members]).min(dim=0)
    reported = torch.stack([weights.reported for weights in members])
    return _Weights(choosing, reported.gather(0, member[None])[0])


def _require_inside(images: Tensor, adversarial: Tensor, plan: AttackPlan, epsilon: float) -> None:
    low, high = (float(bound) for bound in adversarial.aminmax())
    distance = 0.0 if plan.norm is None else float(norms.norm(adversarial - images, plan.norm).max())
    if not (low >= 0 and high <= 1 and distance <= epsilon * (1 + _TOLERANCE) + 1e-6) or math.isnan(distance):
        raise AttackError(
            f"The attack {plan.name} at epsilon {epsilon:.6g} returned images in [{low:.4g}, {high:.4g}] at "
            f"a distance of up to {distance:.6g}. An attack must stay in [0, 1] and within epsilon."
        )
