"""Certified training: the loss of the worst logits that a bound allows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.core import norms
from withstand.core.answers import is_correct
from withstand.core.modes import differs_in_training, eval_mode, has_spectral_norm_hook
from withstand.core.numerics import without_autocast
from withstand.core.schedules import Schedule, Slowed, scheduled, slower, value_at
from withstand.core.setting_rules import AT_LEAST_0, SHARE, flag, instance_of, settle
from withstand.core.wrappers import eager, unwrapped
from withstand.domains import (
    Ball,
    BoxBall,
    DomainName,
    LastLayer,
    ProgramCache,
    Region,
    input_set,
    require_set,
)
from withstand.domains import Linear as LinearBounds
from withstand.domains.linear.linear_inputs import input_set_of
from withstand.loss.passes import logits_of
from withstand.loss.terms import Objective
from withstand.objectives.worst_losses import WorstCrossEntropy, WorstLoss
from withstand.operators import PowerIteration
from withstand.types import LossTerms, ModelError

CLEAN_TERM = "clean"
CLEAN_ACCURACY_TERM = "clean_accuracy"

_a_loss = instance_of(WorstLoss, "a loss of the worst logits, such as CappedCrossEntropy()")
_NEWTON_STEPS = 3  # the bound is sound after any number; three come within 1e-4 of exact


class Certified(Objective):
    """``kappa`` times the clean cross-entropy, and ``1 - kappa`` times the loss of the worst logits.

    ``domain="box_ball"`` is box constraint propagation (Lee et al., NeurIPS 2020), ``"box"`` is IBP
    (Gowal et al., 2018), ``"ball"`` is Lipschitz-margin training (Tsuzuku et al., NeurIPS 2018).
    ``"linear"`` is CROWN-IBP (Zhang et al., ICLR 2020): one backward pass bounds the logits, between lines
    that intervals give (in l1 and l2, ball ∩ box); their share of the differences is ``mix``, and that of
    the intervals' own bound the rest. Published is a ramp from 1 to 0, as long as that of epsilon:
    intervals train better in the end, and cost less. Where the intervals' bound of a logit is
    the lower one, the backward pass's is that too.

    Operator norms are estimated by power iteration, which is cheap and no proof; what a trained
    model truly certifies is for ``withstand.certify`` to say.

    A warm-up is a ramp that begins late: ``kappa=Linear(start=1, end=0, epochs=20, begin=1)``. As long
    as kappa is 1 no bound is computed.

    Args:
        norm: Of the ball that inputs are attacked in: 1, 2 or inf.
        epsilon: Its radius in [0, 1] units; a float or a schedule.
        domain: What to bound with.
        kappa: Weight of the clean loss, in [0, 1]; a float or a schedule.
        mix: Of ``"linear"``, the weight of the backward pass's bound, in [0, 1], beside the intervals';
            a float or a schedule. At 0 no backward pass is made.
        loss: Of the worst logits: ``BoostedCrossEntropy``, ``SymmetricCrossEntropy``,
            ``CappedCrossEntropy``, ``AnnealedCrossEntropy``, or one of your own; ``WorstCrossEntropy``
            where None.
        clip: Whether only images in [0, 1] count; tighter, and as certificates are by default.
        num_power_iterations: A step, for each operator norm.
        batch_statistics: Bound BatchNorm layers as they act on the training batch, by the
            statistics of the sets' centers, instead of by their running statistics.

    Raises:
        ValueError: an argument is out of its range, or there is a mix in another domain.
    """

    def __init__(  # noqa: PLR0913 - each a setting of its own
        self,
        norm: float,
        epsilon: float | Schedule,
        *,
        domain: DomainName = "box_ball",
        kappa: float | Schedule = 0.0,
        mix: float | Schedule = 1.0,
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
        self.mix = mix
        self.loss = WorstCrossEntropy() if loss is None else loss
        self.clip = clip
        self.batch_statistics = batch_statistics
        self.operator_norms = PowerIteration(num_power_iterations)
        self._programs = ProgramCache()
        shares = dict.fromkeys(("kappa", "mix"), scheduled(SHARE))
        settle(self, epsilon=scheduled(AT_LEAST_0), loss=_a_loss, **shares, clip=flag, batch_statistics=flag)
        if domain != "linear" and self.mix != 1:
            raise ValueError(f"mix needs domain='linear', but got mix {self.mix} and domain {domain!r}.")
        norms.warn_beyond_range(self.norm, value_at(self.epsilon))

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        values = {name: value_at(schedule, progress) for name, schedule in self._schedules.items()}
        kappa, mix = values["kappa"], values.get("mix", 1.0)
        if kappa == 1:
            logits = logits_of(model, images)
            clean = F.cross_entropy(logits, labels)
            return LossTerms(clean, _clean_terms(clean, logits, labels) | _settings(clean, values))
        with without_autocast():
            last = self._last_layer(model, images, self._input_set(images, values["epsilon"], mix))
            differences = _mixed(last, labels, mix)
            centers = last.logits
            worst = self.loss(differences, labels, centers - centers.gather(1, labels[:, None]))
        with torch.set_grad_enabled(torch.is_grad_enabled() and kappa > 0):
            logits = self._clean_logits(model, images, last)
        clean = F.cross_entropy(logits, labels)
        total = worst if kappa == 0 else kappa * clean + (1 - kappa) * worst
        is_bounded = differences.detach().scatter(1, labels[:, None], -math.inf).amax(dim=1) < 0
        terms = _clean_terms(clean, logits, labels) | {
            "worst": worst.detach(),
            "worst_accuracy": is_bounded.float().mean(),
        }
        return LossTerms(total, terms | _settings(clean, values))

    @override
    def slow_down(self, at: float) -> bool:
        if slowed := slower(self.epsilon, at):
            self.epsilon = slowed
            for name in ("kappa", "mix"):
                if isinstance(schedule := getattr(self, name), Schedule):
                    setattr(self, name, Slowed(schedule, at))
        return slowed is not None

    @override
    def extra_repr(self) -> str:
        mix = f"mix={self.mix}, " if self.domain == "linear" else ""
        return (
            f"norm={self.norm:g}, epsilon={self.epsilon}, domain={self.domain}, kappa={self.kappa}, "
            f"{mix}loss={self.loss}, clip={self.clip}, "
            f"batch_statistics={self.batch_statistics}"
        )

    @property
    def _schedules(self) -> dict[str, float | Schedule]:
        named = {"kappa": self.kappa, "epsilon": self.epsilon}
        return named | ({"mix": self.mix} if self.domain == "linear" else {})

    def _input_set(self, images: Tensor, epsilon: float, mix: float) -> Region:
        """All that an attacker may choose; in the linear domain only what covers it where that is enough."""
        if self.domain != "linear":
            value = input_set(images, self.norm, epsilon, self.domain, clip=self.clip)
            return value.with_steps(_NEWTON_STEPS) if isinstance(value, BoxBall) else value
        # Intervals know nothing of an l2 ball but the box around it, which is many times as large.
        domain: DomainName = "box" if self.norm == math.inf else "box_ball"
        cover = input_set(images, self.norm, epsilon, domain, clip=self.clip)
        if isinstance(cover, BoxBall):
            cover = cover.with_steps(_NEWTON_STEPS)
        if mix == 0:
            return cover
        inputs = input_set_of(images, self.norm, epsilon, self.clip).with_steps(_NEWTON_STEPS)
        return LinearBounds.of(inputs, cover, refines=False)

    def _last_layer(self, model: nn.Module, images: Tensor, value: Region) -> LastLayer:
        if any(module.training and has_spectral_norm_hook(module) for module in model.modules()):
            raise ModelError(
                "torch.nn.utils.spectral_norm writes its vectors in each pass, which the bounds have read; "
                "take torch.nn.utils.parametrizations.spectral_norm."
            )
        if self.batch_statistics:
            return self._programs.of(model, images).run_to_last_layer(value, self.operator_norms)
        with eval_mode(model):
            return self._programs.of(model, images).run_to_last_layer(value, self.operator_norms)

    def _clean_logits(self, model: nn.Module, images: Tensor, last: LastLayer) -> Tensor:
        """The logits of the training pass: those of the sets' centers, where these are the images."""
        keeps_center = isinstance(last.features, Ball | BoxBall | LinearBounds) and not (
            self.clip and self.norm == math.inf
        )
        if keeps_center and not differs_in_training(model):
            return last.logits
        # Updates running statistics, which a compiled graph does as a write to what the bounds have read.
        with eager():
            return logits_of(unwrapped(model), images)


def _clean_terms(clean: Tensor, logits: Tensor, labels: Tensor) -> dict[str, Tensor]:
    return {CLEAN_TERM: clean.detach(), CLEAN_ACCURACY_TERM: is_correct(logits, labels).float().mean()}


def _mixed(last: LastLayer, labels: Tensor, mix: float) -> Tensor:
    """The differences of the worst logits: of the set, in the linear domain mixed with those of its cover."""
    differences = last.differences(labels)
    if mix == 1 or not isinstance(last.features, LinearBounds):
        return differences
    cover = last._replace(features=last.features.cover)
    return mix * differences + (1 - mix) * cover.differences(labels)


def _settings(like: Tensor, values: Mapping[str, float]) -> dict[str, Tensor]:
    # Without a copy from the host.
    return {name: like.new_full((), value).detach() for name, value in values.items()}
