"""Random networks of all rules: the graph is the model, and no bound is broken.

Each value of a graph is the output of a network of its own, and many graphs stand side by side in one module,
since a capture costs more than all else. A failure says by which seed and index to build the graph again, and
prints its operations up to the first value that is wrong.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.float64_copy import float64_copy
from withstand.domains import Ball, Box, BoxBall, Call, Program, Region
from withstand.graph.point import Point
from withstand.operators import GuaranteedNorms, Shape

NUM_NETWORKS = int(os.environ.get("WITHSTAND_RANDOM_GRAPHS", "980"))
SIDE_BY_SIDE = 20
NUM_STEPS = 7
NUM_CLIMBS = 2
LARGEST = 48  # numbers of an example
ROUNDING = 1e-9
SHAPES: Sequence[Shape] = ((6,), (3, 4), (2, 4, 4), (4, 6), (4, 2, 3), (5,))
RADII = (0.0, 0.01, 0.3, 1.5)

Function: TypeAlias = Callable[..., Tensor]


class Op(nn.Module):
    """One operation of a graph.

    Args:
        name: To be read by people.
        function: Of the operation itself and of the values that it reads.
        parts: Layers, parameters, and plain attributes such as constants in tuples and dictionaries.
    """

    def __init__(self, name: str, function: Function, **parts: Any) -> None:
        super().__init__()
        self.name = name
        self.function = function
        for key, part in parts.items():
            setattr(self, key, part)

    @override
    def forward(self, *values: Tensor) -> Tensor:
        return self.function(self, *values)


class Graph(nn.Module):
    """Operations, one after another, each of which reads any values before it.

    Args:
        ops: The operations.
        reads: For each, which values it reads; 0 is the input.
    """

    def __init__(self, ops: Sequence[Op], reads: Sequence[Sequence[int]]) -> None:
        super().__init__()
        self.ops = nn.ModuleList(ops)
        self.reads = [*reads]

    def values(self, x: Tensor) -> list[Tensor]:
        """The input and what each operation gives."""
        values = [x]
        for op, read in zip(self.ops, self.reads, strict=True):
            values.append(op(*[values[index] for index in read]))
        return values

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(value.flatten(1) for value in self.values(x)[1:])

    def followed_by(self, op: Op, *reads: int) -> Graph:
        """The same with a further operation."""
        return Graph([*self._own, op], [*self.reads, reads])

    @property
    def _own(self) -> list[Op]:
        return [op for op in self.ops if isinstance(op, Op)]

    def __str__(self) -> str:
        lines = [
            f"v{place} = {op.name}({', '.join(f'v{index}' for index in read)})"
            for place, (op, read) in enumerate(zip(self._own, self.reads, strict=True), 1)
        ]
        return "\n".join(lines)


class SideBySide(nn.Module):
    """Several graphs of one input."""

    def __init__(self, graphs: Sequence[nn.Module]) -> None:
        super().__init__()
        self.graphs = nn.ModuleList(graphs)

    @override
    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(value for graph in self.graphs for value in graph(x))


class LastAlone(nn.Module):
    """The network of a graph's last value."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.graph.values(x)[-1].flatten(1)


# Operations of one value


class Draw:
    """Random choices."""

    def __init__(self, seed: int | str) -> None:
        self._random = random.Random(seed)

    def of(self, choices: Sequence[Any]) -> Any:
        return self._random.choice(choices)

    def number(self, least: int, most: int) -> int:
        return self._random.randint(least, most)

    def chance(self, share: float) -> bool:
        return self._random.random() < share

    def shuffled(self, items: Sequence[int]) -> list[int]:
        return self._random.sample([*items], len(items))

    def constant(self, shape: Shape) -> Tensor:
        """A constant of any precision that broadcasts to a shape."""
        sizes = [size if self.chance(0.7) else 1 for size in shape][self.number(0, len(shape)) :]
        kind = self.of(["float32", "float64", "float16", "int", "zero-dim", "bool"])
        if kind == "int":
            return torch.randint(-2, 3, sizes)
        if kind == "bool":
            return torch.rand(sizes) < 0.5
        if kind == "zero-dim":
            return torch.randn((), dtype=self.of([torch.float32, torch.float64]))
        return torch.randn(sizes).to(getattr(torch, kind))

    def dim(self, shape: Shape) -> int:
        """A dimension of a batch that is not the batch's, from either end."""
        place = self.number(1, len(shape))
        return place if self.chance(0.5) else place - len(shape) - 1

    def dims(self, shape: Shape) -> list[int]:
        return self.shuffled(range(1, len(shape) + 1))[: self.number(1, len(shape))]

    def mask(self, shape: Shape) -> Tensor:
        return torch.rand([size if self.chance(0.7) else 1 for size in shape]) < 0.6

    def split(self, size: int) -> tuple[int, int]:
        """Two numbers whose product is the size."""
        first = self.of([number for number in range(1, size + 1) if size % number == 0])
        return first, size // first


ELEMENTWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "relu6": lambda x: F.relu6(x * 3),
    "leaky": lambda x: F.leaky_relu(x, 0.2),
    "leaky-steep": lambda x: F.leaky_relu(x, 1.5),
    "leaky-negative": lambda x: F.leaky_relu(x, -0.5),
    "elu": lambda x: F.elu(x, 1.4),
    "celu": lambda x: F.celu(x, 0.6),
    "selu": F.selu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "logsigmoid": F.logsigmoid,
    "softsign": F.softsign,
    "hardsigmoid": F.hardsigmoid,
    "hardswish": F.hardswish,
    "hardtanh": lambda x: F.hardtanh(x, -0.3, 0.6),
    "softplus": F.softplus,
    "gelu": F.gelu,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
    "mish": F.mish,
    "softshrink": F.softshrink,
    "tanhshrink": F.tanhshrink,
    "erf": torch.erf,
    "atan": torch.atan,
    "asinh": torch.asinh,
    "abs": torch.abs,
    "exp": lambda x: (x / 2).exp(),
    "expm1": lambda x: torch.expm1(-x.abs()),
    "exp2": lambda x: torch.exp2(x.tanh()),
    "logs": lambda x: (x.abs() + 0.5).log() - x.abs().log1p(),
    "log2": lambda x: (x.abs() + 2).log2() + (x.square() + 1).log10(),
    "roots": lambda x: (x.abs() + 1).sqrt() + (x.abs() + 2).rsqrt(),
    "reciprocal": lambda x: (x.abs() + 0.5).reciprocal(),
    "square": torch.square,
    "cube": lambda x: x**3 / 4,
    "power": lambda x: (x.abs() + 0.1) ** 1.5,
    "base": lambda x: 2**x,
    "quotient": lambda x: x / (1 + x.abs()),
    "divided": lambda x: 2 / (3 + x.sigmoid()),
    "swish": lambda x: x * torch.sigmoid(x),
    "itself": lambda x: x * x,
    "less itself": lambda x: x - x,
    "and itself": lambda x: x + x,
    "less from": lambda x: 1 - x,
    "negative": lambda x: -x,
    "nothing": lambda x: 0 * x,
    "threshold": lambda x: F.threshold(x, 0.2, 0.2),
    "rrelu": lambda x: F.rrelu(x, 0.1, 0.3),
    "clamp": lambda x: x.clamp(-0.4, 0.5),
    "clamp min": lambda x: x.clamp(min=0.1),
    "clamp max": lambda x: torch.clamp_max(x, 0.3),
    "dropout": lambda x: F.dropout(x, 0.5, training=False),
    "copy": lambda x: x.clone().contiguous(),
    "detach": lambda x: x + x.detach(),
    "no_grad": lambda x: _without_gradient(x),
    "zeros": lambda x: x + torch.zeros_like(x) - x.new_ones(x.shape[0], *[1] * (x.dim() - 1)),
    "maximum": lambda x: torch.maximum(x, x.flip(-1)),
    "minimum": lambda x: torch.minimum(x, -x.flip(1)),
    "addcmul": lambda x: torch.addcmul(x, x, x.flip(1), value=0.5),
    "lerp": lambda x: torch.lerp(x, x.flip(-1), 0.3),
    "reversed": lambda x: x + x.flip(-1),
    "gate": lambda x: x * x.mean(-1, keepdim=True).sigmoid(),
    "named": lambda x: torch.sub(input=x, other=0.3, alpha=2),
}


def _without_gradient(x: Tensor) -> Tensor:
    with torch.no_grad():
        y = x * 2
    return x - y


IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    "relu_": lambda x: x.relu_(),
    "F.relu": lambda x: F.relu(x, inplace=True),
    "clamp_": lambda x: x.clamp_(-0.5, 0.7),
    "clamp_min_": lambda x: x.clamp_min_(-0.2),
    "mul_": lambda x: x.mul_(1.5),
    "add_": lambda x: x.add_(0.3),
    "sub_": lambda x: x.sub_(torch.tensor(0.3), alpha=2),
    "div_": lambda x: x.div_(2),
    "neg_": lambda x: x.neg_(),
    "tanh_": lambda x: x.tanh_(),
    "sigmoid_": lambda x: x.sigmoid_(),
    "leaky_": lambda x: F.leaky_relu_(x, 0.1),
    "elu_": lambda x: F.elu_(x),
    "hardtanh_": lambda x: F.hardtanh(x, inplace=True),
    "hardswish_": lambda x: F.hardswish(x, inplace=True),
    "silu_": lambda x: F.silu(x, inplace=True),
    "abs_": lambda x: x.abs_(),
    "square_": lambda x: x.square_(),
    "itself_": lambda x: x.add_(x),
    "masked_": lambda x: x.masked_fill_(torch.arange(x.shape[-1]) % 2 == 0, 0.2),
}
IN_VIEWS: dict[str, Callable[[Tensor], Any]] = {
    "fill first": lambda x: x[:, 0].fill_(0.5),
    "zero some": lambda x: x[..., 1:].zero_(),
    "set first": lambda x: x.__setitem__((slice(None), 0), 1.0),
    "set by itself": lambda x: x.__setitem__((slice(None), 0), x[:, -1] * 2),
    "set slice": lambda x: x.__setitem__((slice(None), slice(1, None)), x[:, :-1].clone()),
    "set strided": lambda x: x.__setitem__((..., slice(None, None, 2)), 0.1),
    "add to slice": lambda x: x[:, :1].add_(1),
    "slice plus": lambda x: x.__setitem__((slice(None), slice(1, 3)), x[:, 1:3] + 1),
    "relu of slice": lambda x: x[:, 1:].relu_(),
    "mul of view": lambda x: x.view(x.shape[0], -1).mul_(2),
    "mul of transposed": lambda x: x.transpose(1, -1).mul_(0.5),
    "clamp of last": lambda x: x[..., -1].clamp_(0, 0.5),
    "copy": lambda x: x[:, 0].copy_(x[:, -1]),
    "chunk": lambda x: x.chunk(2, -1)[0].tanh_(),
}


def _written(change: Callable[[Tensor], Any], mode: str) -> Function:
    """Applies a change in place and gives what was changed, or what the change gives, or with old reads."""

    def function(op: Op, x: Tensor) -> Tensor:
        if mode == "of a copy":
            x = x * 1.0
        if mode == "seen by a view":
            view = x[:, :]  # flattened it were a copy or a view, by the size of the batch
            change(x)
            return view + 0.5
        if mode == "seen before and after":
            before = x + 1
            change(x)
            return before - 2 * x
        change(x)
        return x

    return function


