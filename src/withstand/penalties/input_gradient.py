"""The largest gradients of the logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from typing_extensions import override

from withstand import norms
from withstand.passes import Pass
from withstand.penalties.classwise import GradientPenalty, class_gradients, own_gradients
from withstand.types import LossTerms


class InputGradient(GradientPenalty):
    """The sum over classes k of the largest ‖∇ₓ f_k(x_i)‖₂² in the batch, for logits f.

    A lower bound of the squared norms of the logits in the function space of a kernel (Bietti et al.,
    ICML 2019, arXiv 1810.00363, ‖∇f‖²); a gradient is in logits per unit of l2 distance between images
    in [0, 1]. The model is differentiated in eval mode.

    The maximum is over the batch, so larger batches give larger penalties, and the gradient with respect
    to the weights comes from one image a class.
    """

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        pass_ = passed.differentiable
        lengths = torch.stack([norms.norm(gradients, 2.0) for gradients in class_gradients(pass_)])
        worst = pass_.images.detach()[lengths.argmax(dim=1)]
        loss = own_gradients(pass_.model, worst).square().sum()
        return LossTerms(loss, {"input_gradient": loss.detach()})
