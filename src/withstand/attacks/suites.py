"""Which attacks make an evaluation fast, standard, or thorough."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, get_args

from torch import nn

from withstand.attacks.attack import Attack
from withstand.attacks.autoattack import AutoAttack, AutoAttackPart
from withstand.attacks.cascade import Cascade
from withstand.attacks.foolbox_attack import FOOLBOX_METHODS, FoolboxAttack
from withstand.attacks.losses import cross_entropy, dlr, margin
from withstand.attacks.pgd import PGD
from withstand.attacks.transfer import Transfer
from withstand.core import norms
from withstand.core.schedules import Linear
from withstand.core.setting_rules import Whole

SuiteLevel = Literal["fast", "standard", "thorough"]
SUITES: tuple[SuiteLevel, ...] = get_args(SuiteLevel)

FAST_STEPS = 20
STANDARD_STEPS = 100
STANDARD_RESTARTS = 2
THOROUGH_RESTARTS = 10
AUTOATTACK_RESTARTS = 5  # of the version "plus"

_WITHOUT_SQUARE = "AutoAttack's square, which is for images"

# What must find nothing where the steps before it were enough: four times as many.
MORE_STEPS = 400
MORE_RESTARTS = 2
# Times 2.5 epsilon / 400: from a twentieth of epsilon, which still gets around, down to a 1600th.
MORE_STEPS_DECAY = Linear(start=8.0, end=0.1, epochs=1)

_STANDARD_PARTS: tuple[AutoAttackPart, ...] = ("apgd-ce", "apgd-t", "fab-t", "square")
_PLUS_PARTS: tuple[AutoAttackPart, ...] = ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t")
_RANDOM_PARTS: tuple[AutoAttackPart, ...] = ("apgd-ce", "apgd-dlr")
# The losses of Auto-PGD rank three logits, or four; FAB with one target is FAB without.
_PARTS_OF_TWO: Mapping[AutoAttackPart, AutoAttackPart | None] = {
    "apgd-dlr": None,
    "apgd-t": None,
    "fab-t": "fab",
}
_PARTS_OF_THREE: Mapping[AutoAttackPart, AutoAttackPart | None] = {"apgd-t": "apgd-dlr"}
_RESTARTED: tuple[AutoAttackPart, ...] = ("apgd-ce", "apgd-dlr", "fab")


def suite(
    level: SuiteLevel,
    *,
    norm: float,
    num_classes: int,
    is_random: bool = False,
    surrogates: Mapping[str, nn.Module] = MappingProxyType({}),
    has_images: bool = True,
) -> Cascade:
    """The attacks of a level, one after another, each on the examples that are still robust.

    ``fast`` is PGD on cross-entropy and on the margin, of 20 steps, and needs no further package. The
    others begin with AutoAttack, so that from the same seed and in the same batches no example is robust that
    it breaks: ``standard`` with its version ``standard``, then PGD of 100 steps on cross-entropy, margin and
    DLR, then PGD of 400 steps, which shows whether the steps were enough. ``thorough`` begins with the
    version ``plus`` (in l1 with the larger radii of ``standard`` as well), restarts PGD ten times, and adds
    what foolbox has for the norm: DeepFool, Brendel-Bethge, the boundary attack. Attacks that know less of
    the model come after those that know its gradients, but for AutoAttack's own: what they break hints at
    gradients that mislead.

    Of a model whose answers are random, AutoAttack is its version ``rand``, and attacks that go by single
    answers are left out: Square, FAB, and those of foolbox. To average over draws is for the network that is
    attacked (``bayes.Predictor``), no attack does it.

    Args:
        level: fast, standard or thorough.
        norm: 1, 2 or inf.
        num_classes: Of the model, at least 2; with fewer than 4 the losses that rank more logits are left
            out.
        is_random: Whether the model draws its answers.
        surrogates: Name -> another model of the same images and classes, from which PGD of 100 steps
            is transferred.
        has_images: Whether the data are images (channels, height, width). Of vectors, series and volumes
            Square, which searches by squares of pixels, is left out, and the cascade says so.

    Returns:
        The cascade, named ``standard-linf``; its budget is yet to be set by ``at``.

    Raises:
        ValueError: there is no such level or norm, or there are fewer than 2 classes.
    """
    norm = norms.as_norm(norm)
    if level not in SUITES:
        raise ValueError(f"Expected a suite of {', '.join(SUITES)}, but got {level!r}.")
    num_classes = Whole(least=2)("num_classes", num_classes)
    autoattack = _autoattack(level, norm, num_classes, is_random)
    fitting = [attack for attack in autoattack if has_images or attack.part != "square"]
    members: list[Attack] = [
        *fitting,
        *_gradient(level, norm, num_classes),
    ]
    if level == "thorough" and not is_random:
        members += [
            FoolboxAttack(norm, method=method)
            for method, known in FOOLBOX_METHODS.items()
            if norm in known.classes
        ]
    members += [
        Transfer(surrogate, PGD(norm, num_steps=STANDARD_STEPS), source)
        for source, surrogate in surrogates.items()
    ]
    return Cascade(members, level, _WITHOUT_SQUARE if len(fitting) < len(autoattack) else "")


def _autoattack(level: SuiteLevel, norm: float, num_classes: int, is_random: bool) -> list[AutoAttack]:
    if level == "fast":
        return []
    parts = _RANDOM_PARTS if is_random else _STANDARD_PARTS if level == "standard" else _PLUS_PARTS
    replaced = {2: _PARTS_OF_TWO, 3: _PARTS_OF_THREE}.get(num_classes, {})
    chosen = dict.fromkeys(part for part in (replaced.get(part, part) for part in parts) if part is not None)
    if level == "thorough":
        return [
            AutoAttack(
                norm,
                part=part,
                num_restarts=AUTOATTACK_RESTARTS if part in _RESTARTED else 1,
                num_target_classes=9 if part.endswith("-t") else None,
            )
            for part in chosen
        ]
    return [AutoAttack(norm, part=part, num_restarts=1 if is_random else None) for part in chosen]


def _gradient(level: SuiteLevel, norm: float, num_classes: int) -> list[PGD]:
    if level == "fast":
        return [PGD(norm, num_steps=FAST_STEPS, loss=loss) for loss in (cross_entropy, margin)]
    losses = [cross_entropy, margin, dlr] if num_classes > 2 else [cross_entropy, margin]
    restarts = dict.fromkeys(losses, THOROUGH_RESTARTS)
    if level == "standard":
        restarts = {**dict.fromkeys(losses, 1), cross_entropy: STANDARD_RESTARTS}
    more = PGD(
        norm, num_steps=MORE_STEPS, num_restarts=MORE_RESTARTS, step_decay=MORE_STEPS_DECAY, loss=margin
    )
    return [
        *(PGD(norm, num_steps=STANDARD_STEPS, num_restarts=restarts[loss], loss=loss) for loss in losses),
        more,
    ]