def elementwise(draw: Draw, shape: Shape) -> Op:
    name = draw.of([*ELEMENTWISE])
    return Op(name, lambda op, x: ELEMENTWISE[name](x))


def in_place(draw: Draw, shape: Shape) -> Op:
    name, mode = draw.of([*IN_PLACE]), draw.of(["", "", "of a copy", "seen before and after"])
    return Op(f"{name} {mode}", _written(IN_PLACE[name], mode), writes=True)


def in_views(draw: Draw, shape: Shape) -> Op:
    name = draw.of([*IN_VIEWS])
    mode = draw.of(["", "", "of a copy", "seen by a view", "seen before and after"])
    return Op(f"{name} {mode}", _written(IN_VIEWS[name], mode), writes=True)


def layer(draw: Draw, shape: Shape) -> Op:
    module: nn.Module = draw.of(LAYERS[len(shape)])(draw, shape)
    if draw.chance(0.15) and isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d):
        nn.utils.parametrizations.weight_norm(module)
    return Op(str(module), lambda op, x: op.module(x), module=module)


def _linear(draw: Draw, shape: Shape) -> nn.Module:
    return nn.Linear(shape[-1], draw.number(2, 5), bias=draw.chance(0.7))


def _convolution(draw: Draw, shape: Shape) -> Any:
    rank = len(shape) - 1
    groups = draw.of([1, 1, *([shape[0]] if shape[0] < 4 else []), *([2] if shape[0] % 2 == 0 else [])])

    def numbers(most: int) -> tuple[int, ...]:
        return tuple(draw.number(1, most) for _ in range(rank))

    kernel, step, gap = numbers(3), numbers(2), numbers(2)
    width = groups * draw.number(1, 2)
    kinds: Any = {1: (nn.Conv1d, nn.ConvTranspose1d), 2: (nn.Conv2d, nn.ConvTranspose2d)}[rank]
    if draw.chance(0.3):
        return kinds[1](
            shape[0],
            width,
            kernel,
            step,
            padding=0,
            output_padding=tuple(draw.number(0, size - 1) for size in step),
            groups=groups,
            bias=draw.chance(0.7),
        )
    if draw.chance(0.2):
        return kinds[0](shape[0], width, kernel, padding="same", dilation=gap, groups=groups)
    mode = draw.of(["zeros", "zeros", "zeros", "reflect", "circular", "replicate"])
    return kinds[0](shape[0], width, kernel, step, 1, gap, groups, bias=draw.chance(0.7), padding_mode=mode)


def _batch_norm(draw: Draw, shape: Shape) -> Any:
    kinds: Any = {1: nn.BatchNorm1d, 2: nn.BatchNorm1d, 3: nn.BatchNorm2d}[len(shape)]
    norm = kinds(shape[0], affine=draw.chance(0.7))
    norm.running_mean.normal_()
    norm.running_var.uniform_(0.5, 2)
    if norm.affine:
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    return norm


def _layer_norm(draw: Draw, shape: Shape) -> nn.Module:
    if draw.chance(0.3):
        return nn.RMSNorm(shape[-1], eps=0.1)
    return nn.LayerNorm(shape[-draw.number(1, len(shape)) :], eps=0.1, elementwise_affine=draw.chance(0.6))


def _group_norm(draw: Draw, shape: Shape) -> Any:
    if len(shape) > 1 and shape[0] > 1 and draw.chance(0.2):
        kinds: Any = {2: nn.InstanceNorm1d, 3: nn.InstanceNorm2d}[len(shape)]
        return kinds(shape[0], eps=0.1, affine=True)
    return nn.GroupNorm(draw.of([n for n in range(1, shape[0] + 1) if shape[0] % n == 0]), shape[0], eps=0.1)


