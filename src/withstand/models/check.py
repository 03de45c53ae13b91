"""Whether a model is one that the library can train and measure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import Tensor, nn

from withstand.core.contract import Contract, require_module, try_out, with_gradients
from withstand.core.dataset_info import DatasetInfo
from withstand.core.outputs import ends_in
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
    require_module(model)
    images = _random_images(model, info.shape)
    with _softmaxes(model) as outputs:
        contract, logits = try_out(model, images, of=f" of data set {info.name!r}")
    if logits.shape[1] != info.num_classes:
        number = contract.num_outputs
        raise ModelError(
            f"The model returns {number} logit{'s' * (number > 1)} an image, but data set {info.name!r} has "
            f"{info.num_classes} classes; build it with num_classes={info.num_classes}."
        )
    if not logits.isfinite().all():
        raise ModelError("The model's output has NaN or infinite values; check its weights.")
    if any(torch.equal(output.to(logits), logits) for output in outputs) or _are_probabilities(
        model, images, contract, logits
    ):
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


def _are_probabilities(model: nn.Module, images: Tensor, contract: Contract, logits: Tensor) -> bool:
    """Whether rows are distributions, or the logarithms of some, within rounding.

    Constant logits may be a distribution by chance, so there it counts how they were made.
    """
    tolerance = torch.finfo(contract.precision).eps ** 0.5
    sums = logits.double().sum(dim=1)
    masses = logits.double().logsumexp(dim=1)
    distribution = bool((logits >= 0).all() and ((sums - 1).abs() < tolerance).all())
    if not distribution and not bool((masses.abs() < tolerance).all()):
        return False
    return not torch.equal(logits[0], logits[1]) or ends_in(
        with_gradients(model, images), "Softmax", "LogSoftmax"
    )
