"""The parts of AutoAttack, run by the package ``pyautoattack`` with the settings of its versions.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks" (ICML 2020); in l1, "Mind the box: l1-APGD for sparse adversarial attacks" (ICML 2021).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.adapters import Answers, LibraryAttack, keep_inside, load, own_draws
from withstand.attacks.attack import AttackKind
from withstand.attacks.worst import pick
from withstand.core import norms
from withstand.core.setting_rules import COUNT, SEED, optional, settle
from withstand.types import AttackError

AutoAttackPart = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]

_NORM_NAMES = {1.0: "L1", 2.0: "L2", math.inf: "Linf"}
_MIN_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}  # the losses rank that many logits
_MIN_SIDE = 5  # pixels: Square tiles the image with a fifth of its height in l1 and l2
_RHO = 0.75
_P_INIT = 0.8
_QUIET = logging.Logger("withstand.autoattack")  # its finding of zero gradients is a check of our own
_QUIET.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class AutoAttack(LibraryAttack):
    """One part of AutoAttack; the defaults are those of its ``standard`` version.

    The parts ``apgd-ce``, ``apgd-t``, ``fab-t`` and ``square``, each run on the examples that withstood
    those before it, are AutoAttack: from the same seed and in the same batches the same
    examples stay robust. Needs ``withstand[attacks]``.

    Each call draws from ``seed`` alone, and leaves torch's random state as it was. It computes in float32.
    An image that does not fool the model comes back unchanged.

    Args:
        norm: Of the ball: 1, 2 or inf.
        epsilon: Radius of the ball, in [0, 1] units; a float or a schedule of one.
        part: Auto-PGD on cross-entropy (``apgd-ce``), on the difference of logits ratio (``apgd-dlr``, at
            least 3 classes) or on its targeted form (``apgd-t``, at least 4 classes); the minimal-norm attack
            FAB, untargeted or targeted; or Square, which knows the logits only.
        num_steps: Of all parts but Square.
        num_restarts: How often to start (for a target); None: 5 for ``apgd-ce`` and ``apgd-dlr`` in l1,
            else 1.
        num_queries: Of Square.
        num_target_classes: Of the targeted parts, at most all but the true one; None: 5 for ``apgd-t`` in
            l1, else 9.
        seed: Of all that is drawn.
        mode: Where ``random``, ``apgd-ce`` and ``apgd-dlr`` return the image of the largest loss, whether
            or not it fools the model.

    Raises:
        ValueError: a setting is out of its range.
    """

    part: AutoAttackPart = "apgd-ce"
    num_steps: int = 100
    num_restarts: int | None = None
    num_queries: int = 5000
    num_target_classes: int | None = None
    seed: int = 0
    draws_by_batch = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part not in get_args(AutoAttackPart):
            raise ValueError(
                f"Expected a part of AutoAttack, one of {', '.join(get_args(AutoAttackPart))}, "
                f"but got {self.part!r}."
            )
        settle(
            self,
            num_steps=COUNT,
            num_restarts=optional(COUNT),
            num_queries=COUNT,
            num_target_classes=optional(COUNT),
            seed=SEED,
        )

    @override
    def search(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        inputs = self._handed_over(images)
        answers = Answers(model, images)
        with own_draws(self.seed), torch.no_grad():
            num_classes = self._require_classes(answers(inputs[:1]).shape[1])
            adversarial = self._run(answers, inputs, labels, epsilon, num_classes)
        is_same = (adversarial == inputs).flatten(1).all(dim=1)
        return pick(is_same, images, keep_inside(images, adversarial, self.norm, epsilon))

    @property
    @override
    def packages(self) -> Sequence[str]:
        return ("pyautoattack",)

    @property
    @override
    def kind(self) -> AttackKind:
        return "black-box" if self.part == "square" else "white-box"

    @property
    @override
    def name(self) -> str:
        return f"{self.part}-{norms.label(self.norm)}"

    @override
    def describe(self) -> str:
        effort = f"{self.num_queries} queries" if self.part == "square" else f"{self.num_steps} steps"
        targets = f", up to {self._targets()} target classes" if self.part.endswith("-t") else ""
        restarts = f", {self._restarts()} restarts" if self._restarts() > 1 else ""
        returned = ", image of the largest loss" if self._returns_largest_loss() else ""
        return (
            f"AutoAttack's {self.part}, {norms.label(self.norm)}, {effort}{targets}{restarts}, "
            f"seed {self.seed}{returned}"
        )

    def _restarts(self) -> int:
        if self.num_restarts is not None:
            return self.num_restarts
        return 5 if self.norm == 1 and self.part in ("apgd-ce", "apgd-dlr") else 1

    def _targets(self) -> int:
        if self.num_target_classes is not None:
            return self.num_target_classes
        return 5 if self.norm == 1 and self.part == "apgd-t" else 9

    def _returns_largest_loss(self) -> bool:
        return self.mode == "random" and self.part in ("apgd-ce", "apgd-dlr")

    def _handed_over(self, images: Tensor) -> Tensor:
        """The images in float32; for Square (batch, channels, height, width)."""
        images = images.float().contiguous()
        if self.part != "square":
            return images
        if images.dim() > 4:
            raise AttackError(
                "AutoAttack's square searches by squares of an image's pixels, but these have shape "
                f"{tuple(images.shape[1:])}: leave this part out."
            )
        if images.dim() != 4:
            images = images.reshape(len(images), 1, *([1] if images.dim() == 2 else []), *images.shape[1:])
        height, width = images.shape[-2:]
        if self.norm != math.inf and min(height, width) < _MIN_SIDE:
            raise AttackError(
                f"AutoAttack's square needs images of at least {_MIN_SIDE} x {_MIN_SIDE} pixels in "
                f"{norms.label(self.norm)}, but got {height} x {width}: leave this part out."
            )
        return images

    def _require_classes(self, num_classes: int) -> int:
        least = _MIN_CLASSES.get(self.part, 2)
        if num_classes < least:
            raise AttackError(
                f"AutoAttack's {self.part} needs at least {least} classes, but the model has {num_classes}: "
                f"take {'apgd-dlr' if num_classes == 3 else 'apgd-ce'} instead."
            )
        return num_classes

    def _run(
        self, answers: nn.Module, images: Tensor, labels: Tensor, epsilon: float, num_classes: int
    ) -> Tensor:
        module = "square" if self.part == "square" else "fab_pt" if "fab" in self.part else "autopgd_base"
        library = load(f"pyautoattack.{module}", user="AutoAttack")
        common = {
            "norm": _NORM_NAMES[self.norm],
            "eps": epsilon,
            "seed": self.seed,
            "n_restarts": self._restarts(),
            "device": images.device,
        }
        climbing = {"eot_iter": 1, "rho": _RHO, "use_largereps": self.norm == 1, "logger": _QUIET}
        targets = {"n_target_classes": min(self._targets(), num_classes - 1)}
        steps = {"n_iter": self.num_steps}
        options = {}
        if self.part == "square":
            settings = {"p_init": _P_INIT, "n_queries": self.num_queries, "resc_schedule": False}
            attack = library.SquareAttack(answers, **common, **settings)
        elif self.part in ("fab", "fab-t"):
            attack = library.FABAttack_PT(
                answers, **common, **steps, **targets, targeted=self.part == "fab-t"
            )
        elif self.part == "apgd-t":
            attack = library.APGDAttack_targeted(answers, **common, **steps, **climbing, **targets)
        else:
            loss = self.part.removeprefix("apgd-")
            attack = library.APGDAttack(answers, **common, **steps, **climbing, loss=loss)
            options = {"best_loss": self._returns_largest_loss()}
        adversarial: Tensor = attack.perturb(images, labels, **options)
        return adversarial