def _pool(draw: Draw, shape: Shape) -> Any:
    rank, kernel, step = len(shape) - 1, draw.number(1, 3), draw.number(1, 2)
    margin, ceil = draw.number(0, kernel // 2), draw.chance(0.3)
    largest: Any = {1: nn.MaxPool1d, 2: nn.MaxPool2d}[rank]
    mean: Any = {1: nn.AvgPool1d, 2: nn.AvgPool2d}[rank]
    few: Any = {1: nn.AdaptiveAvgPool1d, 2: nn.AdaptiveAvgPool2d}[rank]
    one: Any = {1: nn.AdaptiveMaxPool1d, 2: nn.AdaptiveMaxPool2d}[rank]
    return draw.of(
        [
            lambda: largest(kernel, step, margin, ceil_mode=ceil),
            lambda: mean(kernel, step, margin, ceil, draw.chance(0.5)),
            lambda: few(draw.number(1, 3)),
            lambda: one(1),
        ]
    )()


def _slopes(draw: Draw, shape: Shape) -> nn.Module:
    return nn.PReLU(draw.of([1, shape[0]]), init=0.3)


def _attention(draw: Draw, shape: Shape) -> nn.Module:
    heads = 2 if shape[-1] % 2 == 0 else 1
    return SelfAttention(nn.MultiheadAttention(shape[-1], heads, batch_first=True))


class SelfAttention(nn.Module):
    def __init__(self, attention: nn.MultiheadAttention) -> None:
        super().__init__()
        self.attention = attention

    @override
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.attention(x, x, x, need_weights=False)[0]
        return result


ALWAYS = [_linear, _batch_norm, _layer_norm, _group_norm, _slopes]
LAYERS: dict[int, list[Callable[[Draw, Shape], nn.Module]]] = {
    1: [*ALWAYS, _linear],
    2: [*ALWAYS, _convolution, _convolution, _pool, _attention],
    3: [*ALWAYS, _convolution, _convolution, _convolution, _pool, _pool],
}


def constant(draw: Draw, shape: Shape) -> Any:
    """Arithmetic with a constant, which the network holds in one way or another."""
    value = draw.constant(shape)
    name, compute = draw.of(
        [
            ("add", lambda x, c: x + c),
            ("from", lambda x, c: c - x),
            ("mul", lambda x, c: c * x),
            ("div", lambda x, c: x / (c.abs() + 1 if c.dtype != torch.bool else c + 1)),
            ("maximum", lambda x, c: torch.maximum(x, c.to(x))),
            ("minimum", lambda x, c: torch.minimum(c.to(x), x)),
            ("clamp", lambda x, c: x.clamp(max=c.to(x))),
            ("where", lambda x, c: torch.where(c > 0, x, 0.3)),
            ("where constant", lambda x, c: torch.where(c > 0, c.to(x), x)),
            ("masked", lambda x, c: x.masked_fill(c > 0, -0.5)),
            ("addcmul", lambda x, c: torch.addcmul(c.to(x), x, x)),
        ]
    )
    if name == "where constant":
        value = value.expand(shape).clone()
    kind, read = draw.of(
        [
            ("attribute", lambda op: op.held),
            ("buffer", lambda op: op.held),
            ("tuple", lambda op: op.held[1]),
            ("dict", lambda op: op.held["one"]),
            ("closure", lambda op: value),
        ]
    )
    holds = {"tuple": (1, value), "dict": {"one": value}, "closure": None}.get(kind, value)
    title = f"{name} {kind} {str(value.dtype).removeprefix('torch.')}{[*value.shape]}"
    parts = {} if kind == "buffer" else {"held": holds}
    op = Op(title, lambda op, x: compute(x, read(op)), **parts)
    if kind == "buffer":
        op.register_buffer("held", value)
    return op


def matrix(draw: Draw, shape: Shape) -> Any:
    """Products with a constant matrix, on either side."""
    width = draw.number(2, 4)
    right = nn.Parameter(torch.randn(shape[-1], width) / 2)
    if len(shape) == 1:
        vector = nn.Parameter(torch.randn(shape[-1]))
        return draw.of(
            [
                Op("x @ M", lambda op, x: x @ op.right, right=right),
                Op("(Mᵀ @ xᵀ)ᵀ", lambda op, x: (op.right.T @ x.T).T, right=right),
                Op("einsum", lambda op, x: torch.einsum("bi,ij->bj", x, op.right), right=right),
                Op("x @ v", lambda op, x: (x @ op.vector)[:, None], vector=vector),
                Op("linear twice", lambda op, x: F.linear(F.linear(x, op.right.T), op.right), right=right),
                Op("addmm", lambda op, x: torch.addmm(op.right[:1], x, op.right, beta=2), right=right),
            ]
        )
    left = nn.Parameter(torch.randn(width, shape[-2]) / 2)
    stack = nn.Parameter(torch.randn(*shape[:-2], width, shape[-2]) / 2)
    return draw.of(
        [
            Op("x @ M", lambda op, x: x @ op.right, right=right),
            Op("M @ x", lambda op, x: op.left @ x, left=left),
            Op("M @ x @ M", lambda op, x: op.left @ x @ op.right, left=left, right=right),
            Op("stack @ x", lambda op, x: op.stack @ x, stack=stack),
            Op("einsum", lambda op, x: torch.einsum("b...i,ij->bj...", x, op.right), right=right),
        ]
    )


def _split(x: Tensor, dim: int) -> Sequence[Tensor]:
    pieces: Sequence[Tensor] = x.split(2, dim)
    return pieces


def moved(draw: Draw, shape: Shape) -> Op:
    """What moves, picks or repeats."""
    rank, dim, size = len(shape), draw.dim(shape), 0
    size = shape[dim - 1 if dim > 0 else dim]
    order = [0, *draw.shuffled(range(1, rank + 1))]
    start = draw.number(0, size - 1)
    end, step = draw.number(start + 1, size), draw.number(1, 2)
    first, second = draw.split(math.prod(shape))
    index = [draw.number(0, size - 1) for _ in range(draw.number(1, 4))]
    cuts = [draw.number(1, 2) for _ in range(2)]
    other = draw.dim(shape)
    choices: dict[str, Callable[[Tensor], Tensor]] = {
        "flatten": lambda x: x.flatten(1),
        f"reshape {first} {second}": lambda x: x.reshape(x.shape[0], first, second),
        f"reshape -1 {second}": lambda x: x.reshape(x.size(0), -1, second),
        f"permute {order}": lambda x: x.permute(order),
        f"transpose {dim} {other}": lambda x: x.transpose(dim, other),
        f"movedim {dim} {other}": lambda x: x.movedim(dim, other),
        f"contiguous view {order}": lambda x: x.permute(order).contiguous().view(x.shape[0], first, second),
        f"flip {dim}": lambda x: x.flip(dim),
        f"roll {dim}": lambda x: x.roll(start, dim),
        f"narrow {dim} {start} {end}": lambda x: x.narrow(dim, start, end - start),
        f"slice {start} {end} {step}": lambda x: (
            x[..., start:end:step] if dim in (rank, -1) else x[:, ::step]
        ),
        f"select {dim} {start}": lambda x: x.select(dim, start) if rank > 1 else x,
        f"index_select {dim} {index}": lambda x: x.index_select(dim, torch.tensor(index)),
        f"index {index}": lambda x: x[:, [place % x.shape[1] for place in index]],
        f"unsqueeze {dim}": lambda x: x.unsqueeze(dim),
        "squeeze": lambda x: x.squeeze(-1) if x.dim() > 2 else x,
        "expand": lambda x: x.unsqueeze(1).expand(-1, 2, *[-1] * rank),
        f"repeat {cuts}": lambda x: x.repeat(1, *[1] * (rank - 1), cuts[0]),
        f"interleave {dim}": lambda x: x.repeat_interleave(2, dim),
        f"pad {cuts}": lambda x: F.pad(x, cuts, value=0.3),
        f"cut {cuts}": lambda x: F.pad(x, (-1, cuts[0])),
        "reflect": lambda x: F.pad(x, (1, 1), "reflect"),
        "replicate": lambda x: F.pad(x, (cuts[0], 0), "replicate"),
        f"chunks {dim}": lambda x: torch.cat(x.chunk(2, dim)[::-1], dim),
        f"splits {dim}": lambda x: torch.cat([_split(x, dim)[-1], -_split(x, dim)[0]], dim),
        f"unbind {dim}": lambda x: sum(x.unbind(dim)[1:], x.select(dim, 0)) if rank > 1 else x,
        f"stack {dim}": lambda x: torch.stack([x, 2 * x, torch.ones_like(x)], dim),
        f"cat constant {dim}": lambda x: torch.cat([torch.ones_like(x).narrow(dim, 0, 1), x, x], dim),
        f"unfold {dim}": lambda x: x.unfold(dim, min(2, size), 1),
        "tril": lambda x: x.tril() if rank > 1 else x,
        "triu": lambda x: x.triu(1) if rank > 1 else x,
        "rot90": lambda x: x.rot90(1, (-2, -1)) if rank > 1 else x,
        "diagonal": lambda x: x.diagonal(0, -2, -1) if rank > 1 else x,
        "mT": lambda x: x.mT if rank > 1 else x,
        "pixel_shuffle": lambda x: F.pixel_shuffle(x, 2) if rank == 3 else x,
        "pixel_unshuffle": lambda x: F.pixel_unshuffle(x, 2) if rank == 3 else x,
        "channel_shuffle": lambda x: F.channel_shuffle(x, 2) if rank == 3 else x,
        "patches": lambda x: F.unfold(x, (2, 1)) if rank == 3 else x,
        "nearest": lambda x: F.interpolate(x, scale_factor=2) if rank > 1 else x,
        "bilinear": lambda x: F.interpolate(x, size=3, mode="bilinear") if rank == 3 else x,
        "ellipsis": lambda x: x[:, None, ..., start // 2 : None],
    }
    name = draw.of([*choices])
    return Op(name, lambda op, x: choices[name](x))


def reduced(draw: Draw, shape: Shape) -> Op:
    """Sums, means, lengths, softmax, and products with itself."""
    dim, dims, keep = draw.dim(shape), draw.dims(shape), draw.chance(0.5) or len(shape) == 1
    if len(dims) == len(shape):
        keep = True
    is_matrix = len(shape) > 1
    choices: dict[str, Callable[[Tensor], Tensor]] = {
        f"mean {dims} {keep}": lambda x: x.mean(dims, keepdim=keep),
        f"sum {dims} {keep}": lambda x: x.sum(dims, keepdim=keep),
        f"amax {dims} {keep}": lambda x: x.amax(dims, keepdim=keep),
        f"amin {dim} {keep}": lambda x: x.amin(dim, keepdim=keep),
        f"max {dim} {keep}": lambda x: x.max(dim, keepdim=keep).values,
        f"min {dim} {keep}": lambda x: x.min(dim, keepdim=keep)[0],
        f"softmax {dim}": lambda x: x.softmax(dim),
        f"log_softmax {dim}": lambda x: F.log_softmax(x, dim),
        f"logsumexp {dims} {keep}": lambda x: x.logsumexp(dims, keepdim=keep),
        f"l2 {dims} {keep}": lambda x: torch.linalg.vector_norm(x, dim=dims, keepdim=keep),
        f"l1 {dim} {keep}": lambda x: x.norm(p=1, dim=dim, keepdim=keep),
        f"linf {dim} {keep}": lambda x: torch.linalg.vector_norm(x, math.inf, dim=dim, keepdim=keep),
        f"var {dims} {keep}": lambda x: x.var(dims, unbiased=False, keepdim=keep),
        f"std {dim} {keep}": lambda x: (x * x.new_ones(())).std(dim, unbiased=False, keepdim=keep),
        "less mean": lambda x: x - x.mean(dim, keepdim=True),
        f"normalize {dim}": lambda x: F.normalize(x + 2, dim=dim, eps=0.1),
        "glu": lambda x: F.glu(x, -1) if x.shape[-1] % 2 == 0 else x,
        "xxᵀ": lambda x: x @ x.mT if is_matrix else x[:, :, None] * x[:, None],
        "attention": lambda x: F.scaled_dot_product_attention(x, 2 * x, -x) if is_matrix else x.softmax(1),
        "by hand": lambda x: (x @ x.mT).softmax(-1) @ x if is_matrix else x.softmax(-1) * x,
        "causal": lambda x: F.scaled_dot_product_attention(x, x, x, is_causal=True) if is_matrix else x.exp(),
        "bmm": lambda x: torch.bmm(x, x.transpose(1, 2)) if len(shape) == 2 else x * x,
        "cosine": lambda x: F.cosine_similarity(x + 2, x.flip(-1) - 2, dim=-1)[:, None],
        "masked softmax": lambda x: x.masked_fill(torch.arange(x.shape[-1]) == 1, -math.inf).softmax(-1),
    }
    name = draw.of([*choices])
    return Op(name, lambda op, x: choices[name](x))


UNARY = [elementwise, elementwise, layer, layer, layer, constant, matrix, moved, moved, reduced, in_place]

# Of two values of one shape, or that broadcast

BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: torch.sub(x, y, alpha=0.5),
    "mul": lambda x, y: x * y,
    "gate": lambda x, y: x * y.sigmoid(),
    "div": lambda x, y: x / (1 + y.square()),
    "maximum": torch.maximum,
    "minimum": lambda x, y: torch.min(x, y),
    "lerp": lambda x, y: torch.lerp(x, y, 0.25),
    "where": lambda x, y: torch.where(torch.arange(x.shape[-1]) % 2 == 0, x, y),
    "cat": lambda x, y: torch.cat([x, y, x[:, :1]], 1),
    "stack": lambda x, y: torch.stack([x, y], -1),
    "x += y": lambda x, y: x.add_(y),
    "x *= y": lambda x, y: x.mul_(y),
    "x -= 2 y": lambda x, y: x.sub_(y, alpha=2),
    "addcmul": lambda x, y: torch.addcmul(y, x, y, value=0.5),
    "matmul": lambda x, y: x @ y.mT if x.dim() > 2 else x * y,
    "attention": lambda x, y: F.scaled_dot_product_attention(x, y, y) if x.dim() > 2 else x - y,
    "einsum": lambda x, y: (
        torch.einsum("b...i,b...i->b...", x, y).flatten(1) if x.dim() > 2 else (x * y).sum(1, keepdim=True)
    ),
}
BINARY_VIEWS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "x[:, 0] = y": lambda x, y: x.__setitem__((slice(None), 0), y[:, -1]),
    "x[..., 1:] = y": lambda x, y: x.__setitem__((..., slice(1, None)), y[..., 1:]),
    "x[:, :1] += y": lambda x, y: x[:, :1].add_(y[:, :1]),
    "x.copy_(y)": lambda x, y: x.copy_(y),
    "x.view.mul_": lambda x, y: x.view(x.shape[0], -1).mul_(y.flatten(1)),
}


