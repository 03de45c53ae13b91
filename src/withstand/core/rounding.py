"""Images that are handed back in a type of few digits, and still lie within epsilon."""

from __future__ import annotations

import torch
from torch import Tensor

from withstand.core import norms

_SLACK = 1e-5  # of epsilon: by so much, the rounding of float32, an image may lie outside
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def rounded_inside(images: Tensor, exact: Tensor, norm: float, epsilon: float) -> Tensor:
    """Images near others in the type of those, rounded towards them where they would leave the ball else.

    One that lies farther outside than rounding explains stays outside, for others to see. Reads values back
    from the device.

    Args:
        images: Tensor (batch, …) in [0, 1], the centers of the balls.
        exact: Tensor (batch, …) in [0, 1] of at least float32, within epsilon of them but for rounding.
        norm: 1, 2 or inf.
        epsilon: In [0, 1] units.

    Returns:
        Tensor of the shape and type of ``images``, at most ``epsilon (1 + 1e-5)`` away from them.
    """
    rounded = exact.to(images.dtype, copy=True)
    one_step = norms.norm(torch.ones_like(exact[:1]), norm) * torch.finfo(exact.dtype).eps  # in all pixels
    is_meant = (
        norms.norm(exact.double() - images.double(), norm) <= epsilon * (1 + _SLACK) + one_step.double()
    )
    distance = norms.norm(rounded.double() - images.double(), norm)
    index = (is_meant & (distance > epsilon * (1 + _SLACK))).nonzero().squeeze(1)
    if len(index):
        near = images[index]
        delta = norms.project(exact[index].double() - near.double(), norm, epsilon)
        nearest = (near.double() + delta).to(images.dtype)
        too_far = (nearest.double() - near.double()).abs() > delta.abs()
        rounded[index] = torch.where(too_far, _one_step(nearest, near), nearest)
    return rounded


def _one_step(values: Tensor, goal: Tensor) -> Tensor:
    """The next number of the type in the direction of another one; all of them at least 0."""
    bits = values.contiguous().view(_INTEGERS[values.dtype.itemsize])  # ordered as the numbers are
    return (bits + (goal - values).sign().to(bits.dtype)).view(values.dtype)
