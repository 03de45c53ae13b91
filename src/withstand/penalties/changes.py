"""Penalties on the largest changes of the logits, under perturbations of bounded length and deformations."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.core import norms
from withstand.core.batch_shares import largest_of_all, meets
from withstand.core.modes import eval_mode
from withstand.core.numerics import without_autocast
from withstand.core.setting_rules import AT_LEAST_0, COUNT, optional, settle
from withstand.core.wrappers import unwrapped
from withstand.data.deform import Deform
from withstand.loss.passes import Differentiable, Pass, logits_of
from withstand.loss.terms import OnePass, Penalty
from withstand.penalties.classwise import GradientPenalty, class_gradients, gradient, own_changes
from withstand.types import LossTerms

_REACH = 1.5  # of epsilon: what all steps together could walk, as published


class _Pairs(NamedTuple):
    """Images that may be the worst of a class, some classes with equally many of them.

    Attributes:
        classes: Integer tensor (chunk,).
        images: Tensor (chunk, candidates, …).
        logits: Of that class (chunk, candidates).
        gradients: Tensor (chunk, candidates, …): of that class's logit, at those images.
    """

    classes: Tensor
    images: Tensor
    logits: Tensor
    gradients: Tensor


class AdversarialPerturbation(GradientPenalty):
    """The sum over classes k of the largest (f_k(x_i + δ_ik) - f_k(x_i))² in the batch, for logits f.

    δ_ik with ‖δ_ik‖₂ ≤ epsilon is computed by gradient ascent on f_k from 0, in normalised steps of
    1.5 epsilon / num_steps; for each class the image with the largest gain counts (Bietti et al., ICML
    2019, arXiv 1810.00363, ‖f‖²_δ). Perturbed images may leave [0, 1], as published: the bound is that of a
    function on all of space. The model is in eval mode, and δ is held.

    The strength is epsilon, which enters squared, and the weight of the term. The maximum is over the
    batch, so larger batches give larger penalties, and the gradient with respect to the weights comes from
    one image a class.

    Args:
        epsilon: Radius, in [0, 1] units, at least 0.
        num_steps: Of the ascent, at least 1.
        candidates: Climb only from so many images of each class, those with the largest gradients there;
            all where None, as published. With 3 of a batch of 32 a step takes a fifth of the time; the
            penalty is then smaller where another image would have gained more.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, epsilon: float = 1.0, *, num_steps: int = 5, candidates: int | None = None) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.num_steps = num_steps
        self.candidates = candidates
        settle(self, epsilon=AT_LEAST_0, num_steps=COUNT, candidates=optional(COUNT))

    @without_autocast()
    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        norms.warn_beyond_range(2.0, self.epsilon, passed.images.shape[1:].numel())
        pass_ = passed.differentiable
        with eval_mode(pass_.model):
            worst = [self._worst(pass_.model, pairs) for pairs in self._pairs(pass_)]
        chosen = largest_of_all(*(torch.cat(parts) for parts in zip(*worst, strict=True)))
        images, deltas = (part.squeeze(1) for part in chosen)
        loss = own_changes(pass_.model, images, images + deltas).square().sum()
        return LossTerms(loss, {"adversarial_perturbation": loss.detach()})

    @override
    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon:g}, num_steps={self.num_steps}, candidates={self.candidates}"

    def _pairs(self, pass_: Differentiable) -> Iterator[_Pairs]:
        """All classes with their candidates, in chunks of about as many pairs as there are images."""
        batch, num_classes = pass_.logits.shape
        count = batch if self.candidates is None else min(self.candidates, batch)
        images, logits = pass_.images.detach(), pass_.logits.detach()
        chunk: list[list[Tensor]] = []
        for number, gradients in enumerate(class_gradients(pass_)):
            lengths, index = norms.norm(gradients, 2.0).topk(count)
            if self.candidates is not None and meets():  # of the whole batch, and as many in each process
                more = (0, self.candidates - count)
                lengths, index = F.pad(lengths, more, value=-math.inf), F.pad(index, more)
                own = images[index], logits[index, number], gradients[index]
                chunk.append([part[0] for part in largest_of_all(lengths[None], *(p[None] for p in own))])
            else:
                chunk.append([images[index], logits[index, number], gradients[index]])
            if (len(chunk) + 1) * count > batch or number == num_classes - 1:
                stacked = (torch.stack(parts) for parts in zip(*chunk, strict=True))
                classes = torch.arange(number + 1 - len(chunk), number + 1, device=logits.device)
                yield _Pairs(classes, *stacked)
                chunk = []

    def _worst(self, model: nn.Module, pairs: _Pairs) -> tuple[Tensor, Tensor, Tensor]:
        """Of each class the largest gain, of which image and by what, (chunk, 1, …) each."""
        count = pairs.images.shape[:2]
        classes = pairs.classes.repeat_interleave(count[1])[:, None]
        images = pairs.images.flatten(0, 1)
        deltas = self._step(torch.zeros_like(images), pairs.gradients.flatten(0, 1))
        for _ in range(self.num_steps - 1):
            with torch.enable_grad():
                leaf = (images + deltas).requires_grad_()
                climbed = model(leaf).gather(1, classes).sum()
            deltas = self._step(deltas, gradient(climbed, leaf, create_graph=False))
        with torch.no_grad():
            after = model(images + deltas).gather(1, classes)
            gain, best = (after.view(count) - pairs.logits).max(dim=1, keepdim=True)
        rows = torch.arange(len(best), device=best.device)[:, None]
        deltas = deltas.view(pairs.images.shape)
        return gain, pairs.images[rows, best], deltas[rows, best]

    def _step(self, deltas: Tensor, gradients: Tensor) -> Tensor:
        size = _REACH * self.epsilon / self.num_steps
        return norms.project(deltas + size * norms.steepest(gradients, 2.0), 2.0, self.epsilon)