def binary(draw: Draw, views: bool) -> Op:
    if views and draw.chance(0.4):
        name = draw.of([*BINARY_VIEWS])
        change = BINARY_VIEWS[name]
        return Op(name, lambda op, x, y: (change(x, y), x)[1], writes=True)
    name = draw.of([*BINARY])
    return Op(name, lambda op, x, y: BINARY[name](x, y), writes="=" in name)


COMPOSED = {
    "einsum",
    "cosine",
    "no_grad",
}  # with writes to views, what makes a capture take three times as long

# Graphs


def build(seed: int, index: int) -> Graph:
    """A random graph; the same at every call."""
    draw, shape, views = Draw(f"{seed} {index}"), shape_of(seed), seed % 4 == 3
    probe = torch.rand(3, *shape)
    graph, tries = Graph([], []), 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1000 * seed + index)
        values = [probe]
        while len(graph.reads) < NUM_STEPS and tries < 40:
            tries += 1
            chosen = _candidate(draw, graph, values, views)
            if chosen is None or (chosen[0].name in COMPOSED and not views):
                continue
            op, reads = chosen
            longer = graph.followed_by(op, *reads).eval()
            after = _attempt(longer, probe)
            if after is not None:
                graph, values = longer, after
    return graph


def shape_of(seed: int) -> Shape:
    return SHAPES[seed % len(SHAPES)]


