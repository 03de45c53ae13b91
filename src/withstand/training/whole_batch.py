"""Layers that depend on the batch, as they would act on the whole batch in one process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from withstand.core.batch_shares import current, filled, statistics

_ATEN = torch.ops.aten
_DROPOUTS = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, _ATEN.dropout.default)
_ALPHA_DROPOUTS = (F.alpha_dropout, F.feature_alpha_dropout)  # which are no product with a mask


class WholeBatch(TorchFunctionMode):
    """Takes the place of some functions while a share of a batch is computed.

    Dropout draws the mask of the whole batch, and keeps its own rows of it. Batch normalisation goes by the
    statistics of the whole batch, where processes join them.
    """

    @override
    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if current() is None:
            return func(*args, **kwargs)
        if func in _DROPOUTS:
            return _dropout(func, *args, **kwargs)
        if func in _ALPHA_DROPOUTS:
            return _at_its_rows(func, *args, **kwargs)
        if func is F.batch_norm:
            return _batch_norm(*args, **kwargs)
        if func is _ATEN.batch_norm.default:  # which has weights before statistics
            x, weight, bias, mean, variance, *others = args
            return _batch_norm(x, mean, variance, weight, bias, *others[:3])
        if func is _ATEN._native_batch_norm_legit_functional.default:
            x, weight, bias, *before, training, momentum, eps = args
            mean, variance = (part.clone() for part in before)
            result = _batch_norm(x, mean, variance, weight, bias, training, momentum, eps)
            return result, x.new_empty(0), x.new_empty(0), mean, variance
        return func(*args, **kwargs)


def _dropout(
    func: Callable[..., Tensor], x: Tensor, p: float, training: bool, inplace: bool = False
) -> Tensor:
    if not training:
        return func(x, p, training)
    mask = filled(x.detach(), lambda rows: rows.copy_(func(torch.ones_like(rows), p, True)))
    return x.mul_(mask) if inplace else x * mask


def _at_its_rows(func: Callable[..., Tensor], x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """A function that draws for each entry, of the share at its place in a batch of zeros."""
    share = current()
    if share is None or len(x) % share.size:
        return func(x, *args, **kwargs)
    copies = x.view(-1, share.size, *x.shape[1:])
    before = x.new_zeros((len(copies), share.start, *x.shape[1:]))
    after = x.new_zeros((len(copies), share.total - share.stop, *x.shape[1:]))
    whole = func(torch.cat([before, copies, after], dim=1).flatten(0, 1), *args, **kwargs)
    result = whole.view(len(copies), share.total, *x.shape[1:])[:, share.start : share.stop].reshape(x.shape)
    return x.copy_(result) if kwargs.get("inplace") else result


def _batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    share = current()
    if share is None or not training:
        return torch.batch_norm(
            x, weight, bias, running_mean, running_variance, training, momentum, eps, False
        )
    mean, variance = statistics(x)
    if running_mean is not None and running_variance is not None:
        count = x.numel() / x.shape[1] * share.total / share.size
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_variance.lerp_(variance * count / (count - 1), momentum)
    shape = [1, -1, *[1] * (x.dim() - 2)]
    scale = (variance + eps).rsqrt() if weight is None else (variance + eps).rsqrt() * weight
    normalised = (x - mean.view(shape)) * scale.view(shape)
    return normalised if bias is None else normalised + bias.view(shape)


def depends_on_batch(model: nn.Module) -> bool:
    """Whether a model has layers that ``WholeBatch`` is for."""
    return any(isinstance(layer, _BatchNorm | _DropoutNd) for layer in model.modules())


def running_statistics(model: nn.Module) -> list[Tensor]:
    """What layers keep of the batches that they have seen."""
    layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
    kept = [part for layer in layers for part in (layer.running_mean, layer.running_var)]
    return [part for part in kept if part is not None]
