"""Attacks: images near the given ones that the model gets wrong."""

from withstand.attacks.adapters import require_packages
from withstand.attacks.at_posterior_mean import AtMeans
from withstand.attacks.attack import Attack, AttackKind, AttackMode, BoundAttack, WrappedAttack
from withstand.attacks.autoattack import AutoAttack, AutoAttackPart
from withstand.attacks.cascade import Cascade
from withstand.attacks.foolbox_attack import FoolboxAttack, FoolboxMethod
from withstand.attacks.losses import cross_entropy, dlr, kl_divergence, margin
from withstand.attacks.pgd import PGD, fgsm, steps_for
from withstand.attacks.random_noise import Noise
from withstand.attacks.suites import SUITES, SuiteLevel, suite
from withstand.attacks.transfer import Transfer

__all__ = [
    "PGD",
    "SUITES",
    "AtMeans",
    "Attack",
    "AttackKind",
    "AttackMode",
    "AutoAttack",
    "AutoAttackPart",
    "BoundAttack",
    "Cascade",
    "FoolboxAttack",
    "FoolboxMethod",
    "Noise",
    "SuiteLevel",
    "Transfer",
    "WrappedAttack",
    "cross_entropy",
    "dlr",
    "fgsm",
    "kl_divergence",
    "margin",
    "require_packages",
    "steps_for",
    "suite",
]