class DeformationStability(OnePass, Penalty):
    """The sum over classes k of the largest (f_k(x') - f_k(x_i))² in the batch, for logits f.

    x' is the best of ``num_deformations`` random deformations of each image (Bietti et al., ICML 2019,
    arXiv 1810.00363, ‖f‖²_τ; there 32 of each of 32 images). The model is in eval mode.

    The maximum is over the batch, so larger batches give larger penalties, and the gradient with respect
    to the weights comes from one pair a class.

    Args:
        deform: Which deformations; ``Deform()`` where None.
        num_deformations: Of each image, each at the price of a forward pass.

    Raises:
        ValueError: there are no deformations.
    """

    def __init__(self, deform: Deform | None = None, *, num_deformations: int = 32) -> None:
        super().__init__()
        self.deform = Deform() if deform is None else deform
        self.num_deformations = num_deformations
        settle(self, num_deformations=COUNT)

    @without_autocast()
    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        model = unwrapped(passed.model)
        images, deformed = self._worst_pairs(model, passed.images)
        loss = own_changes(model, images, deformed).square().sum()
        return LossTerms(loss, {"deformation_stability": loss.detach()})

    @override
    def extra_repr(self) -> str:
        return f"{self.deform}, num_deformations={self.num_deformations}"

    @torch.no_grad()
    def _worst_pairs(self, model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        """For each class the image whose logit changes most, and its deformation, (classes, …) each."""
        with eval_mode(model):
            reference = logits_of(model, images)
            largest = reference.new_full((reference.shape[1],), -math.inf)
            index = largest.new_zeros(largest.shape, dtype=torch.int64)
            worst = images[index]
            for _ in range(self.num_deformations):
                deformed = self.deform(images)
                change, candidate = (model(deformed) - reference).square().max(dim=0)
                is_larger = (change > largest) | change.isnan()  # which must show in the loss
                largest = torch.where(is_larger, change, largest)
                index = torch.where(is_larger, candidate, index)
                worst = torch.where(is_larger[:, None, None, None], deformed[candidate], worst)
            pairs = largest_of_all(largest[:, None], images[index][:, None], worst[:, None])
        return pairs[0].squeeze(1), pairs[1].squeeze(1)
