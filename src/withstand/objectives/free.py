"""Free adversarial training: one backward pass gives the gradient of the weights and that of the images."""

from __future__ import annotations

import logging
import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.core import norms
from withstand.core.answers import is_correct
from withstand.core.batch_shares import current
from withstand.core.schedules import Schedule, scheduled, slower, value_at
from withstand.core.setting_rules import AT_LEAST_0, settle
from withstand.loss.passes import logits_of
from withstand.loss.terms import Objective
from withstand.objectives.adversarial import ACCURACY_TERM, LOSS_TERM
from withstand.types import LossTerms, RecipeError

_logger = logging.getLogger(__name__)


class FreeAdversarial(Objective):
    """The cross-entropy of images whose perturbation is carried from step to step.

    Shafahi et al., "Adversarial training for free!" (NeurIPS 2019, algorithm 1). The backward pass of a step
    gives the gradient of the images as well, by which the perturbation takes one step of length epsilon for
    the next: so a step costs no more than a plain one. Each batch is to come several times in a row, by
    ``training.batch_repeats``, published 8; the perturbation goes on to the next batch, as published. The
    images pass through the model in its present mode, once.

    The perturbation is that of whole batches: several processes and ``micro_batches`` are refused.

    Args:
        epsilon: The perturbation budget, in [0, 1] units; a float or a schedule.
        norm: In which it is measured: 1, 2 or inf.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, epsilon: float | Schedule = 8 / 255, norm: float = math.inf) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.norm = norm
        settle(self, epsilon=scheduled(AT_LEAST_0), norm=norms.norm_rule)
        norms.warn_beyond_range(self.norm, value_at(self.epsilon))
        self._perturbation: Tensor | None = None
        self._images: Tensor | None = None  # of the last step, whose gradient is still to be followed
        self._epsilon_then = 0.0
        self._labels: Tensor | None = None  # of the first step, until the second is known
        self._has_compared = False

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        if current() is not None:
            raise RecipeError(
                "FreeAdversarial carries the perturbation of whole batches from step to step. Take "
                "training.devices=1 and training.micro_batches=1, or another objective, such as "
                "Adversarial(fgsm_rs(0.3))."
            )
        self._tell_of_repeats(labels)
        self._follow()
        epsilon = value_at(self.epsilon, progress)
        before = self._perturbation
        if before is None or before.shape != images.shape:
            before = torch.zeros_like(images)
        self._perturbation = norms.project(before.to(images), self.norm, epsilon)
        self._epsilon_then = epsilon
        self._images = (images.detach() + self._perturbation).clamp_(0.0, 1.0)
        self._images.requires_grad_(torch.is_grad_enabled())
        logits = logits_of(model, self._images)
        loss = F.cross_entropy(logits, labels)
        terms = {
            LOSS_TERM: loss.detach(),
            ACCURACY_TERM: is_correct(logits, labels).float().mean(),
            "epsilon": loss.new_full((), epsilon),
        }
        return LossTerms(loss, {name: term.detach() for name, term in terms.items()})

    @override
    def slow_down(self, at: float) -> bool:
        if slowed := slower(self.epsilon, at):
            self.epsilon = slowed
        return slowed is not None

    @override
    def get_extra_state(self) -> Any:
        """The perturbation, for a checkpoint."""
        self._follow()
        return self._perturbation

    @override
    def set_extra_state(self, state: Any) -> None:
        self._perturbation, self._images = state, None
        self._has_compared = True  # what goes on may be at the last repeat of a batch

    @override
    def extra_repr(self) -> str:
        return f"norm={self.norm:g}, epsilon={self.epsilon}"

    def _follow(self) -> None:
        """Takes the step of the perturbation for which the last backward pass left a gradient."""
        if self._images is not None and self._perturbation is not None and self._images.grad is not None:
            direction = norms.steepest(norms.finite(self._images.grad), self.norm)
            moved = torch.add(self._perturbation, direction, alpha=self._epsilon_then)
            self._perturbation = norms.project(moved, self.norm, self._epsilon_then)
        self._images = None

    def _tell_of_repeats(self, labels: Tensor) -> None:
        """Says, once and on the CPU, that batches do not repeat: where the second is not the first."""
        if self._has_compared or labels.device.type != "cpu":  # there no step waits for it
            return
        if self._labels is None:
            self._labels = labels
            return
        if not torch.equal(self._labels, labels):
            _logger.warning(
                "FreeAdversarial was given two different batches in a row: its perturbation is then that "
                "of other images. Repeat each batch: training.batch_repeats=8, training.drop_last=true."
            )
        self._labels, self._has_compared = None, True
