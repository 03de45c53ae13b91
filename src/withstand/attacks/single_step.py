"""Attacks of a single step: settings of PGD."""

from __future__ import annotations

import math

from withstand.attacks.pgd import PGD
from withstand.core.schedules import Schedule


def fgsm(epsilon: float | Schedule = 8 / 255, norm: float = math.inf) -> PGD:
    """The fast gradient (sign) method: one full step from the image (Goodfellow et al., ICLR 2015).

    Args:
        epsilon: Budget, in [0, 1] units; the step goes to the edge of whatever budget it is run at.
        norm: 1, 2 or inf.
    """
    # No step size of its own, so that `at` another budget steps that far: the default, 2.5 epsilon,
    # is cut back to the edge.
    return PGD(norm=norm, epsilon=epsilon, num_steps=1, random_start=False)


def fgsm_rs(epsilon: float | Schedule = 8 / 255, norm: float = math.inf) -> PGD:
    """FGSM from a random start, with a step of 1.25 epsilon: fast adversarial training.

    Wong et al., "Fast is better than free" (ICLR 2020), algorithm 3.

    Args:
        epsilon: Budget, in [0, 1] units; the step is 1.25 of whatever budget it is run at.
        norm: 1, 2 or inf.
    """
    # On pixels at the ends of [0, 1], which are most of MNIST's, a start that is clipped would end at the
    # corners of the ball alone: against such steps networks overfit.
    return PGD(norm=norm, epsilon=epsilon, num_steps=1, reach=1.25, clips_start=False)
