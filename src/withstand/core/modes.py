"""A model as it is meant: in eval mode for a while, and afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.spectral_norm import SpectralNorm


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Holds a model in eval mode; each submodule gets its own flag back, also after an error.

    Submodules may differ (a frozen BatchNorm in a model that trains), so one flag for all
    would not do. Flags are set without calling ``train()``, and only where they differ.

    Args:
        model: Any module.

    Yields:
        Nothing; the model is in eval mode meanwhile.
    """
    flags = [(module, module.training) for module in model.modules()]
    for module, training in flags:
        if training:
            module.training = False
    try:
        yield
    finally:
        for module, training in flags:
            if module.training is not training:
                module.training = training


@contextmanager
def put_back(model: nn.Module, tensors: Iterable[Tensor]) -> Iterator[None]:
    """Gives every module its flag back, and tensors their values, also after an error.

    Args:
        model: Any module.
        tensors: Such as ``model.buffers()``; they are copied.

    Yields:
        Nothing.
    """
    flags = [(module, module.training) for module in model.modules()]
    values = [(tensor, tensor.detach().clone()) for tensor in tensors]
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
        with torch.no_grad():
            for tensor, before in values:
                tensor.copy_(before)


def differs_in_training(model: nn.Module) -> bool:
    """Whether a layer of the model is in a train mode that makes it act otherwise than in eval mode."""
    return any(module.training and _differs(module) for module in model.modules())


def _differs(module: nn.Module) -> bool:
    if isinstance(module, _SpectralNorm) or has_spectral_norm_hook(module):
        return True  # a power iteration is made at each pass
    if isinstance(module, _InstanceNorm):
        return module.track_running_stats
    return isinstance(module, _BatchNorm | _DropoutNd)


def has_spectral_norm_hook(module: nn.Module) -> bool:
    """Whether a layer has ``torch.nn.utils.spectral_norm``, which in train mode writes its vectors."""
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
