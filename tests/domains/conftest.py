"""The table of small nets that every domain must pass through, and exact operator norms."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any, NamedTuple, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from typing_extensions import override

from withstand.domains import Program
from withstand.models import GroupSort, MinMax, Normalize
from withstand.operators import LinearOperator, OperatorNorms, Shape

CLASSES = 3
VECTOR: Shape = (6,)
SERIES: Shape = (2, 7)
IMAGE: Shape = (2, 5, 5)


class ExactNorms(OperatorNorms):
    """The largest singular value of the matrix, written out."""

    @override
    def of(self, operator: LinearOperator, input_shape: Shape, key: str) -> Tensor:
        closed = operator.norm(input_shape)
        if closed is not None:
            return closed
        size = math.prod(input_shape)
        unit = torch.eye(size).to(operator.entries).reshape(size, *input_shape)
        norm: Tensor = torch.linalg.matrix_norm(operator.apply(unit).flatten(1), ord=2)
        return norm


@dataclass(frozen=True)
class Net:
    """A net in eval mode, the shape of one of its inputs, and their precision."""

    name: str
    model: nn.Module
    input_shape: Shape
    dtype: torch.dtype = torch.float64

    @cached_property
    def program(self) -> Program:
        """The model's graph."""
        return Program(self.model, self.images(1))

    @cached_property
    def single(self) -> Net:
        """The same with weights of single precision."""
        return Net(self.name, copy.deepcopy(self.model).float(), self.input_shape, torch.float32)

    def images(self, count: int, seed: int = 0) -> Tensor:
        """Inputs in [0, 1], some of them black and white."""
        generator = torch.Generator().manual_seed(seed)
        images = torch.rand(count, *self.input_shape, generator=generator, dtype=torch.float64)
        images[::5] = images[::5].round()
        return images.to(self.dtype)


class Sampled(NamedTuple):
    """Mean and variance of a model's outputs over samples, flat, and their standard errors."""

    mean: Tensor
    variance: Tensor
    mean_error: Tensor
    variance_error: Tensor


Sampler: TypeAlias = Callable[..., Sampled]


def sampled(model: nn.Module, image: Tensor, factors: Tensor, num_samples: int = 100_000) -> Sampled:
    """A model under the noise Σ_r factors[r] · z_r, of factors (rank, *shape of the image)."""
    generator = torch.Generator().manual_seed(11)
    noise = torch.randn(num_samples, len(factors), generator=generator, dtype=image.dtype)
    with torch.no_grad():
        parts = (
            image + torch.unflatten(part @ factors.flatten(1), 1, image.shape)
            for part in torch.split(noise, 10_000)
        )
        values = torch.cat([model(part).flatten(1) for part in parts])
    mean, squares = values.mean(0), (values - values.mean(0)).square()
    root = math.sqrt(num_samples)
    return Sampled(mean, squares.mean(0), values.std(0) / root, squares.std(0) / root)