def _candidate(
    draw: Draw, graph: Graph, values: list[Tensor], views: bool
) -> tuple[Op, tuple[int, ...]] | None:
    last = len(values) - 1
    reads: tuple[int, ...]
    first = last if draw.chance(0.8) else draw.number(0, last)
    shape = tuple(values[first].shape[1:])
    if len(shape) > 3 or not shape:
        return Op("flatten", lambda op, x: x.flatten(1)), (first,)
    if draw.chance(0.25) and last:
        alike = [place for place in range(last + 1) if values[place].shape == values[first].shape]
        op, reads = binary(draw, views), (first, draw.of(alike))
    elif draw.chance(0.1):  # a layer once more
        op = draw.of([None, *graph.ops])
        reads = (first,)
        if op is None or not hasattr(op, "module"):
            return None
    else:
        op, reads = draw.of([*UNARY, *([in_views] * 4 if views else [])])(draw, shape), (first,)
    # What is written to is not the input, nor, in most modules, what another value is a view of.
    others = [] if views else [*values[1:first], *values[first + 1 :]]
    if getattr(op, "writes", False) and any(
        _shares_memory(values[first], other) for other in [values[0], *others]
    ):
        return None
    if getattr(op, "writes", False) and torch._debug_has_internal_overlap(values[first]):
        return None  # torch forbids it
    return op, reads


