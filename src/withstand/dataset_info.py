"""What a model needs to know of a data set, without its files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["DatasetInfo"]


@dataclass(frozen=True)
class DatasetInfo:
    """Shape, classes and usual normalisation of an image data set.

    Attributes:
        name: As recipes spell it (``mnist``).
        shape: (channels, height, width) of one image.
        class_names: One name a class, in label order.
        mean: Per channel, of the training images in [0, 1] units.
        std: Per channel, of the training images in [0, 1] units, positive.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)
