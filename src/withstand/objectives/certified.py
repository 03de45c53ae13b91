"""Certified training: the loss of the worst logits that a bound allows."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.core import norms
from withstand.core.answers import is_correct
from withstand.core.modes import differs_in_training, eval_mode, has_spectral_norm_hook
from withstand.core.numerics import without_autocast
from withstand.core.schedules import Schedule, Slowed, scheduled, value_at
from withstand.core.setting_rules import AT_LEAST_0, SHARE, flag, settle
from withstand.core.wrappers import eager, unwrapped
from withstand.domains import Ball, BoxBall, DomainName, LastLayer, ProgramCache, input_set, require_set
from withstand.loss.passes import logits_of
from withstand.loss.terms import Objective
from withstand.operators import PowerIteration
from withstand.types import LossTerms, ModelError

_ABOVE_ONE = 1.0001  # as published: keeps the logarithm finite where a wrong class has all the mass


class WorstLoss(ABC):
    """The interface of a loss of the worst logits."""

    @abstractmethod
    def __call__(self, differences: Tensor, labels: Tensor) -> Tensor:
        """The mean over the batch.

        Args:
            differences: Bounds on each logit minus the true one, (batch, classes); 0 for the true class.
            labels: Integer tensor (batch,).

        Returns:
            Scalar tensor.
        """


@dataclass(frozen=True)
class WorstCrossEntropy(WorstLoss):
    """Cross-entropy, as published."""

    @override
    def __call__(self, differences: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(differences, labels)


@dataclass(frozen=True)
class BoostedCrossEntropy(WorstLoss):
    """Cross-entropy and -log(1 - p) of the likeliest wrong class (Wang et al., MART, ICLR 2020)."""

    @override
    def __call__(self, differences: Tensor, labels: Tensor) -> Tensor:
        probabilities = differences.softmax(dim=1)
        wrong = probabilities.scatter(1, labels[:, None], 0.0).amax(dim=1)
        return F.cross_entropy(differences, labels) - torch.log(_ABOVE_ONE - wrong).mean()


@dataclass(frozen=True)
class SymmetricCrossEntropy(WorstLoss):
    """(1 - share) times cross-entropy, and share times 1 - p (Wang et al., ICCV 2019).

    An example whose worst logits are hopeless pulls on the weights with its cross-entropy alone, so
    that most of what the network can do goes to those that can be certified. At a share of 1 training
    gives up whole classes.

    Args:
        share: In [0, 1].

    Raises:
        ValueError: the share is out of its range.
    """

    share: float

    def __post_init__(self) -> None:
        settle(self, share=SHARE)

    @override
    def __call__(self, differences: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(differences, labels, reduction="none")
        # 1 - p = -expm1(log p), which keeps its digits where p is nearly 1.
        return ((1 - self.share) * losses - self.share * torch.expm1(-losses)).mean()


CLEAN_TERM = "clean"
CLEAN_ACCURACY_TERM = "clean_accuracy"

_NEWTON_STEPS = 3  # the bound is sound after any number; three come within 1e-4 of exact


class Certified(Objective):
    """``kappa`` times the clean cross-entropy, and ``1 - kappa`` times the loss of the worst logits.

    ``domain="box_ball"`` is box constraint propagation (Lee et al., NeurIPS 2020), ``"box"`` is IBP
    (Gowal et al., 2018), ``"ball"`` is Lipschitz-margin training (Tsuzuku et al., NeurIPS 2018).
    Operator norms are estimated by power iteration, which is cheap and no proof; what a trained
    model truly certifies is for ``withstand.certify`` to say.

    A warm-up is a ramp that begins late: ``kappa=Linear(start=1, end=0, epochs=20, begin=1)``. As long
    as kappa is 1 no bound is computed.

    Args:
        norm: Of the ball that inputs are attacked in: 2 or inf.
        epsilon: Its radius in [0, 1] units; a float or a schedule.
        domain: What to bound with.
        kappa: Weight of the clean loss, in [0, 1]; a float or a schedule.
        loss: Of the worst logits: ``BoostedCrossEntropy``, ``SymmetricCrossEntropy``, or one of your
            own; ``WorstCrossEntropy`` where None.
        clip: Whether only images in [0, 1] count; tighter, and as certificates are by default.
        num_power_iterations: A step, for each operator norm.
        batch_statistics: Bound BatchNorm layers as they act on the training batch, by the
            statistics of the sets' centers, instead of by their running statistics.

    Raises:
        ValueError: an argument is out of its range.
    """

    def __init__(
        self,
        norm: float,
        epsilon: float | Schedule,
        *,
        domain: DomainName = "box_ball",
        kappa: float | Schedule = 0.0,
        loss: WorstLoss | None = None,
        clip: bool = False,
        num_power_iterations: int = 1,
        batch_statistics: bool = False,
    ) -> None:
        super().__init__()
        self.norm = require_set(norm, domain)
        self.epsilon = epsilon
        self.domain: DomainName = domain
        self.kappa = kappa
        self.loss = WorstCrossEntropy() if loss is None else loss
        self.clip = clip
        self.batch_statistics = batch_statistics
        self.operator_norms = PowerIteration(num_power_iterations)
        self._programs = ProgramCache()
        settle(self, epsilon=scheduled(AT_LEAST_0), kappa=scheduled(SHARE), clip=flag, batch_statistics=flag)
        norms.warn_beyond_range(self.norm, value_at(self.epsilon))

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        kappa, epsilon = value_at(self.kappa, progress), value_at(self.epsilon, progress)
        if kappa == 1:
            logits = logits_of(model, images)
            clean = F.cross_entropy(logits, labels)
            return LossTerms(clean, _clean_terms(clean, logits, labels) | _settings(clean, kappa, epsilon))
        with without_autocast():
            last = self._last_layer(model, images, epsilon)
            differences = last.differences(labels)
            worst = self.loss(differences, labels)
        with torch.set_grad_enabled(torch.is_grad_enabled() and kappa > 0):
            logits = self._clean_logits(model, images, last)
        clean = F.cross_entropy(logits, labels)
        total = worst if kappa == 0 else kappa * clean + (1 - kappa) * worst
        is_bounded = differences.detach().scatter(1, labels[:, None], -math.inf).amax(dim=1) < 0
        terms = _clean_terms(clean, logits, labels) | {
            "worst": worst.detach(),
            "worst_accuracy": is_bounded.float().mean(),
        }
        return LossTerms(total, terms | _settings(clean, kappa, epsilon))

    @override
    def slow_down(self, at: float) -> bool:
        slowed, middle = Slowed(self.epsilon, at), at + 0.5
        is_easier = slowed(middle) < value_at(self.epsilon, middle)
        if is_easier:
            self.epsilon = slowed
            if isinstance(self.kappa, Schedule):
                self.kappa = Slowed(self.kappa, at)
        return is_easier

    @override
    def extra_repr(self) -> str:
        return (
            f"norm={self.norm:g}, epsilon={self.epsilon}, domain={self.domain}, kappa={self.kappa}, "
            f"loss={self.loss}, clip={self.clip}, "
            f"batch_statistics={self.batch_statistics}"
        )

    def _last_layer(self, model: nn.Module, images: Tensor, epsilon: float) -> LastLayer:
        if any(module.training and has_spectral_norm_hook(module) for module in model.modules()):
            raise ModelError(
                "torch.nn.utils.spectral_norm writes its vectors in each pass, which the bounds have read; "
                "take torch.nn.utils.parametrizations.spectral_norm."
            )
        value = input_set(images, self.norm, epsilon, self.domain, clip=self.clip)
        if isinstance(value, BoxBall):
            value = value.with_steps(_NEWTON_STEPS)
        if self.batch_statistics:
            return self._programs.of(model, images).run_to_last_layer(value, self.operator_norms)
        with eval_mode(model):
            return self._programs.of(model, images).run_to_last_layer(value, self.operator_norms)

    def _clean_logits(self, model: nn.Module, images: Tensor, last: LastLayer) -> Tensor:
        """The logits of the training pass: those of the sets' centers, where these are the images."""
        keeps_center = isinstance(last.features, Ball | BoxBall) and not (self.clip and self.norm == math.inf)
        if keeps_center and not differs_in_training(model):
            return last.logits
        # Updates running statistics, which a compiled graph does as a write to what the bounds have read.
        with eager():
            return logits_of(unwrapped(model), images)


def _clean_terms(clean: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {CLEAN_TERM: clean.detach(), CLEAN_ACCURACY_TERM: is_correct(logits, labels).float().mean()}


def _settings(like: Tensor, kappa: float, epsilon: float) -> dict[str, Tensor]:
    # Without a copy from the host.
    return {"kappa": like.new_full((), kappa).detach(), "epsilon": like.new_full((), epsilon).detach()}