def _shares_memory(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _attempt(graph: Graph, probe: Tensor) -> list[Tensor] | None:
    """All values; None where an operation does not fit, or makes too much, too little, or all of it mixed."""
    try:
        with torch.no_grad():
            values = graph.values(probe)
    except (RuntimeError, IndexError, ValueError):
        return None
    last = values[-1]
    is_fine = (
        last.dim() > 1
        and len(last) == len(probe)
        and last.dtype == probe.dtype
        and 0 < last[0].numel() <= LARGEST
        and bool(last.isfinite().all())
        and float(last.detach().abs().max()) < 100
    )
    return values if is_fine else None


# Checks


class Inputs(NamedTuple):
    """Sets around images: a box, a ball and both at once, of a size each image."""

    center: Tensor
    halfwidth: Tensor
    radius: Tensor

    @classmethod
    def of(cls, seed: int) -> Inputs:
        generator = torch.Generator().manual_seed(seed)
        shape = len(RADII), *shape_of(seed)
        center = torch.rand(shape, generator=generator, dtype=torch.float64) * 2 - 0.5
        sizes = torch.tensor(RADII, dtype=torch.float64).reshape(-1, *[1] * (len(shape) - 1))
        halfwidth = sizes * (0.2 + 0.8 * torch.rand(shape, generator=generator, dtype=torch.float64))
        return cls(center, halfwidth, sizes.flatten())

    @property
    def sets(self) -> list[Region]:
        box = Box(self.center - self.halfwidth, self.center + self.halfwidth)
        ball = Ball(self.center, self.radius)
        return [box, ball, BoxBall(ball, box)]

    def inside(self, points: Tensor) -> Tensor:
        """Points (3, …, batch, …), brought into the three sets."""
        away = points - self.center
        dims = [*range(away.dim() - self.center.dim() + 1, away.dim())]
        length = torch.linalg.vector_norm(away, dim=dims, keepdim=True)
        radius = self.radius.reshape(-1, *[1] * (self.center.dim() - 1))
        in_ball = away * (radius / length.clamp_min(1e-30)).clamp_max(1)
        in_box = away.clamp(-self.halfwidth, self.halfwidth)
        both = in_ball.clamp(-self.halfwidth, self.halfwidth)
        return self.center + torch.stack([in_box[0], in_ball[1], both[2]])

    def samples(self, seed: int, count: int = 8) -> Tensor:
        """Members (3, count, batch, …): inside, on the sphere, and at the corners of the box."""
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(3, count, *self.center.shape, generator=generator, dtype=torch.float64)
        noise[:, ::4] *= 1e6
        noise[:, 1::4] = 1e6 * noise[:, 1::4].sign()
        noise[:, 2::4] *= self.halfwidth
        return self.inside(self.center + noise)


def faults(graphs: Sequence[Graph], seed: int) -> dict[int, str]:
    """What is wrong with graphs of one seed: place -> what."""
    models = [float64_copy(graph) for graph in graphs]
    inputs = Inputs.of(seed)
    try:
        program = Program(SideBySide(models).eval(), inputs.center)
        with torch.no_grad():
            points = [program.walk(Point(inputs.center[:count]), _rule) for count in (len(RADII), 1)]
            images = [program.walk(value, _rule) for value in inputs.sets]
            alone = program.walk(_first(inputs, 2), _rule)
    except Exception as error:
        if len(graphs) == 1:
            return {0: f"{type(error).__name__}: {error}"}
        found = {place: faults([graph], seed) for place, graph in enumerate(graphs)}
        return {place: fault[0] for place, fault in found.items() if fault} or {0: f"together: {error}"}
    wrong, start = {}, 0
    for place, model in enumerate(models):
        own = slice(start, start + len(graphs[place].reads))
        results = Results([part[own] for part in points], [part[own] for part in images], alone[own])
        fault = _fault(model, results, inputs, seed)
        if fault is not None:
            wrong[place] = fault
        start = own.stop
    return wrong


class Results(NamedTuple):
    """What a program makes of one graph: for each input a domain for each value.

    Attributes:
        points: Of a batch of several points, and of one.
        images: Of the three sets.
        alone: Of the third example alone of the last set.
    """

    points: list[tuple[Point, ...]]
    images: list[tuple[Region, ...]]
    alone: tuple[Region, ...]


def _rule(call: Call) -> Any:
    return call.apply_rule(GuaranteedNorms())


def _first(inputs: Inputs, place: int) -> Region:
    """The set of one of the images alone, in a batch of one."""
    return Inputs(*(part[place : place + 1] for part in inputs)).sets[2]


def _fault(model: nn.Module, results: Results, inputs: Inputs, seed: int) -> str | None:
    """What is wrong with a graph, at the first value where something is."""
    with torch.no_grad():
        outputs = model(inputs.center)
    samples = inputs.samples(seed)
    first = _outputs(model, samples)
    for place, expected in enumerate(outputs):
        images = [image[place] for image in results.images]
        fault = None
        for point in results.points:
            count = len(point[place].center)
            if not _is_close(point[place].center, expected[:count]):
                fault = f"the graph computes something else for a batch of {count}"
        # A softplus jumps, and its jump is added.
        if "softplus" not in str(model) and not all(
            _is_close(end[0], expected[0]) for image in images for end in image.ends
        ):
            fault = fault or "a set of no size is no point"
        whole = images[2].ends
        if not all(
            _is_close(end[0], ends[2]) for end, ends in zip(results.alone[place].ends, whole, strict=True)
        ):
            fault = fault or "the bounds of a batch are not those of its examples"
        fault = fault or _broken(model, place, images, inputs, (samples, first[place]))
        if fault is not None:
            return f"at v{place + 1}: {fault}"
    return None


def _is_close(actual: Tensor, expected: Tensor) -> bool:
    is_finite = actual.isfinite() & expected.isfinite()
    return bool(((actual - expected).abs() <= ROUNDING * (1 + expected.abs()))[is_finite].all())


def _broken(
    model: nn.Module, place: int, images: Sequence[Region], inputs: Inputs, start: tuple[Tensor, Tensor]
) -> str | None:
    """Whether members of the sets, or what gradients make of them, break the bounds of a value."""
    lower, upper = (
        torch.stack(ends)[:, None] for ends in zip(*(image.ends for image in images), strict=True)
    )
    balls = [
        image if isinstance(image, Ball) else image.ball
        for image in images
        if isinstance(image, Ball | BoxBall)
    ]
    points, outputs = start
    for step in range(NUM_CLIMBS + 1):
        known = outputs.detach()
        slack = ROUNDING * (1 + known.abs())
        for excess, side in ((lower - known - slack, "lower"), (known - upper - slack, "upper")):
            if bool((excess > 0).any()):
                worst = excess.nan_to_num(-1, -1, -1)
                kind = type(images[int(worst.flatten(1).amax(1).argmax())]).__name__
                return f"a member lies beyond the {side} end of the {kind} by {float(worst.max()):.3g}"
        for index, ball in enumerate(balls, 1):
            distance = (known[index] - ball.center).norm(dim=-1)
            if bool((distance > ball.radius * (1 + ROUNDING) + slack[index].amax(-1)).any()):
                return f"a member lies outside the ball of the {type(images[index]).__name__}"
        if not outputs.requires_grad or step == NUM_CLIMBS:
            return None
        try:
            points = _climbed(outputs, points, lower, upper, inputs)
        except RuntimeError:  # a value was overwritten that its gradient needs
            return None
        outputs = _outputs(model, points)[place]
    return None


def _outputs(model: nn.Module, points: Tensor) -> list[Tensor]:
    """Of each value, (3, count, batch, width)."""
    try:
        values = model(points.requires_grad_().flatten(0, 2).clone())
    except RuntimeError:  # written to in a way that forbids gradients
        with torch.no_grad():
            values = model(points.flatten(0, 2).clone())
    return [value.reshape(*points.shape[:3], -1) for value in values]


def _climbed(outputs: Tensor, leaf: Tensor, lower: Tensor, upper: Tensor, inputs: Inputs) -> Tensor:
    """A step by the sign of the gradient towards the end that is nearest to be broken."""
    known = outputs.detach()
    width = (upper - lower).clamp_min(1e-12)
    left = torch.cat([(upper - known) / width, (known - lower) / width], -1).nan_to_num(math.inf)
    nearest = left.argmin(-1, keepdim=True)
    signed = torch.cat([outputs, -outputs], -1)
    (gradient,) = torch.autograd.grad(signed.gather(-1, nearest).sum(), leaf, retain_graph=True)
    length = gradient.flatten(3).norm(dim=-1).clamp_min(1e-30)
    ones = [1] * (inputs.center.dim() - 1)
    step = gradient * (inputs.radius / length).reshape(*length.shape, *ones)
    step[0] = gradient[0].sign() * inputs.halfwidth
    return inputs.inside(leaf.detach() + step.nan_to_num())


def folding_fault(graph: Graph, seed: int) -> str | None:
    """What is wrong with the last layer that is affine at the end of a graph."""
    inputs = Inputs.of(seed)
    model = float64_copy(LastAlone(graph))
    program = Program(model, inputs.center)
    with torch.no_grad():
        samples = inputs.samples(seed)
        outputs = model(samples.flatten(0, 2)).reshape(*samples.shape[:3], -1)
        labels = torch.arange(len(RADII)) % outputs.shape[-1]
        gaps = outputs - outputs.gather(-1, labels.expand(outputs.shape[:-1])[..., None])
        for place, value in enumerate(inputs.sets):
            last = program.run_to_last_layer(value, GuaranteedNorms())
            if not _is_close(last.logits[0], model(inputs.center)[0]):
                return "the last layer gives other logits"
            bound = last.differences(labels)
            if bool((gaps[place] > bound + ROUNDING * (1 + gaps[place].abs())).any()):
                return f"differences over the {type(value).__name__} are larger than is said"
    return None


TAILS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "flatten": lambda op, x: x.flatten(1),
    "twice": lambda op, x: op.last(x.flatten(1)) + op.last(x.flatten(1)).flip(1),
    "cat": lambda op, x: op.last(torch.cat([x.flatten(1), x.flatten(1)[:, :1]], 1)[:, :-1]),
    "residual": lambda op, x: op.last(x.flatten(1)) * 2 - x.flatten(1)[:, :1] / 3,
    "scaled": lambda op, x: op.last(x.flatten(1)).div(torch.tensor(3.0)).mul(torch.arange(3)) + 1,
    "split": lambda op, x: torch.cat(op.last(x.flatten(1)).split([1, 2], 1)[::-1], 1),
    "filled": lambda op, x: op.last(x.flatten(1)).masked_fill(torch.tensor([False, False, True]), -1.0),
    "mean": lambda op, x: op.last(x.flatten(1)) - op.last(x.flatten(1)).mean(1, keepdim=True),
}


