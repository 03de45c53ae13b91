"""The upper bound: a ball taken through the network with guaranteed operator norms."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand.domains import Ball, Program
from withstand.spectral import GuaranteedNorms
from withstand.types import ModelError

_RADIUS = 2.0**40  # so large that steps of activations do not count beside it
_JUMP = 1e-6  # how far features may be thrown by such steps
_SAME = 1e-9  # relative, between radii at several places


class SpectralBound(NamedTuple):
    """What guaranteed operator norms say of each logit.

    Attributes:
        values: One a class: at least the logit's l2 Lipschitz constant. None where there is no bound.
        reason: Why there is none.
    """

    values: Sequence[float] | None
    reason: str | None


def spectral_bound(model: nn.Module, image: Tensor) -> SpectralBound:
    """An upper bound of each logit's l2 Lipschitz constant, over all inputs whatever.

    A ball's radius is multiplied by each layer's norm and steepest slope, wherever its center is, so
    that the quotient of radii after and before bounds the Lipschitz constant of the features; the norm
    of a logit's weights then gives that of the logit. A rule of the user's own may know the place, so
    balls at several places are taken through. One of them has no extent: it tells whether activations
    jump (torch's Softplus does, by 2e-9, which counts for nothing).

    Args:
        model: A float64 model in eval mode.
        image: Float64 tensor (1, …) in [0, 1].
    """
    try:
        with torch.no_grad():
            last = Program(model).run_to_last_layer(wide_ball(image), GuaranteedNorms())
        if not isinstance(last.features, Ball):
            return SpectralBound(None, "A rule of the model's operations makes something else of a ball.")
        factor = growth(last.features.radius)
    except ModelError as error:
        return SpectralBound(None, str(error))
    lengths = torch.linalg.vector_norm(last.weight, dim=1)
    values = (lengths * factor).tolist()
    if not all(map(math.isfinite, values)):
        return SpectralBound(
            None, "The product of the operator norms is not finite: weights are NaN, infinite or too large."
        )
    return SpectralBound(values, None)


def wide_ball(image: Tensor) -> Ball:
    """Balls at several places; the first one has no extent, the others are wide.

    Args:
        image: Float64 tensor (1, …).
    """
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centers = torch.cat([image, image, 1 - image, 10 * noise.to(image)])
    radii = _RADIUS * torch.tensor([0.0, 1.0, 1.0, 1.0], dtype=image.dtype, device=image.device)
    return Ball(centers, radii)


def growth(radius: Tensor) -> float:
    """The factor by which balls grew, at whatever place: a Lipschitz constant.

    Args:
        radius: Of what became of ``wide_ball``, tensor (4,) or (1,).

    Raises:
        ModelError: they grew by other factors elsewhere, or what had no extent has some.
    """
    jump, *reached = radius.expand(4).tolist()
    factors: list[float] = [reach / _RADIUS for reach in reached]
    least, most = min(factors), max(factors)
    if jump > _JUMP * max(1.0, most):
        raise ModelError("An activation of the model jumps, so it has no Lipschitz constant.")
    if most - least > _SAME * most:
        raise ModelError(
            "A rule of the model's operations bounds it near an image only, since its ball grows by another "
            "factor at another image; that is no Lipschitz constant."
        )
    return most
