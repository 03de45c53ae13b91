"""Box constraint propagation as its paper and code write it (Lee et al., NeurIPS 2020), to compare with.

A clean pass, a pass of the centers, two of each box, one power iteration a layer, and the worst
logits of every pair of classes by ten rounds of clipping and stretching, of which one column is used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = ["TextbookBCP", "worst_logits"]

_EPS = 1e-12


@dataclass
class TextbookBCP:
    """The loss of the worst logits of a plain sequence of convolutions, linear layers and ReLU.

    Args:
        model: Ends in a linear layer.
        norm: 2 or inf.
        epsilon: Of the ball.
        num_rounds: Of clipping and stretching.
    """

    model: nn.Sequential
    norm: float
    epsilon: float
    num_rounds: int = 10
    _vectors: dict[int, Tensor] = field(default_factory=dict)

    def loss(self, images: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy of the worst logits, and the clean one, which weighs nothing."""
        clean = F.cross_entropy(self.model(images), labels)
        factor = math.sqrt(images[0].numel()) if self.norm == math.inf else 1.0
        center, radius = images, images.new_full((len(images),), self.epsilon * factor)
        midpoint, halfwidth = images, torch.full_like(images, self.epsilon)
        *layers, last = self.model
        for index, layer in enumerate(layers):
            if isinstance(layer, nn.Conv2d | nn.Linear):
                shape = center.shape
                center = layer(center)
                lower, upper = _image_of_box(layer, midpoint, halfwidth)
                around = _row_norms(layer) * _like(radius, center)
                lower = torch.maximum(lower, center - around)
                upper = torch.minimum(upper, center + around)
                radius = radius * self._norm(index, layer, shape)
            else:
                lower, upper = layer(midpoint - halfwidth), layer(midpoint + halfwidth)
                reach = _like(radius, center)
                lower = torch.maximum(lower, layer(center - reach))
                upper = torch.minimum(upper, layer(center + reach))
                center = layer(center)
            midpoint, halfwidth = (upper + lower) / 2, (upper - lower) / 2
        assert isinstance(last, nn.Linear)
        box = midpoint - halfwidth - center, midpoint + halfwidth - center
        gains = worst_logits(last.weight, box[0], box[1], radius, self.num_rounds)
        worst = last(center) + gains[torch.arange(len(labels)), :, labels]
        return F.cross_entropy(worst, labels) + 0 * clean

    def _norm(self, index: int, layer: nn.Conv2d | nn.Linear, shape: torch.Size) -> Tensor:
        """One power iteration, from the vector of the step before."""
        with torch.no_grad():
            vector = self._vectors.get(index)
            vector = torch.randn(1, *shape[1:]) if vector is None else vector
            image = _direction(_linear(layer, vector))
            vector = _direction(_transposed(layer, image, shape))
            self._vectors[index] = vector
        return (_linear(layer, vector) * image).sum()


def worst_logits(weight: Tensor, below: Tensor, above: Tensor, radius: Tensor, num_rounds: int) -> Tensor:
    """How much each logit can gain on each other, (batch, classes, classes).

    Args:
        weight: (classes, hidden).
        below: Lower ends of the box around the center, (batch, hidden).
        above: Upper ends.
        radius: Of the ball, (batch,).
        num_rounds: At most.
    """
    directions = (weight[:, None] - weight[None])[None]  # (1, class, class, hidden)
    lengths = directions.norm(dim=3, keepdim=True) + _EPS
    below, above = below[:, None, None], above[:, None, None]
    limit = radius[:, None, None, None]
    step = limit * directions / lengths
    for _ in range(num_rounds):
        is_below, is_above = step <= below, step >= above
        is_outside = is_below | is_above
        if not bool(((step < below) | (step > above)).any()):
            break
        clipped = torch.where(is_below, below, torch.where(is_above, above, step))
        left = limit**2 - (clipped * is_outside).square().sum(3, keepdim=True)
        before = limit**2 - (step * is_outside).square().sum(3, keepdim=True)
        stretch = (left.clamp_min(_EPS) / before.clamp_min(_EPS)).sqrt()
        step = torch.where(is_outside, clipped, step * stretch)
    gains: Tensor = (directions * step).sum(3)
    return gains


def _direction(x: Tensor) -> Tensor:
    direction: Tensor = x / x.norm()
    return direction


def _like(radius: Tensor, x: Tensor) -> Tensor:
    return radius.reshape(-1, *[1] * (x.dim() - 1))


def _image_of_box(layer: nn.Conv2d | nn.Linear, midpoint: Tensor, halfwidth: Tensor) -> tuple[Tensor, Tensor]:
    center = layer(midpoint)
    if isinstance(layer, nn.Linear):
        reach = F.linear(halfwidth, layer.weight.abs())
    else:
        reach = F.conv2d(halfwidth, layer.weight.abs(), None, layer.stride, layer.padding)
    return center - reach, center + reach


def _row_norms(layer: nn.Conv2d | nn.Linear) -> Tensor:
    norms: Tensor = layer.weight.flatten(1).norm(dim=1)
    return norms if isinstance(layer, nn.Linear) else norms[:, None, None]


def _linear(layer: nn.Conv2d | nn.Linear, x: Tensor) -> Tensor:
    if isinstance(layer, nn.Linear):
        return F.linear(x, layer.weight)
    return F.conv2d(x, layer.weight, None, layer.stride, layer.padding)


def _transposed(layer: nn.Conv2d | nn.Linear, y: Tensor, shape: torch.Size) -> Tensor:
    if isinstance(layer, nn.Linear):
        return y @ layer.weight
    (stride, _), padding, (kernel, _) = layer.stride, int(layer.padding[0]), layer.kernel_size
    missing = shape[-1] - ((y.shape[-1] - 1) * stride - 2 * padding + kernel)
    return F.conv_transpose2d(y, layer.weight, None, stride, padding, missing)
