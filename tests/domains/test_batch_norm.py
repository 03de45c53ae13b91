"""Batch normalisation as an affine map against torch's layer."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from withstand.domains import Gaussian, batch_norm_factors, propagate

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


@pytest.mark.parametrize("rank", [0, 1, 2, 3])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("tracks", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_factors_make_the_layer(rank: int, affine: bool, tracks: bool, training: bool) -> None:
    layer = _layer(rank, affine=affine, tracks=tracks, training=training)
    images = _images(rank)
    buffers = copy.deepcopy(layer.state_dict())
    scale, bias = batch_norm_factors(layer, images)  # type: ignore[arg-type]
    for name, buffer in layer.state_dict().items():
        assert torch.equal(buffer, buffers[name])  # the statistics are left as they are
    torch.testing.assert_close(scale * images + bias, layer(images))
    for factor in (scale, bias):
        assert factor.expand(images.shape[1:]).shape == images.shape[1:]


@pytest.mark.parametrize("training", [False, True])
def test_batch_norm_factors_have_the_gradients_of_the_layer(training: bool) -> None:
    layer = _layer(2, affine=True, tracks=True, training=training)
    images = _images(2).requires_grad_()
    scale, bias = batch_norm_factors(layer, images)  # type: ignore[arg-type]
    upstream = torch.randn_like(images)
    expected = (images, *layer.parameters())
    actual = torch.autograd.grad(scale * images + bias, expected, upstream)
    torch.testing.assert_close(actual, torch.autograd.grad(layer(images), expected, upstream))


def test_batch_norm_factors_normalise_a_distribution_by_its_means() -> None:
    layer = _layer(2, affine=True, tracks=True, training=True)
    images, variance = _images(2), torch.rand(1, 3, 2, 3, dtype=torch.float64)
    scale, bias = batch_norm_factors(layer, images)  # type: ignore[arg-type]
    result = propagate(layer, Gaussian(images, variance))
    torch.testing.assert_close(result.mean, scale * images + bias)
    torch.testing.assert_close(result.variance, scale.square() * variance)
