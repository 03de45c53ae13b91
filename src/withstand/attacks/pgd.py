"""Projected gradient ascent: one loop; the norm, the loss and the schedule enter from outside.

Madry et al., "Towards deep learning models resistant to adversarial attacks" (ICLR 2018).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple, Self, TypeVar

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.attack import Attack
from withstand.attacks.losses import a_loss, cross_entropy, dlr, kl_divergence, name_of, one_an_example
from withstand.attacks.masks import Mask, a_mask
from withstand.attacks.targets import a_target, targets_of
from withstand.attacks.worst import ON_TARGET, WRONG, Worst, ranks
from withstand.core import norms
from withstand.core.answers import NO_ANSWER, predicted
from withstand.core.modes import eval_mode, weights_computed_once
from withstand.core.schedules import Schedule, Slowed, scheduled, value_at
from withstand.core.setting_rules import AT_LEAST_0, COUNT, POSITIVE, flag, optional, settle

_Setting = TypeVar("_Setting")

_DEFAULT_NUM_STEPS = 10
_REACH = 2.5  # after Madry et al.


def steps_for(epsilon: float, step_size: float, reach: float = _REACH) -> int:
    """The number of steps that can walk ``reach`` epsilon: round(reach epsilon / step_size), halves up.

    Args:
        epsilon: Budget, at least 0.
        step_size: Positive.
        reach: What all steps together could walk, in epsilons; positive.

    Returns:
        At least 1.
    """
    # The last term is for quotients such as 2.5 * 0.18 / 0.01, which floats put below 45.
    return max(1, math.floor(reach * epsilon / step_size + 0.5 + 1e-6))


@dataclass(frozen=True)
class PGD(Attack):
    """Projected gradient ascent inside the ball of ``epsilon`` around each image and [0, 1].

    It differentiates with respect to the images only, with the model in eval mode. FGSM and
    every PGD-k are settings of it.

    Args:
        norm: Of the ball: 1, 2 or inf.
        epsilon: Radius of the ball, in [0, 1] units; a float or a schedule of one.
        num_steps: A number, a schedule of one, or None: round(reach epsilon / step_size), and 10
            where that is None too.
        step_size: Length of a step in ``norm``, a float or a schedule of one, or None:
            reach epsilon / num_steps.
        step_decay: Factor of the step size over the share of steps done, from 0 to 1.
        num_restarts: How often to start; from two on the worst image of all is returned.
        random_start: Start uniformly in the ball (else at the image itself).
        loss: What to climb, one value an example: a function of (logits, labels), or ``kl_divergence``.
        keep_best: Return the worst image met, the given one included, at the price of two
            forward passes more; else the last.
        reach: What all steps together could walk, in epsilons, where their number or their size is left out.
        clips_start: Clip the random start to [0, 1]. Without, the first gradient may be that outside, as
            FGSM-RS has it; a search for the worst image clips always.
        target: The class that each example is to be taken for: a function of (logits, labels), such as
            ``least_likely``, or of one's own. Then the loss of that class is descended; None climbs
            that of the true class. An example whose target is its own class cannot be broken.
        mask: Which pixels may change, such as ``Patch``; all where None. The ball is that of these alone.
        mode: As of every attack. The worst image is one taken for the target, then one that fools the model,
            then that of the larger loss; where ``random``, and in training by ``kl_divergence``, that of the
            largest loss alone.

    Raises:
        ValueError: a setting is out of its range, or does not go with ``loss``.
    """

    norm: float = math.inf
    num_steps: int | Schedule | None = None
    step_size: float | Schedule | None = None
    step_decay: float | Schedule = 1.0
    num_restarts: int = 1
    random_start: bool = True
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
    keep_best: bool = False
    reach: float = _REACH
    clips_start: bool = True
    target: Callable[[Tensor, Tensor], Tensor] | None = None
    mask: Mask | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(
            self,
            norm=norms.norm_rule,
            num_steps=optional(scheduled(COUNT, least=0)),
            step_size=optional(scheduled(POSITIVE)),
            step_decay=scheduled(AT_LEAST_0),
            num_restarts=COUNT,
            random_start=flag,
            loss=a_loss,
            keep_best=flag,
            reach=POSITIVE,
            clips_start=flag,
            target=optional(a_target),
            mask=optional(a_mask),
        )
        if self.loss is kl_divergence and not self.random_start:
            raise ValueError(
                "The gradient of kl_divergence is zero at the image itself: set random_start=True."
            )
        if self.loss in (kl_divergence, dlr) and self.target is not None:
            raise ValueError(f"{self.loss.__name__} is of no class: leave the target out, or take margin.")

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        self.budget_for(images, progress)
        plan = self._plan(progress)
        if plan.epsilon == 0:
            return images.detach().clone()
        with eval_mode(model), weights_computed_once(model):
            images = images.detach()
            if self.mask is not None:
                plan = replace(plan, mask=self.mask.pixels(images))
            examples = _Examples(images, labels, self._against(model, images, labels))
            if self._keeps_worst():
                return self._search(model, examples, plan)
            return self._ascend(model, examples, plan)

    @override
    def slowed(self, at: float) -> Self:
        steps, size = _delayed(self.num_steps, at), _delayed(self.step_size, at)
        return replace(super().slowed(at), num_steps=steps, step_size=size)

    @override
    def climbing(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Self:
        if self.loss not in (cross_entropy, loss):
            raise ValueError(
                f"Expected an attack whose loss is left to what trains on it, {name_of(loss)}, but "
                f"{self.name} climbs {name_of(self.loss)}: leave its loss out."
            )
        return replace(self, loss=loss)

    @property
    @override
    def name(self) -> str:
        steps = "auto" if isinstance(self.num_steps, Schedule) else self._fixed_steps()
        loss = "" if self.loss is cross_entropy else f"-{name_of(self.loss)}"
        target = "" if self.target is None else f"-targeted-{name_of(self.target)}"
        mask = "" if self.mask is None else f"-{self.mask.name}"
        return f"pgd-{steps}{loss}{target}{mask}-{norms.label(self.norm)}"

    @property
    @override
    def is_masked(self) -> bool:
        return self.mask is not None

    @override
    def describe(self) -> str:
        start = "random start" if self.random_start else "start at the image"
        start += "" if self.clips_start or self._keeps_worst() else " that is not clipped"
        restarts = f"{self.num_restarts} restarts, " if self.num_restarts > 1 else ""
        returned = "best iterate" if self._keeps_worst() else "last iterate"
        if self._keeps_worst() and self._goes_by_loss():
            returned = "iterate of the largest loss"
        reach = "" if self.reach == _REACH else f" of {self.reach:g} epsilon together"
        target = "" if self.target is None else f", targeted at {name_of(self.target)}"
        mask = "" if self.mask is None else f", only {self.mask.name} may change"
        return (
            f"PGD, {norms.label(self.norm)}, {self._fixed_steps()} steps{reach}, {restarts}{start}, "
            f"{name_of(self.loss)}{target}, {returned}{mask}"
        )

    def _keeps_worst(self) -> bool:
        return self.keep_best or self.mode != "training" or self.num_restarts > 1

    def _goes_by_loss(self) -> bool:
        """Whether the worst image is that of the largest loss, fooled or not."""
        return self.mode == "random" or (self.mode == "training" and self.loss is kl_divergence)

    def _fixed_steps(self) -> str:
        if self.num_steps is None and self.step_size is not None:
            return "auto"
        return str(self._plan(math.inf).num_steps)

    def _plan(self, progress: float) -> _Plan:
        epsilon = self.epsilon_at(progress)
        if self.num_steps is not None:
            steps = max(1, round(value_at(self.num_steps, progress)))
        elif self.step_size is not None:
            steps = steps_for(epsilon, value_at(self.step_size, progress), self.reach)
        else:
            steps = _DEFAULT_NUM_STEPS
        size = self.reach * epsilon / steps
        return _Plan(epsilon, steps, size if self.step_size is None else value_at(self.step_size, progress))

    def _start(self, images: Tensor, plan: _Plan) -> Tensor:
        if not self.random_start:
            return images
        drawn = norms.random_in_ball(images, self.norm, plan.epsilon, mask=plan.mask).add_(images)
        return drawn.clamp_(0.0, 1.0) if self.clips_start or self._keeps_worst() else drawn

    def _step(self, plan: _Plan, step: int, images: Tensor, current: Tensor, gradient: Tensor) -> Tensor:
        """One step uphill, back into the ball, back into [0, 1]; clamping cannot leave the ball."""
        size = plan.step_size * value_at(self.step_decay, step / plan.num_steps)
        gradient = norms.finite(gradient)
        if plan.mask is not None:  # what has no gradient makes no step, and stays in each projection
            gradient = gradient.where(plan.mask, 0.0)
        if not math.isinf(self.norm):
            # In linf a blocked pixel shortens no other's step, and the clamp below undoes its own.
            gradient = _inward(gradient, current)
        direction = norms.steepest(gradient, self.norm)
        delta = norms.project(torch.add(current, direction, alpha=size).sub_(images), self.norm, plan.epsilon)
        return delta.add_(images).clamp_(0.0, 1.0)

    def _against(self, model: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """What the loss compares logits with: labels, targets, or the logits of the images."""
        if self.loss is not kl_divergence and self.target is None:
            return labels
        with torch.no_grad():
            logits: Tensor = model(images)
        return targets_of(self.target, logits, labels, self.mode == "evaluation") if self.target else logits

    def _losses(self, logits: Tensor, against: Tensor) -> Tensor:
        """What to climb: towards a target the loss itself goes down."""
        loss = one_an_example(self.loss(logits, against), against, self.loss)
        return loss if self.target is None else -loss

    def _ranks(self, logits: Tensor, examples: _Examples) -> Tensor:
        return ranks(predicted(logits), examples.labels, None if self.target is None else examples.against)

    @property
    def _highest(self) -> int:
        """The rank that leaves nothing to look for."""
        return WRONG if self.target is None else ON_TARGET

    def _evaluate(self, model: nn.Module, current: Tensor, against: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (n, classes), loss (n,), and the gradient of the loss with respect to the images."""
        with torch.enable_grad():
            leaf = current.detach().requires_grad_()
            logits = model(leaf)
            loss = self._losses(logits, against)
            (gradient,) = torch.autograd.grad(loss.sum(), leaf)
        return logits.detach(), loss.detach(), gradient

    def _ascend(self, model: nn.Module, examples: _Examples, plan: _Plan) -> Tensor:
        current = self._start(examples.images, plan)
        for step in range(plan.num_steps):
            _, _, gradient = self._evaluate(model, current, examples.against)
            current = self._step(plan, step, examples.images, current, gradient)
        return current

    def _search(self, model: nn.Module, examples: _Examples, plan: _Plan) -> Tensor:
        images = examples.images
        with torch.no_grad():
            logits = model(images)
            loss = self._losses(logits, examples.against)
            if self.mode == "evaluation":  # elsewhere nothing may wait for the device
                self._warn_of_nan(logits, loss)
            worst = Worst.of(images, self._ranks(logits, examples), loss, by_loss=self._goes_by_loss())
        for _ in range(self.num_restarts):
            if self.mode == "evaluation":
                index = (worst.rank < self._highest).nonzero().squeeze(1)
            else:
                index = torch.arange(len(images), device=images.device)
            if index.numel():
                self._restart(model, examples, plan, worst, index)
        return worst.images

    def _warn_of_nan(self, logits: Tensor, loss: Tensor) -> None:
        number = int((loss.isnan() & (predicted(logits) != NO_ANSWER)).sum())
        if number:
            warnings.warn(
                f"The loss {name_of(self.loss)} of {self.name} is NaN at {number} of {len(loss)} images "
                "that the model answers: the attack finds no way there, and what withstands it need not be "
                "robust.",
                RuntimeWarning,
                stacklevel=2,
            )

    def _restart(
        self, model: nn.Module, examples: _Examples, plan: _Plan, worst: Worst, index: Tensor
    ) -> None:
        """Ascends from one start with the examples of ``index`` and records what is worst."""
        left = examples.at(index)
        # Drawn for all, so that an example's start does not depend on which others were broken.
        current = self._start(examples.images, plan)[index]
        for step in range(plan.num_steps):
            logits, loss, gradient = self._evaluate(model, current, left.against)
            rank = self._ranks(logits, left)
            worst.update(index, current, rank, loss)
            goes_on = rank < self._highest
            if self.mode == "evaluation" and not bool(goes_on.all()):
                index, left = index[goes_on], left.at(goes_on)
                current, gradient = current[goes_on], gradient[goes_on]
                if not index.numel():
                    return
            current = self._step(plan, step, left.images, current, gradient)
        with torch.no_grad():
            logits = model(current)
            loss = self._losses(logits, left.against)
            worst.update(index, current, self._ranks(logits, left), loss)


class _Examples(NamedTuple):
    """What is attacked.

    Attributes:
        images: Tensor (batch, …).
        labels: Integer tensor (batch,).
        against: What the loss compares logits with, (batch, …): labels, targets, or the images' logits.
    """

    images: Tensor
    labels: Tensor
    against: Tensor

    def at(self, rows: Tensor) -> _Examples:
        """Those of some rows, by number or mask."""
        return _Examples(self.images[rows], self.labels[rows], self.against[rows])


@dataclass(frozen=True)
class _Plan:
    """The settings of one call, all schedules read."""

    epsilon: float
    num_steps: int
    step_size: float
    mask: Tensor | None = None


def _inward(gradient: Tensor, current: Tensor) -> Tensor:
    """The gradient without the parts that push pixels out of [0, 1]."""
    blocked = ((current <= 0.0) & (gradient < 0)) | ((current >= 1.0) & (gradient > 0))
    return gradient.masked_fill(blocked, 0.0)


def _delayed(setting: _Setting, at: float) -> _Setting | Slowed:
    """A setting that follows epsilon's stages, one epoch later from ``at`` on."""
    return Slowed(setting, at, share=1.0) if isinstance(setting, Schedule) else setting
