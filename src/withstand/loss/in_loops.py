"""What loops of others put around a model, and how a loss works behind it.

An objective runs a model several times before a backward pass, captures its steps and reads its weights. So
it works on the model itself, while gradients are averaged over processes, and passes cast, as the loop wants.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from typing_extensions import override

from withstand.core.batch_shares import meeting
from withstand.core.wrappers import unwrapped
from withstand.types import LossTerms, ModelError

Compute: TypeAlias = Callable[[nn.Module, Tensor, Tensor], LossTerms]

_ACCELERATE = "_original_forward"  # where accelerate keeps the forward that it casts around, by its own name


def averaged(model: nn.Module, images: Tensor, labels: Tensor, compute: Compute) -> LossTerms:
    """A loss whose gradients ``DistributedDataParallel`` averages over its processes, where a model is in it.

    Whatever is computed counts as one pass of it: buffers, such as the statistics of BatchNorm, are those of
    the first process at its begin, and nothing writes to them in between. ``no_sync`` holds, as all its
    settings do.

    Args:
        model: Any module; of one that is in no ``DistributedDataParallel`` this is ``compute`` alone.
        images: Of this process, (batch, …).
        labels: Of this process, (batch,).
        compute: Makes the loss of the model that is inside.

    Returns:
        The loss and the terms of this process.

    Raises:
        ModelError: a part of the model alone is distributed.
    """
    parallel = _distributed(model)
    if parallel is None:
        return compute(model, images, labels)
    inside = parallel.module
    if not torch.is_grad_enabled():  # nothing to average, so that one process may do it alone
        return compute(inside, images, labels)
    parallel.module = passes = _Passes(inside, compute, joins=not parallel.find_unused_parameters)
    try:
        return LossTerms(parallel(images, labels), passes.terms)
    finally:
        parallel.module = inside


def _distributed(model: nn.Module) -> DistributedDataParallel | None:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    ddp = next((part for part in model.modules() if isinstance(part, DistributedDataParallel)), None)
    if ddp is not None and unwrapped(ddp) is not unwrapped(model):
        raise ModelError(
            f"A part of the model {type(model).__name__} is in a DistributedDataParallel, but must be in it "
            "whole for its gradients to be averaged: DistributedDataParallel(model)."
        )
    return ddp


class _Passes(nn.Module):
    """What is in the place of a distributed model while a loss is computed: all of its passes as one.

    Args:
        inside: The model.
        compute: Makes the loss.
        joins: Whether the loss shall depend on all weights.
    """

    def __init__(self, inside: nn.Module, compute: Compute, *, joins: bool) -> None:
        super().__init__()
        self.inside = inside
        self._compute = compute
        self._joins = joins
        self.terms: dict[str, Tensor] = {}

    @override
    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        with meeting():  # what is largest over the batch is so over that of all processes
            loss, self.terms = self._compute(self.inside, images, labels)
        if not self._joins:
            return loss
        joined: Tensor = _Joined.apply(loss, *(w for w in self.parameters() if w.requires_grad))  # type: ignore[no-untyped-call]
        return joined


class _Joined(torch.autograd.Function):
    """A loss as it is; weights that it does not depend on have a gradient of none, for which others wait."""

    @staticmethod
    @override
    def forward(ctx: Any, loss: Tensor, *weights: Tensor) -> Tensor:
        ctx.num_weights = len(weights)
        return loss.view_as(loss)

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        return (gradients[0], *[None] * ctx.num_weights)


@contextmanager
def autocast_around(model: nn.Module) -> Iterator[None]:
    """Casts as accelerate would inside the forward of a model, which has its own forward meanwhile.

    So what needs full precision can turn it off, and the steps of the model are its own.

    Args:
        model: Any module; one that accelerate has not prepared for mixed precision is left as it is.

    Yields:
        Nothing.
    """
    parts = model.modules() if "accelerate" in sys.modules else ()
    cast = [part for part in parts if _ACCELERATE in vars(part)]
    if not cast:
        yield
        return
    from accelerate.utils import get_mixed_precision_context_manager

    forwards = [part.forward for part in cast]
    for part in cast:
        part.forward = vars(part)[_ACCELERATE]
    try:
        with get_mixed_precision_context_manager(native_amp=True):
            yield
    finally:
        for part, forward in zip(cast, forwards, strict=True):
            part.forward = forward
