"""One row a test example: what the model says of it, clean and under each attack."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from withstand import norms
from withstand.attacks import Attack
from withstand.evaluation.judge import Judge
from withstand.types import AttackError, Batch

__all__ = [
    "CLEAN",
    "AttackPlan",
    "Columns",
    "Scores",
    "WorstPlan",
    "attack_batch",
    "column",
    "score_batch",
    "worst_plans",
]

CLEAN = "clean"
Columns = dict[str, NDArray[np.generic]]

_TOLERANCE = 1e-5  # of epsilon, for the rounding of float32


@dataclass(frozen=True)
class AttackPlan:
    """An attack and the budgets to run it at.

    Args:
        attack: At whatever budget; it is run at each of ``epsilons``.
        epsilons: Budgets in [0, 1] units, ascending.
        name: Unique among the plans of one evaluation.
        norm: Of the attack's ball, or None where it has none to check.
        is_random: Whether the attacked model draws its answers.
    """

    attack: Attack
    epsilons: Sequence[float]
    name: str
    norm: float | None
    is_random: bool = False

    @property
    def form(self) -> Attack:
        """The attack as it is run: where only success counts."""
        return self.attack.for_random_answers() if self.is_random else self.attack.for_evaluation()


def column(name: str, epsilon: float) -> str:
    """The column that says whether an example is still right under an attack: ``pgd-40-linf@0.3``."""
    return f"{name}@{epsilon:.6g}"


class Scores(NamedTuple):
    """What one batch scored.

    Attributes:
        columns: Column name -> array (batch,).
        fooling: Name of an attack's plan -> images (batch, …): for each example that fell to it the
            one that fooled the model, for all others the clean one. Absent where none fell.
    """

    columns: Columns
    fooling: Mapping[str, Tensor]


def score_batch(
    judge: Judge,
    batch: Batch,
    plans: Sequence[AttackPlan],
    first_index: int,
    on_attacked: Callable[[str, Tensor], None] | None = None,
) -> Scores:
    """Scores one batch, clean and under each attack.

    Args:
        judge: Of a model in eval mode.
        batch: Images (batch, …) in [0, 1] and labels (batch,).
        plans: The attacks.
        first_index: Index of the first image in the test split.
        on_attacked: As ``attack_batch`` has it.

    Returns:
        Columns ``index``, ``label``, ``prediction``, ``confidence`` (the largest softmax
        probability, of the mean over repeats), ``clean`` (1 where right), and one 0/1 column for each
        attack and budget. Where the judge repeats predictions, the share of the right ones stands for 0/1;
        under attack it is of other predictions than chose the image.

    Raises:
        AttackError: an attack left its ball or [0, 1].
    """
    clean = judge.answer(*batch)
    columns: dict[str, Tensor] = {
        "index": torch.arange(first_index, first_index + len(batch.labels)),
        "label": batch.labels,
        "prediction": clean.prediction,
        "confidence": clean.confidence,
        CLEAN: judge.share(clean.right),
    }
    attacked = attack_batch(judge, batch, clean.right, plans, on_attacked)
    return Scores({**_arrays(columns), **attacked.columns}, attacked.fooling)


def attack_batch(
    judge: Judge,
    batch: Batch,
    clean: Tensor,
    plans: Sequence[AttackPlan],
    on_attacked: Callable[[str, Tensor], None] | None = None,
) -> Scores:
    """Attacks one batch.

    An example that falls at one budget falls at every larger one, since the image that fooled the
    model lies in the larger ball too; so only those that stand are attacked again. One that is
    wrong clean is wrong under every attack.

    Where answers are drawn, an example's image is chosen by one set of predictions and counted on another:
    the least of several counts would be too low by the luck of the draws, even where no attack changed
    anything. Of the image held so far, at first the clean one, and the attack's, that with fewer right
    predictions is held on to; the share of a fresh set is reported, and is what the next budget's image must
    match. Likewise the worst of several attacks is chosen by the former set and counted on the
    latter. So what holds of single answers holds of shares up to sampling: they do not grow with the budget,
    nor is the worst above its members. Left alone is an example of which two sets in a row held no right
    prediction; it is counted still.

    Args:
        judge: Of a model in eval mode.
        batch: Images (batch, …) in [0, 1] and labels (batch,).
        clean: int64 tensor (batch,): at how many repeats the model is right without an attack.
        plans: The attacks.
        on_attacked: Told after each attack and budget its column and the images (batch, …) that are held
            then: those that the attack returned, now or at a smaller budget, or the clean ones.

    Returns:
        One 0/1 column for each attack and budget, and for the worst of several of one norm; or the
        share of right predictions, where they are repeated.

    Raises:
        AttackError: an attack left its ball or [0, 1].
    """
    weights: dict[str, _Weights] = {}
    fooling: dict[str, Tensor] = {}
    unattacked = _Weights(clean.double(), judge.weigh_again(*batch, clean.double()))
    for plan in plans:
        images, weighed = batch.images, unattacked
        for epsilon in plan.epsilons:
            images, weighed = _press(judge, batch, replace(plan, epsilons=[epsilon]), images, weighed)
            weights[column(plan.name, epsilon)] = weighed
            if on_attacked is not None:
                on_attacked(column(plan.name, epsilon), images)
        if (fell := (clean > 0) & ~weighed.stands).any():
            fooling[plan.name] = batch.images.clone()
            fooling[plan.name][fell] = images[fell]
    for worst in worst_plans(plans):
        for epsilon in worst.epsilons:
            members = [weights[column(name, epsilon)] for name in worst.members]
            weights[column(worst.name, epsilon)] = _worst_of(members)
    columns = {name: judge.share(each.reported.long()) for name, each in weights.items()}
    return Scores(_arrays(columns), fooling)


class _Weights(NamedTuple):
    """How right the images held are, each a float64 tensor (batch,) as ``Judge.weigh`` has it.

    Attributes:
        choosing: By this the images were chosen.
        reported: Of the chosen ones; the same numbers where answers are not drawn.
    """

    choosing: Tensor
    reported: Tensor

    @property
    def stands(self) -> Tensor:
        """Whether any prediction was right (batch,)."""
        return (self.choosing >= 1) | (self.reported >= 1)


def _press(
    judge: Judge, batch: Batch, plan: AttackPlan, held: Tensor, before: _Weights
) -> tuple[Tensor, _Weights]:
    """Attacks what stands, at the plan's only budget; the images held then, and how right they are."""
    images, choosing = held.clone(), before.reported.clone()
    index = before.stands.nonzero().squeeze(1)
    if len(index):
        subset = Batch(batch.images[index], batch.labels[index])
        reached = _attacked(judge, subset, plan, plan.epsilons[0])
        right = judge.weigh(reached, subset.labels)
        # Of images right equally often the later one, since a larger budget rarely is the weaker.
        is_taken = right.long() <= choosing[index].long()
        images[index[is_taken]] = reached[is_taken]
        choosing[index[is_taken]] = right[is_taken]
    return images, _Weights(choosing, judge.weigh_again(images, batch.labels, choosing))


