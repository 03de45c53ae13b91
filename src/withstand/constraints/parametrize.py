"""Weights that are computed so that they are in a set always, by ``torch.nn.utils.parametrizations``.

For those who would rather not project: the optimiser then moves the parameters from which each weight
is computed anew. A layer's own parameters are in ``layer.parametrizations.weight``;
``torch.nn.utils.parametrize.remove_parametrizations`` makes the weights as they are plain again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from typing_extensions import override

from withstand.core.modes import uncompiled
from withstand.operators import Weight, weights
from withstand.types import ModelError

ParametrizationName: TypeAlias = Literal["spectral-norm", "orthogonal"]
"""What recipes call a parametrisation."""


def spectral_norm_(model: nn.Module) -> None:
    """Divides each weight by its largest singular value, as torch estimates it while it trains.

    Of all linear layers and convolutions, as matrices (out, in · taps); see
    ``torch.nn.utils.parametrizations.spectral_norm`` (Miyato et al., ICLR 2018).

    Args:
        model: Whose layers are changed, in place.

    Raises:
        ModelError: there is no such layer, or one is parametrised already, or shares its weight.
    """
    for weight in _plain(model):
        parametrizations.spectral_norm(weight.layer)


def orthogonal_(model: nn.Module) -> None:
    """Makes each weight orthogonal: with orthonormal rows, or columns where these are fewer.

    Of all linear layers and convolutions, as matrices (out, in · taps), with all singular values 1; see
    ``torch.nn.utils.parametrizations.orthogonal``, which by itself would take each tap of a kernel apart.
    The weights start at random orthogonal ones near none of the former.

    Args:
        model: Whose layers are changed, in place.

    Raises:
        ModelError: there is no such layer, or one is parametrised already, shares its weight, or is
            less precise than float32, in which nothing can be orthogonal.
    """
    chosen = _plain(model)
    for weight in chosen:
        if weight.value.dtype not in (torch.float32, torch.float64):
            raise ModelError(
                f"The weight of {weight.name!r} is {weight.value.dtype}, in which it cannot be held "
                "orthogonal; use model.float()."
            )
    for weight in chosen:
        rows, columns = weight.matrix.shape
        dense = nn.Linear(columns, rows, bias=False, device=weight.value.device, dtype=weight.value.dtype)
        inner = parametrizations.orthogonal(dense).get_submodule("parametrizations.weight.0")
        parametrize.register_parametrization(weight.layer, "weight", _OfKernel(inner))


class _OfKernel(nn.Module):
    """A parametrisation of matrices, for kernels."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner: Any = inner

    @override
    def forward(self, weight: Tensor) -> Tensor:
        result: Tensor = self.inner(weight.flatten(1))
        return result.view(weight.shape)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What the parametrisation makes the weight of."""
        result: Tensor = self.inner.right_inverse(weight.flatten(1))
        return result.view(weight.shape)


def _plain(model: nn.Module) -> list[Weight]:
    """The weights of a model, where each is a parameter of one layer alone."""
    layer_weights = weights(model)
    owners = [
        id(parameter)
        for module in uncompiled(model).modules()
        for parameter in module.parameters(recurse=False)
    ]
    for weight in layer_weights:
        if weight.parametrised:
            raise ModelError(
                f"The weight of {weight.name!r} is parametrised already, or by a hook; remove that first."
            )
        if owners.count(id(weight.value)) > 1:
            raise ModelError(
                f"The weight of {weight.name!r} is shared with another layer, which a parametrisation "
                "would part; give each layer its own, or use SpectralBall."
            )
    return layer_weights


PARAMETRIZATIONS: Mapping[ParametrizationName, Callable[[nn.Module], None]] = MappingProxyType(
    {"spectral-norm": spectral_norm_, "orthogonal": orthogonal_}
)
"""Name -> what puts it on all layers of a model, in place."""
