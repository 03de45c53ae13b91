"""Every built-in network against the figures of the pages that define it."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import fx, nn

from withstand.models import MODEL_NAMES, create
from withstand.models.blocks import Residual, Shape

GREY: Shape = (1, 28, 28)
COLOUR: Shape = (3, 32, 32)
USUAL: dict[str, Shape] = {
    "mlp": GREY,
    "lenet": GREY,
    "cnn-small": GREY,
    "cnn-medium": GREY,
    "cnn-3c2f": GREY,
    "cnn-4c3f": GREY,
    "cnn-6c2f": COLOUR,
    "cnn-8c2f": (3, 64, 64),
    "cnn-large-epsilon": GREY,
    "alexnet": COLOUR,
    "vgg5-stable": GREY,
    "vgg11": COLOUR,
    "vgg16": COLOUR,
    "resnet18": COLOUR,
    "resnet50": COLOUR,
    "liresnet": GREY,
}
WITH_BATCH_NORM = [name for name in MODEL_NAMES if name not in ("mlp", "liresnet")]


def shape_only(name: str, input_shape: Shape, num_classes: int = 10, **options: Any) -> nn.Module:
    """The network without values: shapes are computed, numbers are not."""
    with torch.device("meta"):
        return create(name, input_shape=input_shape, num_classes=num_classes, **options)


def layers(network: nn.Module, kind: type[nn.Module]) -> list[Any]:
    return [module for module in network.modules() if isinstance(module, kind)]


def linear_shapes(network: nn.Module) -> list[tuple[int, int]]:
    return [(layer.in_features, layer.out_features) for layer in layers(network, nn.Linear)]


def count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def conv(before: int, after: int, kernel: int) -> int:
    return before * after * kernel * kernel + after


def dense(*widths: int) -> int:
    return sum(before * after + after for before, after in pairwise(widths))


def chain(kernel: int, *channels: int) -> int:
    """Parameters of convolutions of one kernel size, one after the other."""
    return sum(conv(before, after, kernel) for before, after in pairwise(channels))


def test_network_names_are_all_tested_here() -> None:
    assert set(USUAL) == set(MODEL_NAMES)


@pytest.mark.parametrize(
    ("name", "shape", "dense_shapes"),
    [
        ("mlp", GREY, [(784, 1200), (1200, 1200), (1200, 10)]),
        ("lenet", GREY, [(3136, 1024), (1024, 10)]),
        ("lenet", COLOUR, [(4096, 1024), (1024, 10)]),
        ("cnn-small", GREY, [(1568, 100), (100, 10)]),
        ("cnn-small", COLOUR, [(2048, 100), (100, 10)]),
        ("cnn-medium", GREY, [(3136, 512), (512, 10)]),
        ("cnn-3c2f", GREY, [(3136, 256), (256, 10)]),
        ("cnn-4c3f", GREY, [(3136, 512), (512, 512), (512, 10)]),
        ("cnn-4c3f", COLOUR, [(4096, 512), (512, 512), (512, 10)]),
        ("cnn-6c2f", COLOUR, [(4096, 512), (512, 10)]),
        ("cnn-8c2f", (3, 64, 64), [(9216, 256), (256, 10)]),
        ("cnn-large-epsilon", GREY, [(1024, 1024), (1024, 10)]),
        ("alexnet", COLOUR, [(256, 4096), (4096, 4096), (4096, 10)]),
        ("vgg5-stable", GREY, [(512, 10)]),
        ("vgg11", COLOUR, [(512, 512), (512, 512), (512, 10)]),
        ("vgg16", COLOUR, [(512, 4096), (4096, 4096), (4096, 10)]),
        ("vgg16", GREY, [(512, 4096), (4096, 4096), (4096, 10)]),
        ("vgg11", (3, 64, 64), [(2048, 512), (512, 512), (512, 10)]),
        ("resnet18", COLOUR, [(512, 10)]),
        ("resnet50", COLOUR, [(2048, 10)]),
        ("liresnet", GREY, [(16 * 7 * 7, 512), (512, 10)]),
    ],
)
def test_network_linear_layers_are_as_wide_as_published(
    name: str, shape: Shape, dense_shapes: list[tuple[int, int]]
) -> None:
    assert linear_shapes(shape_only(name, shape)) == dense_shapes


@pytest.mark.parametrize(
    ("name", "shape", "options", "parameters"),
    [
        ("mlp", GREY, {}, dense(784, 1200, 1200, 10)),
        ("mlp", GREY, {"hidden": []}, 7850),
        ("lenet", GREY, {}, conv(1, 32, 5) + conv(32, 64, 5) + dense(3136, 1024, 10)),
        ("cnn-small", GREY, {}, 166_406),
        ("cnn-medium", GREY, {}, conv(1, 32, 4) + conv(32, 64, 4) + dense(3136, 512, 10)),
        ("cnn-3c2f", GREY, {}, conv(1, 16, 3) + conv(16, 32, 4) + conv(32, 64, 4) + dense(3136, 256, 10)),
        ("cnn-4c3f", GREY, {}, 1_974_762),
        ("cnn-6c2f", COLOUR, {}, chain(3, 3, 32, 32) + conv(32, 32, 4) + chain(3, 32, 64, 64)
         + conv(64, 64, 4) + dense(4096, 512, 10)),
        ("cnn-8c2f", (3, 64, 64), {}, chain(3, 3, 64, 64) + conv(64, 64, 4) + chain(3, 64, 128, 128)
         + conv(128, 128, 4) + conv(128, 256, 3) + conv(256, 256, 4) + dense(9216, 256, 10)),
        ("cnn-large-epsilon", GREY, {}, 1_111_946),
        ("alexnet", COLOUR, {}, conv(3, 64, 11) + conv(64, 192, 5) + chain(3, 192, 384, 256, 256)
         + dense(256, 4096, 4096, 10)),
        ("vgg5-stable", GREY, {}, 9 * (64 + 64 * 128 + 128 * 256 + 256 * 512) + 5120),
        ("vgg11", COLOUR, {}, chain(3, 3, 64, 128, 256, 256, 512, 512, 512, 512) + dense(512, 512, 512, 10)),
        # 13 convolutions; 12 BatchNorms with two parameters a channel, the first 64 left out.
        ("vgg16", COLOUR, {}, chain(3, 3, 64, 64, 128, 128, *[256] * 3, *[512] * 6)
         + 2 * (64 + 2 * 128 + 3 * 256 + 6 * 512) + dense(512, 4096, 4096, 10)),
        ("vgg16", COLOUR, {"batch_norm": False, "hidden": [512, 512]},
         chain(3, 3, 64, 64, 128, 128, *[256] * 3, *[512] * 6) + dense(512, 512, 512, 10)),
        # The usual CIFAR forms with BatchNorm; without, two parameters a channel fewer.
        ("resnet18", COLOUR, {"batch_norm": True}, 11_173_962),
        ("resnet18", COLOUR, {}, 11_173_962 - 2 * 4800),
        ("resnet50", COLOUR, {}, 23_520_842),
        ("liresnet", GREY, {}, conv(1, 16, 4) + 2 * conv(16, 16, 3) + conv(16, 16, 4) + dense(784, 512, 10)),
    ],
)  # fmt: skip
def test_network_parameters_are_as_many_as_published(
    name: str, shape: Shape, options: dict[str, Any], parameters: int
) -> None:
    assert count(shape_only(name, shape, **options)) == parameters


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("name", WITH_BATCH_NORM)
def test_batch_norm_is_an_option_of_every_convolutional_net(name: str, batch_norm: bool) -> None:
    network = shape_only(name, USUAL[name], 7, batch_norm=batch_norm)
    norms, convs = layers(network, nn.BatchNorm2d), layers(network, nn.Conv2d)
    # One after each convolution, but not after the first of VGG-16.
    assert len(norms) == (len(convs) - (name == "vgg16") if batch_norm else 0)
    assert network(torch.zeros(3, *USUAL[name], device="meta")).shape == (3, 7)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_network_logits_are_finite_and_their_gradients_reach_the_images(name: str) -> None:
    torch.manual_seed(0)
    # A light head in place of the widest; the convolutions are all there.
    options: dict[str, Any] = {"hidden": [16]} if name == "vgg16" else {}
    network = create(name, input_shape=USUAL[name], num_classes=7, **options).eval()
    images = torch.rand(2, *USUAL[name], requires_grad=True)
    logits = network(images)
    (gradient,) = torch.autograd.grad(logits[:, 0].sum(), images)
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()
    assert (gradient.flatten(1).abs().amax(dim=1) > 0).all()


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_network_can_be_traced(name: str) -> None:
    # MinMax asks for the number of channels.
    options: dict[str, Any] = {"activation": "relu"} if name == "liresnet" else {}
    with torch.device("meta"):
        network = nn.Sequential(create(name, input_shape=USUAL[name], num_classes=7, **options))
    traced = fx.symbolic_trace(network)
    assert traced(torch.zeros(2, *USUAL[name], device="meta")).shape == (2, 7)
    # Only layers of torch itself are left as calls; what is ours is seen through.
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert {type(traced.get_submodule(name)).__module__.split(".")[0] for name in called} == {"torch"}
    assert not any(layer.inplace for layer in layers(network, nn.ReLU))


def test_traced_network_with_shortcuts_computes_the_same() -> None:
    torch.manual_seed(0)
    model = create("resnet18", dataset="digits").eval()
    images = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(fx.symbolic_trace(model)(images), model(images))


def test_network_ends_in_a_linear_layer_and_has_no_softmax_anywhere() -> None:
    for name in MODEL_NAMES:
        network = shape_only(name, USUAL[name])
        assert isinstance(list(network.modules())[-1], nn.Linear)
        assert not layers(network, nn.Softmax)


@pytest.mark.parametrize(("name", "shape"), [("resnet18", (512, 4, 4)), ("resnet50", (2048, 4, 4))])
def test_residual_nets_halve_the_image_three_times(name: str, shape: Shape) -> None:
    network = shape_only(name, COLOUR)
    (pool,) = layers(network, nn.AdaptiveAvgPool2d)
    seen: list[tuple[int, ...]] = []
    pool.register_forward_hook(lambda _, inputs, __: seen.append(tuple(inputs[0].shape)))
    network(torch.zeros(2, *COLOUR, device="meta"))
    assert seen == [(2, *shape)]
    assert all(layer.bias is None for layer in layers(network, nn.Conv2d))


@pytest.mark.parametrize(("name", "blocks", "shortcuts"), [("resnet18", 8, 3), ("resnet50", 16, 4)])
def test_residual_net_convolves_shortcuts_only_where_shapes_change(
    name: str, blocks: int, shortcuts: int
) -> None:
    residuals = layers(shape_only(name, COLOUR), Residual)
    assert len(residuals) == blocks
    assert sum(bool(layers(residual.shortcut, nn.Conv2d)) for residual in residuals) == shortcuts


def test_residual_block_adds_before_the_last_relu() -> None:
    block = Residual(nn.Linear(3, 3), nn.Sequential())
    images = torch.randn(4, 3)
    torch.testing.assert_close(block(images), (images + block.branch(images)).clamp(min=0))


def test_vgg5_stable_averages_after_relu_and_has_no_bias() -> None:
    network = shape_only("vgg5-stable", GREY)
    kinds = [type(layer) for layer in network.children()]
    assert kinds == [nn.Conv2d, nn.ReLU, nn.AvgPool2d] * 4 + [nn.Flatten, nn.Linear]
    assert all("bias" not in name for name, _ in network.named_parameters())


@pytest.mark.parametrize(
    ("name", "order"),
    [
        ("lenet", "conv relu pool conv pool relu"),
        ("cnn-large-epsilon", "conv relu pool conv relu pool"),
        ("alexnet", "conv relu pool conv pool relu conv relu conv relu conv pool relu"),
        ("cnn-4c3f", "conv relu conv relu conv relu conv relu"),
        ("vgg11", "conv relu pool conv relu pool" + 3 * " conv relu conv relu pool"),
    ],
)
def test_network_layers_follow_each_other_as_published(name: str, order: str) -> None:
    words = {nn.Conv2d: "conv", nn.ReLU: "relu", nn.MaxPool2d: "pool", nn.Flatten: "flatten"}
    kinds = [words.get(type(layer), "linear") for layer in shape_only(name, USUAL[name]).children()]
    assert " ".join(kinds[: kinds.index("flatten")]) == order
    dense = kinds[kinds.index("flatten") + 1 :]
    assert dense == ["linear", *["relu", "linear"] * (len(dense) // 2)]


@pytest.mark.parametrize("name", ["lenet", "alexnet", "vgg11", "vgg16", "cnn-large-epsilon"])
def test_network_has_a_relu_directly_after_its_first_convolution(name: str) -> None:
    first, second, *_ = shape_only(name, USUAL[name]).children()
    assert isinstance(first, nn.Conv2d)
    assert isinstance(second, nn.ReLU)
