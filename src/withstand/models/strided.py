"""Networks without pooling, as certified training uses them (Lee et al., NeurIPS 2020)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from withstand.models.activations import ActivationName, activation_named
from withstand.models.blocks import Conv, Init, Shape, convnet, each_activated, initialise_

__all__ = ["cnn_4c3f", "cnn_6c2f", "cnn_8c2f", "cnn_small"]


def _strided(
    convs: Sequence[Conv],
    hidden: Sequence[int],
    input_shape: Shape,
    num_classes: int,
    *,
    batch_norm: bool = False,
    init: Init | None = None,
    activation: ActivationName = "relu",
) -> nn.Sequential:
    """Convolutions, then linear layers, all activated but the last.

    Args:
        convs: The convolutions.
        hidden: Widths of the linear layers before the logits.
        input_shape: (channels, height, width) of one image.
        num_classes: Logits per image.
        batch_norm: Whether a BatchNorm follows each convolution.
        init: How convolutions start; as published where None: ``"he"`` for colour images, ``"default"`` else.
        activation: Such as ``"minmax"``.
    """
    made = activation_named(activation)
    plan = each_activated(convs, made)
    network = convnet(plan, hidden, input_shape, num_classes, batch_norm=batch_norm, activation=made)
    published: Init = "he" if input_shape[0] == 3 else "default"
    initialise_(network, published if init is None else init)
    return network


def _same(channels: int) -> Conv:
    return Conv(channels, 3, padding=1)


def _half(channels: int) -> Conv:
    return Conv(channels, 4, stride=2, padding=1)


def _shrink(channels: int) -> Conv:
    return Conv(channels, 4, stride=2)


cnn_small = partial(_strided, (_half(16), _half(32)), (100,))
"""Two strided convolutions, 16 and 32 channels, and 100 hidden units ("small")."""

cnn_4c3f = partial(_strided, (_same(32), _half(32), _same(64), _half(64)), (512, 512))
"""Four convolutions and three linear layers ("large")."""

cnn_6c2f = partial(_strided, (_same(32), _same(32), _half(32), _same(64), _same(64), _half(64)), (512,))
"""Six convolutions and two linear layers."""

_8C = (
    *(_same(64), _same(64), _shrink(64)),
    *(_same(128), _same(128), _shrink(128)),
    *(_same(256), _shrink(256)),
)
cnn_8c2f = partial(_strided, _8C, (256,))
"""Eight convolutions and two linear layers, for Tiny ImageNet (64×64); at least 22×22."""
