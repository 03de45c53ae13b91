"""What a model needs to know of a data set, without its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from withstand.types import DataError


@dataclass(frozen=True)
class DatasetInfo:
    """Shape, classes and usual normalisation of an image data set.

    Attributes:
        name: As recipes spell it (``mnist``).
        shape: (channels, height, width) of one image.
        class_names: One name a class, in label order, no two alike; as text, whatever they were given as.
        mean: Per channel, of the training images in [0, 1] units.
        std: Per channel, of the training images in [0, 1] units, positive.

    Raises:
        DataError: two classes have one name.
    """

    name: str
    shape: tuple[int, int, int]
    class_names: Sequence[str]
    mean: Sequence[float]
    std: Sequence[float]

    def __post_init__(self) -> None:
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