def _worst_of(members: Sequence[_Weights]) -> _Weights:
    """An example's attack is the one that is least right by the predictions that chose images."""
    choosing, member = torch.stack([each.choosing for each in members]).min(dim=0)
    reported = torch.stack([each.reported for each in members])
    return _Weights(choosing, reported.gather(0, member[None])[0])


def _arrays(columns: Mapping[str, Tensor]) -> Columns:
    return {name: values.cpu().numpy() for name, values in columns.items()}


@dataclass(frozen=True)
class WorstPlan:
    """All attacks of one norm together: an example stands only where it withstands each of them.

    Where answers are drawn, the worst attack of an example is chosen by other predictions than are reported.

    Attributes:
        name: ``worst-linf``.
        norm: Of the attacks' balls.
        epsilons: Budgets, ascending.
        members: The names of the attacks.
    """

    name: str
    norm: float
    epsilons: Sequence[float]
    members: Sequence[str]


def worst_plans(plans: Sequence[AttackPlan]) -> list[WorstPlan]:
    """One for each norm in which there are several attacks at the same budgets."""
    found = []
    for norm, epsilons in dict.fromkeys((plan.norm, tuple(plan.epsilons)) for plan in plans):
        alike = [plan for plan in plans if (plan.norm, tuple(plan.epsilons)) == (norm, epsilons)]
        if norm is not None and len(alike) > 1:
            name = f"worst-{norms.label(norm)}"
            found.append(WorstPlan(name, norm, alike[0].epsilons, [plan.name for plan in alike]))
    return found


def _attacked(judge: Judge, batch: Batch, plan: AttackPlan, epsilon: float) -> Tensor:
    """The attacked images; whether they fool the model is for the judge to say, not for the attack."""
    adversarial = plan.form.at(epsilon)(judge.target, batch.images, batch.labels)
    _require_inside(batch.images, adversarial, plan, epsilon)
    return adversarial


def _require_inside(images: Tensor, adversarial: Tensor, plan: AttackPlan, epsilon: float) -> None:
    low, high = (float(bound) for bound in adversarial.aminmax())
    distance = 0.0 if plan.norm is None else float(norms.norm(adversarial - images, plan.norm).max())
    if not (low >= 0 and high <= 1 and distance <= epsilon * (1 + _TOLERANCE) + 1e-6) or math.isnan(distance):
        raise AttackError(
            f"The attack {plan.name} at epsilon {epsilon:.6g} returned images in [{low:.4g}, {high:.4g}] at "
            f"a distance of up to {distance:.6g}. An attack must stay in [0, 1] and within epsilon."
        )
