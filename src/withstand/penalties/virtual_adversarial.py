"""How far an answer can be pushed, whatever the label."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.core import norms
from withstand.core.batch_shares import filled
from withstand.core.modes import eval_mode
from withstand.core.numerics import without_autocast
from withstand.core.setting_rules import AT_LEAST_0, COUNT, settle
from withstand.loss.passes import Differentiable, Pass
from withstand.penalties.classwise import GradientPenalty, gradient
from withstand.types import LossTerms


class VirtualAdversarial(GradientPenalty):
    """The mean over the batch of KL(p(x_i) ‖ p(x_i + δ_i)), where ‖δ_i‖₂ = epsilon changes p the most.

    Miyato et al., "Virtual adversarial training" (TPAMI 2018). To second order the worst direction is the
    first eigenvector of Jᵀ F J, for the Jacobian J of the logits and F = diag(p) - p pᵀ. Power iteration
    finds it from a random start, by products with that matrix itself, where the original takes
    differences of gradients at a distance xi, which in single precision are mostly rounding. The model is
    in eval mode; p(x_i) is held.

    Args:
        epsilon: Length of the perturbation, in [0, 1] units, at least 0.
        num_power_iterations: At least 1.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, epsilon: float = 1.0, *, num_power_iterations: int = 1) -> None:
        super().__init__()
        self.epsilon = epsilon
        self.num_power_iterations = num_power_iterations
        settle(self, epsilon=AT_LEAST_0, num_power_iterations=COUNT)

    @without_autocast()
    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        norms.warn_beyond_range(2.0, self.epsilon, passed.images.shape[1:].numel())
        pass_ = passed.differentiable
        direction = norms.steepest(filled(pass_.images.detach(), Tensor.normal_), 2.0)
        for _ in range(self.num_power_iterations):
            direction = norms.steepest(_curvature(pass_, direction), 2.0)
        perturbed = pass_.images.detach() + self.epsilon * direction
        with torch.enable_grad(), eval_mode(pass_.model):
            answers = pass_.model(perturbed).log_softmax(dim=1)
        own = pass_.logits.detach().log_softmax(dim=1)
        loss = F.kl_div(answers, own, reduction="batchmean", log_target=True)
        return LossTerms(loss, {"virtual_adversarial": loss.detach()})

    @override
    def extra_repr(self) -> str:
        return f"epsilon={self.epsilon:g}, num_power_iterations={self.num_power_iterations}"


def _curvature(pass_: Differentiable, direction: Tensor) -> Tensor:
    """Jᵀ F J d for each example: the Hessian at 0 of δ -> KL(p(x) ‖ p(x + δ)), times a direction.

    Args:
        pass_: Images (batch, …) and logits (batch, classes).
        direction: d, tensor of the shape of the images.
    """
    if not pass_.logits.requires_grad:
        return torch.zeros_like(direction)
    with torch.enable_grad():
        weights = torch.zeros_like(pass_.logits, requires_grad=True)
        # Jᵀ w is linear in w, so its derivative along d is J d.
        pulled = gradient((pass_.logits * weights).sum(), pass_.images)
        pushed = gradient((pulled * direction).sum(), weights).detach()
        shares = pass_.logits.detach().softmax(dim=1)
        metric = shares * (pushed - (shares * pushed).sum(dim=1, keepdim=True))
        return gradient((pass_.logits * metric).sum(), pass_.images).detach()
