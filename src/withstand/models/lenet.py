"""Two convolutions of 5×5 and a wide hidden layer, in the two forms that were published."""

from __future__ import annotations

from torch import nn

from withstand.models.blocks import MAX_POOL, RELU, Conv, Shape, Step, convnet

__all__ = ["cnn_large_epsilon", "lenet"]


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
