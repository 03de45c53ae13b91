"""A model made ready for bounds: copied to float64, and each image by itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn

from withstand.core.contract import require_module
from withstand.core.wrappers import unwrapped_copy
from withstand.types import ModelError

_SAME = 1e-6  # relative, between the logits of the same image
_REGISTERED = ("_parameters", "_buffers", "_modules")  # which ``double`` sees
_CACHE_SIZED = 50  # whose activations the caches of a processor can hold; 500 take 1.6 times as long
_DEVICE_SIZED = 250


def float64_copy(model: nn.Module) -> nn.Module:
    """A float64 copy in eval mode, whose parameters ask for no gradient; the model stays as it is.

    Floating-point tensors that are plain attributes of a module become float64 like its parameters, alone or
    in a list, tuple or dictionary: what is computed of them would be rounded to their precision.

    Args:
        model: Any module, compiled or not.

    Raises:
        ModelError: it cannot be copied.
    """
    require_module(model)
    try:
        copied = unwrapped_copy(model).double().eval().requires_grad_(requires_grad=False)
    except Exception as error:
        raise ModelError(
            f"The model cannot be copied to float64 ({error}), which certificates and bounds do. "
            "Give the module itself, not a scripted one, and run one with lazy layers once before."
        ) from error
    for module in copied.modules():
        plain = {name: value for name, value in vars(module).items() if name not in _REGISTERED}
        vars(module).update({name: _doubled(value) for name, value in plain.items()})
    return copied


def _doubled(value: Any, seen: frozenset[int] = frozenset()) -> Any:
    """A plain attribute with its floating-point tensors as float64; containers are changed in place."""
    if isinstance(value, Tensor):
        return value.double() if value.is_floating_point() and not isinstance(value, nn.Parameter) else value
    if id(value) in seen:  # a container that holds itself
        return value
    seen = seen | {id(value)}
    if isinstance(value, tuple):
        parts = [_doubled(part, seen) for part in value]
        if all(part is former for part, former in zip(parts, value, strict=True)):
            return value
        return tuple(parts) if type(value) is tuple else type(value)(*parts)  # a named tuple
    if isinstance(value, list):
        value[:] = [_doubled(part, seen) for part in value]
    elif isinstance(value, dict):
        value.update({key: _doubled(part, seen) for key, part in value.items()})
    elif is_dataclass(value) and not isinstance(value, type):
        for part in fields(value):
            object.__setattr__(value, part.name, _doubled(getattr(value, part.name), seen))
    return value


def require_independence(predict: Callable[[Tensor], Tensor], images: Tensor) -> None:
    """Refuses a model that gives an image other logits when others are beside it.

    Args:
        predict: Maps images (batch, …) to logits (batch, classes), without gradient.
        images: A few, at least one, in [0, 1].

    Raises:
        ModelError: it does, or it fails on them.
    """
    negatives = 1 - images  # so that there are two, also of one image
    alone = _alone(predict, images)
    try:
        apart = torch.cat([predict(images), predict(negatives)])
        together = predict(torch.cat([images, negatives]))
    except Exception as error:
        raise ModelError(
            f"The model fails in eval mode and float64 on images {tuple(images.shape)}: {error}"
        ) from error
    is_other = ((apart - together).abs() > _SAME * (1 + apart.abs())).any()
    if alone is not None:
        is_other |= ((apart[:1] - alone).abs() > _SAME * (1 + alone.abs())).any()
    if bool(is_other):
        raise ModelError(
            "The logits that the model gives an image in eval mode are not its own: they depend on what "
            "else is in the batch, or on chance. Nothing can be proven of such a model. A BatchNorm "
            "without running statistics does this; build it with track_running_stats=True."
        )


def _alone(predict: Callable[[Tensor], Tensor], images: Tensor) -> Tensor | None:
    """The logits of the first image by itself; None where the model fails on one, which it says itself."""
    try:
        return predict(images[:1])
    except Exception:
        return None


def batch_size_for(model: nn.Module) -> int:
    """How many examples at a time suit the device that a float64 model is on."""
    device = next((parameter.device.type for parameter in model.parameters()), "cpu")
    return _CACHE_SIZED if device == "cpu" else _DEVICE_SIZED
