"""Batch normalisation as an affine map against torch's layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from withstand.domains import Box, Gaussian, UnsupportedOperationError, propagate

LAYERS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


def _layer(rank: int, *, affine: bool, tracks: bool, training: bool) -> nn.Module:
    layer = LAYERS[max(rank, 1)](3, eps=1e-3, affine=affine, track_running_stats=tracks).double()
    if affine:
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    if tracks:
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2.0)
    return layer.train(training)


def _images(rank: int) -> Tensor:
    return 3 + 2 * torch.randn(8, 3, *range(2, 2 + rank), dtype=torch.float64)


def _statistics(layer: nn.Module, images: Tensor) -> Tensor:
    dims = [0, *range(2, images.dim())]
    return images.var(dims, unbiased=False) if layer.training else layer.get_buffer("running_var")


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_of_a_set_is_the_layer(rank: int, affine: bool, tracks: bool, training: bool) -> None:
    layer = _layer(rank, affine=affine, tracks=tracks, training=training)
    images = _images(rank)
    value = Box.around(images, torch.full_like(images[:1], 0.3))
    if not training and not tracks:
        with pytest.raises(UnsupportedOperationError, match="track_running_stats=True"):
            propagate(layer, value)
        return
    buffers = copy.deepcopy(layer.state_dict())
    midpoint, halfwidth = propagate(layer, value).parts
    for name, buffer in layer.state_dict().items():
        assert torch.equal(buffer, buffers[name])  # the statistics are left as they are
    scale = (_statistics(layer, images) + 1e-3).rsqrt()
    scale = scale * layer.get_parameter("weight").abs() if affine else scale
    torch.testing.assert_close(midpoint, layer(images))
    expected = 0.3 * scale.reshape(1, 3, *[1] * rank)
    torch.testing.assert_close(halfwidth, expected.expand(1, *images.shape[1:]))


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_of_a_set_has_the_gradients_of_the_layer(training: bool) -> None:
    layer = _layer(2, affine=True, tracks=True, training=training)
    images = _images(2).requires_grad_()
    upstream = torch.randn_like(images)
    expected = (images, *layer.parameters())
    reached = propagate(layer, Box.around(images, torch.zeros_like(images[:1]))).center
    actual = torch.autograd.grad(reached, expected, upstream)
    torch.testing.assert_close(actual, torch.autograd.grad(layer(images), expected, upstream))


def test_batch_norm_normalises_a_distribution_by_its_means() -> None:
    layer = _layer(2, affine=True, tracks=True, training=True)
    images, variance = _images(2), torch.rand(1, 3, 2, 3, dtype=torch.float64)
    result = propagate(layer, Gaussian(images, variance))
    scale = (layer.get_parameter("weight") * (_statistics(layer, images) + 1e-3).rsqrt()).reshape(1, 3, 1, 1)
    torch.testing.assert_close(result.mean, layer(images))
    torch.testing.assert_close(result.variance, scale.square() * variance)
