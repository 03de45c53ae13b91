"""A network of linear residual blocks, whose Lipschitz constant stays small however deep it is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.models.blocks import Conv, Shape, Step, convnet
from withstand.models.layers import ActivationName, activation_named
from withstand.types import ModelError


class LinearResidual(nn.Module):
    """``x + conv(x)``, a linear map, bounded by the norm of that sum (Hu et al., NeurIPS 2023).

    The 3×3 kernel starts as PyTorch's default times ``scale``, so that the block is near the identity.

    Args:
        channels: That it takes and gives.
        scale: Of the initial kernel, such as one over the number of blocks.
    """

    def __init__(self, channels: int, scale: float = 1.0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        with torch.no_grad():
            self.conv.weight.mul_(scale)

    @override
    def forward(self, images: Tensor) -> Tensor:
        result: Tensor = images + self.conv(images)
        return result


def liresnet(
    input_shape: Shape,
    num_classes: int,
    *,
    width: int = 16,
    num_blocks: int = 2,
    hidden: Sequence[int] = (512,),
    activation: ActivationName = "minmax",
) -> nn.Sequential:
    """LiResNet (Hu et al., NeurIPS 2023), for certified training in l2, in a size for one processor.

    A strided stem, linear residual blocks, a strided neck of ``width`` channels and linear layers, each
    but the last followed by the activation. Published are 12 blocks and more of width 256.

    Args:
        input_shape: (channels, height, width) of one image, at least 4×4.
        num_classes: Logits per image.
        width: Channels of all convolutions; even where the activation is ``"minmax"``.
        num_blocks: Linear residual blocks, 0 or more.
        hidden: Widths of the linear layers before the last; even for ``"minmax"``.
        activation: After each layer but the last.

    Raises:
        ModelError: the images are too small, or a width or the number of blocks cannot be.
    """
    if num_blocks < 0:
        raise ModelError(f"num_blocks must be 0 or more, but got {num_blocks}.")
    if activation == "minmax" and (odd := [size for size in (width, *hidden) if size % 2]):
        raise ModelError(f"MinMax pairs channels, so width and hidden must be even, but got {odd[0]}.")
    make_activation = activation_named(activation)
    block = partial(LinearResidual, width, 1 / max(1, num_blocks))
    blocks: list[Step] = [step for _ in range(num_blocks) for step in (block, make_activation)]
    stem, neck = Conv(width, 4, stride=2, padding=1), Conv(width, 4, stride=2, padding=1)
    plan: list[Step] = [stem, make_activation, *blocks, neck, make_activation]
    return convnet(plan, hidden, input_shape, num_classes, batch_norm=False, activation=make_activation)
