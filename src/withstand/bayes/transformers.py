"""Torch's transformer encoders, held to call their layers.

In eval mode without gradients they hand all weights to one fused function, which would take the means of
random ones and draw nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from typing_extensions import override


@contextmanager
def _without_fused_function() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


class _CallsItsLayers(nn.Module):
    @override
    def forward(self, *inputs: Any, **options: Any) -> Any:
        with _without_fused_function():
            return super().forward(*inputs, **options)


class TransformerEncoder(_CallsItsLayers, nn.TransformerEncoder):
    """``torch.nn.TransformerEncoder`` with random weights in it."""


class TransformerEncoderLayer(_CallsItsLayers, nn.TransformerEncoderLayer):
    """``torch.nn.TransformerEncoderLayer`` with random weights in it."""
