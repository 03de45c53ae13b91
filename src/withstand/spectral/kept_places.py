"""The places of a model, remembered from one training step to the next."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence

from torch import Tensor, nn
from typing_extensions import override

from withstand.compiled import uncompiled
from withstand.spectral.layers import Place, places

__all__ = ["KeptPlaces"]


class KeptPlaces:
    """The places of a model (see ``places``), found once for each size of the images.

    A copy begins anew: it is for another model than that whose layers are held here.

    Args:
        is_wanted: Of which layers; of all where None.
    """

    def __init__(self, is_wanted: Callable[[nn.Module], bool] | None = None) -> None:
        self._is_wanted = is_wanted
        self._found: list[Place] = []
        self._model: weakref.ref[nn.Module] | None = None
        self._shape: Sequence[int] = ()

    def of(self, model: nn.Module, images: Tensor) -> list[Place]:
        """As ``places``; the model runs only where it, or the size of its images, is another than before."""
        inner = uncompiled(model)
        is_known = self._model is not None and self._model() is inner
        if not is_known or self._shape != images.shape[1:]:
            self._found = places(inner, images, self._is_wanted)
            self._model, self._shape = weakref.ref(inner), images.shape[1:]
        return self._found

    @override
    def __reduce__(self) -> tuple[type[KeptPlaces], tuple[Callable[[nn.Module], bool] | None]]:
        return KeptPlaces, (self._is_wanted,)
