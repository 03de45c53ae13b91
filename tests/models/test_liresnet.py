"""Linear residual blocks are bounded as one operator, and what is proven of a net of them holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from withstand.attacks import PGD
from withstand.certificates import certified_radius
from withstand.constraints import orthogonal_normalized_last_
from withstand.domains import Ball, propagate
from withstand.models import MinMax, create
from withstand.models.liresnet import LinearResidual, liresnet
from withstand.operators import GuaranteedNorms
from withstand.types import ModelError


def test_linear_residual_is_bounded_by_the_norm_of_the_sum() -> None:
    torch.manual_seed(0)
    block = LinearResidual(2).double()
    with torch.no_grad():
        block.conv.weight.neg_()[:, :, 1, 1].sub_(torch.eye(2))  # much of the identity is taken away
        images = torch.eye(50, dtype=torch.float64).reshape(50, 2, 5, 5)
        matrix = (block(images) - block(torch.zeros_like(images))).flatten(1).T
        ball = propagate(block, Ball(images[:1], torch.ones(1).double()), norms=GuaranteedNorms())
    whole, alone = torch.linalg.matrix_norm(matrix, 2), torch.linalg.matrix_norm(matrix - torch.eye(50), 2)
    torch.testing.assert_close(ball.radius, whole.expand(1), rtol=1e-5, atol=0)
    assert whole < 0.6 * (1 + alone)


def test_liresnet_activates_each_layer_but_the_last_and_starts_near_the_identity() -> None:
    torch.manual_seed(0)
    net = liresnet((3, 32, 32), 10, width=8, num_blocks=4, hidden=(32, 16))
    kinds = [type(layer) for layer in net]
    block = [LinearResidual, MinMax]
    dense = [nn.Linear, MinMax, nn.Linear, MinMax, nn.Linear]
    assert kinds == [nn.Conv2d, MinMax, *block * 4, nn.Conv2d, MinMax, nn.Flatten, *dense]
    largest = 1 / (72**0.5 * 4)  # PyTorch's default, one over the root of inputs, over the number of blocks
    for layer in net:
        if isinstance(layer, LinearResidual):
            assert 0.9 * largest < layer.conv.weight.abs().max() <= largest


def test_certified_radius_of_a_liresnet_holds_under_attack() -> None:
    torch.manual_seed(0)
    net = create("liresnet", dataset="digits", width=8, hidden=[16])
    orthogonal_normalized_last_(net)
    net.eval()
    images = torch.rand(20, 1, 8, 8)
    labels = net(images).argmax(dim=1)
    for method in ("ball", "box_ball"):
        radii = certified_radius(net, images, labels, norm=2, method=method)
        assert (radii > 0).all()
        least = float(radii.quantile(0.2))
        attacked = PGD(2, least, num_steps=20)(net, images, labels)
        is_proven = radii >= least
        assert (net(attacked).argmax(dim=1) == labels)[is_proven].all()
        strong = PGD(2, 40 * least, num_steps=20)(net, images, labels)
        assert (net(strong).argmax(dim=1) != labels).any()  # the attack is one


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 5}, "width and hidden must be even, but got 5"),
        ({"hidden": [6, 7]}, "width and hidden must be even, but got 7"),
        ({"num_blocks": -1}, "num_blocks must be 0 or more, but got -1"),
        ({"activation": "sort"}, "no activation 'sort'"),
    ],
)
def test_liresnet_refuses_what_cannot_be_built(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        create("liresnet", input_shape=(1, 8, 8), num_classes=3, **options)


def test_liresnet_takes_odd_widths_of_other_activations_and_no_blocks() -> None:
    net = create("liresnet", input_shape=(1, 4, 4), num_classes=3, width=3, num_blocks=0, activation="relu")
    assert net(torch.zeros(2, 1, 4, 4)).shape == (2, 3)
