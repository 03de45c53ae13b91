"""All bounds of one model side by side, held against each other.

The upper bound is a ball taken through the network with guaranteed operator norms.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from withstand import bayes
from withstand.core.checks import as_images, check_images
from withstand.core.contract import adapted, require_module
from withstand.core.float64_copy import batch_size_for, float64_copy, require_independence
from withstand.core.numerics import numerics
from withstand.domains import Ball, ProgramCache
from withstand.evaluation.kernel_norms.lower import KernelNormSettings, deformed, perturbed, slopes
from withstand.operators import (
    Dense,
    GuaranteedNorms,
    LinearOperator,
    OperatorNorms,
    Shape,
    places,
    weights,
)
from withstand.results.analytic import KernelNormsOf, KernelNormsOfLayer
from withstand.types import CertificateError, DataError, ModelError

# So large that steps of activations do not count beside them, and not all alike: what grows as their square
# has no Lipschitz constant.
_RADII = (0.0, 2.0**40, 2.0**40, 2.0**42)
_JUMP = 1e-6  # how far features may be thrown by such steps
_SAME = 1e-9  # relative, between radii at several places


class SpectralBound(NamedTuple):
    """Bounds of each logit by guaranteed operator norms.

    Attributes:
        values: One a class: at least the logit's l2 Lipschitz constant. None where there is no bound.
        reason: Why there is none.
    """

    values: Sequence[float] | None
    reason: str | None


def spectral_bound(model: nn.Module, image: Tensor, norms: OperatorNorms | None = None) -> SpectralBound:
    """An upper bound of each logit's l2 Lipschitz constant, over all inputs whatever.

    A ball's radius is multiplied by each layer's norm and steepest slope, wherever its center is, so
    that the quotient of radii after and before bounds the Lipschitz constant of the features; the norm
    of a logit's weights then gives that of the logit. A rule of the user's own may know the place, so
    balls at several places are taken through. One of them has no extent: it tells whether activations
    jump (torch's Softplus does, by 2e-9, which counts for nothing).

    Args:
        model: A float64 model in eval mode.
        image: Float64 tensor (1, …) in [0, 1].
        norms: Where operator norms come from; the tightest guaranteed ones where None.
    """
    try:
        with torch.no_grad():
            program = ProgramCache().of(model, image)
            last = program.run_to_last_layer(wide_ball(image), norms or GuaranteedNorms())
        if not isinstance(last.features, Ball):
            return SpectralBound(None, "A rule of the model's operations makes something else of a ball.")
        factor = growth(last.features.radius)
    except ModelError as error:
        return SpectralBound(None, str(error))
    lengths = torch.linalg.vector_norm(last.weight, dim=1)
    values = (lengths * factor).tolist()
    if not all(map(math.isfinite, values)):
        return SpectralBound(
            None, "The product of the operator norms is not finite: weights are NaN, infinite or too large."
        )
    return SpectralBound(values, None)


def wide_ball(image: Tensor) -> Ball:
    """Balls at several places; the first one has no extent, the others are wide.

    Args:
        image: Float64 tensor (1, …).
    """
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    centers = torch.cat([image, image, 1 - image, 10 * noise.to(image)])
    radii = torch.tensor(_RADII, dtype=image.dtype, device=image.device)
    return Ball(centers, radii)


def growth(radius: Tensor) -> float:
    """The factor by which balls grew, at whatever place: a Lipschitz constant.

    Args:
        radius: Of what became of ``wide_ball``, tensor (4,) or (1,).

    Raises:
        ModelError: they grew by other factors elsewhere, or what had no extent has some.
    """
    jump, *reached = radius.expand(4).tolist()
    factors: list[float] = [
        (reach - jump) / radius for reach, radius in zip(reached, _RADII[1:], strict=True)
    ]
    least, most = min(factors), max(factors)
    if jump > _JUMP * max(1.0, most):
        raise ModelError("An activation of the model jumps, so it has no Lipschitz constant.")
    if most - least > _SAME * most:
        raise ModelError(
            "A rule of the model's operations bounds it near an image only, since its ball grows by another "
            "factor at another image; that is no Lipschitz constant."
        )
    return most


_TOLERANCE = 1e-6  # relative, for rounding
_NUM_PROBES = 4


@dataclass(frozen=True)
class KernelNormBounds:
    """All bounds of a model.

    Attributes:
        num_examples: How many examples were looked at.
        classes: One entry a class logit.
        layers: One entry a linear or convolutional layer.
        reason: Why there is no spectral bound; None where there is.
        num_unknown: Of the examples, those whose logits or gradients are NaN or infinite, and bound nothing.
    """

    num_examples: int
    classes: list[KernelNormsOf]
    layers: list[KernelNormsOfLayer]
    reason: str | None
    num_unknown: int = 0


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
    require_module(model)
    bayes.require_certain(model, to="bound its kernel norms")
    settings = settings or KernelNormSettings()
    images = as_images(images)[: settings.num_examples]
    if len(images) < 1:
        raise DataError("Kernel norms need at least one image, but got none.")
    check_images(images)
    with torch.inference_mode(False), torch.no_grad(), numerics("fp32"):
        copied = adapted(float64_copy(model), images.double())
        require_independence(copied, images[:_NUM_PROBES].double())
        lower, num_unknown = _lower(copied, images.clone(), settings, seed)
        upper = spectral_bound(copied, images[:1].double())
        layers = layer_norms(copied, images[:1].double())
    names = class_names or [str(index) for index in range(len(lower.gradient))]
    above: Sequence[float | None] = upper.values or [None] * len(names)
    classes = [KernelNormsOf(*bounds) for bounds in zip(names, *lower, above, strict=True)]
    require_bounded(classes)
    return KernelNormBounds(len(images), classes, layers, upper.reason, num_unknown)


class _Lower(NamedTuple):
    """The lower bounds, one number a class each."""

    gradient: Sequence[float]
    perturbation: Sequence[float]
    deformation: Sequence[float | None]
    deformation_change: Sequence[float | None]


def _lower(model: nn.Module, images: Tensor, settings: KernelNormSettings, seed: int) -> tuple[_Lower, int]:
    """The bounds, and at how many images there are none."""
    size = batch_size_for(model)
    at = slopes(model, images, size)
    num_unknown = int(at.is_unknown.sum())
    gradient = at.lengths.amax(dim=0).tolist()
    perturbation = perturbed(model, images, at, settings, size).tolist()
    if images.dim() != 4 or not settings.num_deformations:
        nothing: list[float | None] = [None] * len(gradient)
        return _Lower(gradient, perturbation, nothing, nothing), num_unknown
    moved = deformed(model, images, at.logits, settings, size, seed=seed)
    return _Lower(gradient, perturbation, moved.slopes.tolist(), moved.changes.tolist()), num_unknown


def require_bounded(classes: Sequence[KernelNormsOf]) -> None:
    """Refuses bounds that contradict each other.

    Args:
        classes: The bounds of each class.

    Raises:
        CertificateError: a lower bound is above the upper one, by more than rounding.
    """
    for bounds in classes:
        if bounds.spectral is not None and bounds.lower > bounds.spectral * (1 + _TOLERANCE):
            raise CertificateError(
                f"The bounds of class {bounds.name} contradict each other: its logit was seen to change by "
                f"{bounds.lower:.9g} a unit of l2 distance (gradient {bounds.gradient:.9g}, perturbation "
                f"{bounds.perturbation:.9g}, deformation {bounds.deformation}), but the spectral upper "
                f"bound is {bounds.spectral:.9g}. A rule of your own that bounds an operation too tightly "
                "does this; if there is none, please report it."
            )


def layer_norms(model: nn.Module, image: Tensor) -> list[KernelNormsOfLayer]:
    """Both norms of each linear layer and each convolution, in order; none where there are no such layers.

    Args:
        model: A float64 model in eval mode.
        image: Tensor (1, …), one of its inputs; it tells the size of each layer's.
    """
    try:
        layers = weights(model)
    except ModelError:
        return []
    try:
        known = places(model, image)
    except ModelError:
        return [
            KernelNormsOfLayer(layer.name, _kernel_norm(layer.matrix, layer.name), None) for layer in layers
        ]
    return [
        KernelNormsOfLayer(
            place.name,
            _kernel_norm(place.weight.matrix, place.name),
            _norm(place.operator, place.input_shape, place.name),
        )
        for place in known
    ]


def _kernel_norm(matrix: Tensor, name: str) -> float | None:
    return _norm(Dense(matrix), (matrix.shape[1],), name)


def _norm(operator: LinearOperator, input_shape: Shape, name: str) -> float | None:
    bound = float(GuaranteedNorms().of(operator, input_shape, name))
    return bound if math.isfinite(bound) else None
