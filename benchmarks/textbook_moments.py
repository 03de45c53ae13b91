"""The expectation loss as a textbook writes it: the network passed twice, the variance at full size.

After the formulas of Alfadly, Bibi, Ghanem, arXiv 1904.11005, for a network that begins with
normalisation, a convolution and a ReLU.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.models import Normalize

__all__ = ["expectation_loss"]


def expectation_loss(model: nn.Sequential, images: Tensor, labels: Tensor, noise_std: float) -> Tensor:
    """Cross-entropy of the images, and of the mean output of the first ReLU under noise.

    Args:
        model: ``normalize`` and ``network``, as ``models.create`` builds them.
        images: Float tensor (batch, channels, height, width).
        labels: Integer tensor (batch,).
        noise_std: In [0, 1] units.
    """
    normalize, network = model
    assert isinstance(normalize, Normalize)
    assert isinstance(network, nn.Sequential)
    conv, rest = network[0], network[2:]
    assert isinstance(conv, nn.Conv2d)
    variance = (noise_std / normalize.std) ** 2 * torch.ones_like(images)
    mean = conv(normalize(images))
    spread = F.conv2d(variance, conv.weight**2, None, conv.stride, conv.padding, conv.dilation, conv.groups)
    std = (spread + 1e-12).sqrt()
    h = mean / std
    share = 0.5 * (1 + torch.erf(h / math.sqrt(2)))
    expected = mean * share + std * torch.exp(-0.5 * h**2) / math.sqrt(2 * math.pi)
    clean = F.cross_entropy(model(images), labels)
    return clean + F.cross_entropy(rest(expected), labels)
