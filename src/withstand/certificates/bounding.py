"""Worst margins by one domain after another, the quick ones first."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from withstand.attacks import PGD, margin
from withstand.certificates.margins import rounding_allowance, worst_of
from withstand.certificates.tighter import branched_differences, optimised_differences
from withstand.core.answers import is_correct
from withstand.core.deadlines import until
from withstand.core.setting_rules import POSITIVE
from withstand.domains import DomainName, Linear, ProgramCache, input_set, require_set
from withstand.domains.linear.backward import work
from withstand.domains.linear.linear_inputs import input_set_of
from withstand.graph.domain import LastLayer
from withstand.operators import GuaranteedNorms

Method: TypeAlias = Literal[
    "best", "box_ball", "box", "ball", "linear", "linear-optimised", "branch-and-bound"
]
METHODS: Final[tuple[Method, ...]] = get_args(Method)

MOST_WORK: Final = 10**10
"""Multiplications an image up to which ``"best"`` tries linear bounds, as ``work`` counts them."""

TIMEOUT: Final = 10.0
"""Seconds an image that branch and bound may take."""

_ATTACK_STEPS = 20

# By each but the first only what is not proven yet is bounded. Neither box nor ball is tighter than box_ball,
# and optimised slopes start from those of linear.
_STAGES: Final[Mapping[Method, Sequence[Method]]] = MappingProxyType(
    {
        "best": ("box_ball", "linear"),
        "branch-and-bound": ("linear-optimised", "branch-and-bound"),
    }
)


def require_method(method: str) -> None:
    """Accepts a method of ``METHODS``, and says which there are where it is none."""
    if method not in METHODS:
        raise ValueError(f"Expected a method of {', '.join(METHODS)}, but got {method!r}.")


class Bounder:
    """Bounds margins of a float64 model by one method.

    Args:
        method: Of ``METHODS``.
        clip: Whether the attacker keeps to [0, 1].
        programs: The graph of the model.
        timeout: Seconds an image that branch and bound may take.
    """

    def __init__(self, method: Method, programs: ProgramCache, *, clip: bool, timeout: float) -> None:
        require_method(method)
        self._stages, self._clip, self._programs = _STAGES.get(method, (method,)), clip, programs
        self._timeout = POSITIVE("timeout", timeout)
        self._norms = GuaranteedNorms()
        self.left_out: str = ""
        """What is not tried since it would take too long, in words; known after ``leave_out``."""

    def require_norm(self, norm: float) -> None:
        """Accepts a norm that the domains have sets of."""
        for stage in self._stages:
            require_set(norm, _domain_of(stage))

    def leave_out(self, model: nn.Module, image: Tensor) -> None:
        """Leaves out what would take too long, by the model's layers alone.

        Args:
            model: In float64.
            image: One, in float64, (1, …), of which the shape counts.
        """
        if len(self._stages) == 1 or _domain_of(self._stages[0]) == "linear":
            return
        boxes = input_set(image, math.inf, 0.0, "box")
        record = Linear.of(input_set_of(image, math.inf, 0.0, clip=False), boxes, refines=False)
        last = self._programs.of(model, image).run_to_last_layer(record, self._norms)
        if (num := work(cast(Linear, last.features).node)) > MOST_WORK:
            self._stages = self._stages[:1]
            self.left_out = (
                f"linear bounds, of some {num:.0e} multiplications an image: ask for method linear"
            )

    @property
    def num_stages(self) -> int:
        """How many methods are tried one after another."""
        return len(self._stages)

    def margins(
        self,
        model: nn.Module,
        images: Tensor,
        labels: Tensor,
        norm: float,
        epsilon: Tensor,
        *,
        most_stages: int | None = None,
    ) -> Tensor:
        """Lower bounds of the worst margins, minus infinity where there are none, (batch,).

        Args:
            model: In float64.
            images: Tensor (batch, …), in float64.
            labels: Integers (batch,).
            norm: 1, 2 or inf.
            epsilon: Tensor (batch,).
            most_stages: So many methods alone are tried; all where None.
        """
        margins = images.new_full((len(images),), -math.inf)
        is_open = torch.ones_like(labels, dtype=torch.bool)
        for stage in self._stages[:most_stages]:
            size = 1 if stage == "branch-and-bound" else max(1, int(is_open.sum()))
            pieces = (torch.split(part[is_open], size) for part in (images, labels, epsilon))
            parts = [self._bounds(stage, model, norm, *piece) for piece in zip(*pieces, strict=True)]
            bounds, clean = map(torch.cat, zip(*parts, strict=True))
            margins[is_open] = torch.maximum(margins[is_open], bounds)
            # What is wrong without an attack is not to be proven by anything.
            is_open[is_open.clone()] = (margins[is_open] <= 0) & (clean > 0)
            if not bool(is_open.any()):
                break
        return margins

    def _bounds(
        self, stage: Method, model: nn.Module, norm: float, images: Tensor, labels: Tensor, epsilon: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The worst margins by one method, and those of the images themselves, (batch,) each.

        Branch and bound takes one image, and says minus infinity twice where an attack breaks it.
        """
        if stage == "branch-and-bound" and _is_broken(model, images, labels, norm, float(epsilon)):
            nothing = images.new_full((1,), -math.inf)
            return nothing, nothing
        value = input_set(images, norm, epsilon, _domain_of(stage), clip=self._clip)
        last = self._programs.of(model, images).run_to_last_layer(value, self._norms)
        differences, logits = self._differences(stage, model, last, labels), last.logits
        bounds = worst_of(differences + rounding_allowance(logits, labels), labels)
        clean = worst_of(logits - logits.gather(1, labels[:, None]), labels)
        return bounds.where(bounds.isfinite(), -math.inf), clean

    def _differences(self, stage: Method, model: nn.Module, last: LastLayer, labels: Tensor) -> Tensor:
        """The worst of each logit minus the true one, (batch, classes)."""
        match stage:
            case "linear-optimised":
                return optimised_differences(last, labels)
            case "branch-and-bound":
                with until(time.monotonic() + self._timeout):
                    return branched_differences(last, labels, last.differences(labels), model)
        return last.differences(labels)


def _is_broken(model: nn.Module, image: Tensor, label: Tensor, norm: float, epsilon: float) -> bool:
    """Whether a short attack on one image finds one of another class; it draws no random numbers."""
    attack = PGD(
        norm=norm, epsilon=epsilon, num_steps=_ATTACK_STEPS, loss=margin, random_start=False, keep_best=True
    )
    return not bool(is_correct(model(attack(model, image, label)), label).all())


def _domain_of(stage: Method) -> DomainName:
    return stage if stage in ("box_ball", "box", "ball") else "linear"
