"""Minimal-norm attacks of the package ``foolbox``."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.adapters import Answers, LibraryAttack, keep_inside, load
from withstand.attacks.attack import AttackKind
from withstand.attacks.worst import pick
from withstand.core import norms
from withstand.core.answers import NO_ANSWER, is_correct, predicted
from withstand.core.batch_shares import filled
from withstand.core.setting_rules import COUNT, optional, settle

FoolboxMethod = Literal["deepfool", "brendel-bethge", "boundary"]

_NOISE_DRAWS = 50  # images of noise, where no other image of the batch serves as a start
_TRUST_REGION = 1e-3  # of Brendel-Bethge: radius of its first step, a share of the number of pixels


class _Method(NamedTuple):
    """What is known of a method: its steps, its kind, and the class that foolbox has for each norm."""

    num_steps: int
    kind: AttackKind
    classes: dict[float, str]


FOOLBOX_METHODS: dict[FoolboxMethod, _Method] = {
    "deepfool": _Method(50, "white-box", {2.0: "L2DeepFoolAttack", math.inf: "LinfDeepFoolAttack"}),
    "brendel-bethge": _Method(
        200,
        "white-box",
        {
            1.0: "L1BrendelBethgeAttack",
            2.0: "L2BrendelBethgeAttack",
            math.inf: "LinfinityBrendelBethgeAttack",
        },
    ),
    "boundary": _Method(5000, "black-box", {2.0: "BoundaryAttack"}),
}


@dataclass(frozen=True)
class FoolboxAttack(LibraryAttack):
    """An attack that looks for the nearest image that fools the model, cut to the ball of ``epsilon``.

    DeepFool (Moosavi-Dezfooli et al., CVPR 2016) goes from the image to the nearest boundary of the
    linearised model. The other two walk along a boundary towards the image: Brendel-Bethge (Brendel et al.,
    NeurIPS 2019) by gradients, the boundary attack (Brendel et al., ICLR 2018) by predicted classes alone.
    They begin at the nearest other image of the batch that the model does not give the example's class, or
    at noise where there is none; an example without any such start is left as it is.

    Needs ``withstand[attacks]``, for Brendel-Bethge with numba, which compiles for some 30 seconds when
    first used. It is meant for a model whose answers are not random.

    Args:
        norm: Of the ball: 2 or inf (deepfool), 1, 2 or inf (brendel-bethge), 2 (boundary).
        epsilon: Radius of the ball, in [0, 1] units; a float or a schedule of one.
        method: Which.
        num_steps: None: 50 (deepfool), 200 (brendel-bethge), 5000 (boundary).
        mode: Makes no difference.

    Raises:
        ValueError: a setting is out of its range.
    """

    norm: float = 2.0
    method: FoolboxMethod = "deepfool"
    num_steps: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in FOOLBOX_METHODS:
            raise ValueError(f"Expected a method of {', '.join(FOOLBOX_METHODS)}, but got {self.method!r}.")
        known = FOOLBOX_METHODS[self.method].classes
        if self.norm not in known:
            raise ValueError(
                f"Expected a norm that {self.method} has, {' or '.join(map(norms.label, known))}, "
                f"but got {norms.label(self.norm)}."
            )
        settle(self, num_steps=optional(COUNT))

    @override
    def search(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        adversarial = images.clone()
        answers = Answers(model, images)
        starts, index = self._starts(answers, images.float(), labels)
        if len(index):
            minimal = self._minimise(answers, images[index].float(), labels[index], starts[index])
            adversarial[index] = keep_inside(images[index], minimal, self.norm, epsilon)
        with torch.no_grad():
            fooled = ~is_correct(answers(adversarial), labels)
        return pick(fooled, adversarial, images)

    @property
    @override
    def packages(self) -> Sequence[str]:
        return ("foolbox", "numba") if self.method == "brendel-bethge" else ("foolbox",)

    @property
    @override
    def kind(self) -> AttackKind:
        return FOOLBOX_METHODS[self.method].kind

    @property
    @override
    def name(self) -> str:
        return f"{self.method}-{norms.label(self.norm)}"

    @override
    def describe(self) -> str:
        return f"Foolbox's {self.method} attack, {norms.label(self.norm)}, {self._steps()} steps"

    def _steps(self) -> int:
        return self.num_steps or FOOLBOX_METHODS[self.method].num_steps

    @torch.no_grad()
    def _starts(self, answers: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images to begin at (batch, …), and the index (n,) of those to attack: correct ones with a start."""
        given = predicted(answers(images))
        is_right = given == labels
        if self.method == "deepfool":
            return images, is_right.nonzero().squeeze(1)
        is_other = (given[None, :] != labels[:, None]) & (given[None, :] != NO_ANSWER)
        flat = images.flatten(1)
        nearest = torch.cdist(flat, flat, p=self.norm).masked_fill(~is_other, math.inf).argmin(dim=1)
        starts, has_start = images[nearest], is_other.any(dim=1)
        for _ in range(_NOISE_DRAWS):
            if bool(has_start.all()):
                break
            noise = filled(images, Tensor.uniform_)
            given = predicted(answers(noise))
            fooled = (given != labels) & (given != NO_ANSWER) & ~has_start
            starts[fooled] = noise[fooled]
            has_start |= fooled
        return starts, (is_right & has_start).nonzero().squeeze(1)

    def _minimise(self, answers: nn.Module, images: Tensor, labels: Tensor, starts: Tensor) -> Tensor:
        """The nearest images that fool the model, at whatever distance; else the images themselves."""
        foolbox = load("foolbox", user=f"The attack {self.method}")
        wrapped = foolbox.models.PyTorchModel(answers, bounds=(0, 1), device=images.device)
        options = {} if self.method == "deepfool" else {"starting_points": starts}
        try:
            with torch.enable_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of empty means, and of the compiler's patience
                attack = self._build(foolbox.attacks, len(images))
                minimal: Tensor = attack.run(
                    wrapped, images, foolbox.criteria.Misclassification(labels), **options
                )
            return minimal.detach()
        except (ArithmeticError, AssertionError, ValueError):
            # It gives up on all for the sake of one: a start that fooled the model in a larger batch and
            # does so no more, or a step that has no solution.
            if len(images) == 1:
                return images
            halves = zip(images.tensor_split(2), labels.tensor_split(2), starts.tensor_split(2), strict=True)
            return torch.cat([self._minimise(answers, *half) for half in halves])

    def _build(self, attacks: Any, num_images: int) -> Any:
        build: Callable[..., Any] = getattr(attacks, FOOLBOX_METHODS[self.method].classes[self.norm])
        if self.method != "brendel-bethge":
            return build(steps=self._steps())
        load("numba", user="The attack brendel-bethge")
        # Foolbox takes the trust region as a share of the pixels of all images together; the authors, of one.
        return build(steps=self._steps(), lr=_TRUST_REGION / num_images)
