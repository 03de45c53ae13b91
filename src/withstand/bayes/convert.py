"""From a plain network to one with random weights, and back to the network of its means."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from torch import nn
from torch.nn.utils import parametrize

from withstand.bayes.kinds import BatchNorm1d, BatchNorm2d, Conv1d, Conv2d, GroupNorm, LayerNorm, Linear
from withstand.bayes.layer import VariationalLayer, is_stochastic, variational_layers
from withstand.bayes.posterior import Posterior
from withstand.core.modes import uncompiled
from withstand.core.suggest import nearest
from withstand.types import ModelError

_RANDOM: Mapping[type[nn.Module], type[VariationalLayer]] = MappingProxyType(
    {
        nn.Linear: Linear,
        nn.Conv1d: Conv1d,
        nn.Conv2d: Conv2d,
        nn.BatchNorm1d: BatchNorm1d,
        nn.BatchNorm2d: BatchNorm2d,
        nn.GroupNorm: GroupNorm,
        nn.LayerNorm: LayerNorm,
    }
)
_PLAIN = {random: plain for plain, random in _RANDOM.items()}


def convert(
    model: nn.Module,
    posterior: Posterior = Posterior(),
    layers: Mapping[str, Posterior | None] = MappingProxyType({}),
) -> nn.Module:
    """A copy of a network in which weights are normal variables, their means the weights as they are.

    Linear layers, convolutions over one and two dimensions, and BatchNorm, GroupNorm and LayerNorm with scale
    and shift become random; subclasses of these and all other layers stay as they are. What reads the weight
    of a layer instead of calling it, as torch's transformer layers may in eval mode, sees the mean. Standard
    deviations drawn at random, and means drawn anew, come from torch's global generator.

    Args:
        model: Any network; its parameters and hooks are copied.
        posterior: Of every layer that ``layers`` does not name.
        layers: Path of a layer, or of a part of the network -> the posterior of what is in it, or None to
            leave it as it is; the longest path counts.

    Raises:
        ModelError: nothing becomes random, a path is not there, a layer to be made random is
            parametrised or shares its weight with another, or the model is random already.
    """
    if is_stochastic(model):
        raise ModelError("The model has random weights already; start from bayes.mean_network(model).")
    try:
        copied = copy.deepcopy(uncompiled(model))
    except RuntimeError as error:  # of a weight that is no parameter, but computed from some
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({error}). Remove what computes its weights, such as "
            "weight_norm, first."
        ) from error
    modules = dict(copied.named_modules(remove_duplicate=False))  # a layer used twice has two paths
    for path in layers:
        if path not in modules:
            raise ModelError(
                f"The model has no layer {path!r}; {nearest(path, [name for name in modules if name])}"
            )
    chosen = {
        path: layer_posterior
        for path, layer in modules.items()
        if _can_be_random(layer) and (layer_posterior := _posterior_of(path, posterior, layers)) is not None
    }
    if not chosen:
        raise ModelError(
            f"{type(model).__name__} has no layer that can be made random: no plain torch.nn.Linear, Conv1d, "
            "Conv2d, BatchNorm, GroupNorm or LayerNorm that is not left out."
        )
    _require_own_weights(modules, chosen)
    for path, layer_posterior in chosen.items():
        layer = modules[path]
        layer.__class__ = _RANDOM[type(layer)]  # in place, as whatever else refers to it must see it
        assert isinstance(layer, VariationalLayer)
        layer.make_random(layer_posterior)
    return copied


def mean_network(model: nn.Module) -> nn.Module:
    """A plain copy of a network with random weights: each weight is its mean.

    Its output is that of ``convert``'s argument exactly, where nothing was trained or drawn anew in between.

    Args:
        model: From ``convert``, or of variational layers; a plain one is copied.
    """
    copied = copy.deepcopy(uncompiled(model))
    for _, layer in variational_layers(copied):
        layer.make_plain()
        cast(nn.Module, layer).__class__ = _PLAIN[type(layer)]
    return copied


def _can_be_random(layer: nn.Module) -> bool:
    if getattr(layer, "weight", None) is None:  # a normalisation layer may have no scale
        return False
    # Parametrising changes the class, and such a layer is refused rather than passed over.
    return type(layer) in _RANDOM or (
        parametrize.is_parametrized(layer) and isinstance(layer, tuple(_RANDOM))
    )


def _posterior_of(path: str, default: Posterior, layers: Mapping[str, Posterior | None]) -> Posterior | None:
    around = [name for name in layers if name in ("", path) or path.startswith(f"{name}.")]
    return layers[max(around, key=len)] if around else default


def _require_own_weights(modules: Mapping[str, nn.Module], chosen: Mapping[str, Posterior]) -> None:
    owners: dict[int, str] = {}
    for path, layer in modules.items():
        # Old forms of torch keep a computed weight as a plain attribute.
        if path in chosen and "weight" not in layer._parameters:
            raise ModelError(
                f"The layer {path!r} computes its weight from other parameters, which have no posterior "
                f"here. Leave it out by layers={{{path!r}: None}}, or remove its parametrisation."
            )
        for name, parameter in layer.named_parameters(recurse=False):
            other = owners.setdefault(id(parameter), path)
            if other != path and {other, path} & set(chosen):
                raise ModelError(
                    f"The layers {other!r} and {path!r} share their {name}, which would be two random "
                    f"variables. Leave both out by layers={{{other!r}: None, {path!r}: None}}."
                )
