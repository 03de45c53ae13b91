"""What attacks of other libraries, images from elsewhere and models without gradients need to fit ours."""

from __future__ import annotations

import math
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks.attack import Attack
from withstand.attacks.worst import pick
from withstand.core import norms
from withstand.core.devices import preserved_random_states
from withstand.core.modes import eval_mode, weights_computed_once
from withstand.core.setting_rules import settle
from withstand.types import AttackError

_SLACK = 1e-5  # of epsilon: by so much, the rounding of float32, an image may lie outside


def load(module: str, *, user: str) -> Any:
    """A module of a library that is installed with ``withstand[attacks]`` alone.

    Args:
        module: Its dotted name.
        user: Who needs it, for the error's text.

    Returns:
        The module; none of these libraries has types.

    Raises:
        AttackError: it is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of what they import in their turn
            return import_module(module)
    except ModuleNotFoundError as error:
        raise _missing((error.name or module).partition(".")[0], user) from error


def require_packages(attacks: Iterable[Attack]) -> None:
    """Accepts attacks whose packages are installed, without the time that loading them takes.

    Args:
        attacks: Cascades among them with all that they are made of.

    Raises:
        AttackError: one is not; the text says how to install it.
    """
    for stage in (stage for attack in attacks for stage in attack.stages):
        for package in stage.packages:
            if find_spec(package) is None:
                raise _missing(package, f"The attack {stage.name}")


def _missing(package: str, user: str) -> AttackError:
    return AttackError(
        f"{user} needs the package {package}, which is not installed: pip install 'withstand[attacks]'."
    )


@contextmanager
def own_draws(seed: int) -> Iterator[None]:
    """Draws from a seed of one's own; torch's random state is afterwards what it was.

    Args:
        seed: At least 0.

    Yields:
        Nothing; all generators of torch are seeded meanwhile.
    """
    with preserved_random_states():
        torch.manual_seed(seed)
        yield


@contextmanager
def weights_at_rest(model: nn.Module) -> Iterator[None]:
    """Holds a model's parameters out of differentiation: none gets a gradient, and none is paid for.

    Args:
        model: Any module.

    Yields:
        Nothing; no parameter requires a gradient meanwhile.
    """
    awake = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in awake:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in awake:
            parameter.requires_grad_(True)


@dataclass(frozen=True)
class LibraryAttack(Attack):
    """The part that attacks of other libraries share.

    Args:
        norm: Of the ball: 1, 2 or inf.
        epsilon: Radius of the ball, in [0, 1] units; a float or a schedule of one.
        mode: As of every attack.
    """

    norm: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, norm=norms.norm_rule)

    @override
    def perturb(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> Tensor:
        epsilon, images = self.budget_for(images, progress), images.detach()
        if epsilon == 0 or not images.numel():
            return images.clone()
        with eval_mode(model), weights_at_rest(model), weights_computed_once(model):
            return self.search(model, images, labels, epsilon)

    @abstractmethod
    def search(self, model: nn.Module, images: Tensor, labels: Tensor, epsilon: float) -> Tensor:
        """As ``perturb``, for a model in eval mode whose parameters need no gradient.

        Args:
            model: Maps images in [0, 1] to logits (batch, classes).
            images: Tensor (batch, …), detached, of at least one image.
            labels: Integer tensor (batch,).
            epsilon: Positive.
        """


class Answers(nn.Module):
    """A model as other libraries want it: float32 in and out, in eval mode, with gradients that are finite.

    By a gradient with NaN libraries lose the image, or search without an end.

    Args:
        model: Maps images to logits (batch, classes); in eval mode already.
        images: Whose type and shape the model takes.
    """

    def __init__(self, model: nn.Module, images: Tensor) -> None:
        super().__init__()
        self.model = model
        self.training = False  # not eval(), which would set flags of the model too
        self._dtype = images.dtype
        self._shape = images.shape[1:]

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, …), in whatever shape they are handed over."""
        if images.requires_grad:
            images = images.clone()
            images.register_hook(norms.finite)
        logits: Tensor = self.model(images.reshape(len(images), *self._shape).to(self._dtype))
        return logits.float()


def keep_inside(images: Tensor, adversarial: Tensor, norm: float, epsilon: float) -> Tensor:
    """Brings back what left the ball or [0, 1]; what lies inside, up to rounding, stays bit for bit.

    Args:
        images: Tensor (batch, …) in [0, 1].
        adversarial: What an attack made of them, in whatever float type.
        norm: Of the ball: 1, 2 or inf.
        epsilon: Its radius.

    Returns:
        Tensor of the shape and type of ``images``; where ``adversarial`` is not finite, the image itself.
    """
    adversarial = adversarial.detach().to(images).reshape(images.shape).clamp(0.0, 1.0)
    delta = adversarial - images
    is_outside = norms.norm(delta, norm) > epsilon * (1 + _SLACK)
    projected = (images + norms.project(delta, norm, epsilon)).clamp(0.0, 1.0)
    adversarial = pick(is_outside, projected, adversarial)
    is_whole = adversarial.flatten(1).isfinite().all(dim=1)
    if number := int((~is_whole).sum()):
        warnings.warn(
            f"An attack made NaN of {number} of {len(images)} images. These are left as they were, and "
            "count as robust where the model is right of them: try another attack.",
            RuntimeWarning,
            stacklevel=2,
        )
    return pick(is_whole, adversarial, images)


def connected(model: nn.Module, images: Tensor) -> nn.Module:
    """The model where its answers have a gradient with respect to the image; else one whose gradient is 0.

    Some defences take the gradient away. An attack that asks for it should find none and say so, not break.

    Args:
        model: In eval mode; maps images in [0, 1] to logits (batch, classes).
        images: Float tensor (batch, …) in [0, 1] to try it on.
    """
    with torch.enable_grad():
        leaf = images.detach().clone().requires_grad_()
        logits: Tensor = model(leaf)
        if logits.requires_grad and torch.autograd.grad(logits.sum(), leaf, allow_unused=True)[0] is not None:
            return model
    return _Flat(model)


class _Flat(nn.Module):
    """Answers as a model does, with a gradient of 0."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.train(model.training)

    @override
    def forward(self, images: Tensor) -> Tensor:
        """Logits (batch, classes) of images (batch, …)."""
        logits: Tensor = self.model(images)
        return logits.detach() + 0.0 * images.flatten(1).sum(dim=1, keepdim=True)
