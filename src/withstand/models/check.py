"""Whether a model is one that the library can train and measure."""

from __future__ import annotations

from itertools import chain

import torch
from torch import Tensor, nn

from withstand.core.answers import NO_ANSWER, predicted
from withstand.core.contract import Contract, require_module, try_out
from withstand.core.dataset_info import DatasetInfo
from withstand.models.blocks import Shape
from withstand.types import ModelError

_BATCH = 2


def check(model: nn.Module, info: DatasetInfo) -> None:
    """Runs a model on two random images and refuses what would give wrong figures later.

    The model is left as it was: modes, BatchNorm statistics, gradients; so is the random state.

    Args:
        model: Maps images (batch, channels, height, width) in [0, 1] to logits (batch, classes).
        info: The data that it is meant for.

    Raises:
        ModelError: it fails on such images; its output is no float tensor (batch, classes), has
            NaN or infinity for its largest value, or is made of probabilities or their logarithms.
    """
    contract, logits = _tried(model, info)
    if logits.shape[1] != info.num_classes:
        number = contract.num_outputs
        raise ModelError(
            f"The model returns {number} logit{'s' * (number > 1)} an image, but data set {info.name!r} has "
            f"{info.num_classes} classes; build it with num_classes={info.num_classes}."
        )
    if (predicted(logits) == NO_ANSWER).all():
        raise ModelError("The model's output has NaN or infinite values; check its weights.")


def num_classes(model: nn.Module, info: DatasetInfo) -> int:
    """How many classes a model tells apart, of images of some data.

    Raises:
        ModelError: it fails on such images, or gives no logits.
    """
    return _tried(model, info)[1].shape[1]


def _tried(model: nn.Module, info: DatasetInfo) -> tuple[Contract, Tensor]:
    require_module(model)
    return try_out(model, _random_images(model, info.shape), of=f" of data set {info.name!r}")


def _random_images(model: nn.Module, shape: Shape) -> Tensor:
    """Two images of random pixels where the model is, in its own precision."""
    images = torch.rand(_BATCH, *shape, generator=torch.Generator().manual_seed(0))
    state = (tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
    return images.to(next(state, images))
