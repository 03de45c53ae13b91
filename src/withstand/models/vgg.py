"""VGG networks for small images: 3×3 convolutions, pooled by 2×2."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from withstand.models.blocks import (
    AVG_POOL,
    MAX_POOL,
    RELU,
    Conv,
    Init,
    Pool,
    Shape,
    Step,
    convnet,
    each_activated,
    initialise_,
)

__all__ = ["vgg5_stable", "vgg11", "vgg16"]

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
        plan += [*each_activated([Conv(channels, 3, padding=1) for channels in widths], RELU), pool]
    return plan


def _fitting(plan: list[Step], input_shape: Shape) -> list[Step]:
    return plan if min(input_shape[1:]) >= 32 else plan[:-1]
