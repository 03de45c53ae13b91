"""Convolutions on a circle, by frequency: how the norm of a convolution is held below a radius."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from withstand.operators.clipping import Above, above, as_wide, shares
from withstand.operators.convolutions import axes_of, polyphase
from withstand.operators.linear_operators import Convolution, Shape

_ROUNDS = 4
_MARGIN = 1e-7  # by which the last scaling ends below the radius, relatively


@dataclass(frozen=True, eq=False)
class Circle:
    """A circular convolution of which a padded one is a part, so that its norm is no smaller.

    Inputs a stride apart are channels of their own (the polyphase form), so that what is left steps
    by 1 and splits into one small matrix a frequency.

    Args:
        sizes: Length of the circle along each axis, in strides.
        phases: Tensor (taps,): the channel, beside the input's own, that each tap reads.
        cells: Tensor (taps,): the flat place on the circle that each tap reads.
        shape: Shape (groups, outputs, inputs, *kernel) of the weight.
    """

    sizes: tuple[int, ...]
    phases: Tensor
    cells: Tensor
    shape: Shape

    @classmethod
    def around(cls, operator: Convolution, input_shape: Shape) -> Circle:
        """The smallest circle of an operator on which no two taps meet.

        Args:
            operator: The convolution.
            input_shape: Shape (channels, *sizes) of one example.
        """
        axes, device = axes_of(operator, input_shape), operator.weight.device
        shifts, phases = polyphase(axes)
        spans = (shifts.amax(dim=0) - shifts.amin(dim=0) + 1).tolist()
        sizes = tuple(max(axis.grid, span) for axis, span in zip(axes, spans, strict=True))
        cells = torch.zeros(len(shifts), dtype=torch.long)
        for dim, size in enumerate(sizes):
            cells = cells * size + shifts[:, dim] % size
        used = torch.unique(phases, dim=0, return_inverse=True)[1]
        shape = (operator.groups, -1, *operator.weight.shape[1:])
        return cls(sizes, used.to(device), cells.to(device), tuple(operator.weight.reshape(shape).shape))

    @property
    def _dims(self) -> tuple[int, ...]:
        return tuple(range(-len(self.sizes), 0))

    @property
    def _halves(self) -> tuple[int, ...]:
        return tuple(range(len(self.sizes)))

    def spectrum(self, weight: Tensor) -> Tensor:
        """The matrices of half of the frequencies; the others are their conjugates.

        Args:
            weight: Float64 tensor of ``shape``.

        Returns:
            Complex tensor (frequencies · groups, outputs, inputs · phases).
        """
        groups, outputs, inputs = self.shape[:3]
        phases = int(self.phases.max()) + 1
        laid = weight.new_zeros(groups, outputs, inputs, phases, math.prod(self.sizes))
        laid[..., self.phases, self.cells] = weight.flatten(3)
        waves: Tensor = torch.fft.rfftn(laid.view(*laid.shape[:-1], *self.sizes), dim=self._dims)
        return waves.flatten(4).permute(4, 0, 1, 2, 3).reshape(-1, outputs, inputs * phases)

    def kernel(self, spectrum: Tensor) -> Tensor:
        """The kernel nearest to matrices of all frequencies: what lies outside the taps is left out.

        Args:
            spectrum: As ``spectrum`` gives it.

        Returns:
            Float64 tensor of ``shape``.
        """
        groups, outputs, inputs = self.shape[:3]
        half = (*self.sizes[:-1], self.sizes[-1] // 2 + 1)
        waves = spectrum.reshape(*half, groups, outputs, inputs, -1).movedim(self._halves, self._dims)
        laid: Tensor = torch.fft.irfftn(waves, s=self.sizes, dim=self._dims)
        return laid.flatten(4)[..., self.phases, self.cells].view(self.shape)


def clip_convolution(
    operators: Sequence[Convolution], input_shapes: Sequence[Shape], radius: float
) -> Tensor | None:
    """A kernel near that of the operators with which the norm of each is at most the radius.

    In a few rounds the singular values of the circular convolution are clipped at every frequency,
    and what this puts outside the taps is left out (Sedghi et al., ICLR 2019). What is then still
    above the radius is scaled down. The circular norm, computed in float64, bounds that of the padded
    operator, so that this is at most the radius too.

    Args:
        operators: Uses of one weight, which differ in their other options only.
        input_shapes: Shape (channels, *sizes) of one example of each.
        radius: Positive.

    Returns:
        Tensor of the weight's shape and precision. None where there is nothing to clip: the circular
        norms are at most the radius already, or not all entries are finite.
    """
    weight = operators[0].weight.detach()
    circles = [Circle.around(*pair) for pair in zip(operators, input_shapes, strict=True)]
    value = weight.double()
    if not value.isfinite().all() or _excess(circles, value, radius) <= 1:
        return None
    for _ in range(_ROUNDS):
        for circle in circles:
            value = _clipped(circle, value.view(circle.shape), radius).view(weight.shape)
    value = value / _excess(circles, value, radius)
    margin = max(_MARGIN, torch.finfo(weight.dtype).eps)
    while True:  # rounding to the weight's precision may lead outside once more
        rounded = (value * (1 - margin)).to(weight.dtype)
        if margin >= 1 or _excess(circles, rounded.double(), radius) <= 1:
            return rounded
        margin *= 2


def _excess(circles: Sequence[Circle], value: Tensor, radius: float) -> float:
    """How many times the radius the largest circular norm is; 1 where none is larger."""
    largest = 1.0
    for circle in circles:
        values = _above(as_wide(circle.spectrum(value.view(circle.shape))), radius).values
        if len(values):
            largest = max(largest, values.max().sqrt().item() / radius)
    return largest


def _clipped(circle: Circle, value: Tensor, radius: float) -> Tensor:
    spectrum = circle.spectrum(value)
    wide = as_wide(spectrum)  # a view, which is written to
    which, values, vectors = _above(wide, radius)
    chosen = wide[which]
    wide[which] = chosen - (vectors * shares(values, radius)[:, None]) @ (vectors.mH @ chosen)
    return circle.kernel(spectrum)


def _above(wide: Tensor, radius: float) -> Above:
    return above(wide @ wide.mH, radius**2)
