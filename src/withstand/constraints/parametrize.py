"""Weights that are computed so that they are in a set always, by ``torch.nn.utils.parametrizations``.

For those who would rather not project: the optimiser then moves the parameters from which each weight
is computed anew. A layer's own parameters are in ``layer.parametrizations``;
``torch.nn.utils.parametrize.remove_parametrizations`` makes the weights as they are plain again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from typing_extensions import override

from withstand.core.made import changed_by, made_of
from withstand.core.wrappers import unwrapped
from withstand.operators import Weight, weights
from withstand.types import ModelError

ParametrizationName: TypeAlias = Literal["spectral-norm", "orthogonal"]
"""What recipes call a parametrisation."""


def spectral_norm_(model: nn.Module) -> None:
    """Divides each weight by its largest singular value, as torch estimates it while it trains.

    Of all weights that ``spectral.weights`` finds, as matrices (out, in · taps); what else might be one is
    named in its warning. See ``torch.nn.utils.parametrizations.spectral_norm`` (Miyato et al., ICLR 2018).

    Args:
        model: Whose layers are changed, in place.

    Raises:
        ModelError: there is no such layer, or one is parametrised already, or shares its weight.
    """
    made = made_of(model)
    for first, *others in _by_parameter(_plain(model)):
        if not others:
            parametrizations.spectral_norm(first.layer, first.parameter)
            continue
        inner = []
        for weight in (first, *others):
            dense = _dense(weight)
            dense.weight = nn.Parameter(weight.matrix.detach().clone())  # where the power iteration begins
            inner.append(parametrizations.spectral_norm(dense))
        _register(first, inner)
    changed_by(made, model, parametrize="spectral-norm")


def orthogonal_(model: nn.Module) -> None:
    """Makes each weight orthogonal: with orthonormal rows, or columns where these are fewer.

    Of all weights that ``spectral.weights`` finds, as matrices (out, in · taps), with all singular values 1;
    what else might be one is named in its warning. See ``torch.nn.utils.parametrizations.orthogonal``, which
    by itself would take each tap of a kernel apart.
    The weights start at random orthogonal ones near none of the former.

    Args:
        model: Whose layers are changed, in place.

    Raises:
        ModelError: there is no such layer, or one is parametrised already, shares its weight, or is
            less precise than float32, in which nothing can be orthogonal.
    """
    made, chosen = made_of(model), _plain(model)
    for weight in chosen:
        if weight.value.dtype not in (torch.float32, torch.float64):
            raise ModelError(
                f"The weight of {weight.name!r} is {weight.value.dtype}, in which it cannot be held "
                "orthogonal; use model.float()."
            )
    for parts in _by_parameter(chosen):
        _register(parts[0], [parametrizations.orthogonal(_dense(weight)) for weight in parts])
    changed_by(made, model, parametrize="orthogonal")


def _dense(weight: Weight) -> nn.Linear:
    """A linear layer of the size of a weight."""
    rows, columns = weight.matrix.shape
    return nn.Linear(columns, rows, bias=False, device=weight.value.device, dtype=weight.value.dtype)


def _register(weight: Weight, parametrised: Sequence[nn.Module]) -> None:
    """Makes a parameter of what the given linear layers make of theirs, one for each weight in it."""
    inner = [layer.get_submodule("parametrizations.weight.0") for layer in parametrised]
    whole = _OfKernel(inner[0]) if len(inner) == 1 else _OfStack(inner)
    parametrize.register_parametrization(weight.layer, weight.parameter, whole)


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


class _OfStack(nn.Module):
    """Parametrisations of matrices of one size, for a parameter in which these lie on top of each other."""

    def __init__(self, inner: Sequence[nn.Module]) -> None:
        super().__init__()
        self.inner: Any = nn.ModuleList(inner)

    @override
    def forward(self, weight: Tensor) -> Tensor:
        parts = weight.chunk(len(self.inner))
        return torch.cat([inner(part) for inner, part in zip(self.inner, parts, strict=True)])

    def right_inverse(self, weight: Tensor) -> Tensor:
        """What the parametrisations make the weight of."""
        parts = weight.chunk(len(self.inner))
        return torch.cat([inner.right_inverse(part) for inner, part in zip(self.inner, parts, strict=True)])


def _by_parameter(chosen: Sequence[Weight]) -> list[list[Weight]]:
    """The weights that lie in one parameter together."""
    groups: dict[tuple[int, str], list[Weight]] = {}
    for weight in chosen:
        groups.setdefault((id(weight.layer), weight.parameter), []).append(weight)
    return list(groups.values())


def _plain(model: nn.Module) -> list[Weight]:
    """The weights of a model, where each is a parameter of one layer alone."""
    layer_weights = weights(model)
    owners = [
        id(parameter)
        for module in unwrapped(model).modules()
        for parameter in module.parameters(recurse=False)
    ]
    for weight in layer_weights:
        if weight.parametrised:
            raise ModelError(
                f"The weight of {weight.name!r} is parametrised already, or by a hook; remove that first."
            )
        if owners.count(id(weight.tensor)) > 1:
            raise ModelError(
                f"The weight of {weight.name!r} is shared with another layer, which a parametrisation "
                "would part; give each layer its own, or use SpectralBall."
            )
    return layer_weights


PARAMETRIZATIONS: Mapping[ParametrizationName, Callable[[nn.Module], None]] = MappingProxyType(
    {"spectral-norm": spectral_norm_, "orthogonal": orthogonal_}
)
"""Name -> what puts it on all layers of a model, in place."""