class Forward(nn.Module):
    """A model with a hand-written forward: a function of itself and its input."""

    def __init__(self, compute: Callable[[Any, Tensor], Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            if isinstance(part, nn.Parameter | nn.Module):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    @override
    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


def _functional(net: Any, x: Tensor) -> Any:
    """Functional and operator spellings, and sizes read from the input."""
    x = F.conv2d(x, net.kernel, net.bias, 1, 1)
    x = F.max_pool2d(F.leaky_relu(x, 0.2), 3, stride=2, padding=1)
    x = F.avg_pool2d(torch.relu(x) - 0.1, 2, 1)
    x = F.dropout(x, 0.5, training=net.training).view(x.size(0), -1)
    x = 2 * x @ net.matrix + net.shift
    return F.linear(
        F.gelu(x, approximate="tanh"), weight=net.matrix.T[:CLASSES, :5], bias=net.shift[:CLASSES]
    )


def _dense_blocks(net: Any, x: Tensor) -> Any:
    """Concatenations, as in DenseNet, and means at the end."""
    for layer in (net.first, net.second):
        x = torch.cat([x, F.relu(layer(x))], dim=1)
    return net.last(x.mean(dim=(2, 3)))


def _residual(net: Any, x: Tensor) -> Any:
    out = net.norm(net.conv(x))
    out += net.shortcut(x)
    return net.last(torch.flatten(F.elu(out), 1))


def _reused(net: Any, x: Tensor) -> Any:
    """One layer twice, one weight twice, and an input that is used again."""
    y = net.layer(torch.tanh(net.layer(x)))
    return net.last(y * net.factor - F.linear(x, net.layer.weight) / 3)


def _pieces(net: Any, x: Tensor) -> Any:
    """Slices and pieces, and constants on both sides."""
    first, second = x.chunk(2, dim=1)
    a, b, _ = torch.split(first, 1, dim=1)
    y = torch.cat((second, a, -b, x[:, 1:3], x[..., :1].abs()), 1)
    y = 1 - y.reshape(-1, 4, 2).permute(0, 2, 1).transpose(1, 2).flatten(1)
    return net.last(F.pad(y, (1, 0), value=0.3).clamp(-0.5, 0.9))


def _preactivated(net: Any, x: Tensor) -> Any:
    """Residual blocks that begin with normalisation and with what is changed in place."""
    x = net.first(x)
    for norm, conv in ((net.norm, net.conv), (net.norm2, net.conv2)):
        x = x + conv(F.relu(norm(x), inplace=True))
    return net.last(F.relu_(x).mean((2, 3)))


def _vision_transformer(net: Any, x: Tensor) -> Any:
    """Patches, a class token, an encoder of torch's, and a block of attention written by hand."""
    x = net.patches(x).flatten(2).transpose(1, 2)
    x = torch.cat([net.token.expand(x.shape[0], -1, -1), x], 1) + net.places
    x = net.encoder(x)
    query, key, value = net.parts(x).chunk(3, dim=-1)
    x = x + (query @ key.mT / 2).softmax(-1) @ value
    return net.last(net.norm(x)[:, 0])


def _u_net(net: Any, x: Tensor) -> Any:
    """Down, and up again by a transposed convolution beside what was there before."""
    before = F.relu(net.first(x))
    below = F.relu(net.below(F.max_pool2d(before, 2)))
    return net.last(torch.cat([F.leaky_relu(net.up(below)), before], 1)).mean((2, 3))


def _conv_next(net: Any, x: Tensor) -> Any:
    """A depthwise convolution and a network of channels, the last dimension in between."""
    y = net.norm(net.depthwise(x).permute(0, 2, 3, 1))
    y = (net.narrow(F.gelu(net.wide(y))) * net.scale).permute(0, 3, 1, 2)
    return net.last((x + y).mean((-2, -1)))


def _written_slices(net: Any, x: Tensor) -> Any:
    """Slices that are written to, read again and joined."""
    y = net.first(x)
    y[:, :2] = y[:, 2:4].tanh()
    y[:, 4:] *= 0.5
    left, right = y[:, ::2], y[:, 1::2]
    right.clamp_(-0.4, 0.6)
    return net.last(torch.cat([left - right, y.flip(1), net.shift.expand(x.shape[0], 2)], 1))


def _called_functionally(net: Any, x: Tensor) -> Any:
    """A layer whose weights are made anew at each call."""
    weights = {"weight": F.normalize(net.layer.weight, dim=1) * net.scale, "bias": net.layer.bias.tanh()}
    return net.last(F.elu(torch.func.functional_call(net.layer, weights, (x,))))


def _weight(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape) / math.sqrt(math.prod(shape[1:])))


def _dense(activation: Callable[[], nn.Module], width: int = 6) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        nn.Linear(6, width), activation(), nn.Linear(width, width), activation(), nn.Linear(width, CLASSES)
    )


