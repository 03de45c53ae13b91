"""The sets that an attacker may choose from, in each domain."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import MappingProxyType
from typing import Literal, TypeAlias

from torch import Tensor

from withstand.core import norms
from withstand.core.setting_rules import AT_LEAST_0
from withstand.domains.linear.linear import Linear
from withstand.domains.linear.linear_inputs import input_set_of
from withstand.domains.sets.ball import Ball
from withstand.domains.sets.box import Box
from withstand.domains.sets.box_ball import BoxBall
from withstand.graph.domain import Region

CERTIFIED_NORMS = (1.0, 2.0, math.inf)
"""The norms that certificates exist for."""
DomainName: TypeAlias = Literal["box_ball", "box", "ball", "linear"]


def input_set(
    images: Tensor, norm: float, epsilon: float | Tensor, domain: DomainName, *, clip: bool = False
) -> Region:
    """All that lies within epsilon of each image, in an l1, l2 or linf ball.

    Args:
        images: Tensor (batch, …), in [0, 1].
        norm: 1, 2 or inf.
        epsilon: At least 0, in [0, 1] units; a float, or a tensor (batch,).
        domain: ``"box_ball"``, ``"box"``, ``"ball"`` or ``"linear"``.
        clip: Whether only images in [0, 1] count, as attacks keep to. It cuts the box; a ball
            within linf is then put around the cut box's middle, which need not be the image.

    Returns:
        A set that holds them; exactly them, unless a ball stands for linf, a box for l2, or either for l1.

    Raises:
        ValueError: there is no such domain, or no set for this norm.
    """
    p = require_set(norm, domain)
    reach = epsilon if isinstance(epsilon, Tensor) else AT_LEAST_0("epsilon", epsilon)
    return DOMAINS[domain](images, p, reach, clip)


def require_set(norm: float, domain: str) -> float:
    """The norm as a float, where there are sets of it and of the domain.

    Raises:
        ValueError: there is no such domain, or no set for this norm.
    """
    if domain not in DOMAINS:
        raise ValueError(f"Expected a domain of {', '.join(DOMAINS)}, but got {domain!r}.")
    return certified_norm("norm", norm)


def certified_norm(name: str, norm: object) -> float:
    """The rule (``core.setting_rules``) of the norm of a certificate."""
    with suppress(ValueError):
        if (number := norms.as_norm(norm, name)) in CERTIFIED_NORMS:
            return number
    raise ValueError(f"Certificates exist for the norms l1, l2 and linf, but got {name} {norm!r}.")


def _box(images: Tensor, norm: float, epsilon: float | Tensor, clip: bool) -> Box:
    reach = norms.per_example(epsilon, images)
    if clip:
        return Box((images - reach).clamp_min(0), (images + reach).clamp_max(1))
    if isinstance(reach, Tensor):
        return Box.around(images, reach.expand(len(images), *images.shape[1:]))
    return Box.around(images, images.new_full((1, *images.shape[1:]), reach))


def _ball(images: Tensor, norm: float, epsilon: float | Tensor, clip: bool) -> Ball:
    if norm == math.inf and clip:
        midpoint, halfwidth = _box(images, norm, epsilon, clip).parts
        return Ball(midpoint, norms.norm(halfwidth, 2.0))
    # A number is not to be rounded to torch's default precision on the way, nor copied from the host.
    radius = epsilon.to(images) if isinstance(epsilon, Tensor) else images.new_full((1,), epsilon)
    factor = math.sqrt(images.shape[1:].numel()) if norm == math.inf else 1.0
    return Ball(images, radius.reshape(-1) * factor)


def _box_ball(images: Tensor, norm: float, epsilon: float | Tensor, clip: bool) -> BoxBall:
    ball = _ball(images, norm, epsilon, clip)
    # Around an l2 ball a box says nothing new, unless [0, 1] cuts it.
    return BoxBall(ball, _box(images, norm, epsilon, clip) if clip or norm == math.inf else None)


def _linear(images: Tensor, norm: float, epsilon: float | Tensor, clip: bool) -> Linear:
    cover = _box_ball(images, norm, epsilon, clip)
    return Linear.of(input_set_of(images, norm, epsilon, clip), cover)


DOMAINS: Mapping[str, Callable[[Tensor, float, float | Tensor, bool], Region]] = MappingProxyType(
    {"box_ball": _box_ball, "box": _box, "ball": _ball, "linear": _linear}
)
"""Name -> how to make the set."""
