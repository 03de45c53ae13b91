"""Penalties on gradients of the logits and of the loss, and on the logits' slopes along deformations."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.core import norms
from withstand.core.batch_shares import largest_of_all
from withstand.core.norms import as_norm
from withstand.core.numerics import without_autocast
from withstand.core.setting_rules import AT_LEAST_0, COUNT, settle
from withstand.data.deform import Deform
from withstand.loss.passes import Differentiable, Pass
from withstand.penalties.classwise import GradientPenalty, class_gradients, gradient, own_gradients
from withstand.types import LossTerms


class InputGradient(GradientPenalty):
    """The sum over classes k of the largest ‖∇ₓ f_k(x_i)‖₂² in the batch, for logits f.

    A lower bound of the squared norms of the logits in the function space of a kernel (Bietti et al.,
    ICML 2019, arXiv 1810.00363, ‖∇f‖²); a gradient is in logits per unit of l2 distance between images
    in [0, 1]. The model is differentiated in eval mode.

    The maximum is over the batch, so larger batches give larger penalties, and the gradient with respect
    to the weights comes from one image a class.
    """

    @without_autocast()
    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        pass_ = passed.differentiable
        lengths = torch.stack([norms.norm(gradients, 2.0) for gradients in class_gradients(pass_)])
        largest, index = lengths.max(dim=1, keepdim=True)
        (worst,) = largest_of_all(largest, pass_.images.detach()[index])
        worst = worst.squeeze(1)
        loss = own_gradients(pass_.model, worst).square().sum()
        return LossTerms(loss, {"input_gradient": loss.detach()})


class LossGradient(GradientPenalty):
    """The mean over the batch of ‖∇ₓ ℓ(x_i, y_i)‖₂² or of ‖∇ₓ ℓ(x_i, y_i)‖₁, for cross-entropy ℓ.

    Also called double backpropagation (l2), and to first order adversarial training (l1); Bietti et al.,
    ICML 2019, arXiv 1810.00363, grad-l2 and grad-l1. The gradient is in nats per unit of distance between
    images in [0, 1]. The model is differentiated in eval mode.

    Args:
        norm: 2, which is squared, or 1, which is not.

    Raises:
        ValueError: the norm is neither.
    """

    def __init__(self, norm: Literal[1, 2] = 2) -> None:
        super().__init__()
        if (number := as_norm(norm)) == math.inf:
            raise ValueError(f"Expected a norm of 1 or 2, but got {norm}.")
        self.norm = int(number)  # its name is the same for 2.0

    @without_autocast()
    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        gradients = _loss_gradients(passed.differentiable, labels)
        # Not the square of the norm, whose derivative at 0 is none.
        sizes = gradients.flatten(1).square().sum(dim=1) if self.norm == 2 else norms.norm(gradients, 1.0)
        loss = sizes.mean()
        return LossTerms(loss, {f"loss_gradient_l{self.norm}": loss.detach()})

    @override
    def extra_repr(self) -> str:
        return f"norm={self.norm}"


class GradientAlignment(GradientPenalty):
    """The mean over the batch of 1 - cos(∇ₓ ℓ(x_i, y_i), ∇ₓ ℓ(x_i + η_i, y_i)), for cross-entropy ℓ.

    η_i is uniform in the ball of ``epsilon`` (Andriushchenko and Flammarion, "Understanding and improving
    fast adversarial training", NeurIPS 2020, eq. 5). Added to adversarial training of a single step it keeps
    the loss close to linear in that ball; without that such a step comes to find nothing (catastrophic
    overfitting). It lies in [0, 2]. An example whose loss has no gradient, or one too small for a direction,
    counts 0; the published code leaves it out of the mean. The model is differentiated in eval mode.

    Args:
        epsilon: Radius of the ball, in [0, 1] units, at least 0; that of the attack.
        norm: Of the ball: 1, 2 or inf.

    Raises:
        ValueError: a setting is out of its range.
    """

    def __init__(self, epsilon: float = 8 / 255, *, norm: float = math.inf) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.norm = norm
        settle(self, epsilon=AT_LEAST_0, norm=norms.norm_rule)

    @without_autocast()
    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        pass_ = passed.differentiable
        images = pass_.images.detach()
        norms.warn_beyond_range(self.norm, self.epsilon, images.shape[1:].numel())
        moved = images + norms.random_in_ball(images, self.norm, self.epsilon)
        here, there = (
            _loss_gradients(each, labels) for each in (pass_, Differentiable.of(pass_.model, moved))
        )
        loss = _misalignments(here.flatten(1), there.flatten(1)).mean()
        return LossTerms(loss, {"gradient_alignment": loss.detach()})

    @override
    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon:g}, norm={self.norm:g}"


class TangentGradient(GradientPenalty):
    """The sum over classes k of the largest Σ_j <∇ₓ f_k(x_i), t_ij>² in the batch, for logits f.

    t_ij are ``num_tangents`` random tangent images of image i: how its pixels begin to change as it is
    deformed (``data.Deform.tangents``). So each inner product is the derivative at a = 0 of
    f_k(x_i + a t_ij) (Bietti et al., ICML 2019, arXiv 1810.00363, ‖D_τ f‖²), in logits per deformation of
    the full stated size. The model is differentiated in eval mode.

    The maximum is over the batch, so larger batches give larger penalties, and the gradient with respect
    to the weights comes from one image a class.

    Args:
        deform: Which deformations; ``Deform()`` where None.
        num_tangents: Of each image.

    Raises:
        ValueError: there are no tangents.
    """

    def __init__(self, deform: Deform | None = None, *, num_tangents: int = 30) -> None:
        super().__init__()
        self.deform = Deform() if deform is None else deform
        self.num_tangents = num_tangents
        settle(self, num_tangents=COUNT)

    @without_autocast()
    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        pass_ = passed.differentiable
        images = pass_.images.detach()
        tangents = self.deform.tangents(images, self.num_tangents)
        slopes = [_slopes(gradients, tangents) for gradients in class_gradients(pass_)]
        largest, index = torch.stack(slopes).square().sum(dim=2).max(dim=1, keepdim=True)
        worst = largest_of_all(largest, images[index], tangents[index])
        worst_images, along = (part.squeeze(1) for part in worst)
        loss = _slopes(own_gradients(pass_.model, worst_images), along).square().sum()
        return LossTerms(loss, {"tangent_gradient": loss.detach()})

    @override
    def extra_repr(self) -> str:
        return f"{self.deform}, num_tangents={self.num_tangents}"


def _loss_gradients(pass_: Differentiable, labels: Tensor) -> Tensor:
    """The gradient of each example's cross-entropy with respect to its image, (batch, …)."""
    with torch.enable_grad():
        # Not the mean, of which each example's gradient would be only a share.
        total = F.cross_entropy(pass_.logits, labels, reduction="sum")
    return gradient(total, pass_.images)


def _misalignments(first: Tensor, second: Tensor) -> Tensor:
    """1 - cos of the angle between rows (batch, n); 0 where one of them has no direction.

    A length below the root of the smallest number counts as none: its derivatives would overflow.
    """
    least = torch.finfo(first.dtype).tiny ** 0.5
    lengths = [norms.norm(rows, 2.0) for rows in (first, second)]
    has_direction = ~((lengths[0] <= least) | (lengths[1] <= least))  # NaN is not hidden
    # Not only the quotient is replaced: the gradient of one by 0 is NaN, whatever it is multiplied with.
    units = [
        rows / length.where(has_direction, 1.0)[:, None]
        for rows, length in zip((first, second), lengths, strict=True)
    ]
    return (1 - (units[0] * units[1]).sum(dim=1)).where(has_direction, 0.0)


def _slopes(gradients: Tensor, tangents: Tensor) -> Tensor:
    """Derivatives along tangents, (batch, tangents)."""
    return torch.einsum("np,njp->nj", gradients.flatten(1), tangents.flatten(2))
