"""How many draws of the weights an attack's gradient must average, chosen by attacking with ever more."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from torch import nn

from withstand.attacks import PGD, AtMeans, Noise
from withstand.attacks.adapters import connected
from withstand.core.identity import identity
from withstand.core.writing import percent
from withstand.data import Split, batches, few, sample
from withstand.evaluation.attacking import attack_batch, column
from withstand.evaluation.meter import Columns
from withstand.evaluation.plans import AttackPlan
from withstand.evaluation.prediction_sampling import Sampling
from withstand.evaluation.predictor import Predictor, random_predictor
from withstand.evaluation.store import Store
from withstand.results import random_answers as results
from withstand.results.shares import share

_ASKED_APART = 16  # images, to see whether their answers depend on each other
_SAME_ANSWER = 1e-3  # what the order of additions may change

Shares: TypeAlias = NDArray[np.float64]

_SWEEP = TypeAdapter(results.Sweep)

_DOUBLINGS = 2  # that together must lower the accuracy
_ERRORS = 2.0  # standard errors that a difference must exceed to be more than chance
_SWEEP_STEPS = 20  # of the attack that replaces a suite
_MORE_REPEATS = 4  # times those of the evaluation, since small differences decide here


class ScoringPlan(NamedTuple):
    """How a model is scored.

    Attributes:
        predictor: Decides what is correct, and what is attacked.
        batch_size: Examples a batch.
        sampling: How many draws there are; None where nothing is random.
        warnings: What makes the figures doubtful, in words.
    """

    predictor: Predictor
    batch_size: int
    sampling: results.Sampling | None = None
    warnings: Sequence[str] = ()

    @property
    def draws(self) -> Sequence[int | None]:
        """How many draws answers and gradients average, and how often images are predicted."""
        how = self.sampling
        return [] if how is None else [how.num_samples, how.num_repeats, how.attack_samples]


def find_predictor(
    model: nn.Module,
    test: Split,
    plans: Sequence[AttackPlan],
    sampling: Sampling | None,
    store: Store,
    *,
    batch_size: int,
    seed: int,
) -> ScoringPlan:
    """The predictor of a model; where its weights are random, with as many draws a gradient as are needed.

    Args:
        model: In eval mode; maps images in [0, 1] to logits (batch, classes).
        test: On the model's device.
        plans: The attacks that will be run.
        sampling: How to score it; None where its weights are not random.
        store: What is known already; takes up the results.
        batch_size: Images, or images times draws, that are passed through the model at once.
        seed: Of the attacks' random starts and of the draws.

    Raises:
        AttackError: an attack left its ball or [0, 1].
    """
    if sampling is None:
        one = next(batches(test, 1)).images
        predictor = Predictor(model, connected(model, one) if plans else model)
        return ScoringPlan(predictor, batch_size, warnings=_batch_warnings(model, test, batch_size))
    searching = _searching(plans)
    sweep, warnings = None, []
    if sampling.attack_samples is not None:
        draws = sampling.attack_samples
    elif searching is None:  # nothing has a gradient that draws enter
        draws = sampling.num_samples
    else:
        drawn = sample(test, sampling.sweep_examples)
        to_make = _Sweep(model, drawn, searching, sampling, batch_size, seed)
        sweep = _SWEEP.validate_python(store.noted(to_make.identity, to_make.run))
        draws = sweep.chosen
        warnings += _sweep_warnings(sweep)
    gradient_draws = None if searching is None else draws
    how = results.Sampling(
        sampling.describe(gradient_draws), sampling.num_samples, sampling.num_repeats, gradient_draws, sweep
    )
    return ScoringPlan(_predictor(model, sampling, draws), max(1, batch_size // draws), how, warnings)


def _searching(plans: Sequence[AttackPlan]) -> AttackPlan | None:
    """The first attack whose gradients average draws; in the place of a whole suite a single one."""
    first = next((plan for plan in plans if not isinstance(plan.attack, AtMeans | Noise)), None)
    if first is None or first.norm is None or len(first.attack.stages) == 1:
        return first
    attack = PGD(norm=first.norm, num_steps=_SWEEP_STEPS)
    return replace(first, attack=attack.for_random_answers(), name=attack.name)


def has_settled(levels: Sequence[Shares], tolerance: float) -> bool:
    """Whether the last two doublings of the draws together no longer lowered the accuracy.

    They did where it decreased by more than a tolerance, and by more than twice the standard error of that
    decrease.

    Args:
        levels: At 1, 2, 4, … draws a gradient, of each example the share of correct predictions under attack:
            arrays (examples,), of the same examples.
        tolerance: A difference of accuracies.
    """
    return len(levels) > _DOUBLINGS and not _is_above(levels[-1 - _DOUBLINGS], levels[-1], tolerance)


def sufficient(draws: Sequence[int], levels: Sequence[Shares], tolerance: float) -> int:
    """The least number of draws that attacks as well as any: the most where it has not settled.

    As well is an accuracy above the lowest by no more than a tolerance; that chance may be behind a larger
    difference counts for nothing here, as too many draws cost time alone.

    Args:
        draws: The numbers of draws tried, ascending.
        levels: At each of them, as ``has_settled`` takes them.
        tolerance: A difference of accuracies.
    """
    if not has_settled(levels, tolerance):
        return draws[-1]
    accuracies = [float(shares.mean()) for shares in levels]
    good = zip(draws, accuracies, strict=True)
    return next(number for number, accuracy in good if accuracy - min(accuracies) <= tolerance)


def _is_above(shares: Shares, others: Shares, tolerance: float) -> bool:
    """Whether an accuracy is above another of the same examples, beyond tolerance and chance."""
    difference = shares - others
    # Example by example, since what examples differ in is the same on both sides.
    error = float(difference.std(ddof=1)) / math.sqrt(len(difference)) if len(difference) > 1 else 0.0
    return float(difference.mean()) > max(tolerance, _ERRORS * error)


def _predictor(model: nn.Module, sampling: Sampling, attack_samples: int) -> Predictor:
    return random_predictor(
        model,
        num_samples=sampling.num_samples,
        num_repeats=sampling.num_repeats,
        attack_samples=attack_samples,
    )


@dataclass(frozen=True)
class _Sweep:
    """Attacks a few examples with gradients of 1, 2, 4, … draws."""

    model: nn.Module
    test: Split
    plan: AttackPlan
    sampling: Sampling
    batch_size: int
    seed: int

    @property
    def identity(self) -> str:
        """All that its result depends on, beside the model."""
        plan = self.plan
        settings = (self.sampling, plan.attack, plan.epsilons, len(self.test), self.batch_size, self.seed)
        return f"draws {identity(*settings)}"

    def run(self) -> dict[str, Any]:
        """What ``results.Sweep`` holds.

        It is of the budget at which single draws leave nearest to half of what is correct.

        There the accuracy can decrease farthest and increase farthest; where nearly all or nothing
        withstands, no number of draws would be seen to matter.
        """
        tried = [epsilon for epsilon in self.plan.epsilons if epsilon > 0] or self.plan.epsilons
        clean, curve = self._shares(1, tried)
        distance = {epsilon: abs(shares.mean() - clean.mean() / 2) for epsilon, shares in curve.items()}
        epsilon = min(distance, key=lambda budget: distance[budget])
        # A single draw comes once more, since that curve holds on to what smaller budgets broke. All
        # numbers are tried: of few draws the accuracy varies so much that it may seem to have settled.
        draws = [2**power for power in range(self.sampling.most_attack_samples.bit_length())]
        levels = [self._shares(number, [epsilon])[1][epsilon] for number in draws]
        return {
            "attack": self.plan.name,
            "epsilon": epsilon,
            "num_examples": len(self.test),
            "tolerance": self.sampling.tolerance,
            "levels": [
                {"num_samples": number, **asdict(share(shares, self._num_repeats))}
                for number, shares in zip(draws, levels, strict=True)
            ],
            "has_settled": has_settled(levels, self.sampling.tolerance),
            "chosen": sufficient(draws, levels, self.sampling.tolerance),
        }

    @property
    def _num_repeats(self) -> int:
        return _MORE_REPEATS * self.sampling.num_repeats

    def _shares(self, attack_samples: int, epsilons: Sequence[float]) -> tuple[Shares, dict[float, Shares]]:
        """Of each example the share of correct predictions: clean, and by budget under attack."""
        predictor = _predictor(
            self.model, replace(self.sampling, num_repeats=self._num_repeats), attack_samples
        )
        plan = replace(self.plan, epsilons=epsilons)
        torch.manual_seed(self.seed)
        clean: list[Shares] = []
        attacked: list[Columns] = []
        for batch in batches(self.test, max(1, self.batch_size // attack_samples)):
            unattacked = predictor.answer(batch.images, batch.labels)
            clean.append(predictor.share(unattacked.correct).cpu().numpy())
            attacked.append(attack_batch(predictor, batch, unattacked, [plan]).columns)
        names = {epsilon: column(plan.name, epsilon) for epsilon in epsilons}
        curve = {
            epsilon: np.concatenate([part[name] for part in attacked]) for epsilon, name in names.items()
        }
        return np.concatenate(clean), {
            epsilon: shares.astype(np.float64) for epsilon, shares in curve.items()
        }


@torch.no_grad()
def _batch_warnings(model: nn.Module, test: Split, batch_size: int) -> list[str]:
    """What to say where answers to an image depend on what else is in its batch."""
    images = few(test, _ASKED_APART).images
    try:
        apart = torch.cat([model(part) for part in images.chunk(2)])
    except Exception:  # of a model that takes no such batches, which scoring them says if it needs to
        return []
    together = model(images)
    scale = float(together.abs().nan_to_num(0.0, 0.0, 0.0).amax())
    if torch.allclose(apart, together, rtol=0.0, atol=_SAME_ANSWER * max(scale, 1e-12), equal_nan=True):
        return []
    return [
        "The model's answer to an image depends on what else is in its batch, so figures hold for "
        f"batch_size={batch_size} alone. A BatchNorm without running statistics does this; build it with "
        "track_running_stats=True."
    ]


def _sweep_warnings(sweep: results.Sweep) -> list[str]:
    if sweep.has_settled:
        return []
    last, before = sweep.levels[-1], sweep.levels[-1 - _DOUBLINGS]
    seen = f"{percent(before.value)} of the answers withstand it with {before.num_samples}"
    return [
        f"Attacks not settled: with gradients of {last.num_samples} draws of the weights, the most that "
        f"were tried, {percent(last.value)} of the answers withstand {sweep.attack} at "
        f"{sweep.epsilon:g}, and {seen}. More draws may lower it further, so the attacked accuracies are "
        "likely too high: raise most_attack_samples."
    ]
