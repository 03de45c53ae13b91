"""Penalties on the spectral norms of a model's weights, of random ones on what they are expected to be."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import bayes
from withstand.core.numerics import without_autocast
from withstand.loss.passes import Pass
from withstand.loss.terms import OnePass, Penalty
from withstand.operators import Dense, LayerInputCache, Place, PowerIteration, weights
from withstand.operators.clipping import as_wide, by_side, upper_gram
from withstand.types import LossTerms, ModelError


class SpectralNorm(OnePass, Penalty):
    """The sum over layers of the square of the weight's largest singular value σ.

    Of all weights that ``spectral.weights`` finds, whatever their biases and normalisation; a weight
    that several layers share counts once, and what else might be one is named in a warning. The gradient
    is that of (uᵀ W v)² with the singular vectors u and v held (arXiv 1810.00363, its penalty on spectral
    norms). No image enters its value.

    Args:
        form: "kernel" takes each weight as a matrix (out, in · taps), as published; that is no
            Lipschitz constant of a convolution, which may stretch more or less. "operator" takes the
            true operator of each convolution at the size that it meets, once for each size.
        num_power_iterations: Iterations a step from the vectors of the last step, which are stored; the
            first step makes at least 20. None takes exact singular vectors of the kernel form, for which
            each step waits for an accelerator.

    Raises:
        ValueError: the form is unknown, there are no iterations, or the exact vectors of the operator
            form are asked for.
    """

    def __init__(
        self, form: Literal["kernel", "operator"] = "kernel", num_power_iterations: int | None = 2
    ) -> None:
        super().__init__()
        if form not in ("kernel", "operator"):
            raise ValueError(f'Expected the form "kernel" or "operator", but got {form!r}.')
        if form == "operator" and num_power_iterations is None:
            raise ValueError(
                "Exact singular vectors are those of the kernel form; "
                "give num_power_iterations, such as 2, to the operator form."
            )
        self.form = form
        self.norms = None if num_power_iterations is None else PowerIteration(num_power_iterations)
        self._places = LayerInputCache()

    @without_autocast()
    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        loss = torch.stack(self._singular_values(passed.model, passed.images)).square().sum()
        return LossTerms(loss, {"spectral_norm": loss.detach()})

    def _singular_values(self, model: nn.Module, images: Tensor) -> list[Tensor]:
        if self.norms is None:
            return _largest([_precise(weight.matrix) for weight in weights(model)])
        if self.form == "kernel":
            matrices = {weight.name: _precise(weight.matrix) for weight in weights(model)}
            return [self.norms.of(Dense(matrix), matrix.shape[1:], name) for name, matrix in matrices.items()]
        return [
            self.norms.of(place.operator.entrywise(_precise), place.input_shape, place.name)
            for place in self._places.of(model, images)
        ]

    @override
    def extra_repr(self) -> str:
        return f"form={self.form!r}" + ("" if self.norms else ", exact")


def _precise(weight: Tensor) -> Tensor:
    return weight if weight.dtype in (torch.float32, torch.float64) else weight.float()


def _largest(matrices: Sequence[Tensor]) -> list[Tensor]:
    """The largest singular value of each matrix: uᵀ W v, with exact u and v held."""
    left: dict[int, Tensor] = {}
    with torch.no_grad():
        wide = [as_wide(matrix) for matrix in matrices]
        for numbers in by_side(wide, range(len(wide))):
            # The decomposition refuses NaN, which must show in the loss instead.
            grams = torch.stack([upper_gram(wide[number]) for number in numbers]).nan_to_num(0, 0, 0)
            leading = torch.linalg.eigh(grams, UPLO="U").eigenvectors[..., -1]
            left.update(zip(numbers, leading, strict=True))
        lefts = [left[number].to(matrix) for number, matrix in enumerate(wide)]
        rights = [
            nn.functional.normalize(matrix.mT @ u, dim=0, eps=torch.finfo(u.dtype).tiny)
            for matrix, u in zip(wide, lefts, strict=True)
        ]
    values = []
    for matrix, across, u, v in zip(matrices, wide, lefts, rights, strict=True):
        rows, columns = (u, v) if across is matrix else (v, u)
        values.append(rows @ matrix @ columns)
    return values


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
        num_power_iterations: Iterations a step from the vectors of the last step, which are stored; the first
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
        self._places = LayerInputCache(bayes.is_variational)

    @without_autocast()
    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        with bayes.sharing_deviations(passed.model, passed.shared(bayes.Deviations, bayes.Deviations)):
            surrogates = torch.stack([self._surrogate(*layer) for layer in self._layers(passed)])
        loss = surrogates.square().sum() / 2 if self.squared else surrogates.sum()
        return LossTerms(loss, {"spectral_expectation": loss.detach()})

    def _layers(self, passed: Pass) -> Sequence[tuple[Place, bayes.VariationalLayer]]:
        with bayes.at_posterior_mean(passed.model):  # where they are not known yet, the model runs
            places = self._places.of(passed.model, passed.images)
        layers = [
            (place, place.weight.layer)
            for place in places
            if isinstance(place.weight.layer, bayes.VariationalLayer)
        ]
        if not layers:
            raise ModelError(
                "SpectralExpectation is for random weights, and no linear layer or convolution of "
                f"{type(passed.model).__name__} has any. Make them by withstand.bayes.convert(model), by "
                "model.bayes={} in a recipe, or take SpectralNorm."
            )
        return layers[-1:] if self.last_only else layers

    def _surrogate(self, place: Place, layer: bayes.VariationalLayer) -> Tensor:
        stds = place.operator_of(layer.std(place.weight.parameter))
        norm = self.norms.of(place.operator, place.input_shape, place.name)
        return norm + bayes.fluctuation(stds, place.input_shape)

    @override
    def extra_repr(self) -> str:
        return f"squared={self.squared}, last_only={self.last_only}"
