"""The only home of l1, l2 and linf arithmetic, per example and for any tensor rank.

A norm is a float: ``1.0``, ``2.0`` or ``inf``; ``as_norm`` makes one of whatever users write. Every
function treats the first dimension as the batch and all others as one vector, and is safe at zero.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from contextlib import suppress

import torch
from torch import Tensor

from withstand.core.batch_shares import filled
from withstand.core.setting_rules import as_number

__all__ = [
    "as_norm",
    "beyond_range",
    "diameter",
    "dual",
    "finite",
    "flat",
    "label",
    "norm",
    "norm_rule",
    "per_example",
    "project",
    "random_in_ball",
    "root",
    "steepest",
    "warn_beyond_range",
]

_LABELS = {1.0: "l1", 2.0: "l2", math.inf: "linf"}


def as_norm(norm: object, name: str = "norm") -> float:
    """The norm as a float, given as 2, ``"2"``, ``"l2"``, ``"inf"``, ``"linf"`` and the like.

    Args:
        norm: A number of Python, NumPy or torch, or a text, in small or large letters.
        name: Of the setting, for the error.

    Raises:
        ValueError: it is none of l1, l2, linf.
    """
    if type(norm) is float and norm in _LABELS:
        return norm
    text = norm.strip().lower().removeprefix("l").removeprefix("_") if isinstance(norm, str) else norm
    with suppress(TypeError, ValueError):
        if (number := as_number(name, text)) in _LABELS:
            return number
    raise ValueError(f"Expected a {name} of 1, 2 or inf, but got {norm!r}; as text l1, l2 or linf.")


def norm_rule(name: str, norm: object) -> float:
    """The rule (``core.setting_rules``) of a setting that is a norm."""
    return as_norm(norm, name)


def diameter(p: float, num_values: int) -> float:
    """The largest distance of two images in [0, 1].

    Args:
        p: 1, 2 or inf.
        num_values: Of an image: pixels times channels.
    """
    return 1.0 if math.isinf(p) else float(num_values ** (1 / p))


def beyond_range(p: float | None, epsilon: float, num_values: int | None = None) -> str:
    """What to say of a budget larger than the distance of any two images in [0, 1]; else nothing.

    Args:
        p: 1, 2 or inf; None where there is none, of which nothing is said.
        epsilon: The budget.
        num_values: Of an image: pixels times channels; None where that is not known yet, when linf alone
            has a largest distance.
    """
    if p is None or (num_values is None and not math.isinf(p)):
        return ""
    largest = diameter(p, num_values or 1)
    if not epsilon > largest * (1 + 1e-6):
        return ""
    hint = (
        f"did you mean {epsilon:g}/255?" if epsilon <= 255 else "divide it by 255 if it counts grey levels."
    )
    return (
        f"epsilon {epsilon:.6g} in {label(p)} lets an attack turn every image into every other: images are "
        f"in [0, 1], where no two are farther apart than {largest:.4g}; {hint}"
    )


def warn_beyond_range(p: float | None, epsilon: float, num_values: int | None = None) -> None:
    """Warns of what ``beyond_range`` has something to say of; its arguments are those."""
    if text := beyond_range(p, epsilon, num_values):
        warnings.warn(text, stacklevel=3)


def label(p: float) -> str:
    """``l1``, ``l2`` or ``linf``, for people to read."""
    return _LABELS[as_norm(p)]


def dual(p: float) -> float:
    """The dual norm: linf of l1, l2 of l2, l1 of linf."""
    return {1.0: math.inf, 2.0: 2.0, math.inf: 1.0}[as_norm(p)]


def norm(x: Tensor, p: float) -> Tensor:
    """The norm of each example.

    Args:
        x: Tensor (batch, …).
        p: 1, 2 or inf.

    Returns:
        Tensor (batch,).
    """
    lengths: Tensor = torch.linalg.vector_norm(flat(x), ord=as_norm(p), dim=1)
    return lengths


def flat(x: Tensor) -> Tensor:
    """Each example in a row, (batch, n), of a tensor (batch, …); also where it is one number."""
    return x[..., None].flatten(1)


def root(square: Tensor) -> Tensor:
    """The square root, kept just above 0, where its gradient would be infinite.

    Args:
        square: Nowhere negative.
    """
    return square.clamp_min(torch.finfo(square.dtype).tiny).sqrt()


def project(delta: Tensor, p: float, radius: float | Tensor) -> Tensor:
    """The nearest point, in the Euclidean sense, of the ball of ``radius`` around 0.

    Args:
        delta: Tensor (batch, …).
        p: Norm of the ball: 1, 2 or inf.
        radius: At least 0; a float, or a tensor (batch,).

    Returns:
        Tensor of the shape of ``delta``: argmin over ‖z‖_p ≤ radius of ‖z - delta‖₂.
    """
    return _PROJECTIONS[as_norm(p)](delta, per_example(radius, delta))


def steepest(gradient: Tensor, p: float) -> Tensor:
    """The step of length at most 1 that gains most to first order: argmax over ‖d‖_p ≤ 1 of <g, d>.

    For l1 this is one coordinate (the first of the largest), for linf the sign. A zero gradient
    gives a zero step.

    Args:
        gradient: Tensor (batch, …).
        p: Norm of the step: 1, 2 or inf.

    Returns:
        Tensor of the shape of ``gradient``.
    """
    return _STEEPEST[as_norm(p)](gradient)


def finite(gradient: Tensor) -> Tensor:
    """A gradient whose every entry can be followed: NaN becomes 0, infinity a large number of its sign.

    What is infinite, as of a square root at 0, is the way uphill there; what is NaN says nothing. Squares of
    the entries can still be added up.

    Args:
        gradient: Tensor of any shape; left as it is.
    """
    large = torch.finfo(gradient.dtype).max ** 0.25
    return gradient.nan_to_num(0.0, large, -large)


def random_in_ball(
    like: Tensor,
    p: float,
    radius: float | Tensor,
    *,
    generator: torch.Generator | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """One point a row, uniform over the volume of the ball of ``radius`` around 0.

    Args:
        like: Tensor (batch, …) that gives shape, type and device.
        p: Norm of the ball: 1, 2 or inf.
        radius: At least 0; a float, or a tensor (batch,).
        generator: Source of randomness; the device's global one where None.
        mask: Bool tensor (1, …): the coordinates in which the ball lies, the others being 0; all where None.

    Returns:
        Tensor of the shape of ``like``.
    """
    return _RANDOM[as_norm(p)](like, generator, mask) * per_example(radius, like)


def _masked(values: Tensor, mask: Tensor | None) -> Tensor:
    return values if mask is None else values.where(mask, 0.0)


def per_example(value: float | Tensor, like: Tensor) -> float | Tensor:
    """A value for each example, shaped to broadcast over ``like``; a float stays what it is.

    Args:
        value: A float, or a tensor (batch,) or (1,).
        like: Tensor (batch, …).

    Returns:
        A float, or a tensor (batch, 1, …).
    """
    if not isinstance(value, Tensor):
        return value
    return _rows(like, value.to(like.dtype))


def _rows(x: Tensor, reduced: Tensor) -> Tensor:
    """A value per example, shaped to broadcast over ``x``."""
    return reduced.reshape(-1, *[1] * (x.dim() - 1))


def _project_linf(delta: Tensor, radius: float | Tensor) -> Tensor:
    # Not torch.clamp with tensor bounds for floats: the scalar form is faster.
    if isinstance(radius, Tensor):
        return torch.maximum(torch.minimum(delta, radius), -radius)
    return delta.clamp(-radius, radius)


def _project_l2(delta: Tensor, radius: float | Tensor) -> Tensor:
    tiny = torch.finfo(delta.dtype).tiny
    return delta * (radius / _rows(delta, norm(delta, 2.0)).clamp_min(tiny)).clamp(max=1.0)


def _project_l1(delta: Tensor, radius: float | Tensor) -> Tensor:
    # Duchi et al., "Efficient projections onto the l1-ball" (ICML 2008): soft-threshold at the
    # theta for which the l1 norm becomes the radius.
    magnitude = delta.flatten(1).abs()
    bound = radius.reshape(-1, 1) if isinstance(radius, Tensor) else radius
    ordered = magnitude.sort(dim=1, descending=True).values
    excess = ordered.cumsum(dim=1) - bound
    counts = torch.arange(1, ordered.shape[1] + 1, device=delta.device, dtype=delta.dtype)
    support = (ordered * counts > excess).sum(dim=1, keepdim=True).clamp_min(1)
    theta = (excess.gather(1, support - 1) / support).clamp_min(0)
    shrunk = delta.flatten(1).sign() * (magnitude - theta).clamp_min(0)
    return shrunk.reshape(delta.shape)


def _steepest_l2(gradient: Tensor) -> Tensor:
    # First by the largest entry, so that squares of tiny gradients do not underflow.
    tiny = torch.finfo(gradient.dtype).tiny
    scaled = gradient / _rows(gradient, norm(gradient, math.inf)).clamp_min(tiny)
    return scaled / _rows(scaled, norm(scaled, 2.0)).clamp_min(tiny)


def _steepest_l1(gradient: Tensor) -> Tensor:
    flat = gradient.flatten(1)
    index = flat.abs().argmax(dim=1, keepdim=True)
    step = torch.zeros_like(flat).scatter_(1, index, flat.gather(1, index).sign())
    return step.reshape(gradient.shape)


def _gaussian(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return filled(like, lambda rows: rows.normal_(generator=generator))


def _random_linf(like: Tensor, generator: torch.Generator | None, mask: Tensor | None) -> Tensor:
    return _masked(filled(like, lambda rows: rows.uniform_(-1.0, 1.0, generator=generator)), mask)


def _random_l2(like: Tensor, generator: torch.Generator | None, mask: Tensor | None) -> Tensor:
    direction = _steepest_l2(_masked(_gaussian(like, generator), mask))
    share = filled(like.flatten(1)[:, 0], lambda rows: rows.uniform_(generator=generator))
    dimensions = like.flatten(1).shape[1] if mask is None else mask.sum()
    return direction * _rows(like, share ** (1.0 / dimensions))


def _random_l1(like: Tensor, generator: torch.Generator | None, mask: Tensor | None) -> Tensor:
    # Exponential variables over their sum are uniform on the simplex; one more of them, left
    # out of the point, makes the simplex solid.
    flat = like.flatten(1)
    room = like.new_empty(flat.shape[0], flat.shape[1] + 1)
    shares = filled(room, lambda rows: rows.exponential_(generator=generator))
    if mask is not None:
        shares = shares.where(torch.cat([mask.flatten(1), mask.new_ones(1, 1)], dim=1), 0.0)
    point = (shares / shares.sum(dim=1, keepdim=True))[:, :-1]
    return (point * _gaussian(flat, generator).sign()).reshape(like.shape)


_PROJECTIONS: dict[float, Callable[[Tensor, float | Tensor], Tensor]] = {
    1.0: _project_l1,
    2.0: _project_l2,
    math.inf: _project_linf,
}
_STEEPEST: dict[float, Callable[[Tensor], Tensor]] = {
    1.0: _steepest_l1,
    2.0: _steepest_l2,
    math.inf: torch.sign,
}
_RANDOM: dict[float, Callable[[Tensor, torch.Generator | None, Tensor | None], Tensor]] = {
    1.0: _random_l1,
    2.0: _random_l2,
    math.inf: _random_linf,
}
