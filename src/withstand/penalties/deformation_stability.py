"""The largest changes of the logits under deformations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.checks import require_at_least
from withstand.compiled import uncompiled
from withstand.data.deform import Deform
from withstand.modes import eval_mode
from withstand.passes import Pass, logits_of
from withstand.penalties.classwise import own_changes
from withstand.terms import OnePass, Penalty
from withstand.types import LossTerms


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
        require_at_least(1, num_deformations=num_deformations)
        self.deform = Deform() if deform is None else deform
        self.num_deformations = num_deformations

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        model = uncompiled(passed.model)
        images, deformed = self._worst_pairs(model, passed.given)
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
        return images[index], worst