def _conv(features: int, *layers: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(
        *[layer() for layer in layers], nn.ReLU(), nn.Flatten(), nn.Linear(features, CLASSES)
    )


def _negated_leaky() -> nn.Module:
    return nn.LeakyReLU(-1.5)


def _positive_prelu() -> nn.Module:
    layer = nn.PReLU(6)
    layer.weight = nn.Parameter(torch.tensor([0.02, 0.1, 0.5, 1.0, 1.7, 3.0]))
    return layer


def _jumping_softplus() -> nn.Module:
    return nn.Softplus(beta=2.0, threshold=0.5)  # jumps down by 0.24


ACTIVATIONS: Mapping[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": nn.ReLU6,
    "leaky": nn.LeakyReLU,
    "leaky-steep": lambda: nn.LeakyReLU(1.5),
    "leaky-negative": _negated_leaky,
    "prelu": _positive_prelu,
    "elu": lambda: nn.ELU(1.4),
    "celu": lambda: nn.CELU(0.6),
    "selu": nn.SELU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "logsigmoid": nn.LogSigmoid,
    "softsign": nn.Softsign,
    "hardsigmoid": nn.Hardsigmoid,
    "hardtanh": lambda: nn.Hardtanh(-0.3, 0.2),
    "softplus": nn.Softplus,
    "softplus-jump": _jumping_softplus,
    "gelu": nn.GELU,
    "gelu-tanh": lambda: nn.GELU(approximate="tanh"),
    "silu": nn.SiLU,
    "mish": nn.Mish,
    "minmax": MinMax,
    "groupsort": lambda: GroupSort(3),
}

BUILDERS: Mapping[str, tuple[Callable[[], nn.Module], Shape]] = {
    **{name: (_dense(activation), VECTOR) for name, activation in ACTIVATIONS.items()},
    "no-last-layer": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Identity()), VECTOR),
    "conv": (_conv(27, lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1)), IMAGE),
    "conv-options": (
        _conv(80, lambda: nn.Conv2d(2, 4, (2, 3), (1, 2), (1, 2), (2, 1), groups=2, bias=False)),
        IMAGE,
    ),
    "conv-same": (_conv(50, lambda: nn.Conv2d(2, 2, 3, padding="same", dilation=2)), IMAGE),
    "conv1d": (_conv(9, lambda: nn.Conv1d(2, 3, 3, stride=2)), SERIES),
    "normalize": (
        _conv(75, lambda: Normalize([0.4, 0.6], [0.2, 0.3]), lambda: nn.Conv2d(2, 3, 3, 1, 1)),
        IMAGE,
    ),
    "batchnorm2d": (_conv(27, lambda: nn.Conv2d(2, 3, 3), lambda: nn.BatchNorm2d(3)), IMAGE),
    "batchnorm1d": (_dense(lambda: nn.Sequential(nn.BatchNorm1d(6), nn.ReLU())), VECTOR),
    "batchnorm-plain": (
        _conv(15, lambda: nn.Conv1d(2, 3, 3), lambda: nn.BatchNorm1d(3, affine=False)),
        SERIES,
    ),
    "maxpool": (_conv(18, lambda: nn.MaxPool2d(2)), (2, 6, 6)),
    "maxpool-overlap": (_conv(18, lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True)), IMAGE),
    "maxpool-dilated": (_conv(18, lambda: nn.MaxPool2d(2, 1, dilation=2)), IMAGE),
    "maxpool1d": (_conv(10, lambda: nn.MaxPool1d(3, 1)), SERIES),
    "avgpool": (_conv(18, lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True, count_include_pad=False)), IMAGE),
    "avgpool-ceil": (_conv(18, lambda: nn.AvgPool2d(2, 2, ceil_mode=True)), IMAGE),
    "avgpool1d": (_conv(10, lambda: nn.AvgPool1d(3, 1)), SERIES),
    "adaptive": (_conv(12, lambda: nn.AdaptiveAvgPool2d((2, 3))), IMAGE),
    "pad": (_conv(64, lambda: nn.ConstantPad2d((1, 0, 1, 0), 0.4), lambda: nn.Conv2d(2, 4, 3)), IMAGE),
    "minmax2d": (_conv(100, lambda: nn.Conv2d(2, 4, 3, padding=1), MinMax), IMAGE),
    "unflatten": (_conv(6, lambda: nn.Unflatten(1, (2, 3)), lambda: nn.Dropout(0.5)), VECTOR),
    "spectral-norm": (_dense(lambda: parametrizations.spectral_norm(nn.Linear(6, 6))), VECTOR),
    "weight-norm": (_conv(75, lambda: parametrizations.weight_norm(nn.Conv2d(2, 3, 3, padding=1))), IMAGE),
    "orthogonal": (_dense(lambda: parametrizations.orthogonal(nn.Linear(6, 6))), VECTOR),
    "functional": (
        lambda: Forward(
            _functional,
            kernel=_weight(5, 2, 3, 3),
            bias=torch.randn(5),
            matrix=_weight(20, 5),
            shift=torch.randn(5),
        ),
        IMAGE,
    ),
    "dense-blocks": (
        lambda: Forward(
            _dense_blocks,
            first=nn.Conv2d(2, 2, 3, padding=1),
            second=nn.Conv2d(4, 2, 3, padding=1),
            last=nn.Linear(6, CLASSES),
        ),
        IMAGE,
    ),
    "residual": (
        lambda: Forward(
            _residual,
            conv=nn.Conv2d(2, 3, 3, padding=1),
            norm=nn.BatchNorm2d(3),
            shortcut=nn.Conv2d(2, 3, 1),
            last=nn.Linear(75, CLASSES),
        ),
        IMAGE,
    ),
    "reused": (
        lambda: Forward(
            _reused, layer=nn.Linear(6, 6), factor=_weight(1, 6), last=nn.Linear(6, CLASSES, bias=False)
        ),
        VECTOR,
    ),
    "pieces": (lambda: Forward(_pieces, last=nn.Linear(9, CLASSES)), VECTOR),
    "preactivated": (
        lambda: Forward(
            _preactivated,
            first=nn.Conv2d(2, 3, 3, stride=2),
            norm=nn.BatchNorm2d(3),
            conv=nn.Conv2d(3, 3, 3, padding=1, bias=False),
            norm2=nn.BatchNorm2d(3),
            conv2=nn.Conv2d(3, 3, 1),
            last=nn.Linear(3, CLASSES),
        ),
        IMAGE,
    ),
    "vision-transformer": (
        lambda: Forward(
            _vision_transformer,
            patches=nn.Conv2d(2, 4, 2, 2),
            token=_weight(1, 1, 4),
            places=_weight(1, 5, 4),
            encoder=nn.TransformerEncoder(
                nn.TransformerEncoderLayer(
                    4, 2, 6, layer_norm_eps=0.1, batch_first=True, norm_first=True, activation="gelu"
                ),
                1,
                enable_nested_tensor=False,
            ),
            parts=nn.Linear(4, 12),
            norm=nn.LayerNorm(4, eps=0.1),
            last=nn.Linear(4, CLASSES),
        ),
        (2, 4, 4),
    ),
    "u-net": (
        lambda: Forward(
            _u_net,
            first=nn.Conv2d(2, 2, 3, padding=1),
            below=nn.Conv2d(2, 3, 3, padding=1),
            up=nn.ConvTranspose2d(3, 2, 2, 2),
            last=nn.Conv2d(4, CLASSES, 1),
        ),
        (2, 4, 4),
    ),
    "conv-next": (
        lambda: Forward(
            _conv_next,
            depthwise=nn.Conv2d(2, 2, 3, padding=1, groups=2),
            norm=nn.LayerNorm(2, eps=0.1),
            wide=nn.Linear(2, 6),
            narrow=nn.Linear(6, 2),
            scale=_weight(2),
            last=nn.Linear(2, CLASSES),
        ),
        IMAGE,
    ),
    "written-slices": (
        lambda: Forward(
            _written_slices, first=nn.Linear(6, 6), shift=torch.randn(2), last=nn.Linear(11, CLASSES)
        ),
        VECTOR,
    ),
    "called-functionally": (
        lambda: Forward(
            _called_functionally,
            layer=nn.Linear(6, 5),
            scale=_weight(5, 1),
            last=nn.Linear(5, CLASSES),
        ),
        VECTOR,
    ),
}


