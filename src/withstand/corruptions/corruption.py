"""The interface of every corruption: what happens to images that nobody attacks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Final, final

import torch
from torch import Tensor

from withstand.types import DataError

SEVERITIES: Final = (1, 2, 3, 4, 5)
"""From hardly seen to hard to see through."""


@dataclass(frozen=True)
class Corruption(ABC):
    """Changes images at one of five severities, after Hendrycks and Dietterich (ICLR 2019).

    Like all of its kind it keeps no state, works on the images' device without waiting for it, and draws
    from the generator that it is given alone. Lengths are shares of an image's side, so that a severity
    means the same for images of 8 x 8 and of 224 x 224 pixels.

    Attributes:
        name: Short and unique: ``gaussian-blur``.
        title: For people: ``Gaussian blur``.
        parameter: What ``value`` is, and its unit.
        values: Of the parameter, one a severity.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    parameter: ClassVar[str]
    values: ClassVar[tuple[float, float, float, float, float]]

    def value(self, severity: int) -> float:
        """The parameter at a severity.

        Args:
            severity: 1 to 5.

        Raises:
            ValueError: it is none of these.
        """
        if severity not in SEVERITIES:
            raise ValueError(f"Expected a severity of 1 to {SEVERITIES[-1]}, but got {severity}.")
        if len(self.values) != len(SEVERITIES):
            raise ValueError(
                f"Expected {len(SEVERITIES)} values of the corruption {self.name}, one a severity, but got "
                f"{self.values}."
            )
        return self.values[severity - 1]

    @final
    @torch.no_grad()
    def __call__(self, images: Tensor, severity: int, generator: torch.Generator) -> Tensor:
        """Corrupted images, without gradient.

        Args:
            images: Float tensor (batch, channels, height, width) in [0, 1].
            severity: 1 to 5.
            generator: On the images' device; some corruptions draw from it.

        Returns:
            Tensor of shape, type and device of ``images``, in [0, 1].

        Raises:
            ValueError: the severity is none of these.
            DataError: the tensor is not one of images.
        """
        value = self.value(severity)
        if images.dim() != 4 or not images.is_floating_point():
            raise DataError(
                "Expected images as floats (batch, channels, height, width) to corrupt, but got "
                f"{images.dtype} of shape {tuple(images.shape)}."
            )
        # Half precision would round more than some corruptions change.
        floats = images.to(torch.promote_types(images.dtype, torch.float32))
        return self._corrupt(floats, value, generator).clamp(0.0, 1.0).to(images.dtype)

    @abstractmethod
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        """Images of at least float32, changed; what leaves [0, 1] is clipped afterwards."""
