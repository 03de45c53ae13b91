"""What an attack climbs: one value an example, larger the more it is fooled.

Each is a plain function of (logits, labels), so a user's own function serves as well. ``kl_divergence`` alone
is of the logits of the image as it is instead of labels.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.core.numerics import at_least_float32


def a_loss(name: str, value: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The rule (``core.setting_rules``) of what an attack climbs."""
    return a_function(name, value, "withstand.attacks.margin")


def a_function(name: str, value: Any, example: str) -> Callable[[Tensor, Tensor], Tensor]:
    """What an attack asks of (logits, labels).

    Args:
        name: Of the setting, for errors.
        value: What was given.
        example: One such function, for errors.

    Raises:
        TypeError: it is no function.
    """
    if isinstance(value, type) or not callable(value):
        raise TypeError(
            f"Expected {name} as a function of (logits, labels), such as {example}, but got {value!r}."
        )
    function: Callable[[Tensor, Tensor], Tensor] = value
    return function


def name_of(function: Callable[[Tensor, Tensor], Tensor]) -> str:
    """A function's name in lower-case letters, digits and hyphens: ``least-likely``."""
    name = getattr(function, "__name__", type(function).__name__)
    return re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")


def one_an_example(values: Any, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """The values of a loss, where there is one an example. Looks at shapes alone.

    Args:
        values: What it gave.
        labels: Tensor (batch, …): what it was given beside the logits.
        loss: For the error.

    Raises:
        ValueError: there are others.
    """
    if isinstance(values, Tensor) and values.shape == labels.shape[:1]:
        return values
    got = f"shape {tuple(values.shape)}" if isinstance(values, Tensor) else repr(values)
    raise ValueError(
        f"Expected an attack's loss to give one value an example, {tuple(labels.shape[:1])}, but {loss} "
        f'gives {got}. A loss of torch does with reduction="none".'
    )


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The cross-entropy of each example.

    Args:
        logits: Tensor (batch, classes).
        labels: Integer tensor (batch,).

    Returns:
        Tensor (batch,), at least 0.
    """
    return F.cross_entropy(logits, labels, reduction="none")


def kl_divergence(logits: Tensor, clean: Tensor) -> Tensor:
    """KL(p(x) ‖ p(x')): how far the answer moves from that to the image as it is, whatever the label.

    An attack that climbs it (Zhang et al., TRADES, ICML 2019, eq. 5) must start at random, for its gradient
    at the image itself is zero.

    Args:
        logits: Of x', tensor (batch, classes).
        clean: Of x, tensor (batch, classes).

    Returns:
        Tensor (batch,), at least 0 up to rounding.
    """
    own, moved = (at_least_float32(part).log_softmax(dim=1) for part in (clean, logits))
    shares = own.exp()
    # A class that has no probability counts nothing, also where its logits are both minus infinity.
    return (shares * (own - moved).masked_fill(shares == 0, 0.0)).sum(dim=1)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """The best wrong logit minus the true one (Carlini and Wagner, 2017); positive when fooled.

    Args:
        logits: Tensor (batch, classes), at least two classes.
        labels: Integer tensor (batch,).

    Returns:
        Tensor (batch,).
    """
    column = labels[:, None]
    return logits.scatter(1, column, -torch.inf).amax(dim=1) - logits.gather(1, column).squeeze(1)


def dlr(logits: Tensor, labels: Tensor) -> Tensor:
    """The difference of logits ratio (Croce and Hein, ICML 2020, eq. 6): free of the logits' scale.

    Args:
        logits: Tensor (batch, classes), at least three classes.
        labels: Integer tensor (batch,).

    Returns:
        Tensor (batch,), positive when fooled.

    Raises:
        ValueError: there are fewer than three classes.
    """
    if logits.shape[1] < 3:
        raise ValueError(
            f"The DLR loss needs at least 3 classes, but got {logits.shape[1]}: use margin instead."
        )
    largest = logits.topk(3, dim=1).values
    spread = (largest[:, 0] - largest[:, 2]).clamp_min(torch.finfo(logits.dtype).tiny)
    return margin(logits, labels) / spread
