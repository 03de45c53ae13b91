"""A model as it is meant: in eval mode for a while, and afterwards as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.modules.instancenorm import _InstanceNorm
from torch.nn.utils.parametrizations import _Orthogonal, _SpectralNorm, _WeightNorm
from torch.nn.utils.parametrize import ParametrizationList, is_parametrized
from torch.nn.utils.spectral_norm import SpectralNorm
from typing_extensions import override


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


@contextmanager
def weights_computed_once(model: nn.Module) -> Iterator[None]:
    """Holds parametrised weights at their present value, without gradient, so that no pass computes them.

    ``torch.nn.utils.parametrize.cached`` would do so too, but takes copies of a network for the network.

    Args:
        model: In eval mode, as it stays; of its parametrisations those are held that are known to be
            functions of their parameters alone (``is_function``). None of a compiled one, which would be
            compiled anew.

    Yields:
        Nothing.
    """
    held: list[tuple[nn.ModuleDict, str, nn.Module]] = []
    parametrised = [] if hasattr(model, "_orig_mod") else [*filter(is_parametrized, model.modules())]
    try:
        for module in parametrised:
            by_name = module.parametrizations
            assert isinstance(by_name, nn.ModuleDict)
            for name, parts in [*by_name.items()]:
                assert isinstance(parts, ParametrizationList)
                if all(isinstance(part, _FUNCTIONS) or getattr(part, "is_function", False) for part in parts):
                    with torch.no_grad():
                        value = parts()
                    held.append((by_name, name, parts))
                    by_name[name] = _Held(value)
        yield
    finally:
        for by_name, name, parts in held:
            by_name[name] = parts


_FUNCTIONS = (_Orthogonal, _SpectralNorm, _WeightNorm)


class _Held(nn.Module):
    """Stands for the parametrisation of a weight.

    Args:
        value: The weight.
    """

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self._value = value

    @override
    def forward(self) -> Tensor:
        return self._value


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
