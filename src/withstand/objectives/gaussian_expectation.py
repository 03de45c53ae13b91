"""Training for Gaussian noise without drawing any: the analytic moment regulariser."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize
from typing_extensions import override

from withstand.core.answers import is_correct
from withstand.core.modes import eval_mode
from withstand.core.noise import one_or_a_channel
from withstand.core.numerics import without_autocast
from withstand.core.schedules import Schedule, scheduled, value_at
from withstand.core.setting_rules import AT_LEAST_0, settle
from withstand.core.wrappers import unwrapped
from withstand.domains import Program, ProgramCache
from withstand.loss.passes import Pass
from withstand.loss.terms import OnePass
from withstand.objectives.cross_entropy import noise_at
from withstand.objectives.first_activation import FirstActivation
from withstand.objectives.propagation import Propagation
from withstand.types import LossTerms


class GaussianExpectation(OnePass):
    """The cross-entropy of the images, and ``weight`` times that expected under Gaussian noise.

    The expectation loss of Alfadly, Bibi, Ghanem, arXiv 1904.11005, in pixel units, with BatchNorm
    statistics of the images without noise alone. Nothing is drawn at random, unless the propagation asks
    for random factors. As long as the weight is 0 this is ``CrossEntropy``.

    Args:
        noise_std: Of the noise at each pixel, in [0, 1] units: one for all channels (a float or a
            schedule), or one a channel.
        weight: Of the expected loss (published: beta); a float or a schedule.
        clean_weight: Of the loss of the images as they are (published: alpha).
        blur: Width in pixels of the filter through which the noise is seen; 0 leaves it white.
        propagation: How the noise gets to the logits: ``FirstActivation``, the published form, where
            None; or ``EveryLayer``.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(
        self,
        noise_std: float | Sequence[float] | Schedule,
        weight: float | Schedule = 1.0,
        *,
        clean_weight: float | Schedule = 1.0,
        blur: float = 0.0,
        propagation: Propagation | None = None,
    ) -> None:
        super().__init__()
        self.noise_std = noise_std
        self.weight = weight
        self.clean_weight = clean_weight
        self.blur = blur
        settle(
            self,
            noise_std=one_or_a_channel,
            weight=scheduled(AT_LEAST_0),
            clean_weight=scheduled(AT_LEAST_0),
            blur=AT_LEAST_0,
        )
        self.propagation = FirstActivation() if propagation is None else propagation
        self._programs = ProgramCache()
        self._resting: tuple[Program, Program] | None = None

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        images, weight = passed.images, value_at(self.weight, progress)
        if weight == 0:
            logits, expected = passed.logits, None
        else:
            noise = noise_at(self.noise_std, self.blur, progress)
            with without_autocast():
                program = self._program_of(passed.model, images)
                with (
                    parametrize.cached()
                ):  # what spectral normalisation makes of a weight is the same for both
                    logits, expected = self.propagation(program, images, noise, labels)
        clean = F.cross_entropy(logits, labels)
        loss = value_at(self.clean_weight, progress) * clean
        terms = {
            "cross_entropy": clean.detach(),
            "accuracy": is_correct(logits, labels).float().mean(),
        }
        if expected is not None:
            loss, terms["expectation"] = loss + weight * expected, expected.detach()
        return LossTerms(loss, terms)

    def _program_of(self, model: nn.Module, images: Tensor) -> Program:
        """Whose steps are compared with the model now and then; at rest, since no two dropouts are alike."""
        program, original = self._programs.of(model, images), unwrapped(model)
        if self._resting is None or self._resting[0] is not program:
            with eval_mode(original):
                is_same = program.fits(original, images)
                self._resting = program, program if is_same else ProgramCache().of(original, images)
        with eval_mode(original):
            self.propagation.verify_capture(self._resting[1], images)
        return program

    def __getstate__(self) -> dict[str, Any]:
        # A copy begins anew: the program holds the model, which is not to be copied with an objective.
        return {**vars(self), "_resting": None}

    @override
    def extra_repr(self) -> str:
        return (
            f"noise_std={self.noise_std}, weight={self.weight}, clean_weight={self.clean_weight}, "
            f"blur={self.blur:g}, propagation={self.propagation}"
        )
