"""Whether a model is one that the library can train and measure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from withstand.core.dataset_info import DatasetInfo
from withstand.core.modes import eval_mode
from withstand.core.numerics import preserved_random_state
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
        ModelError: it fails on such images; its output is no float tensor (batch, classes), is
            not finite, or is made of probabilities or their logarithms instead of logits.
    """
    images = _random_images(model, info.shape)
    unchanged = preserved_random_state(images.device)
    with unchanged, eval_mode(model), torch.no_grad(), _softmaxes(model) as outputs:
        try:
            output = model(images)
        except Exception as error:
            raise ModelError(
                f"The model fails on images {tuple(images.shape)} of data set {info.name!r}: {error}"
            ) from error
    logits = _require_tensor(output)
    _require_shape(logits, info)
    if not logits.isfinite().all():
        raise ModelError("The model's output has NaN or infinite values; check its weights.")
    if any(output is logits for output in outputs) or _are_probabilities(logits):
        raise ModelError(
            "The model ends in softmax or log-softmax; remove it, "
            "because losses, attacks and certificates work on logits."
        )


def _random_images(model: nn.Module, shape: Shape) -> Tensor:
    """Two images of random pixels where the model is, in its own precision."""
    images = torch.rand(_BATCH, *shape, generator=torch.Generator().manual_seed(0))
    state = (tensor for tensor in chain(model.parameters(), model.buffers()) if tensor.is_floating_point())
    return images.to(next(state, images))


@contextmanager
def _softmaxes(model: nn.Module) -> Iterator[list[Tensor]]:
    """Gathers what the model's softmax layers return meanwhile."""
    outputs: list[Tensor] = []
    layers = [layer for layer in model.modules() if isinstance(layer, nn.Softmax | nn.LogSoftmax)]
    hooks = [layer.register_forward_hook(lambda _, __, output: outputs.append(output)) for layer in layers]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _require_tensor(output: object) -> Tensor:
    if not isinstance(output, Tensor):
        raise ModelError(
            f"The model returns a {type(output).__name__}, but must return the logits alone; wrap it in a "
            "module whose forward picks them out, such as `return self.model(images)[0]`."
        )
    if not output.is_floating_point():
        raise ModelError(f"The model returns {output.dtype} values, but logits are floats; return them.")
    return output


def _require_shape(logits: Tensor, info: DatasetInfo) -> None:
    shape = tuple(logits.shape)
    if len(shape) != 2 or shape[0] != _BATCH:
        raise ModelError(
            f"The model returns shape {shape} for {_BATCH} images, but must return (batch, classes), "
            f"here {(_BATCH, info.num_classes)}; flatten or pool before its last layer."
        )
    if shape[1] != info.num_classes:
        raise ModelError(
            f"The model returns {shape[1]} logits an image, but data set {info.name!r} has "
            f"{info.num_classes} classes; build it with num_classes={info.num_classes}."
        )


def _are_probabilities(logits: Tensor) -> bool:
    """Whether every row is a distribution, or the logarithm of one, within rounding."""
    tolerance = torch.finfo(logits.dtype).eps ** 0.5
    sums = logits.double().sum(dim=1)
    masses = logits.double().logsumexp(dim=1)
    distribution = bool((logits >= 0).all() and ((sums - 1).abs() < tolerance).all())
    return distribution or bool((masses.abs() < tolerance).all())
