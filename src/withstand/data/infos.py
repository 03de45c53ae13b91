"""What is known of each data set without its files, and how it is measured from images."""

from __future__ import annotations

import torch
from torch import Tensor

from withstand.dataset_info import DatasetInfo

__all__ = ["INFOS", "channel_statistics"]

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

_CIFAR100 = (
    "apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly "
    "camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup "
    "dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower "
    "leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid "
    "otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine possum rabbit raccoon ray road "
    "rocket rose sea seal shark shrew skunk skyscraper snail snake spider squirrel streetcar sunflower "
    "sweet_pepper table tank telephone television tiger tractor train trout tulip turtle wardrobe whale "
    "willow_tree wolf woman worm"
)

_CIFAR10_MEAN, _CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

# Means and stds are those that the published experiments normalise with. CIFAR's stds are the
# mean of the stds of single images, smaller than the std over all pixels (0.247, 0.243, 0.262).
INFOS: dict[str, DatasetInfo] = {
    info.name: info
    for info in (
        DatasetInfo("digits", (1, 8, 8), _DIGITS, (0.3052,), (0.3759,)),
        DatasetInfo("mnist", (1, 28, 28), _DIGITS, (0.1307,), (0.3081,)),
        DatasetInfo("fashion-mnist", (1, 28, 28), _FASHION, (0.2860,), (0.3530,)),
        DatasetInfo("cifar10", (3, 32, 32), _CIFAR10, _CIFAR10_MEAN, _CIFAR10_STD),
        DatasetInfo(
            "cifar100",
            (3, 32, 32),
            tuple(_CIFAR100.split()),
            (0.5071, 0.4865, 0.4409),
            (0.2673, 0.2564, 0.2762),
        ),
        DatasetInfo("cifar10-jpeg", (3, 32, 32), _CIFAR10, _CIFAR10_MEAN, _CIFAR10_STD),
    )
}


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, in [0, 1] units.

    Args:
        images: uint8 tensor (examples, channels, height, width), at least one example.

    Returns:
        Means and stds, one a channel. A std is at least 1/255, so that dividing by it is safe
        for a channel that never changes.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    # Counts of 256 levels give both exactly, without a copy of the images as floats.
    counts = torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in images.unbind(1)])
    shares = counts.cpu().to(torch.float64) / counts.cpu().sum(1, keepdim=True)
    means = shares @ levels
    variances = (shares * (levels - means[:, None]).square()).sum(1)
    return tuple(means.tolist()), tuple(variances.sqrt().clamp(min=1 / 255).tolist())
