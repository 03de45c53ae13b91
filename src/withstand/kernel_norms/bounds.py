"""All bounds of one model side by side, held against each other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand import bayes
from withstand.checks import check_batch
from withstand.exact import batch_size_for, exact_copy, require_independence
from withstand.kernel_norms.lower import KernelNormSettings, deformed, perturbed, slopes
from withstand.kernel_norms.upper import spectral_bound
from withstand.numerics import numerics
from withstand.spectral import Dense, GuaranteedNorms, LinearOperator, Shape, places, weights
from withstand.types import CertificateError, DataError, ModelError

_TOLERANCE = 1e-6  # relative, for rounding
_NUM_PROBES = 4


class ClassBounds(NamedTuple):
    """Bounds of the l2 Lipschitz constant of one class logit, in logits a unit of l2 distance.

    Attributes:
        name: Of the class.
        gradient: From below: the largest gradient norm at an example.
        perturbation: From below: the steepest rise to a point within epsilon of an example.
        deformation: From below: the steepest change by a deformation; None where none was tried.
        deformation_change: The largest plain change of the logit by a deformation, in logits.
        spectral: From above; None where there is no bound.
    """

    name: str
    gradient: float
    perturbation: float
    deformation: float | None
    deformation_change: float | None
    spectral: float | None

    @property
    def lower(self) -> float:
        """The largest of the lower bounds."""
        return max(self.gradient, self.perturbation, self.deformation or 0.0)


class LayerNorms(NamedTuple):
    """Two norms of a layer's weight, each bounded from above; None where there is no finite bound.

    Attributes:
        name: Where the layer stands in the model, such as ``layers.0``.
        kernel_norm: Of the weight reshaped to (outputs, inputs times taps), as arXiv 1810.00363 takes
            it, to 1e-6. Of a convolution this says little of how far it can stretch.
        operator_norm: Of the linear map itself, at its true input size and stride; None
            of all layers where one has no such bound.
    """

    name: str
    kernel_norm: float | None
    operator_norm: float | None


@dataclass(frozen=True)
class KernelNormBounds:
    """What was found of a model.

    Attributes:
        num_examples: How many examples were looked at.
        classes: One entry a class logit.
        layers: One entry a linear or convolutional layer.
        reason: Why there is no spectral bound; None where there is.
    """

    num_examples: int
    classes: Sequence[ClassBounds]
    layers: Sequence[LayerNorms]
    reason: str | None


def kernel_norm_bounds(
    model: nn.Module,
    images: Tensor,
    settings: KernelNormSettings | None = None,
    *,
    class_names: Sequence[str] | None = None,
    seed: int = 0,
) -> KernelNormBounds:
    """Bounds each class logit's l2 Lipschitz constant from below and from above.

    Lower bounds are reached at and near the images; the upper bound holds everywhere. The Lipschitz
    constant is at most the norm in the Hilbert space of a kernel whose mapping does not expand, of
    which a network is taken to be (nearly) a member (Bietti et al., arXiv 1810.00363, sections 2-3);
    so the lower bounds are those of that norm, too.

    All is computed of a float64 copy in eval mode; the model stays as it was.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        images: Float tensor (batch, …) in [0, 1], at least one, on the model's device; the first
            ``settings.num_examples`` count. Those that are not (batch, channels, height, width) are
            not deformed.
        settings: How hard to seek; the defaults where None.
        class_names: One a class, for people to read; numbers where None.
        seed: Of the deformations.

    Returns:
        The bounds of each class and layer.

    Raises:
        DataError: the images are not a batch of at least one, in [0, 1].
        ModelError: the model cannot be copied, or is no function of one image.
        CertificateError: a lower bound is above the upper one, so that one of them is wrong.
    """
    bayes.require_certain(model, to="bound its kernel norms")
    settings = settings or KernelNormSettings()
    images = images[: settings.num_examples]
    if len(images) < 1:
        raise DataError("Kernel norms need at least one image, but got none.")
    check_batch(images, torch.zeros(len(images), dtype=torch.int64, device=images.device))
    with torch.inference_mode(False), torch.no_grad(), numerics("fp32"):
        exact = exact_copy(model)
        require_independence(exact, images[:_NUM_PROBES].double())
        lower = _lower(exact, images.clone(), settings, seed)
        upper = spectral_bound(exact, images[:1].double())
        layers = layer_norms(exact, images[:1].double())
    names = class_names or [str(index) for index in range(len(lower.gradient))]
    above: Sequence[float | None] = upper.values or [None] * len(names)
    classes = [ClassBounds(*each) for each in zip(names, *lower, above, strict=True)]
    require_bounded(classes)
    return KernelNormBounds(len(images), classes, layers, upper.reason)


class _Lower(NamedTuple):
    """The lower bounds, one number a class each."""

    gradient: Sequence[float]
    perturbation: Sequence[float]
    deformation: Sequence[float | None]
    deformation_change: Sequence[float | None]


def _lower(model: nn.Module, images: Tensor, settings: KernelNormSettings, seed: int) -> _Lower:
    size = batch_size_for(model)
    at = slopes(model, images, size)
    gradient = at.lengths.amax(dim=0).tolist()
    perturbation = perturbed(model, images, at, settings, size).tolist()
    if images.dim() != 4 or not settings.num_deformations:
        nothing: list[float | None] = [None] * len(gradient)
        return _Lower(gradient, perturbation, nothing, nothing)
    moved = deformed(model, images, at.logits, settings, size, seed=seed)
    return _Lower(gradient, perturbation, moved.slopes.tolist(), moved.changes.tolist())


def require_bounded(classes: Sequence[ClassBounds]) -> None:
    """Refuses bounds that contradict each other.

    Args:
        classes: The bounds of each class.

    Raises:
        CertificateError: a lower bound is above the upper one, by more than rounding.
    """
    for each in classes:
        if each.spectral is not None and each.lower > each.spectral * (1 + _TOLERANCE):
            raise CertificateError(
                f"The bounds of class {each.name} contradict each other: its logit was seen to change by "
                f"{each.lower:.9g} a unit of l2 distance (gradient {each.gradient:.9g}, perturbation "
                f"{each.perturbation:.9g}, deformation {each.deformation}), but the spectral upper bound is "
                f"{each.spectral:.9g}. A rule of your own that bounds an operation too tightly does this; "
                "if there is none, please report it."
            )


def layer_norms(model: nn.Module, image: Tensor) -> list[LayerNorms]:
    """Both norms of each linear layer and each convolution, in order; none where there are no such layers.

    Args:
        model: A float64 model in eval mode.
        image: Tensor (1, …), one of its inputs; it tells the size of each layer's.
    """
    try:
        found = weights(model)
    except ModelError:
        return []
    try:
        known = places(model, image)
    except ModelError:
        return [LayerNorms(each.name, _kernel_norm(each.matrix, each.name), None) for each in found]
    return [
        LayerNorms(
            each.name,
            _kernel_norm(each.weight.matrix, each.name),
            _norm(each.operator, each.input_shape, each.name),
        )
        for each in known
    ]


def _kernel_norm(matrix: Tensor, name: str) -> float | None:
    return _norm(Dense(matrix), (matrix.shape[1],), name)


def _norm(operator: LinearOperator, input_shape: Shape, name: str) -> float | None:
    bound = float(GuaranteedNorms().of(operator, input_shape, name))
    return bound if math.isfinite(bound) else None
