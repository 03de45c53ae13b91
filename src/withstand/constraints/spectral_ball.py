"""Weights whose singular values are at most a radius."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from typing_extensions import override

from withstand.core.schedules import Schedule, scheduled, value_at
from withstand.core.setting_rules import COUNT, POSITIVE, Whole, instance_of
from withstand.core.wrappers import unwrapped
from withstand.models.blocks import require_no_stretch
from withstand.operators import (
    Buffers,
    Convolution,
    Weight,
    clip,
    clip_convolution,
    clip_in_subspace,
    places,
    weights,
)
from withstand.types import ModelError


class Constraint(nn.Module, ABC):
    """The interface of a set that weights must not leave.

    Training calls ``prepare`` first, ``after_step_`` after each step of the optimiser, and ``project_`` at
    the end of each epoch, so that what is scored and saved lies in the set. What a constraint keeps are
    buffers, which move with the device and are saved in the checkpoint.
    """

    def prepare(self, input_shape: Sequence[int]) -> None:
        """Hears what the model will be given, for a set that depends on it; the default does not care.

        Args:
            input_shape: Shape of one image.
        """

    @abstractmethod
    def project_(self, model: nn.Module, *, progress: float = math.inf) -> None:
        """Puts the weights into the set, in place.

        Args:
            model: Whose weights.
            progress: Epochs done; at infinity (the default) every schedule is at its end.
        """

    def after_step_(self, model: nn.Module, *, step: int, progress: float) -> None:
        """What is done after one step; the projection unless a constraint knows a cheaper way.

        Args:
            model: Whose weights.
            step: Steps done, from 1.
            progress: Epochs done.
        """
        self.project_(model, progress=progress)


a_constraint = instance_of(Constraint, "a constraint, such as SpectralBall(1.0)")


class SpectralBall(Constraint):
    """Holds the singular values of all weights at or below a radius, frozen ones too.

    Those of linear and bilinear layers, convolutions, attention and recurrent layers; biases and the scales
    of normalisation layers are no weights of linear maps and stay free. Other parameters of two or more
    dimensions are named in a warning (see ``spectral.weights``). The projections of attention are bounded
    each for itself: that gives no Lipschitz constant of the layer, which has none, nor is the radius one of
    a bilinear layer, whose output is at most the radius times the lengths of both inputs.

    In the kernel form a weight is a matrix (out, in · taps), as arXiv 1810.00363 projects it: singular
    values above the radius become the radius, all else stays, which is the nearest such matrix. The
    norm of the convolution itself may then be up to √taps times the radius, or less.

    In the operator form it is the norm of the convolution, at the size that it meets, that is at most
    the radius: see ``spectral.clip_convolution``, which is near but not nearest. It costs a
    decomposition at every frequency, so that it suits small nets, or a large ``every``.

    With a ``subspace`` the steps between two exact projections clip only what one power step finds
    in a subspace of leading singular vectors that is stored (``spectral.clip_in_subspace``). No singular
    value grows by that, so by Weyl's inequality the largest is at most the radius of the last exact
    projection plus the sum of the spectral norms of all updates since. In practice it exceeds the radius
    by a small part of one update, as long as no more singular values than the subspace holds
    reach the radius. The first step ever projects exactly.

    Whatever projects or clips waits for an accelerator, since torch asks whether a decomposition succeeded;
    steps between exact projections without a subspace do nothing.

    Args:
        radius: Positive; a float, or a schedule of one such as ``schedules.Continuation``.
        form: "kernel" or "operator".
        every: Steps from one exact projection to the next.
        subspace: Singular vectors stored for each weight; 0 for none, so that nothing is done between
            exact projections. For the kernel form, with ``every`` above 1.
        input_shape: Shape (channels, height, width) of one image, which the operator form needs; training
            gives that of its data set where it is None.

    Raises:
        ValueError: an argument is out of its range or does not fit the others.
    """

    def __init__(
        self,
        radius: float | Schedule,
        *,
        form: Literal["kernel", "operator"] = "kernel",
        every: int = 1,
        subspace: int = 0,
        input_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if form not in ("kernel", "operator"):
            raise ValueError(f'Expected the form "kernel" or "operator", but got {form!r}.')
        self.every = COUNT("every", every)
        self.subspace = Whole(least=0)("subspace", subspace)
        if subspace and (form == "operator" or every == 1):
            raise ValueError(
                "A subspace is for the kernel form, between exact projections; "
                f"leave it at 0, or give every > 1, but got form={form!r} and every={every}."
            )
        self.radius = scheduled(POSITIVE)("radius", radius)
        self.form = form
        self.bases = Buffers()
        self.input_shape = None if input_shape is None else tuple(input_shape)

    @override
    def prepare(self, input_shape: Sequence[int]) -> None:
        if self.input_shape is None:
            self.input_shape = tuple(input_shape)

    @override
    def project_(self, model: nn.Module, *, progress: float = math.inf) -> None:
        """Puts the weights into the set, in place; those inside, and those not finite, stay bit for bit.

        Args:
            model: Whose weights.
            progress: Epochs done; at infinity (the default) the radius is at its end.

        Raises:
            ModelError: the model has no weights to project, one is parametrised, or, in the operator
                form, an operator cannot be known.
            ValueError: the radius is not positive.
        """
        radius = _require_positive(value_at(self.radius, progress))
        chosen = _writable(model)
        with torch.no_grad():
            if self.form == "operator":
                self._project_convolutions_(model, radius)
                chosen = [weight for weight in chosen if not isinstance(weight.layer, _ConvNd)]
            results = clip([weight.matrix for weight in chosen], radius, rank=self.subspace)
            for weight, clipped in zip(chosen, results, strict=True):
                if clipped is not None:
                    _write(weight, clipped.value)
                if self.subspace:
                    basis = self._basis(weight) if clipped is None else clipped.basis
                    self.bases.put(weight.name, basis.float())

    @override
    def after_step_(self, model: nn.Module, *, step: int, progress: float) -> None:
        """Projects after every ``every``-th step, and between these clips in the subspace, if there is one.

        Args:
            model: Whose weights.
            step: Steps done, from 1.
            progress: Epochs done.

        Raises:
            ModelError: as in ``project_``.
            ValueError: the radius is not positive.
        """
        if step % self.every == 0 or (self.subspace and not len(self.bases)):
            self.project_(model, progress=progress)
        elif self.subspace:
            radius = _require_positive(value_at(self.radius, progress))
            with torch.no_grad():
                for weight in _writable(model):
                    clipped = clip_in_subspace(weight.matrix, self._basis(weight), radius)
                    _write(weight, clipped.value)
                    self.bases.put(weight.name, clipped.basis.float())

    def _project_convolutions_(self, model: nn.Module, radius: float) -> None:
        uses: dict[int, list[tuple[Convolution, tuple[int, ...]]]] = {}
        first: dict[int, Weight] = {}
        for place in places(model, self._image(model)):
            operator = place.operator
            if isinstance(operator, Convolution):
                uses.setdefault(id(place.weight.value), []).append((operator, place.input_shape))
                first.setdefault(id(place.weight.value), place.weight)
        for key, pairs in uses.items():
            operators, shapes = zip(*pairs, strict=True)
            value = clip_convolution(operators, shapes, radius)
            if value is not None:
                _write(first[key], value)

    def _image(self, model: nn.Module) -> Tensor:
        """One image, for what sizes the layers meet."""
        if self.input_shape is None:
            raise ModelError(
                "The operator form must know how large the images are; "
                "give SpectralBall input_shape=(channels, height, width)."
            )
        like = next(unwrapped(model).parameters())
        return like.new_zeros((1, *self.input_shape))

    def _basis(self, weight: Weight) -> Tensor:
        matrix = weight.matrix
        side = min(matrix.shape)
        shape = (side, min(self.subspace, side))
        stored = self.bases.get(weight.name)
        if stored is not None and stored.shape == shape:
            return stored.to(matrix.device)
        # From a generator of its own: what training draws must not depend on this.
        start = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        basis: Tensor = torch.linalg.qr(start).Q
        return basis.to(matrix.device)

    @override
    def extra_repr(self) -> str:
        own = f"radius={self.radius}, form={self.form!r}, every={self.every}, subspace={self.subspace}"
        return own if self.form == "kernel" else f"{own}, input_shape={self.input_shape}"


def _require_positive(radius: float) -> float:
    if not 0 < radius < math.inf:
        raise ValueError(f"The radius of a spectral ball must be positive and finite, but got {radius}.")
    return radius


def _writable(model: nn.Module) -> list[Weight]:
    require_no_stretch(model)
    layer_weights = weights(model)
    for weight in layer_weights:
        if weight.parametrised:
            raise ModelError(
                f"The weight of {weight.name!r} is parametrised, or computed by a hook, so that it cannot be "
                "projected; remove that (torch.nn.utils.parametrize.remove_parametrizations, "
                "torch.nn.utils.remove_weight_norm or remove_spectral_norm), or the constraint."
            )
    return layer_weights


def _write(weight: Weight, value: Tensor) -> None:
    weight.value.copy_(value.reshape(weight.value.shape))
