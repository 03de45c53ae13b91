"""Networks without pooling, as certified training uses them (Lee et al., NeurIPS 2020).

All take ``input_shape`` (channels, height, width), ``num_classes``, and three options:
``batch_norm``, whether a BatchNorm follows each convolution, ``init``, how convolutions start, and
``activation``, such as ``"minmax"``. Without ``init`` they start as published: ``"he"`` for colour
images, ``"default"`` else.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from withstand.models.activations import ActivationName, activation_named
from withstand.models.blocks import Conv, Init, Shape, convnet, each_activated, initialise_

__all__ = ["cnn_4c3f", "cnn_6c2f", "cnn_8c2f", "cnn_small"]


def cnn_small(
    input_shape: Shape,
    num_classes: int,
    *,
    batch_norm: bool = False,
    init: Init | None = None,
    activation: ActivationName = "relu",
) -> nn.Sequential:
    """Two strided convolutions, 16 and 32 channels, and 100 hidden units ("small")."""
    network = _network([_half(16), _half(32)], [100], input_shape, num_classes, batch_norm, activation)
    return _started(network, input_shape[0], init)


def cnn_4c3f(
    input_shape: Shape,
    num_classes: int,
    *,
    batch_norm: bool = False,
    init: Init | None = None,
    activation: ActivationName = "relu",
) -> nn.Sequential:
    """Four convolutions and three linear layers ("large")."""
    convs = [_same(32), _half(32), _same(64), _half(64)]
    network = _network(convs, [512, 512], input_shape, num_classes, batch_norm, activation)
    return _started(network, input_shape[0], init)


def cnn_6c2f(
    input_shape: Shape,
    num_classes: int,
    *,
    batch_norm: bool = False,
    init: Init | None = None,
    activation: ActivationName = "relu",
) -> nn.Sequential:
    """Six convolutions and two linear layers."""
    convs = [_same(32), _same(32), _half(32), _same(64), _same(64), _half(64)]
    network = _network(convs, [512], input_shape, num_classes, batch_norm, activation)
    return _started(network, input_shape[0], init)


def cnn_8c2f(
    input_shape: Shape,
    num_classes: int,
    *,
    batch_norm: bool = False,
    init: Init | None = None,
    activation: ActivationName = "relu",
) -> nn.Sequential:
    """Eight convolutions and two linear layers, for Tiny ImageNet (64×64); at least 22×22."""
    convs = [
        *(_same(64), _same(64), _shrink(64)),
        *(_same(128), _same(128), _shrink(128)),
        *(_same(256), _shrink(256)),
    ]
    network = _network(convs, [256], input_shape, num_classes, batch_norm, activation)
    return _started(network, input_shape[0], init)


def _same(channels: int) -> Conv:
    return Conv(channels, 3, padding=1)


def _half(channels: int) -> Conv:
    return Conv(channels, 4, stride=2, padding=1)


def _shrink(channels: int) -> Conv:
    return Conv(channels, 4, stride=2)


def _network(
    convs: Sequence[Conv],
    hidden: Sequence[int],
    input_shape: Shape,
    num_classes: int,
    batch_norm: bool,
    activation: str,
) -> nn.Sequential:
    made = activation_named(activation)
    plan = each_activated(convs, made)
    return convnet(plan, hidden, input_shape, num_classes, batch_norm=batch_norm, activation=made)


def _started(network: nn.Sequential, in_channels: int, init: Init | None) -> nn.Sequential:
    published: Init = "he" if in_channels == 3 else "default"
    initialise_(network, published if init is None else init)
    return network
