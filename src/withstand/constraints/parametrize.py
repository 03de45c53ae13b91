"""Weights that are computed so that they are in a set always, by ``torch.nn.utils.parametrize``.

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
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils import parametrizations, parametrize
from typing_extensions import override

from withstand.constraints.orthogonal import NormalizedRows, Orthogonal
from withstand.core.made import changed_by, made_of
from withstand.core.wrappers import unwrapped
from withstand.models.blocks import require_no_stretch
from withstand.models.liresnet import LinearResidual
from withstand.operators import Weight, weights
from withstand.types import ModelError

ParametrizationName: TypeAlias = Literal[
    "spectral-norm", "orthogonal", "orthogonal-normalized-last", "orthogonal-free-last"
]
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
            dense = nn.Linear(1, 1, bias=False)
            dense.weight = nn.Parameter(weight.matrix.detach().clone())  # where the power iteration begins
            inner.append(parametrizations.spectral_norm(dense).get_submodule("parametrizations.weight.0"))
        parametrize.register_parametrization(first.layer, first.parameter, _OfStack(inner))
    changed_by(made, model, parametrize="spectral-norm")


def orthogonal_(model: nn.Module) -> None:
    """Makes each weight orthogonal: with orthonormal rows, or columns where these are fewer.

    Of all weights that ``spectral.weights`` finds; what else might be one is named in its warning. A kernel
    is orthogonal as the convolution that it is, on a circle, so that no layer that pads with zeros expands
    (``Orthogonal``). As a matrix (out, in · taps) of each group its singular values are 1 too, but where it
    has more channels out than inputs under one stride. Kernels within ``LinearResidual`` are left free, since
    it is the sum with the identity whose norm counts.
    Matrices start as the nearest orthogonal ones, kernels of several taps at random.

    Args:
        model: Whose layers are changed, in place.

    Raises:
        ModelError: there is no such layer, or one is parametrised already, shares its weight, is less
            precise than float32, in which nothing can be orthogonal, or has a weight that is not finite.
    """
    made = made_of(model)
    for parts in _by_parameter(_constrained(model)):
        _make_orthogonal(parts)
    changed_by(made, model, parametrize="orthogonal")


def orthogonal_normalized_last_(model: nn.Module) -> None:
    """As ``orthogonal_``, but of the last weight each row has length 1 (``NormalizedRows``).

    Each logit is 1-Lipschitz then where all layers are, and the angles between classes are learnt.

    Args:
        model: Whose layers are changed, in place; the last of them in its order gives the logits.

    Raises:
        ModelError: as of ``orthogonal_``, or the last weight is of no linear layer.
    """
    made = made_of(model)
    last = _all_but_last_orthogonal(model)
    parametrize.register_parametrization(last.layer, last.parameter, NormalizedRows())
    changed_by(made, model, parametrize="orthogonal-normalized-last")


def orthogonal_free_last_(model: nn.Module) -> None:
    """As ``orthogonal_``, but the last weight is left as it is.

    Bounds take the distances of its rows for what they are, and its size, which the training chooses, is the
    inverse temperature of a loss of worst logits.

    Args:
        model: Whose layers are changed, in place; the last of them in its order gives the logits.

    Raises:
        ModelError: as of ``orthogonal_``, the last weight is of no linear layer, or there is no other.
    """
    made = made_of(model)
    last = _all_but_last_orthogonal(model)
    if not any(weight.parametrised for weight in weights(model)):
        raise ModelError(
            f"The only weight, {last.name!r}, is that of the last layer, which would be left free; take "
            "'orthogonal', or a model of more layers."
        )
    changed_by(made, model, parametrize="orthogonal-free-last")


def _all_but_last_orthogonal(model: nn.Module) -> Weight:
    """Makes all weights orthogonal but the last, which is returned."""
    *others, last = _by_parameter(_constrained(model))
    if not isinstance(last[0].layer, nn.Linear):
        raise ModelError(
            f"The last weight, {last[0].name!r}, is of {type(last[0].layer).__name__}, whose rows are no "
            "classes; take 'orthogonal', or a model that ends with torch.nn.Linear."
        )
    for parts in others:
        _make_orthogonal(parts)
    return last[0]


def _constrained(model: nn.Module) -> list[Weight]:
    """The weights that can be orthogonal, all that linear residual blocks do not add to the identity."""
    free = {id(module.conv) for module in unwrapped(model).modules() if isinstance(module, LinearResidual)}
    chosen = [weight for weight in _plain(model) if id(weight.layer) not in free]
    for weight in chosen:
        if weight.value.dtype not in (torch.float32, torch.float64):
            raise ModelError(
                f"The weight of {weight.name!r} is {weight.value.dtype}, in which it cannot be held "
                "orthogonal; use model.float()."
            )
        if not weight.value.is_meta and not bool(weight.value.isfinite().all()):
            raise ModelError(
                f"The weight of {weight.name!r} is not finite, so there is no orthogonal one near it."
            )
    return chosen


def _make_orthogonal(parts: Sequence[Weight]) -> None:
    """Makes a parameter of one weight, or of several on top of each other."""
    layer, shape = parts[0].layer, parts[0].tensor.shape
    if isinstance(layer, _ConvNd):
        whole = Orthogonal(shape, layer.groups, layer.stride, layer.dilation)
    else:
        whole = Orthogonal(shape, len(parts))
    parametrize.register_parametrization(layer, parts[0].parameter, whole)


class _OfStack(nn.Module):
    """Parametrisations of matrices of one size, for a parameter in which these lie on top of each other."""

    is_function = True

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
    require_no_stretch(model)
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
    {
        "spectral-norm": spectral_norm_,
        "orthogonal": orthogonal_,
        "orthogonal-normalized-last": orthogonal_normalized_last_,
        "orthogonal-free-last": orthogonal_free_last_,
    }
)
"""Name -> what puts it on all layers of a model, in place."""
