"""Residual networks for small images: a 3×3 stem of stride 1 and no pooling before the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TypeAlias

from torch import nn

from withstand.models.blocks import RELU, Conv, Residual, Shape, Step, conv_layers

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
