"""The pieces that the networks are built of, and the plans that describe them.

A plan lists what follows what, as the papers print it: ``[Conv(32, 5), RELU, MAX_POOL]``.
Layers start from PyTorch's default initialisation unless a builder says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from itertools import pairwise
from typing import Final, Literal, NamedTuple, TypeAlias, final, get_args

from torch import Tensor, nn
from typing_extensions import override

from withstand.core.suggest import nearest
from withstand.types import ModelError

Shape: TypeAlias = tuple[int, ...]
"""Of one example, channels or features first: (channels, height, width) of an image."""

Init: TypeAlias = Literal["default", "he", "orthogonal"]
"""How layers start: PyTorch's default; convolutions with N(0, sqrt(2 / (kernel² · channels out))) and bias
0; or all with orthogonal matrices and bias 0, so that a deep network passes lengths on."""


class Conv(NamedTuple):
    """A convolution with a square kernel."""

    channels: int
    kernel: int
    stride: int = 1
    padding: int = 0


class Pool(NamedTuple):
    """A pooling layer with a square window."""

    layer: type[nn.MaxPool2d] | type[nn.AvgPool2d]
    kernel: int = 2
    stride: int = 2
    padding: int = 0


Activation: TypeAlias = Callable[[], nn.Module]
"""Makes an activation layer."""

Step: TypeAlias = Conv | Pool | Activation

RELU: Final = nn.ReLU
MAX_POOL: Final = Pool(nn.MaxPool2d)
AVG_POOL: Final = Pool(nn.AvgPool2d)


class Residual(nn.Module):
    """``relu(branch(x) + shortcut(x))``.

    Args:
        branch: What is learnt.
        shortcut: Fits the input to the branch's output; an empty ``Sequential`` passes it on.
    """

    def __init__(self, branch: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.shortcut = shortcut
        self.activation = nn.ReLU()

    @override
    def forward(self, images: Tensor) -> Tensor:
        activated: Tensor = self.activation(self.branch(images) + self.shortcut(images))
        return activated


def activated_convs(convs: Sequence[Conv], activation: Activation) -> list[Step]:
    """The plan in which an activation follows each convolution and nothing is pooled."""
    return [step for conv in convs for step in (conv, activation)]


def conv_layers(
    in_channels: int, plan: Sequence[Step], *, batch_norm: bool, bias: bool = True
) -> Iterator[nn.Module]:
    """The layers of a plan.

    Args:
        in_channels: Channels of the images.
        plan: What follows what.
        batch_norm: Whether a BatchNorm follows each convolution.
        bias: Whether convolutions have one.

    Yields:
        One layer after another.
    """
    for step in plan:
        if isinstance(step, Conv):
            yield nn.Conv2d(in_channels, *step, bias=bias)
            in_channels = step.channels
            if batch_norm:
                yield nn.BatchNorm2d(in_channels)
        elif isinstance(step, Pool):
            yield step.layer(step.kernel, step.stride, step.padding)
        else:
            yield step()


def dense_layers(
    widths: Sequence[int], *, bias: bool = True, activation: Activation = RELU
) -> Iterator[nn.Module]:
    """Linear layers of these widths, input first, with an activation between each two.

    Raises:
        ModelError: a width is not a positive whole number.
    """
    for width in widths:
        if not isinstance(width, int) or width < 1:
            raise ModelError(f"widths of layers must be positive whole numbers, but got {width!r}.")
    for index, (before, after) in enumerate(pairwise(widths)):
        if index:
            yield activation()
        yield nn.Linear(before, after, bias=bias)


def convnet(
    plan: Sequence[Step],
    hidden: Sequence[int],
    input_shape: Shape,
    num_classes: int,
    *,
    batch_norm: bool,
    bias: bool = True,
    activation: Activation = RELU,
) -> nn.Sequential:
    """A plan of convolutions, then linear layers down to the logits, all in one sequence.

    Args:
        plan: What follows what, up to the flattening.
        hidden: Widths of the linear layers between flattening and logits.
        input_shape: (channels, height, width) of one image.
        num_classes: Logits per image.
        batch_norm: Whether a BatchNorm follows each convolution.
        bias: Whether convolutions and linear layers have one.
        activation: Between the linear layers; the plan has its own.

    Raises:
        ModelError: the images are smaller than the plan can take, or a width is not positive.
    """
    features = conv_layers(input_shape[0], plan, batch_norm=batch_norm, bias=bias)
    dense = dense_layers(
        [_flat_width(plan, input_shape), *hidden, num_classes], bias=bias, activation=activation
    )
    return nn.Sequential(*features, nn.Flatten(), *dense)


@final
class Stretch(nn.Conv2d):
    """Scale and shift of each channel by itself, which learn; at first ``(x - low) / (high - low)``.

    No constraint takes it: with a smaller scale and the same shift all pixels would be cut off.
    """

    def __init__(self, channels: int, low: float, high: float) -> None:
        super().__init__(channels, channels, 1, groups=channels)
        for weights, value in zip(self.parameters(), (1 / (high - low), -low / (high - low)), strict=True):
            nn.init.constant_(weights, value)


def require_no_stretch(model: nn.Module) -> None:
    """Accepts a model that no constraint on its weights would make blind.

    Raises:
        ModelError: it stretches pixels.
    """
    if any(isinstance(module, Stretch) for module in model.modules()):
        raise ModelError(
            "The network stretches pixels (model.options.stretch), which multiplies its Lipschitz constant, "
            "and a constraint on its weights would take that back, so that all pixels are cut off. Leave out "
            "stretch, or the constraint."
        )


def stretch_layers(channels: int, stretch: Sequence[float]) -> Iterator[nn.Module]:
    """Pixels between two values stretched to 0 to 1, and the others cut off there.

    Where ``low`` and ``1 - high`` are above epsilon, no linf attack changes what comes of a black or white
    pixel, which training by bounds must else find out. Scale and shift of each channel are weights and learn.
    Pixels that are cut off have no gradient: attack such a network by ``StraightThrough``, which passes one
    on, and by what needs none (``Suite``).

    Args:
        channels: Of the images.
        stretch: (low, high), which become 0 and 1.

    Yields:
        A 1×1 convolution of each channel by itself, then ``Hardtanh`` from 0 to 1.

    Raises:
        ModelError: ``low`` is not below ``high``, or no pixel in [0, 1] lies between them, or one of them is
            no number.
    """
    try:
        low, high = map(float, () if isinstance(stretch, str) else stretch)
    except (TypeError, ValueError):
        low = high = math.nan
    if not (max(low, 0) < min(high, 1) and 1e-6 <= high - low < math.inf):
        raise ModelError(
            "stretch must be two numbers, the lower first, with pixels in [0, 1] between them, such as "
            f"[0.35, 0.65], but got {stretch!r}."
        )
    yield Stretch(channels, low, high)
    yield nn.Hardtanh(0.0, 1.0)


def initialise_(network: nn.Module, init: Init) -> None:
    """Starts the layers of a network anew where ``init`` is not PyTorch's default.

    Raises:
        ModelError: there is no such initialisation.
    """
    names = get_args(Init)
    if init not in names:
        raise ModelError(f"there is no initialisation {init!r}; {nearest(str(init), names)}")
    if init == "default":
        return
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and init == "he":
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Conv2d | nn.Linear) and init == "orthogonal":
            nn.init.orthogonal_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _flat_width(plan: Sequence[Step], input_shape: Shape) -> int:
    windows = [step for step in plan if isinstance(step, Conv | Pool)]
    smallest = reduce(_side_before, reversed(windows), 1)
    channels, *sides = input_shape
    if min(sides) < smallest:
        raise ModelError(
            f"its layers need images of at least {smallest}×{smallest}, "
            f"but got {sides[0]}×{sides[1]}. Take a network with fewer layers, or larger images."
        )
    channels = [channels, *(step.channels for step in plan if isinstance(step, Conv))][-1]
    return channels * math.prod(reduce(_side_after, windows, side) for side in sides)


def _side_after(side: int, window: Conv | Pool) -> int:
    return (side + 2 * window.padding - window.kernel) // window.stride + 1


def _side_before(side: int, window: Conv | Pool) -> int:
    """The smallest side that leaves at least ``side``."""
    return max(1, (side - 1) * window.stride + window.kernel - 2 * window.padding)
