"""How the shared pieces start their weights and which image sizes they take."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from withstand.models import create
from withstand.models.blocks import Shape
from withstand.types import ModelError

GREY: Shape = (1, 28, 28)
COLOUR: Shape = (3, 32, 32)


def logits(name: str, input_shape: Shape, num_classes: int = 10) -> Tensor:
    """What the network makes of two images, without values: only shapes are computed."""
    with torch.device("meta"):
        output: Tensor = create(name, input_shape=input_shape, num_classes=num_classes).eval()(
            torch.zeros(2, *input_shape)
        )
    return output


def _second_conv(name: str, shape: Shape, **options: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    network = create(name, input_shape=shape, num_classes=10, **options)
    return [module for module in network.modules() if isinstance(module, nn.Conv2d)][1]


@pytest.mark.parametrize(
    ("name", "shape", "options", "he"),
    [
        ("cnn-4c3f", COLOUR, {}, True),
        ("cnn-4c3f", GREY, {}, False),
        ("cnn-4c3f", GREY, {"init": "he"}, True),
        ("cnn-4c3f", COLOUR, {"init": "default"}, False),
        ("cnn-small", COLOUR, {}, True),
        ("cnn-6c2f", COLOUR, {}, True),
        ("vgg11", COLOUR, {}, True),
        ("vgg11", COLOUR, {"init": "default"}, False),
        ("vgg16", COLOUR, {"hidden": []}, False),
        ("vgg16", COLOUR, {"hidden": [], "init": "he"}, True),
        ("lenet", COLOUR, {}, False),
    ],
)
def test_he_initialisation_starts_convolutions_as_published(
    name: str, shape: Shape, options: dict[str, Any], he: bool
) -> None:
    conv = _second_conv(name, shape, **options)
    assert conv.bias is not None
    side = conv.kernel_size[0]
    published = math.sqrt(2 / (side * side * conv.out_channels))
    default = 1 / math.sqrt(3 * side * side * conv.in_channels)
    assert conv.weight.std().item() == pytest.approx(published if he else default, rel=0.06)
    assert bool((conv.bias == 0).all()) is he


def test_orthogonal_initialisation_starts_layers_with_singular_values_of_1() -> None:
    network = create("cnn-small", input_shape=GREY, num_classes=10, init="orthogonal")
    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    assert len(layers) == 4
    for layer in layers:
        values = torch.linalg.svdvals(layer.weight.flatten(1))
        torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-5)
        assert layer.bias is not None
        assert (layer.bias == 0).all()


@settings(max_examples=25, deadline=None)
@given(
    name=st.sampled_from(
        ["cnn-small", "cnn-4c3f", "lenet", "cnn-8c2f", "cnn-large-epsilon", "vgg11", "liresnet", "mlp"]
    ),
    channels=st.integers(1, 4),
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    num_classes=st.integers(2, 12),
)
def test_network_fits_a_size_or_refuses_it_with_the_smallest_that_does(
    name: str, channels: int, height: int, width: int, num_classes: int
) -> None:
    try:
        assert logits(name, (channels, height, width), num_classes).shape == (2, num_classes)
    except ModelError as error:
        smallest = int(str(error).split("at least ")[1].split("×")[0])
        assert min(height, width) < smallest
        assert logits(name, (channels, smallest, smallest)).shape == (2, 10)
        with pytest.raises(ModelError, match="images of at least"):
            logits(name, (channels, smallest - 1, smallest))


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("lenet", 4),
        ("cnn-small", 4),
        ("cnn-4c3f", 4),
        ("cnn-6c2f", 4),
        ("cnn-8c2f", 22),
        ("cnn-large-epsilon", 16),
        ("alexnet", 29),
        ("vgg5-stable", 16),
        ("vgg11", 16),
        ("vgg16", 16),
        ("liresnet", 4),
    ],
)
def test_network_takes_the_smallest_image_documented(name: str, side: int) -> None:
    assert logits(name, (1, side, side)).shape == (2, 10)
    message = rf"'{name}' could not be built.*at least {side}×{side}, but got {side}×{side - 1}"
    with pytest.raises(ModelError, match=message):
        logits(name, (1, side, side - 1))


def test_residual_nets_take_the_smallest_images() -> None:
    for name in ("resnet18", "resnet50"):
        assert logits(name, (1, 1, 2)).shape == (2, 10)
