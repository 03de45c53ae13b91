"""The parts of AutoAttack, run by the package ``pyautoattack`` with the settings of its versions.

Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse parameter-free
attacks" (ICML 2020); in l1, "Mind the box: l1-APGD for sparse adversarial attacks" (ICML 2021).
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import norms
from withstand.attacks.adapters import Answers, keep_inside, load, own_draws, weights_at_rest
from withstand.attacks.base import AttackKind, BallAttack
from withstand.modes import eval_mode
from withstand.schedules import Slowed
from withstand.types import AttackError

__all__ = ["AutoAttack", "AutoAttackPart"]

AutoAttackPart = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]

_NORM_NAMES = {1.0: "L1", 2.0: "L2", math.inf: "Linf"}
_MIN_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}  # the losses rank that many logits
_MIN_SIDE = 5  # pixels: Square tiles the image with a fifth of its height in l1 and l2
_RHO = 0.75
_P_INIT = 0.8
_QUIET = logging.Logger("withstand.autoattack")  # its finding of zero gradients is a check of our own
_QUIET.addHandler(logging.NullHandler())


@dataclass(frozen=True)
class AutoAttack(BallAttack):
    """One part of AutoAttack; the defaults are those of its ``standard`` version.

    The parts ``apgd-ce``, ``apgd-t``, ``fab-t`` and ``square``, each run on the examples that withstood
    those before it, are AutoAttack: from the same seed and in the same batches they leave the same
    examples standing. Needs ``withstand[attacks]``.

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
        rank_by_loss: ``apgd-ce`` and ``apgd-dlr`` return the image of the largest loss, whether or not it
            fools the model; for a model whose answers are random.

    Raises:
        ValueError: a setting is out of its range.
    """

    part: AutoAttackPart = "apgd-ce"
    num_steps: int = 100
    num_restarts: int | None = None
    num_queries: int = 5000
    num_target_classes: int | None = None
    seed: int = 0
    rank_by_loss: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part not in get_args(AutoAttackPart):
            raise ValueError(
                f"Expected a part of AutoAttack, one of {', '.join(get_args(AutoAttackPart))}, "
                f"but got {self.part!r}."
            )
        for field in ("num_steps", "num_restarts", "num_queries", "num_target_classes"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ValueError(f"Expected {field} of at least 1, but got {value}.")

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        epsilon, images = self.epsilon_at(progress), images.detach()
        if epsilon == 0 or not images.numel():
            return images.clone()
        given = self._handed_over(images)
        answers = Answers(model, images)
        with eval_mode(model), weights_at_rest(model), own_draws(self.seed), torch.no_grad():
            num_classes = self._require_classes(answers(given[:1]).shape[1])
            found = self._search(answers, given, labels, epsilon, num_classes)
        same = (found == given).flatten(1).all(dim=1).reshape(-1, *[1] * (images.dim() - 1))
        return torch.where(same, images, keep_inside(images, found, self.norm, epsilon))

    @override
    def for_evaluation(self) -> AutoAttack:
        return replace(self, rank_by_loss=False)

    @override
    def for_random_answers(self) -> AutoAttack:
        return replace(self, rank_by_loss=True)

    @override
    def slowed(self, at: float) -> AutoAttack:
        return replace(self, epsilon=Slowed(self.epsilon, at))

    @property
    @override
    def draws_by_batch(self) -> bool:
        return True

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
        kept = ", image of the largest loss" if self._returns_largest_loss() else ""
        return (
            f"AutoAttack's {self.part}, {norms.label(self.norm)}, {effort}{targets}{restarts}, "
            f"seed {self.seed}{kept}"
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
        return self.rank_by_loss and self.part in ("apgd-ce", "apgd-dlr")

    def _handed_over(self, images: Tensor) -> Tensor:
        """The images in float32; for Square (batch, channels, height, width)."""
        images = images.float().contiguous()
        if self.part != "square":
            return images
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

    def _search(
        self, answers: nn.Module, images: Tensor, labels: Tensor, epsilon: float, num_classes: int
    ) -> Tensor:
        common = {
            "norm": _NORM_NAMES[self.norm],
            "eps": epsilon,
            "seed": self.seed,
            "n_restarts": self._restarts(),
            "device": images.device,
        }
        targets = min(self._targets(), num_classes - 1)
        if self.part == "square":
            square = _module("square").SquareAttack
            settings = {"p_init": _P_INIT, "n_queries": self.num_queries, "resc_schedule": False}
            return _tensor(square(answers, **common, **settings).perturb(images, labels))
        common["n_iter"] = self.num_steps
        if self.part in ("fab", "fab-t"):
            fab = _module("fab_pt").FABAttack_PT
            targeted = {"targeted": self.part == "fab-t", "n_target_classes": targets}
            return _tensor(fab(answers, **common, **targeted).perturb(images, labels))
        common |= {"eot_iter": 1, "rho": _RHO, "use_largereps": self.norm == 1, "logger": _QUIET}
        apgd = _module("autopgd_base")
        if self.part == "apgd-t":
            attack = apgd.APGDAttack_targeted(answers, **common, n_target_classes=targets)
            return _tensor(attack.perturb(images, labels))
        attack = apgd.APGDAttack(answers, **common, loss=self.part.removeprefix("apgd-"))
        return _tensor(attack.perturb(images, labels, best_loss=self._returns_largest_loss()))


def _module(name: str) -> Any:
    return load(f"pyautoattack.{name}", user="AutoAttack")


def _tensor(found: Any) -> Tensor:
    images: Tensor = found
    return images
