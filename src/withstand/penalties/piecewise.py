"""Second derivatives that need not be computed, because they are zero."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.models import GroupSort, MinMax, Normalize
from withstand.models.blocks import Residual

# Linear wherever they have a gradient.
_PIECES: tuple[type[nn.Module], ...] = (
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.Hardtanh),
    *(nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
    *(MinMax, GroupSort),
)
# In eval mode, which is what gradients are of.
_LINEAR: tuple[type[nn.Module], ...] = (
    *(nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d),
    *(nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d),
    *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
    *(nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout2d, Normalize),
)
_WITH_STATISTICS: tuple[type[nn.Module], ...] = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_CONTAINERS: tuple[type[nn.Module], ...] = (nn.Sequential, Residual)


def is_piecewise_linear(model: nn.Module) -> bool:
    """Whether the model is made of nothing but linear and piecewise linear layers that are known here.

    A module of one's own may compute anything in its ``forward``, and so may a hook, so a model with one
    of these is not.
    """
    return all(_is_known(module) and not _has_hooks(module) for module in model.modules())


def _is_known(module: nn.Module) -> bool:
    if type(module) in _WITH_STATISTICS:
        return getattr(module, "running_mean", None) is not None  # else they are those of the batch
    return type(module) in (*_PIECES, *_LINEAR, *_CONTAINERS)


def _has_hooks(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


@dataclass
class _Gate:
    """Whether gradients still pass."""

    is_open: bool = True


class _Through(torch.autograd.Function):
    """The identity; its gradient ends here once the gate is closed."""

    @staticmethod
    @override
    def forward(ctx: Any, x: Tensor, gate: _Gate) -> Tensor:
        ctx.gate = gate
        return x.view_as(x)

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, None]:
        return (gradients[0] if ctx.gate.is_open else None), None


@contextmanager
def without_curvature(model: nn.Module) -> Iterator[None]:
    """A forward pass and its gradient inside; what is differentiated after it is the gradient alone.

    The gradient of a piecewise linear network with respect to its images depends on the weights directly,
    not through the activations. Autograd does not know this: it would carry zeros back through the whole
    forward pass, at the price of another backward pass. Here that ends at each activation once the
    block is left. Any other network is left as it is.

    Args:
        model: What is run inside, in eval mode and once. After the block nothing but the gradient may be
            used.

    Yields:
        Nothing.
    """
    gate = _Gate()

    def enter(_: nn.Module, args: tuple[Tensor]) -> Tensor:
        through: Tensor = _Through.apply(args[0], gate)  # type: ignore[no-untyped-call]
        return through

    hooks = [
        module.register_forward_pre_hook(enter)
        for module in (model.modules() if is_piecewise_linear(model) else ())
        # One that works in place would write over what the identity gives.
        if isinstance(module, _PIECES) and not getattr(module, "inplace", False)
    ]
    try:
        yield
    finally:
        gate.is_open = False
        for hook in hooks:
            hook.remove()
