"""Fully connected networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from withstand.models.activations import ActivationName, activation_named
from withstand.models.blocks import Shape, dense_layers

__all__ = ["mlp"]


def mlp(
    input_shape: Shape,
    num_classes: int,
    *,
    hidden: Sequence[int] = (1200, 1200),
    activation: ActivationName = "relu",
) -> nn.Sequential:
    """Linear layers with activations between; by default the 784-1200-1200-10 net of SEBR (CVPR 2021).

    Args:
        input_shape: (channels, height, width) of one image.
        num_classes: Logits per image.
        hidden: Widths of the hidden layers; none makes a linear classifier.
        activation: Between the layers, such as ``"minmax"``.
    """
    widths = [math.prod(input_shape), *hidden, num_classes]
    return nn.Sequential(nn.Flatten(), *dense_layers(widths, activation=activation_named(activation)))