def _randomise_(layer: nn.Module) -> None:
    """Equal scales would be a kink of each bound that goes by the largest."""
    if isinstance(layer, nn.LayerNorm):
        nn.init.normal_(layer.weight)
        nn.init.normal_(layer.bias)
    if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        layer.running_mean.normal_()
        layer.running_var.uniform_(0.5, 2.0)
        if layer.affine:
            nn.init.normal_(layer.weight)
            nn.init.normal_(layer.bias)


@cache
def make(name: str) -> Net:
    """A net of the table with random weights, statistics included; the same at every call."""
    build, input_shape = BUILDERS[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().double()
        for module in model.modules():
            _randomise_(module)
    return Net(name, model.eval(), input_shape)


@pytest.fixture(params=BUILDERS)
def net(request: pytest.FixtureRequest) -> Net:
    """Each net of the table."""
    return make(request.param)


@pytest.fixture
def net_names() -> list[str]:
    """All of the table."""
    return list(BUILDERS)


@pytest.fixture
def nets() -> Callable[[str], Net]:
    """Makes a net of the table by name."""
    return make


@pytest.fixture(scope="session")
def exact() -> OperatorNorms:
    """True operator norms."""
    return ExactNorms()


@pytest.fixture(scope="session", name="sampled")
def _sampled() -> Sampler:
    """Moments by Monte Carlo: ``(model, image, factors, num_samples=100_000)``."""
    return sampled
