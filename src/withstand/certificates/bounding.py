"""Worst margins by one domain after another, the quick ones first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, TypeAlias, cast, get_args

import torch
from torch import Tensor, nn

from withstand.certificates.margins import rounding_allowance, worst_of
from withstand.domains import DomainName, Linear, ProgramCache, input_set, require_set
from withstand.domains.linear.backward import work
from withstand.domains.linear.linear_inputs import input_set_of
from withstand.operators import GuaranteedNorms

Method: TypeAlias = Literal["best", "box_ball", "box", "ball", "linear"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)

MOST_WORK: Final = 10**10
"""Multiplications an image up to which ``"best"`` tries linear bounds, as ``work`` counts them."""

# By each but the first only what is not proven yet is bounded. Neither box nor ball is tighter than box_ball.
_STAGES: Final[Mapping[Method, Sequence[DomainName]]] = MappingProxyType(
    {"best": ("box_ball", "linear"), "box_ball": ("box_ball",), "box": ("box",), "ball": ("ball",)}
    | {"linear": ("linear",)}
)


class Bounder:
    """Bounds margins of a float64 model by one method.

    Args:
        method: Of ``METHODS``.
        clip: Whether the attacker keeps to [0, 1].
        programs: The graph of the model.
    """

    def __init__(self, method: Method, programs: ProgramCache, *, clip: bool) -> None:
        if method not in METHODS:
            raise ValueError(f"Expected a method of {', '.join(METHODS)}, but got {method!r}.")
        self._domains, self._clip, self._programs = _STAGES[method], clip, programs
        self._norms = GuaranteedNorms()
        self.left_out: str = ""
        """What is not tried since it would take too long, in words; known after ``weigh``."""

    def require_norm(self, norm: float) -> None:
        """Accepts a norm that the domains have sets of."""
        for domain in self._domains:
            require_set(norm, domain)

    def weigh(self, model: nn.Module, image: Tensor) -> None:
        """Leaves out what would take too long, by the model's layers alone.

        Args:
            model: In float64.
            image: One, in float64, (1, …), of which the shape counts.
        """
        if len(self._domains) == 1:
            return
        boxes = input_set(image, math.inf, 0.0, "box")
        record = Linear.of(input_set_of(image, math.inf, 0.0, clip=False), boxes, refines=False)
        last = self._programs.of(model, image).run_to_last_layer(record, self._norms)
        if (num := work(cast(Linear, last.features).node)) > MOST_WORK:
            self._domains = self._domains[:1]
            self.left_out = (
                f"linear bounds, of some {num:.0e} multiplications an image: ask for method linear"
            )

    def margins(
        self, model: nn.Module, images: Tensor, labels: Tensor, norm: float, epsilon: Tensor
    ) -> Tensor:
        """Lower bounds of the worst margins, minus infinity where there are none, (batch,).

        Args:
            model: In float64.
            images: Tensor (batch, …), in float64.
            labels: Integers (batch,).
            norm: 1, 2 or inf.
            epsilon: Tensor (batch,).
        """
        margins = images.new_full((len(images),), -math.inf)
        is_open = torch.ones_like(labels, dtype=torch.bool)
        for domain in self._domains:
            value = input_set(images[is_open], norm, epsilon[is_open], domain, clip=self._clip)
            last = self._programs.of(model, images).run_to_last_layer(value, self._norms)
            of, logits = labels[is_open], last.logits
            bounds = worst_of(last.differences(of) + rounding_allowance(logits, of), of)
            margins[is_open] = torch.maximum(margins[is_open], bounds.where(bounds.isfinite(), -math.inf))
            clean = worst_of(logits - logits.gather(1, of[:, None]), of)
            # What is wrong without an attack is not to be proven by anything.
            is_open[is_open.clone()] = (margins[is_open] <= 0) & (clean > 0)
            if not bool(is_open.any()):
                break
        return margins