def with_tail(graph: Graph, seed: int, index: int) -> Graph:
    """A graph that ends in something affine."""
    width = graph.eval()(torch.rand(2, *shape_of(seed)))[-1].shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        name = Draw(f"{seed} {index} tail").of([*TAILS])
        op = Op(f"tail {name}", lambda op, x: TAILS[name](op, x), last=nn.Linear(width, 3))
    return graph.followed_by(op, len(graph.reads)).eval()


def describe(graph: Graph, seed: int, index: int, fault: str) -> str:
    return f"build({seed}, {index}) of an input {shape_of(seed)}: {fault}\n{graph}"


NUM_MODULES = math.ceil(NUM_NETWORKS / (SIDE_BY_SIDE * NUM_STEPS))
NUM_TESTS = 4


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("part", range(NUM_TESTS))
def test_random_graphs_break_no_bound(part: int) -> None:
    messages = []
    for seed in range(part, NUM_MODULES, NUM_TESTS):
        graphs = [build(seed, index) for index in range(SIDE_BY_SIDE)]
        for index, fault in faults(graphs, seed).items():
            messages.append(describe(graphs[index], seed, index, fault))
    assert not messages, "\n\n".join(messages)


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.parametrize("part", range(NUM_TESTS))
def test_random_graphs_fold_to_a_last_layer_that_bounds_differences(part: int) -> None:
    for seed in range(part, NUM_MODULES, NUM_TESTS):
        graph = with_tail(build(seed, seed % SIDE_BY_SIDE), seed, seed % SIDE_BY_SIDE)
        fault = folding_fault(graph, seed)
        assert fault is None, describe(graph, seed, seed % SIDE_BY_SIDE, fault)
