"""Attacks: images near the given ones that the model gets wrong."""

from withstand.attacks.adapters import require_packages
from withstand.attacks.at_posterior_mean import AtMeans
from withstand.attacks.attack import Attack, AttackAround, AttackKind, AttackMode, BoundAttack, WrappedAttack
from withstand.attacks.autoattack import AutoAttack, AutoAttackPart
from withstand.attacks.cascade import Cascade
from withstand.attacks.foolbox_attack import FoolboxAttack, FoolboxMethod
from withstand.attacks.losses import cross_entropy, dlr, kl_divergence, margin
from withstand.attacks.masks import Channels, Mask, Patch, Region
from withstand.attacks.pgd import PGD, steps_for
from withstand.attacks.random_noise import Noise
from withstand.attacks.single_step import fgsm, fgsm_rs
from withstand.attacks.straight_through import StraightThrough
from withstand.attacks.suites import SUITES, SuiteLevel, suite
from withstand.attacks.targets import least_likely, next_likely, random_class
from withstand.attacks.transfer import Transfer

__all__ = [
    "PGD",
    "SUITES",
    "AtMeans",
    "Attack",
    "AttackAround",
    "AttackKind",
    "AttackMode",
    "AutoAttack",
    "AutoAttackPart",
    "BoundAttack",
    "Cascade",
    "Channels",
    "FoolboxAttack",
    "FoolboxMethod",
    "Mask",
    "Noise",
    "Patch",
    "Region",
    "StraightThrough",
    "SuiteLevel",
    "Transfer",
    "WrappedAttack",
    "cross_entropy",
    "dlr",
    "fgsm",
    "fgsm_rs",
    "kl_divergence",
    "least_likely",
    "margin",
    "next_likely",
    "random_class",
    "require_packages",
    "steps_for",
    "suite",
]
