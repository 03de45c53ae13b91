"""The largest derivatives of the logits along deformations."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from withstand.checks import require_at_least
from withstand.data.deform import Deform
from withstand.passes import Pass
from withstand.penalties.classwise import GradientPenalty, class_gradients, own_gradients
from withstand.types import LossTerms


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
        require_at_least(1, num_tangents=num_tangents)
        self.deform = Deform() if deform is None else deform
        self.num_tangents = num_tangents

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        pass_ = passed.differentiable
        images = pass_.images.detach()
        tangents = self.deform.tangents(images, self.num_tangents)
        slopes = [_slopes(gradients, tangents) for gradients in class_gradients(pass_)]
        index = torch.stack(slopes).square().sum(dim=2).argmax(dim=1)
        loss = _slopes(own_gradients(pass_.model, images[index]), tangents[index]).square().sum()
        return LossTerms(loss, {"tangent_gradient": loss.detach()})

    @override
    def extra_repr(self) -> str:
        return f"{self.deform}, num_tangents={self.num_tangents}"


def _slopes(gradients: Tensor, tangents: Tensor) -> Tensor:
    """Derivatives along tangents, (batch, tangents)."""
    return torch.einsum("np,njp->nj", gradients.flatten(1), tangents.flatten(2))
