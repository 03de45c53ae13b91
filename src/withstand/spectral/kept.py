"""Tensors that are kept from one call to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from typing_extensions import override


class Kept(nn.Module):
    """Tensors by name, as buffers, so that they move with the device and are saved in checkpoints.

    They are made when they are first needed. So a fresh object meets them in a checkpoint first, and one that
    goes back to a checkpoint from before their time forgets them.
    """

    def get(self, name: str) -> Tensor | None:
        """What was put under a name last; None where nothing was."""
        return self._buffers.get(_key(name))

    def put(self, name: str, value: Tensor) -> None:
        """Keeps a tensor, in place of the one before."""
        self.register_buffer(_key(name), value)

    def __len__(self) -> int:
        return len(self._buffers)

    @override
    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *arguments: Any, **options: Any
    ) -> None:
        self._buffers.clear()
        for name, value in state_dict.items():
            if name.startswith(prefix):
                self.register_buffer(name.removeprefix(prefix), value.clone())
        super()._load_from_state_dict(state_dict, prefix, *arguments, **options)


def _key(name: str) -> str:
    # Not the name of a method or attribute, nor that of another: a.b and a_b are two layers.
    return "of_" + name.replace(".", "/")
