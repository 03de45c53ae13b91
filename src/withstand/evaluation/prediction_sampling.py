"""How a model that draws its answers is scored: settings, and what counts as one answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from withstand import bayes
from withstand.core.devices import preserved_random_states
from withstand.core.modes import eval_mode
from withstand.core.setting_rules import AT_LEAST_0, COUNT, Whole, optional, settle
from withstand.data import Split, few

ASKED_TWICE = 32  # images, to see whether answers are drawn
_SAME_ANSWER = 1e-3  # of the largest logit: what the order of additions may change
LEAST_DRAWS_TO_TRY = 4
"""The least ``most_attack_samples``: that after two doublings."""


@dataclass(frozen=True)
class Sampling:
    """How to score a net whose weights are random.

    What is scored is the mean of the probabilities over fresh draws of the weights. An attack climbs the
    loss of the same mean over its own draws, so its gradient is an expectation over transformations
    (Athalye et al., ICML 2018). Of a net without random weights nothing is drawn, and none of this counts.

    Args:
        num_samples: Draws that a prediction averages.
        num_repeats: Predictions of each image, each of fresh draws; the share of correct ones counts. As many
            others choose which image an attack leaves.
        attack_samples: Draws that an attack's gradient averages; where null the fewest of 1, 2, 4, … that
            attack as well as any.
        most_attack_samples: The largest number of draws to try for that, at least 4.
        sweep_examples: Test examples to try it on, of each class its share.
        tolerance: A difference of attacked accuracies that does not count: of two numbers of draws, and of
            the last two doublings together, which must not lower it by more to be the last. Nor does a
            difference within twice its standard error.

    Raises:
        ValueError: a number is out of its range.
    """

    num_samples: int = 20
    num_repeats: int = 5
    attack_samples: int | None = None
    most_attack_samples: int = 32
    sweep_examples: int = 200
    tolerance: float = 0.01

    def __post_init__(self) -> None:
        settle(
            self,
            num_samples=COUNT,
            num_repeats=COUNT,
            attack_samples=optional(COUNT),
            most_attack_samples=Whole(),
            sweep_examples=COUNT,
            tolerance=AT_LEAST_0,
        )
        if self.most_attack_samples < LEAST_DRAWS_TO_TRY:
            raise ValueError(
                f"Expected most_attack_samples of the sampling of at least {LEAST_DRAWS_TO_TRY}, since "
                "gradients of 1, 2 and 4 draws must be compared to find a number, but got "
                f"{self.most_attack_samples}. To fix the number give attack_samples."
            )

    def describe(self, attack_samples: int | None) -> str:
        """A sentence of the settings, for a report.

        Args:
            attack_samples: Draws that each attack's gradient averages; None where none has such a gradient.
        """
        draws, times = _counted(self.num_samples, "fresh draw"), _counted(self.num_repeats, "time")
        gradient = (
            ""
            if attack_samples is None
            else "; an attack's gradient is that of the same mean over "
            f"{_counted(attack_samples, 'fresh draw')}"
        )
        return (
            f"Each prediction is the mean of the probabilities over {draws} of the weights, and each image "
            f"is predicted {times}{gradient}; attacked images, and the worst of several attacks, are chosen "
            "by one set of predictions and counted on another"
        )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


@torch.no_grad()
def are_answers_drawn(model: nn.Module, test: Split) -> bool:
    """Whether its answers are drawn, by random weights or by anything else: asked twice, they differ."""
    if bayes.is_stochastic(model):
        return True
    with eval_mode(model), preserved_random_states():
        images = few(test, ASKED_TWICE).images
        first, second = model(images), model(images)
    size = first.abs()
    largest = float(size[size.isfinite()].amax()) if size.isfinite().any() else 0.0
    return not torch.allclose(
        first, second, rtol=0.0, atol=_SAME_ANSWER * max(largest, 1e-12), equal_nan=True
    )
