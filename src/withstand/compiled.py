"""Models that went through ``torch.compile``, whose layers are one step further in."""

from __future__ import annotations

from torch import nn

_ORIGINAL = "_orig_mod"  # torch's name, as in the keys of a compiled model's state_dict


def uncompiled(model: nn.Module) -> nn.Module:
    """The module that ``torch.compile`` was called with, of the same weights; any other as it is."""
    return dict(model.named_children()).get(_ORIGINAL, model)
