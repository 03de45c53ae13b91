"""Attacks: images near the given ones that the model gets wrong."""

from withstand.attacks.at_means import AtMeans
from withstand.attacks.base import Attack, BallAttack
from withstand.attacks.gradient import PGD, fgsm, steps_for
from withstand.attacks.losses import cross_entropy, dlr, margin
from withstand.attacks.noise import Noise

__all__ = [
    "PGD",
    "AtMeans",
    "Attack",
    "BallAttack",
    "Noise",
    "cross_entropy",
    "dlr",
    "fgsm",
    "margin",
    "steps_for",
]
