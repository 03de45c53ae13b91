"""Networks that are one sequence of layers: convolutions, pooled or strided, and linear layers.

Among them residual networks for small images: a 3×3 stem of stride 1 and no pooling before the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeAlias

from torch import nn

from withstand.models.blocks import (
    AVG_POOL,
    MAX_POOL,
    RELU,
    Conv,
    Init,
    Pool,
    Residual,
    Shape,
    Step,
    activated_convs,
    conv_layers,
    convnet,
    dense_layers,
    initialise_,
    stretch_layers,
)
from withstand.models.layers import ActivationName, activation_named


def mlp(
    input_shape: Shape,
    num_classes: int,
    *,
    hidden: Sequence[int] = (1200, 1200),
    activation: ActivationName = "relu",
) -> nn.Sequential:
    """Linear layers with activations between; by default the 784-1200-1200-10 net of SEBR (CVPR 2021).

    Args:
        input_shape: Of one example: (features,), (channels, height, width), or any other.
        num_classes: Logits per image.
        hidden: Widths of the hidden layers; none makes a linear classifier.
        activation: Between the layers, such as ``"minmax"``.
    """
    widths = [math.prod(input_shape), *hidden, num_classes]
    return nn.Sequential(nn.Flatten(), *dense_layers(widths, activation=activation_named(activation)))


def lenet(input_shape: Shape, num_classes: int, *, batch_norm: bool = False) -> nn.Sequential:
    """The LeNet of the Gaussian moment regulariser (arXiv 1904.11005): padded, 32 and 64 channels.

    Args:
        input_shape: (channels, height, width) of one image, at least 4×4.
        num_classes: Logits per image.
        batch_norm: Whether a BatchNorm follows each convolution.
    """
    plan: list[Step] = [Conv(32, 5, padding=2), RELU, MAX_POOL, Conv(64, 5, padding=2), MAX_POOL, RELU]
    return convnet(plan, [1024], input_shape, num_classes, batch_norm=batch_norm)


def cnn_large_epsilon(input_shape: Shape, num_classes: int, *, batch_norm: bool = False) -> nn.Sequential:
    """The MNIST net of large-epsilon training (arXiv 2003.13370): unpadded, 1024 features.

    Args:
        input_shape: (channels, height, width) of one image, at least 16×16.
        num_classes: Logits per image.
        batch_norm: Whether a BatchNorm follows each convolution.
    """
    plan: list[Step] = [Conv(32, 5), RELU, MAX_POOL, Conv(64, 5), RELU, MAX_POOL]
    return convnet(plan, [1024], input_shape, num_classes, batch_norm=batch_norm)


def alexnet(input_shape: Shape, num_classes: int, *, batch_norm: bool = False) -> nn.Sequential:
    """The AlexNet of the Gaussian moment regulariser (arXiv 1904.11005), without dropout.

    Args:
        input_shape: (channels, height, width) of one image, at least 29×29.
        num_classes: Logits per image.
        batch_norm: Whether a BatchNorm follows each convolution.
    """
    plan: list[Step] = [
        *(Conv(64, 11, stride=4, padding=5), RELU, MAX_POOL),
        *(Conv(192, 5, padding=2), MAX_POOL, RELU),
        *(Conv(384, 3, padding=1), RELU),
        *(Conv(256, 3, padding=1), RELU),
        *(Conv(256, 3, padding=1), MAX_POOL, RELU),
    ]
    return convnet(plan, [4096, 4096], input_shape, num_classes, batch_norm=batch_norm)


_VGG5 = ((64,), (128,), (256,), (512,))
_VGG11 = ((64,), (128,), (256, 256), (512, 512), (512, 512))
_VGG16 = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))


def vgg5_stable(
    input_shape: Shape, num_classes: int, *, batch_norm: bool = False, init: Init = "he"
) -> nn.Sequential:
    """Four averaged stages and one linear layer, all without biases (arXiv 1810.00363, MNIST).

    Args:
        input_shape: (channels, height, width) of one image, at least 16×16.
        num_classes: Logits per image.
        batch_norm: Whether a BatchNorm, which has a bias of its own, follows each convolution.
        init: How convolutions start.
    """
    plan = _plan(_VGG5, AVG_POOL)
    network = convnet(plan, [], input_shape, num_classes, batch_norm=batch_norm, bias=False)
    initialise_(network, init)
    return network


def vgg11(
    input_shape: Shape, num_classes: int, *, batch_norm: bool = False, init: Init = "he"
) -> nn.Sequential:
    """VGG-11 as in arXiv 1810.00363 for CIFAR-10: two hidden layers of 512, no BatchNorm.

    Args:
        input_shape: (channels, height, width) of one image, at least 16×16; the last pooling is
            left out below 32×32.
        num_classes: Logits per image.
        batch_norm: Whether a BatchNorm follows each convolution.
        init: How convolutions start.
    """
    plan = _fitting(_plan(_VGG11, MAX_POOL), input_shape)
    network = convnet(plan, [512, 512], input_shape, num_classes, batch_norm=batch_norm)
    initialise_(network, init)
    return network


def vgg16(
    input_shape: Shape,
    num_classes: int,
    *,
    batch_norm: bool = True,
    hidden: Sequence[int] = (4096, 4096),
    init: Init = "default",
) -> nn.Sequential:
    """VGG-16 as in arXiv 1904.11005: BatchNorm after all convolutions but the first, no dropout.

    The VGG-16 of arXiv 1810.00363 is ``batch_norm=False, hidden=(512, 512), init="he"``.

    Args:
        input_shape: (channels, height, width) of one image, at least 16×16; the last pooling is
            left out below 32×32.
        num_classes: Logits per image.
        batch_norm: Whether a BatchNorm follows each convolution but the first.
        hidden: Widths of the linear layers before the logits.
        init: How convolutions start.
    """
    plan = _fitting(_plan(_VGG16, MAX_POOL), input_shape)
    network = convnet(plan, hidden, input_shape, num_classes, batch_norm=batch_norm)
    if batch_norm:
        # Analytic Gaussian moments are exact where a ReLU directly follows the first convolution.
        del network[1]
    initialise_(network, init)
    return network


def _plan(stages: Sequence[Sequence[int]], pool: Pool) -> list[Step]:
    # Max pooling and ReLU commute, so their order is free there; average pooling must come last.
    plan: list[Step] = []
    for widths in stages:
        plan += [*activated_convs([Conv(channels, 3, padding=1) for channels in widths], RELU), pool]
    return plan


def _fitting(plan: list[Step], input_shape: Shape) -> list[Step]:
    return plan if min(input_shape[1:]) >= 32 else plan[:-1]


def _strided(
    convs: Sequence[Conv],
    hidden: Sequence[int],
    input_shape: Shape,
    num_classes: int,
    *,
    batch_norm: bool = False,
    init: Init | None = None,
    activation: ActivationName = "relu",
    stretch: tuple[float, float] | None = None,
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
        stretch: (low, high), between which pixels are stretched to 0 to 1 before the first convolution, and
            cut off beyond: such as (0.35, 0.65) for images that are mostly black and white.
    """
    make_activation = activation_named(activation)
    plan = activated_convs(convs, make_activation)
    network = convnet(
        plan, hidden, input_shape, num_classes, batch_norm=batch_norm, activation=make_activation
    )
    published: Init = "he" if input_shape[0] == 3 else "default"
    initialise_(network, published if init is None else init)
    return network if stretch is None else nn.Sequential(*stretch_layers(input_shape[0], stretch), *network)


