"""How many draws of the weights an attack's gradient must average, found by attacking with ever more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import nn

from withstand.attacks import AtMeans, Noise
from withstand.data import Split, batches
from withstand.evaluation.judge import Judge, random_judge
from withstand.evaluation.rows import AttackPlan, attack_batch, column
from withstand.evaluation.sampling import Sampling
from withstand.evaluation.summary import share_of

__all__ = ["Judging", "find_judge", "has_settled", "sufficient"]

_DOUBLINGS = 2  # that together must lower the accuracy
_MORE_REPEATS = 4  # times those of the evaluation, since small differences decide here


class Judging(NamedTuple):
    """How a model is scored.

    Attributes:
        judge: Who says what is right, and what is attacked.
        batch_size: Examples a batch.
        entry: The entry ``sampling`` of ``metrics.json``; None where nothing is random.
        warnings: What makes the figures doubtful, in words.
    """

    judge: Judge
    batch_size: int
    entry: dict[str, Any] | None = None
    warnings: Sequence[str] = ()


def find_judge(
    model: nn.Module,
    test: Split,
    plans: Sequence[AttackPlan],
    sampling: Sampling | None,
    *,
    batch_size: int,
    seed: int,
) -> Judging:
    """Who judges a model; where its weights are random, with as many draws a gradient as are needed.

    Args:
        model: In eval mode; maps images in [0, 1] to logits (batch, classes).
        test: On the model's device.
        plans: The attacks that will be run.
        sampling: How to score it; None where its weights are not random.
        batch_size: Images, or images times draws, that are passed through the model at once.
        seed: Of the attacks' random starts and of the draws.

    Raises:
        AttackError: an attack left its ball or [0, 1].
    """
    if sampling is None:
        return Judging(Judge.of(model), batch_size)
    searching = next((plan for plan in plans if not isinstance(plan.attack, AtMeans | Noise)), None)
    entry, warnings = None, []
    if sampling.attack_samples is not None:
        chosen = sampling.attack_samples
        if chosen == 1 and searching is not None:
            warnings.append(
                "Gradients not averaged: each attack step follows a single draw of the weights, so the "
                "attacked accuracies are likely too high. Leave attack_samples out, and as many draws are "
                "averaged as are found to suffice."
            )
    elif searching is None:  # nothing has a gradient that draws enter
        chosen = sampling.num_samples
    else:
        few = test.subset(torch.arange(min(sampling.sweep_examples, len(test))))
        entry = _Sweep(model, few, searching, sampling, batch_size, seed).run()
        chosen = sufficient(
            [level["num_samples"] for level in entry["levels"]],
            [level["accuracy"] for level in entry["levels"]],
            sampling.tolerance,
        )
        warnings += _sweep_warnings(entry)
    found = {
        "description": sampling.describe(chosen),
        "settings": asdict(sampling),
        "num_samples": sampling.num_samples,
        "num_repeats": sampling.num_repeats,
        "attack_samples": chosen,
        "sweep": entry,
    }
    judge = _judge(model, sampling, chosen)
    return Judging(judge, max(1, batch_size // chosen), found, warnings)


def has_settled(accuracies: Sequence[float], tolerance: float) -> bool:
    """Whether the last two doublings of the draws together lowered the accuracy by less than a tolerance.

    Args:
        accuracies: Under attack, at 1, 2, 4, … draws a gradient.
        tolerance: A difference of accuracies; 0 asks that nothing was lost.
    """
    if len(accuracies) <= _DOUBLINGS:
        return False
    fallen = accuracies[-1 - _DOUBLINGS] - accuracies[-1]
    return fallen < tolerance or fallen <= 0


def sufficient(draws: Sequence[int], accuracies: Sequence[float], tolerance: float) -> int:
    """The least number of draws that attacks as well as any: the most where it has not settled.

    Args:
        draws: The numbers of draws tried, ascending.
        accuracies: Under attack, at each of them.
        tolerance: How far above the lowest accuracy is as good.
    """
    if not has_settled(accuracies, tolerance):
        return draws[-1]
    lowest = min(accuracies)
    good = (
        number
        for number, accuracy in zip(draws, accuracies, strict=True)
        if accuracy - lowest < tolerance or accuracy == lowest
    )
    return next(good)


def _judge(model: nn.Module, sampling: Sampling, attack_samples: int) -> Judge:
    return random_judge(
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

    def run(self) -> dict[str, Any]:
        """The entry ``sweep``, of the budget at which single draws leave nearest to half of what is right.

        There the accuracy can fall farthest and rise farthest; where nearly all or nothing withstands,
        no number of draws would be seen to matter.
        """
        tried = [epsilon for epsilon in self.plan.epsilons if epsilon > 0] or self.plan.epsilons
        clean, curve = self._accuracies(1, tried)
        distance = {epsilon: abs(found["accuracy"] - clean / 2) for epsilon, found in curve.items()}
        epsilon = min(distance, key=lambda each: distance[each])
        # A single draw comes once more, since in that curve what fell at smaller budgets is fallen. All
        # numbers are tried: of few draws the accuracy varies so much that it may seem to have settled.
        draws = [2**power for power in range(self.sampling.most_attack_samples.bit_length())]
        levels = [
            {"num_samples": number, **self._accuracies(number, [epsilon])[1][epsilon]} for number in draws
        ]
        return {
            "attack": self.plan.name,
            "epsilon": epsilon,
            "num_examples": len(self.test),
            "tolerance": self.sampling.tolerance,
            "levels": levels,
            "has_settled": has_settled([level["accuracy"] for level in levels], self.sampling.tolerance),
        }

    def _accuracies(
        self, attack_samples: int, epsilons: Sequence[float]
    ) -> tuple[float, dict[float, dict[str, Any]]]:
        """The clean accuracy, and by budget that under attack."""
        repeated = replace(self.sampling, num_repeats=_MORE_REPEATS * self.sampling.num_repeats)
        judge = _judge(self.model, repeated, attack_samples)
        plan = replace(self.plan, epsilons=epsilons)
        torch.manual_seed(self.seed)
        clean = 0
        right = dict.fromkeys(epsilons, 0)
        for batch in batches(self.test, max(1, self.batch_size // attack_samples)):
            unattacked = judge.answer(batch.images, batch.labels).right
            clean += int(unattacked.sum())
            found = attack_batch(judge, batch, unattacked, [plan]).columns
            for epsilon in epsilons:
                shares = found[column(plan.name, epsilon)]
                right[epsilon] += round(float(shares.sum()) * judge.num_repeats)
        total = len(self.test) * judge.num_repeats
        curve = {each: share_of(count, total, judge.num_repeats) for each, count in right.items()}
        return clean / total, curve


def _sweep_warnings(sweep: dict[str, Any]) -> list[str]:
    if sweep["has_settled"]:
        return []
    levels = sweep["levels"]
    last, before = levels[-1], levels[-1 - _DOUBLINGS :][0]
    seen = f"{before['accuracy']:.1%} of the answers withstand it with {before['num_samples']}"
    return [
        f"Attacks not settled: with gradients of {last['num_samples']} draws of the weights, the most that "
        f"were tried, {last['accuracy']:.1%} of the answers withstand {sweep['attack']} at "
        f"{sweep['epsilon']:g}, and {seen}. More draws may lower it further, so the attacked accuracies are "
        "likely too high: raise most_attack_samples."
    ]
