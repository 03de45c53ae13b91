"""Which class an attack is to have each example taken for.

Each is a plain function of (logits, labels), those of the images as they are, so a user's own serves as well:
``PGD(target=lambda logits, labels: (labels + 1) % 10)``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from withstand.attacks.losses import a_function
from withstand.core.batch_shares import filled


def a_target(name: str, value: Any) -> Callable[[Tensor, Tensor], Tensor]:
    """The rule (``core.setting_rules``) of what chooses targets."""
    return a_function(name, value, "withstand.attacks.least_likely")


def targets_of(
    choose: Callable[[Tensor, Tensor], Tensor], logits: Tensor, labels: Tensor, may_wait: bool
) -> Tensor:
    """The class that each example is to be taken for.

    Args:
        choose: Gives them of (logits, labels).
        logits: Tensor (batch, classes).
        labels: Integer tensor (batch,).
        may_wait: Whether values may be looked at where they are not on the CPU, too; else shapes alone.

    Raises:
        ValueError: it does not give a class an example.
    """
    targets = choose(logits, labels)
    if isinstance(targets, Tensor) and targets.shape == labels.shape and targets.dtype == torch.int64:
        num_classes = logits.shape[1]
        if may_wait or targets.device.type == "cpu":
            strange = targets[(targets < 0) | (targets >= num_classes)]
            if len(strange):
                raise ValueError(
                    f"Expected an attack's target to give classes from 0 to {num_classes - 1}, but {choose} "
                    f"gives {int(strange[0])}."
                )
        return targets.to(labels.device)
    got = f"{targets.dtype} {tuple(targets.shape)}" if isinstance(targets, Tensor) else repr(targets)
    raise ValueError(
        f"Expected an attack's target to give an int64 class an example, {tuple(labels.shape)}, but {choose} "
        f"gives {got}."
    )


def least_likely(logits: Tensor, labels: Tensor) -> Tensor:
    """The wrong class of the smallest logit that is finite (Kurakin et al., ICLR 2017, section 2.3).

    Args:
        logits: Tensor (batch, classes).
        labels: Integer tensor (batch,).

    Returns:
        Integer tensor (batch,).
    """
    # A class that is masked by minus infinity cannot be reached.
    others = logits.where(logits.isfinite(), math.inf).scatter(1, labels[:, None], math.inf)
    return others.argmin(dim=1)


def next_likely(logits: Tensor, labels: Tensor) -> Tensor:
    """The wrong class of the largest logit, which is mostly the nearest.

    Args:
        logits: Tensor (batch, classes).
        labels: Integer tensor (batch,).

    Returns:
        Integer tensor (batch,).
    """
    return logits.scatter(1, labels[:, None], -math.inf).argmax(dim=1)


def random_class(logits: Tensor, labels: Tensor) -> Tensor:
    """One of the wrong classes, each as likely as the others.

    Args:
        logits: Tensor (batch, classes), at least two classes.
        labels: Integer tensor (batch,).

    Returns:
        Integer tensor (batch,).
    """
    num_others = logits.shape[1] - 1
    drawn = filled(logits[:, 0].float(), Tensor.uniform_)
    steps = (drawn * num_others).long().clamp(max=num_others - 1)  # a product may be rounded up
    return (labels + 1 + steps) % (num_others + 1)
