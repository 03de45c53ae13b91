"""The logits in what a model returns."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.types import ModelError

_BYTES = torch.float32.itemsize  # below which nothing is computed outside the model


def as_logits(output: Any, count: int) -> Tensor:
    """The logits in what a model returns, (batch, classes), at least float32; of one logit two, [0, logit].

    Args:
        output: Whatever it returned.
        count: Images that it was given.

    Raises:
        ModelError: there are none, or which they are cannot be told.
    """
    logits = taken_out(output)
    if not logits.is_floating_point():
        raise ModelError(f"The model returns {logits.dtype} values, but logits are floats; return them.")
    if logits.dim() == 1 and logits.shape[0] == count:
        logits = logits[:, None]
    if logits.dim() != 2 or logits.shape[0] != count:
        raise ModelError(
            f"The model returns shape {tuple(logits.shape)} for {count} images, but must give logits, a "
            f"tensor (batch, classes), here ({count}, classes); flatten or pool before its last layer, and "
            "give squeeze() its dimension."
        )
    if logits.dtype.itemsize < _BYTES:
        logits = logits.float()
    return F.pad(logits, (1, 0)) if logits.shape[1] == 1 else logits


def taken_out(output: Any) -> Tensor:
    """The tensor of logits in what a model returns.

    That is the tensor itself; what is named ``logits``, as attribute or key; of a dictionary ``out`` or the
    only entry; of a tuple or list the first entry, unless another one may be the logits of other classes.

    Raises:
        ModelError: there is none, or which it is cannot be told.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if logits is None and isinstance(output, Mapping):
        logits = output.get("out", next(iter(output.values())) if len(output) == 1 else None)
    if logits is None and isinstance(output, tuple | list) and output and not _is_ambiguous(output):
        logits = output[0]
    if isinstance(logits, Tensor):
        return logits
    parts = (
        output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    )
    shapes = [tuple(part.shape) if isinstance(part, Tensor) else type(part).__name__ for part in parts]
    listed = f" of {', '.join(map(str, shapes))}" if shapes else ""
    raise ModelError(
        f"The model returns a {type(output).__name__}{listed}, but must give logits, a tensor (batch, "
        "classes); wrap it in a module whose forward picks them out, such as `return self.model(images)[0]`."
    )


def has_others(output: Any) -> bool:
    """Whether a tuple or list of logits, the first of which are taken, has more of their shape."""
    parts = output if isinstance(output, tuple | list) and not hasattr(output, "logits") else ()
    first = parts[0] if parts else None
    return isinstance(first, Tensor) and any(
        isinstance(part, Tensor) and part.is_floating_point() and part.shape == first.shape
        for part in parts[1:]
    )


def _is_ambiguous(parts: tuple[Any, ...] | list[Any]) -> bool:
    """Whether another entry than the first may be the logits, of another number of classes."""
    first = parts[0]
    return isinstance(first, Tensor) and any(
        isinstance(part, Tensor)
        and part.is_floating_point()
        and part.dim() == 2
        and part.shape != first.shape
        for part in parts[1:]
    )
