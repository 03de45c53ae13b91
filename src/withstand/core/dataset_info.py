"""What a model needs to know of a data set, without its files."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from withstand.types import DataError

InputRange = tuple[tuple[float, ...], tuple[float, ...]]
"""Lowest and highest value of each feature (of vectors) or channel, in the user's units."""

_AXES: Mapping[int, tuple[str, tuple[str, ...]]] = MappingProxyType(
    {
        1: ("vectors", ("features",)),
        2: ("series", ("channels", "length")),
        3: ("images", ("channels", "height", "width")),
        4: ("volumes", ("channels", "depth", "height", "width")),
    }
)
"""Length of a shape -> what has it, and its axes."""


def axes_of(rank: int) -> tuple[str, ...]:
    """Names of the axes of one example: ``("channels", "height", "width")`` of 3; of more, numbered sides."""
    return _AXES[rank][1] if rank in _AXES else ("channels", *(f"side {n}" for n in range(1, rank)))


def form_of(shape: Sequence[int]) -> str:
    """What examples of a shape are: ``images of 1 x 28 x 28``, ``vectors of 30``."""
    kind = _AXES[len(shape)][0] if len(shape) in _AXES else "arrays"
    return f"{kind} of {' x '.join(map(str, shape))}"


def require_images(shape: Sequence[int], what: str, otherwise: str) -> None:
    """Accepts the shape of images alone.

    Args:
        shape: Of one example.
        what: What needs images, and what it does: ``Augment crops and flips``.
        otherwise: What to do instead.

    Raises:
        DataError: examples are no images (channels, height, width).
    """
    if len(shape) != 3:
        raise DataError(
            f"{what} images (channels, height, width) alone, but these are {form_of(shape)}. {otherwise}"
        )


@dataclass(frozen=True)
class DatasetInfo:
    """Shape, classes and usual normalisation of a data set.

    Attributes:
        name: As recipes spell it (``mnist``).
        shape: Of one example, channels or features first: (features,) of a vector, (channels, length) of a
            series, (channels, height, width) of an image, (channels, depth, height, width) of a volume.
        class_names: One name a class, in label order, no two alike; as text, whatever they were given as.
        mean: Per channel (or feature), of the training examples in [0, 1] units.
        std: Per channel (or feature), of the training examples in [0, 1] units, positive.
        input_range: Lowest and highest value per channel (or feature), in the user's units, which 0 and 1
            stand for; None where the data were in [0, 1]. Epsilon counts in shares of it.
        feature_names: One name a channel (or feature); by default none.

    Raises:
        DataError: two classes have one name, the shape is none, or names or range do not fit it.
    """

    name: str
    shape: tuple[int, ...]
    class_names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]
    input_range: InputRange | None = None
    feature_names: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.shape or min(self.shape) < 1:
            raise DataError(
                "The shape of one example has one axis at least and no side below 1, such as (features,) or "
                f"(channels, height, width), but is {tuple(self.shape)}."
            )
        object.__setattr__(self, "shape", tuple(self.shape))
        object.__setattr__(self, "feature_names", tuple(_as_text(name) for name in self.feature_names))
        if self.feature_names and len(self.feature_names) != self.shape[0]:
            raise DataError(
                f"feature_names needs one name a {self.feature}, {self.shape[0]} for {form_of(self.shape)}, "
                f"but has {len(self.feature_names)}."
            )
        if self.input_range is not None:
            require_range(self.input_range, self.shape, self.feature_names)
        names = tuple(_as_text(name) for name in self.class_names)
        if twice := [name for name, number in Counter(names).items() if number > 1]:
            raise DataError(
                f"Class names tell classes apart, but {twice[0]!r} stands for classes "
                f"{', '.join(str(label) for label, name in enumerate(names) if name == twice[0])}. "
                "Give each class a name of its own, in label order."
            )
        object.__setattr__(self, "class_names", names)

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def form(self) -> str:
        """What the examples are: ``images of 1 x 28 x 28``, ``vectors of 30``."""
        return form_of(self.shape)

    @property
    def feature(self) -> str:
        """What the first axis counts: ``feature`` or ``channel``."""
        return feature_of(self.shape)


def feature_of(shape: Sequence[int]) -> str:
    """What the first axis of examples counts: ``feature`` of vectors, else ``channel``."""
    return "feature" if len(shape) == 1 else "channel"


def feature_name(shape: Sequence[int], names: Sequence[str], index: int) -> str:
    """What people call a feature or channel of examples: its name, or ``feature 3``, counted from 0."""
    return str(names[index]) if len(names) else f"{feature_of(shape)} {index}"


def require_range(ends: InputRange, shape: Sequence[int], names: Sequence[str] = ()) -> None:
    """Accepts a range that has both ends of each feature or channel of examples of a shape.

    Raises:
        DataError: it has not, or an end is not finite, or the higher one is below the lower.
    """
    low, high = ends
    if not len(low) == len(high) == shape[0]:
        raise DataError(
            f"input_range needs a lowest and a highest value for each {feature_of(shape)}, {shape[0]} of "
            f"each, but has {len(low)} and {len(high)}."
        )
    for index, (least, most) in enumerate(zip(low, high, strict=True)):
        if not (math.isfinite(least) and math.isfinite(most) and least <= most):
            raise DataError(
                f"input_range of {feature_name(shape, names, index)} must go from a finite number to one at "
                f"least as large, but goes from {least:g} to {most:g}."
            )


def _as_text(name: Any) -> str:
    is_number = getattr(name, "shape", None) == () and hasattr(name, "item")  # of NumPy or torch
    return str(name.item() if is_number else name)


_DIGITS = tuple("0123456789")
_FASHION = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
# The fine labels, in the order of the data set's own fine_label_names.txt.
_CIFAR100_WORDS = """
apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly
camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup
dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower
leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid
otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray
road rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar
sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
wardrobe whale willow_tree wolf woman worm
"""
_CIFAR100 = tuple(_CIFAR100_WORDS.split())
# Over all pixels the deviations of CIFAR-10 are .247, .244, .262. The smaller ones are kept because
# the published models (arXiv 1810.00363) normalise by them.
_CIFAR10_MEAN, _CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

_TABLE = (
    DatasetInfo("digits", (1, 8, 8), _DIGITS, (0.3052,), (0.3759,)),
    DatasetInfo("mnist", (1, 28, 28), _DIGITS, (0.1307,), (0.3081,)),
    DatasetInfo("fashion-mnist", (1, 28, 28), _FASHION, (0.2860,), (0.3530,)),
    DatasetInfo("cifar10", (3, 32, 32), _CIFAR10, _CIFAR10_MEAN, _CIFAR10_STD),
    DatasetInfo("cifar10-jpeg", (3, 32, 32), _CIFAR10, _CIFAR10_MEAN, _CIFAR10_STD),
    DatasetInfo("cifar100", (3, 32, 32), _CIFAR100, (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
)

KNOWN_DATASETS: Mapping[str, DatasetInfo] = MappingProxyType({info.name: info for info in _TABLE})
"""Name -> what a model needs to know, for every data set that has a name of its own."""
