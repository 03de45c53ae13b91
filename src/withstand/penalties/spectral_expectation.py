"""The penalty of SEBR: a surrogate of the expected spectral norm of each random weight."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from typing_extensions import override

from withstand import bayes
from withstand.passes import Pass
from withstand.spectral import KeptPlaces, Place, PowerIteration
from withstand.terms import OnePass, Penalty
from withstand.types import LossTerms, ModelError


class SpectralExpectation(OnePass, Penalty):
    """Half the sum over layers of L², with L the surrogate of E ||W||; or the sum of L.

    L is the spectral norm of the mean plus ``bayes.fluctuation``, the published bound with its unknown
    constant set to 1: an estimate, no bound (Zhang et al., CVPR 2021, eq. 16). It is taken of all random
    linear layers and convolutions, of the latter at the size that they meet; scale and shift of
    normalisation layers have none. Published for MNIST are the squares of all layers, with weight 0.02
    beside the evidence lower bound an example; for CIFAR the plain L of the last layer with weight 0.1. No
    image enters its value.

    Args:
        squared: Half the sum of squares, else the sum.
        last_only: Of the last random layer alone, in the order of the model's modules.
        num_power_iterations: Iterations a step from the vectors of the last step, which are kept; the first
            step makes at least 20. The published ten begin anew each time, and fall short of the norm.

    Raises:
        ValueError: there are no iterations.
    """

    def __init__(
        self, *, squared: bool = True, last_only: bool = False, num_power_iterations: int = 2
    ) -> None:
        super().__init__()
        self.squared = squared
        self.last_only = last_only
        self.norms = PowerIteration(num_power_iterations)
        self._places = KeptPlaces(bayes.is_variational)

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        with (
            torch.autocast(passed.given.device.type, enabled=False),
            bayes.sharing_deviations(passed.model, passed.kept(bayes.Deviations, bayes.Deviations)),
        ):
            each = torch.stack([self._surrogate(*found) for found in self._layers(passed)])
        loss = each.square().sum() / 2 if self.squared else each.sum()
        return LossTerms(loss, {"spectral_expectation": loss.detach()})

    def _layers(self, passed: Pass) -> Sequence[tuple[Place, bayes.VariationalLayer]]:
        with bayes.at_means(passed.model):  # where they are not known yet, the model runs
            places = self._places.of(passed.model, passed.given)
        found = [
            (place, place.weight.layer)
            for place in places
            if isinstance(place.weight.layer, bayes.VariationalLayer)
        ]
        if not found:
            raise ModelError(
                "SpectralExpectation is for random weights, and no linear layer or convolution of "
                f"{type(passed.model).__name__} has any. Make them by withstand.bayes.convert(model), by "
                "model.bayes={} in a recipe, or take SpectralNorm."
            )
        return found[-1:] if self.last_only else found

    def _surrogate(self, place: Place, layer: bayes.VariationalLayer) -> Tensor:
        mean = place.operator
        stds = replace(mean, weight=layer.std("weight"))
        return self.norms.of(mean, place.input_shape, place.name) + bayes.fluctuation(stds, place.input_shape)

    @override
    def extra_repr(self) -> str:
        return f"squared={self.squared}, last_only={self.last_only}"
