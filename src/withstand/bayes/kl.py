"""How far the posterior of a network is from its prior."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from withstand.bayes.layer import variational_layers
from withstand.bayes.posterior import divergence
from withstand.types import ModelError

__all__ = ["kl"]


def kl(model: nn.Module) -> Tensor:
    """The divergence KL(posterior || prior) of all random weights of a network, in nats.

    Args:
        model: With random layers.

    Returns:
        Scalar tensor, at least 0, with gradient; summed over all entries, not divided by anything.

    Raises:
        ModelError: the model has no random layer.
    """
    layers = variational_layers(model)
    if not layers:
        raise ModelError(
            f"{type(model).__name__} has no random weights. Make them by withstand.bayes.convert(model), "
            "or by model.bayes={} in a recipe."
        )
    terms = [divergence(normal) for _, layer in layers for normal in layer.normals().values()]
    return torch.stack(terms).sum()
