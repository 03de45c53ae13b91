"""Lower bounds: the steepest slopes of each logit that were seen, at examples and near them.

Bietti et al., "A Kernel Perspective for Regularizing Deep Neural Networks" (arXiv 1810.00363),
section 2: where the kernel's mapping does not expand, each of these is at most the norm of the
function in the kernel's Hilbert space. Each is also at most the function's l2 Lipschitz constant.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand.core import norms
from withstand.core.setting_rules import COUNT, Number, Whole, settle
from withstand.data import Deform
from withstand.loss.passes import Differentiable
from withstand.penalties.classwise import class_gradients, gradient

LEAST_EPSILON = 1e-3
"""Budgets below this are refused: rounding would count beside the differences of logits."""


@dataclass(frozen=True)
class KernelNormSettings:
    """How to bound the kernel norm of each class logit of a trained model.

    Args:
        num_examples: Look at so many of the scored examples; more can only raise the bounds from below.
        epsilon: l2 budget of the perturbations, in [0, 1] units.
        num_steps: Steps of the ascent, each of 1.5 epsilon / num_steps.
        num_perturbed: How many examples a class are perturbed: those with the steepest gradients.
        deform: The deformations.
        num_deformations: Random ones of each example; 0 leaves them out.

    Raises:
        ValueError: a number is out of its range.
    """

    num_examples: int = 1000
    epsilon: float = 1.0
    num_steps: int = 5
    num_perturbed: int = 32
    deform: Deform = field(default_factory=Deform)
    num_deformations: int = 4

    def __post_init__(self) -> None:
        settle(
            self,
            num_examples=COUNT,
            epsilon=Number(least=LEAST_EPSILON),
            num_steps=COUNT,
            num_perturbed=COUNT,
            num_deformations=Whole(least=0),
        )

    def describe(self) -> str:
        """A sentence of the settings, for a report."""
        deformed = (
            f"; {self.num_deformations} random deformations of each example" if self.num_deformations else ""
        )
        return (
            f"Gradients at each example; ascent in {self.num_steps} steps within l2 {self.epsilon:g} from "
            f"the {self.num_perturbed} examples at which each class logit is steepest{deformed}; all in "
            "float64"
        )


_NEAREST = LEAST_EPSILON / 10  # images nearer to each other are left out
_ROUNDING = 1e-12  # of the largest logit, what a difference may owe to rounding


class Slopes(NamedTuple):
    """The logits of examples, and how steep they are there.

    Attributes:
        logits: Float64 tensor (batch, classes).
        lengths: Float64 tensor (batch, classes): the l2 norm of each logit's gradient at each image; 0
            where it is not finite. At a kink it is the gradient that torch takes there.
        is_unknown: Bool tensor (batch,): whether a logit or a gradient is NaN or infinite.
    """

    logits: Tensor
    lengths: Tensor
    is_unknown: Tensor


class Deformed(NamedTuple):
    """How deformations change each logit.

    Attributes:
        slopes: Float64 tensor (classes,): the largest |f(x_t) - f(x)| / ‖x_t - x‖₂.
        changes: Float64 tensor (classes,): the largest |f(x_t) - f(x)|, in logits.
    """

    slopes: Tensor
    changes: Tensor


def slopes(model: nn.Module, images: Tensor, batch_size: int) -> Slopes:
    """Logits and the norms of their gradients: one pass forward, one backward a class.

    Args:
        model: A float64 model in eval mode, of which each image's logits are its own.
        images: Float tensor (batch, …) in [0, 1].
        batch_size: Examples at a time.
    """
    parts = [_slopes(model, batch) for batch in torch.split(images, batch_size)]
    return Slopes(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _slopes(model: nn.Module, images: Tensor) -> Slopes:
    passed = Differentiable.of(model, images.double())
    lengths = torch.stack([norms.norm(gradients, 2.0) for gradients in class_gradients(passed)], dim=1)
    logits = passed.logits.detach()
    is_unknown = ~(logits.isfinite() & lengths.isfinite()).all(dim=1)
    return Slopes(logits, _finite(lengths), is_unknown)


def perturbed(
    model: nn.Module, images: Tensor, at: Slopes, settings: KernelNormSettings, batch_size: int
) -> Tensor:
    """The steepest rise of each logit to a point within epsilon, reached by projected ascent.

    Every iterate counts, since each is a point within epsilon.

    Args:
        model: A float64 model in eval mode.
        images: Float tensor (batch, …) in [0, 1].
        at: The result of ``slopes`` for them.
        settings: Budget, steps, and how many examples a class to start from.
        batch_size: Examples at a time.

    Returns:
        Float64 tensor (classes,): the largest (f(x + δ) - f(x)) / ‖δ‖₂, at least 0.
    """
    number = min(settings.num_perturbed, len(images))
    rows = at.lengths.topk(number, dim=0).indices
    classes = torch.arange(rows.shape[1], device=rows.device).expand_as(rows)
    best = at.logits.new_zeros(rows.shape[1])
    pairs = (torch.split(indices.flatten(), batch_size) for indices in (rows, classes))
    for row, index in zip(*pairs, strict=True):
        rises = _ascend(model, images[row].double(), at.logits[row], index, settings)
        best.scatter_reduce_(0, index, rises, "amax")
    return best


def _ascend(
    model: nn.Module, images: Tensor, clean: Tensor, classes: Tensor, settings: KernelNormSettings
) -> Tensor:
    """The steepest rise of one logit an image, over the iterates: tensor (batch,)."""
    step_size = 1.5 * settings.epsilon / settings.num_steps
    delta = torch.zeros_like(images)
    best = clean.new_zeros(len(images))
    for step in range(settings.num_steps + 1):
        is_last = step == settings.num_steps
        with torch.set_grad_enabled(not is_last):
            delta.requires_grad_(not is_last)
            logits: Tensor = model(images + delta)
            chosen = logits.gather(1, classes[:, None]).sum()
        uphill = norms.finite(gradient(chosen, delta, create_graph=False))
        delta = delta.detach()
        rise = _certain(logits.detach() - clean, logits.detach(), clean)
        rise = rise.gather(1, classes[:, None]).squeeze(1)
        best = torch.maximum(best, _quotient(rise, norms.norm(delta, 2.0)))
        delta = norms.project(delta + step_size * norms.steepest(uphill, 2.0), 2.0, settings.epsilon)
    return best


def deformed(
    model: nn.Module,
    images: Tensor,
    logits: Tensor,
    settings: KernelNormSettings,
    batch_size: int,
    *,
    seed: int,
) -> Deformed:
    """How random deformations change each logit, plainly and for each unit of l2 distance.

    Args:
        model: A float64 model in eval mode.
        images: Float tensor (batch, channels, height, width) in [0, 1].
        logits: Of the images, float64 (batch, classes).
        settings: Which deformations, and how many of each image.
        batch_size: Examples at a time.
        seed: Of the deformations.
    """
    generator = torch.Generator(images.device).manual_seed(seed)
    number = settings.num_deformations
    steepest, largest = logits.new_zeros(2, logits.shape[1])
    size = max(1, batch_size // number)
    for batch, clean in zip(torch.split(images, size), torch.split(logits, size), strict=True):
        copies = settings.deform.copies(batch, number, generator=generator).flatten(0, 1).double()
        originals = batch.double().repeat_interleave(number, dim=0)
        clean = clean.repeat_interleave(number, dim=0)
        with torch.no_grad():
            moved = model(copies)
        changes = _certain((moved - clean).abs(), moved, clean)
        distances = norms.norm(copies - originals, 2.0)[:, None]
        steepest = torch.maximum(steepest, _quotient(changes, distances).amax(dim=0))
        largest = torch.maximum(largest, changes.amax(dim=0))
    return Deformed(steepest, largest)


def _certain(differences: Tensor, moved: Tensor, clean: Tensor) -> Tensor:
    """Differences of logits less what rounding may have added; 0 where they are not finite."""
    scale = moved.abs().amax(dim=1) + clean.abs().amax(dim=1)
    return _finite(differences - _ROUNDING * scale[:, None]).clamp_min(0)


def _quotient(differences: Tensor, distances: Tensor) -> Tensor:
    return torch.where(distances >= _NEAREST, _finite(differences / distances), 0.0)


def _finite(values: Tensor) -> Tensor:
    return torch.where(values.isfinite(), values, 0.0)
