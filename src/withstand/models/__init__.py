"""Networks that map images in [0, 1] to logits, made by name and saved safely."""

from __future__ import annotations

from withstand.models.check import check
from withstand.models.layers import GroupSort, MinMax, Normalize
from withstand.models.liresnet import LinearResidual
from withstand.models.registry import MODEL_NAMES, create
from withstand.models.weights import load_weights, save_weights

__all__ = [
    "MODEL_NAMES",
    "GroupSort",
    "LinearResidual",
    "MinMax",
    "Normalize",
    "check",
    "create",
    "load_weights",
    "save_weights",
]
