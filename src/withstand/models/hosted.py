"""What networks that others made have in common: ``hub:OWNER/NAME``, ``timm:NAME`` and ``net.onnx``.

What a checkpoint wants done to an image becomes layers in front of it, so that inputs are images in [0, 1] of
the data's own size. Weights and settings are read; no code of a repository is run.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

from torch import nn

from withstand.core.dataset_info import DatasetInfo
from withstand.models.blocks import Shape
from withstand.models.layers import GreyToColour, Normalize, Resize, ReverseChannels
from withstand.types import ModelError

HOSTS = ("hub", "timm")
_logger = logging.getLogger(__name__)
_SAID: set[str] = set()


class Hosted(NamedTuple):
    """A network of others, and what is to be done to an image in [0, 1] before it.

    Attributes:
        network: Maps what was prepared to logits (batch, classes).
        channels: Of the images that it takes.
        size: Their (height, width); None where it takes any.
        normalize: The normalisation that its weights are for; an empty tuple where they are for none, and
            None where that is not known.
        reverses: Whether it takes blue, green and red in this order.
    """

    network: nn.Module
    channels: int
    size: tuple[int, int] | None
    normalize: tuple[()] | tuple[Sequence[float], Sequence[float]] | None
    reverses: bool = False


@dataclass(frozen=True)
class HostedFactory:
    """Makes a network for data, as ``models.create`` calls factories; a subclass says whose.

    Args:
        name: As the user gave it.
        info: Of the data, where it is known.
        normalize: Whether to normalise.
    """

    name: str
    info: DatasetInfo | None
    normalize: bool

    def prepared(
        self, hosted: Hosted, input_shape: Shape, image_size: int | Sequence[int] | None
    ) -> nn.Module:
        """The network behind the layers that prepare images of the data for it; what these do is said."""
        channels, *own = input_shape
        size = hosted.size if image_size is None else as_size(image_size)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if size is not None and size != tuple(own):
            layers["resize"] = Resize(size)
            self.say(
                f"images of {own[0]} x {own[1]} pixels are resized to {size[0]} x {size[1]} by the model's "
                "layer `resize` (bilinear; the option image_size is another size)"
            )
        if channels == 1 and hosted.channels > 1:
            layers["colour"] = GreyToColour(hosted.channels)
            self.say(f"grey images are given to it as {hosted.channels} equal channels")
        elif channels != hosted.channels:
            raise ModelError(
                f"it takes images of {hosted.channels} channels, but the data have {channels}; "
                "pretrained: false builds it for them, with random weights."
            )
        if hosted.reverses:
            layers["reverse"] = ReverseChannels()
        if (normalize := self._normalization(hosted)) is not None:
            layers["normalize"] = normalize
        return nn.Sequential(OrderedDict(**layers, network=hosted.network.train()))

    def _normalization(self, hosted: Hosted) -> nn.Module | None:
        if not self.normalize or hosted.normalize == ():
            return None
        if hosted.normalize is not None:
            return Normalize(*(for_channels(values, hosted.channels) for values in hosted.normalize))
        if self.info is None:
            return None
        return Normalize(
            *(for_channels(values, hosted.channels) for values in (self.info.mean, self.info.std))
        )

    def say(self, text: str) -> None:
        """Logs, once, what is done of its own accord."""
        line = f"{self.name}: {text}."
        if line not in _SAID:
            _SAID.add(line)
            _logger.warning(line)


def is_hosted(name: str) -> bool:
    """Whether a model's name is that of a network that others keep; such a name runs no code of theirs."""
    host, colon, _ = name.partition(":")
    return (bool(colon) and host in HOSTS) or is_onnx(name)


def is_onnx(name: str) -> bool:
    """Whether a model's name is that of an ONNX file."""
    return name.endswith(".onnx")


def imported(package: str, prefix: str, command: str) -> Any:
    """A package that is not needed elsewhere.

    Raises:
        ModelError: it is not installed.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{prefix} needs the package {package}, which is not installed: {command}."
        ) from error


def require_head(num_outputs: int, num_classes: int) -> None:
    """Accepts a head with as many outputs as there are classes; of two, one logit is enough.

    Raises:
        ModelError: it has others.
    """
    if num_outputs != num_classes and (num_outputs, num_classes) != (1, 2):
        raise ModelError(
            f"its head tells {num_outputs} classes apart, but the data have {num_classes}. To train it for "
            "them, --model.options={new_head: true} gives it a new head of random weights; to measure it as "
            "it is, take data with its classes."
        )


def as_size(size: int | Sequence[int]) -> tuple[int, int]:
    """(height, width), of one number for both or of two.

    Raises:
        ModelError: it is neither.
    """
    height, width = (size, size) if isinstance(size, int) else (*size, 0, 0)[:2]
    if min(height, width) < 1:
        raise ModelError(f"image_size is one number of pixels, or [height, width], but got {size}.")
    return int(height), int(width)


def for_channels(values: Sequence[float], channels: int) -> Sequence[float]:
    """Means or deviations for as many channels: as they are, or their average for each."""
    return values if len(values) == channels else [sum(values) / len(values)] * channels


def as_image_shape(shape: Sequence[int]) -> tuple[int, int, int]:
    """(channels, height, width) of the data.

    Raises:
        ModelError: they are no images.
    """
    if len(shape) != 3:
        raise ModelError(
            f"it takes images (channels, height, width), but the data have the shape {tuple(shape)}."
        )
    channels, height, width = shape
    return channels, height, width