def _same(channels: int) -> Conv:
    return Conv(channels, 3, padding=1)


def _half(channels: int) -> Conv:
    return Conv(channels, 4, stride=2, padding=1)


def _shrink(channels: int) -> Conv:
    return Conv(channels, 4, stride=2)


cnn_small = partial(_strided, (_half(16), _half(32)), (100,))
"""Two strided convolutions, 16 and 32 channels, and 100 hidden units ("small")."""

cnn_medium = partial(_strided, (_half(32), _half(64)), (512,))
"""Two strided convolutions, 32 and 64 channels, and 512 hidden units."""

cnn_3c2f = partial(_strided, (_same(16), _half(32), _half(64)), (256,))
"""Three convolutions, the first at full size, 16, 32 and 64 channels, and 256 hidden units."""

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


_WIDTHS = (64, 128, 256, 512)
_Branch: TypeAlias = Callable[[int, int], tuple[Sequence[Step], int]]
"""(width, stride) -> what the branch learns with, and its channels."""


def resnet18(input_shape: Shape, num_classes: int, *, batch_norm: bool = False) -> nn.Sequential:
    """ResNet-18 as in arXiv 1810.00363 for CIFAR-10: convolutions without bias or BatchNorm.

    Args:
        input_shape: (channels, height, width) of one image, of any size.
        num_classes: Logits per image.
        batch_norm: Whether a BatchNorm follows each convolution.
    """
    return _resnet(_basic, (2, 2, 2, 2), input_shape[0], num_classes, batch_norm=batch_norm)


def resnet50(input_shape: Shape, num_classes: int, *, batch_norm: bool = True) -> nn.Sequential:
    """ResNet-50 in its CIFAR form, which arXiv 2003.13370 trains to epsilon 32/255.

    Args:
        input_shape: (channels, height, width) of one image, of any size.
        num_classes: Logits per image.
        batch_norm: Whether a BatchNorm follows each convolution.
    """
    return _resnet(_bottleneck, (3, 4, 6, 3), input_shape[0], num_classes, batch_norm=batch_norm)


def _basic(width: int, stride: int) -> tuple[Sequence[Step], int]:
    plan: list[Step] = [Conv(width, 3, stride, padding=1), RELU, Conv(width, 3, padding=1)]
    return plan, width


def _bottleneck(width: int, stride: int) -> tuple[Sequence[Step], int]:
    plan: list[Step] = [Conv(width, 1), RELU, Conv(width, 3, stride, padding=1), RELU, Conv(4 * width, 1)]
    return plan, 4 * width


def _resnet(
    branch: _Branch, depths: Sequence[int], in_channels: int, num_classes: int, *, batch_norm: bool
) -> nn.Sequential:
    stem = conv_layers(in_channels, [Conv(64, 3, padding=1), RELU], batch_norm=batch_norm, bias=False)
    blocks = _blocks(branch, depths, batch_norm=batch_norm)
    _, features = branch(_WIDTHS[-1], 1)
    end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, num_classes)
    return nn.Sequential(*stem, *blocks, *end)


def _blocks(branch: _Branch, depths: Sequence[int], *, batch_norm: bool) -> Iterator[nn.Module]:
    channels = 64
    for stage, (width, depth) in enumerate(zip(_WIDTHS, depths, strict=True)):
        for index in range(depth):
            stride = 2 if stage and not index else 1
            plan, out_channels = branch(width, stride)
            fits = stride == 1 and channels == out_channels
            shortcut = [] if fits else [Conv(out_channels, 1, stride)]
            yield Residual(
                nn.Sequential(*conv_layers(channels, plan, batch_norm=batch_norm, bias=False)),
                nn.Sequential(*conv_layers(channels, shortcut, batch_norm=batch_norm, bias=False)),
            )
            channels = out_channels
