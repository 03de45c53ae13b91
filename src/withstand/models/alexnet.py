"""AlexNet for images of 32×32."""

from __future__ import annotations

from torch import nn

from withstand.models.blocks import MAX_POOL, RELU, Conv, Shape, Step, convnet

__all__ = ["alexnet"]


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
