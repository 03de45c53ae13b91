"""From a plain network to one with random weights, and back to the network of its means."""

from __future__ import annotations

from types import MappingProxyType

from torch import nn

from withstand.bayes.convert_checks import (
    Posteriors,
    posterior_of,
    require_all_drawn,
    require_callers,
    require_own_weights,
    require_paths,
    require_sizes,
)
from withstand.bayes.kind_table import AROUND, PLAIN, RANDOM, can_be_random
from withstand.bayes.layer import VariationalLayer, is_stochastic, variational_layers
from withstand.bayes.posterior import Posterior
from withstand.core.made import changed_by, made_of
from withstand.core.wrappers import unwrapped_copy
from withstand.types import ModelError


def convert(
    model: nn.Module, posterior: Posterior = Posterior(), layers: Posteriors = MappingProxyType({})
) -> nn.Module:
    """A copy of a network in which weights are normal variables, their means the weights as they are.

    All parameters become random of torch's linear and bilinear layers, convolutions, transposed ones
    included, ``MultiheadAttention``, recurrent layers and cells, BatchNorm, GroupNorm, LayerNorm, RMSNorm and
    PReLU. No other parameter stays as it is without a word: those of ``Embedding``, of subclasses and of
    modules of your own are named in an error until ``layers`` leaves them out. Torch's transformer encoders
    run layer by layer, also where in eval mode one fused function would read all weights, and draw none.

    A module of your own that reads the weight of a layer, instead of calling the layer, sees the mean;
    ``sample_logits`` warns of layers that are never called.
    Examples lie in the first dimension of what layers are given, but for attention and recurrent layers whose
    ``batch_first`` says otherwise. Standard deviations drawn at random, and means drawn anew, come from
    torch's global generator.

    Args:
        model: Any network; its parameters and hooks are copied.
        posterior: Of every layer that ``layers`` does not name.
        layers: Path of a layer, or of a part of the network -> the posterior of what is in it, or None to
            leave it as it is; the longest path counts. Path of a parameter that cannot be random -> None.

    Raises:
        ModelError: nothing becomes random, a path is not there, a parameter that is not left out cannot be
            random, a layer to be made random is parametrised or shares its weight with another, or the
            model is random already.
    """
    if is_stochastic(model):
        raise ModelError("The model has random weights already; start from bayes.mean_network(model).")
    require_sizes(model)
    try:
        copied = unwrapped_copy(model)
    except RuntimeError as error:  # of a weight that is no parameter, but computed from some
        raise ModelError(
            f"{type(model).__name__} cannot be copied ({error}). Remove what computes its weights, such as "
            "weight_norm, first."
        ) from error
    modules = dict(copied.named_modules(remove_duplicate=False))  # a layer used twice has two paths
    require_paths(modules, layers)
    chosen = {
        path: layer_posterior
        for path, layer in modules.items()
        if can_be_random(layer) and (layer_posterior := posterior_of(path, posterior, layers)) is not None
    }
    if not chosen:
        raise ModelError(
            f"{type(model).__name__} has no layer that can be made random: none of torch's own layers with "
            "weights that is not left out."
        )
    require_own_weights(modules, chosen)
    require_all_drawn(modules, posterior, layers)
    require_callers(modules, chosen)
    for path, layer_posterior in chosen.items():
        layer = modules[path]
        layer.__class__ = RANDOM[type(layer)]  # in place, as whatever else refers to it must see it
        assert isinstance(layer, VariationalLayer)
        layer.make_random(layer_posterior)
    for module in modules.values():
        if type(module) in AROUND and is_stochastic(module):
            module.__class__ = AROUND[type(module)]
    changed_by(made_of(model), copied, bayes={"posterior": posterior, "layers": dict(layers)})
    return copied


def mean_network(model: nn.Module) -> nn.Module:
    """A plain copy of a network with random weights: each weight is its mean.

    Its output is that of ``convert``'s argument exactly, where nothing was trained or drawn anew in between.

    Args:
        model: From ``convert``, or of variational layers; a plain one is copied.
    """
    copied = unwrapped_copy(model)
    for _, layer in variational_layers(copied):
        layer.make_plain()
    for module in copied.modules():
        if type(module) in PLAIN:
            module.__class__ = PLAIN[type(module)]
    return copied
