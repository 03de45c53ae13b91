"""What is unlikely to be meant by data, and is said: it would make figures wrong without an error."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from itertools import chain

import torch

from withstand.data.content import pixels
from withstand.data.mapped import chunks
from withstand.data.split import Dataset

Kind = Callable[[Dataset], Iterator[str]]

_log = logging.getLogger(__name__)

_DARK = 1 / 8  # the brightest pixel of images that are likely of another scale than they should be
_NAMED = 5


def tell(dataset: Dataset, *kinds: Kind) -> None:
    """Logs a warning of each doubt of these kinds: ``missing_classes``, ``darkness``, ``copies``."""
    for doubt in chain.from_iterable(kind(dataset) for kind in kinds):
        _log.warning("%s: %s", dataset.info.name, doubt)


def missing_classes(dataset: Dataset) -> Iterator[str]:
    """Classes without training or test images: labels with gaps, or too small a choice of examples."""
    for part, split in (("training", dataset.train), ("test", dataset.test)):
        counts = split.labels.bincount(minlength=dataset.info.num_classes)
        absent = [dataset.info.class_names[label] for label in (counts == 0).nonzero().flatten().tolist()]
        if absent and len(split):
            shown = ", ".join(absent[:_NAMED]) + (", …" if len(absent) > _NAMED else "")
            yield (
                f"{len(absent)} of {dataset.info.num_classes} classes have no {part} images ({shown}). Where "
                "that is not meant, number the labels 0, 1, 2, … without gaps, or take more examples."
            )


def darkness(dataset: Dataset) -> Iterator[str]:
    """Images that are nearly black: levels of another scale, or divided twice."""
    for part, images in (("training", dataset.train.images), ("test", dataset.test.images)):
        scale = 255 if images.dtype == torch.uint8 else 1
        brightest = max((float(some.max()) / scale for some in chunks(images)), default=1.0)
        if brightest < _DARK and images.ndim != 4:
            yield (
                f"the largest value of all {part} data is {brightest:.3g}, while epsilon counts in [0, 1]. "
                "Where they do not fill it, state their range: from_arrays(..., input_range=(low, high))."
            )
        elif brightest < _DARK:
            yield (
                f"the brightest pixel of all {part} images is {brightest:.3g} of white. uint8 images are "
                "taken as levels of 0 … 255, floats as they are: where these are of another scale, such as 0 "
                "and 1 in uint8 or divided twice, bring them to [0, 1] as floats."
            )


def copies(dataset: Dataset) -> Iterator[str]:
    """Test images that are training images too."""
    known = {hash(image) for split in (dataset.train, dataset.validation) for image in pixels(split)}
    number = sum(hash(image) in known for image in pixels(dataset.test))
    if number:
        yield (
            f"{number:,} of {len(dataset.test):,} test images are training or validation images too, "
            "pixel by pixel, so figures on them say little of new images."
        )
