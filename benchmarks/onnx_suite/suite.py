"""Small ONNX networks in many styles, with properties to verify: what anyone's files may look like.

Networks are trained (``bases``) or random (``exact``) here, in a few seconds, the same each time; written by
torch's exporters and by hand (``styles``). A network's properties are stated in VNN-LIB, in the forms of the
competitions. Where it is known which answer is right, they say so: ``sat`` where a short attack finds a
counter-example that onnxruntime confirms, and both answers where an integer program gives the least value.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx
import onnxruntime
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from typing_extensions import override

from onnx_suite.bases import EPOCHS, SHAPES, base, test_batch
from onnx_suite.exact import Dense, as_onnx, least, random
from onnx_suite.styles import STYLES, Style
from withstand.graph.onnx_graph import onnx_bytes

__all__ = ["BY_HAND", "BY_TORCH", "Instance", "Net", "instances", "made", "run", "write"]

Answer = Literal["sat", "unsat"]
Array = NDArray[np.float64]

_OLD = {
    f"script-{name}-{opset}": (name, opset)
    for name, opset in {
        "average-pool": 9,
        "asymmetric": 10,
        "residual": 11,
        "branches": 12,
        "two-channels": 13,
        "rows": 15,
        "batch-norm": 16,
        "tanh": 17,
    }.items()
}
_NEW = {f"export-{name}-18": name for name in ("dense", "max-pool", "residual", "batch-norm", "squares")}
_RANDOM: dict[str, tuple[tuple[int, ...], int, tuple[int | str, ...]]] = {
    "tiny-21": ((2, 5, 5, 3), 21, (1, 2)),
    "advisories-9": ((5, 8, 8, 8, 8, 5), 9, (1, 1, 1, 5)),
}
_EPSILONS = (0.03, 0.07, 0.12)  # of which the middle one is hard for most of the networks
_GAP = 0.02  # from the least value, on either side


class Net(NamedTuple):
    """A file, and the network that it computes.

    Attributes:
        name: Of the file.
        proto: Its content.
        shape: Of one input, without a batch.
        module: The same network in torch, of batches (batch, *shape).
        base: Of which trained network it has the weights; empty where of none.
    """

    name: str
    proto: onnx.ModelProto
    shape: tuple[int, ...]
    module: nn.Module
    base: str = ""


class Instance(NamedTuple):
    """A property of a network.

    Attributes:
        name: Of the property.
        text: In VNN-LIB.
        answer: What is right, where that is known.
    """

    name: str
    text: str
    answer: Answer | None


# -- networks ---------------------------------------------------------------------------------------


class _Styled(nn.Module):
    """A trained network with the inputs and outputs of a file."""

    def __init__(self, model: nn.Module, style: Style) -> None:
        super().__init__()
        self.model, self.style = model, style

    @override
    def forward(self, x: Tensor) -> Tensor:
        return self.style.from_base(self.model(self.style.to_base(x)))


def _styled(name: str, epochs: int) -> Net:
    style = STYLES[name]
    model = base(style.base, epochs)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    return Net(name, style.write(weights), style.shape, _Styled(model, style).eval(), style.base)


def _of_random_weights(name: str) -> Net:
    """Of which least values are known."""
    widths, opset, shape = _RANDOM[name]
    dense = random(0, *widths)
    inner = tuple(size for size in shape[1:] if isinstance(size, int))
    return Net(name, as_onnx(dense, opset=opset, shape=shape), inner, dense.module())


def _by_old_exporter(name: str, epochs: int) -> Net:
    """By TorchScript; files of odd opsets take batches of any size."""
    key, opset = _OLD[name]
    example, model, written = test_batch(2, key).images, base(key, epochs), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is old
        torch.onnx.export(
            model,
            (example if opset % 2 else example[:1],),
            written,  # type: ignore[arg-type]  # it may be one, which its signature leaves out
            dynamo=False,
            opset_version=opset,
            input_names=["image"],
            dynamic_axes={"image": {0: "batch"}} if opset % 2 else None,
        )
    return Net(name, onnx.load_from_string(written.getvalue()), tuple(example.shape[1:]), model, key)


def _by_new_exporter(name: str, epochs: int) -> Net:
    """By ``torch.export``, as withstand writes runs."""
    key = _NEW[name]
    shape, model = SHAPES.get(key, (1, 8, 8)), base(key, epochs)
    return Net(name, onnx.load_from_string(onnx_bytes(model, shape, {})), shape, model, key)


BY_HAND = (*STYLES, *_RANDOM)
"""Names of the files that are written by hand; those of random weights are the last two."""
BY_TORCH = (*_OLD, *_NEW)
"""Names of the files of torch's two exporters."""


@cache
def made(name: str, epochs: int = EPOCHS) -> Net:
    """A network of the suite by its name.

    Args:
        name: Of ``BY_HAND`` or ``BY_TORCH``.
        epochs: Of its training, where it has one: fewer make a network that hardly answers in no time.
    """
    if name in STYLES:
        return _styled(name, epochs)
    if name in _RANDOM:
        return _of_random_weights(name)
    return _by_old_exporter(name, epochs) if name in _OLD else _by_new_exporter(name, epochs)


def run(proto: onnx.ModelProto, inputs: Tensor) -> Tensor:
    """What onnxruntime gives of each input (batch, *shape), by itself: (batch, outputs)."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    first = session.get_inputs()[0]
    sizes = [size if isinstance(size, int) else 1 for size in first.shape]
    rows = [session.run(None, {first.name: one.numpy().reshape(sizes)})[0] for one in inputs]
    return torch.from_numpy(np.stack(rows)).flatten(1)


# -- properties -------------------------------------------------------------------------------------


def _vnnlib(num_inputs: int, num_outputs: int, assertions: Sequence[str]) -> str:
    lines = [f"(declare-const X_{index} Real)" for index in range(num_inputs)]
    lines += [f"(declare-const Y_{index} Real)" for index in range(num_outputs)]
    return "\n".join([*lines, *(f"(assert {assertion})" for assertion in assertions), ""])


def _box(lower: Array, upper: Array) -> list[str]:
    pairs = enumerate(zip(lower.tolist(), upper.tolist(), strict=True))
    return [text for i, (low, high) in pairs for text in (f"(>= X_{i} {low!r})", f"(<= X_{i} {high!r})")]


def _wrong(label: int, num_outputs: int) -> str:
    others = (f"(and (>= Y_{other} Y_{label}))" for other in range(num_outputs) if other != label)
    return f"(or {' '.join(others)})"


def instances(net: Net, epsilons: Sequence[float] = _EPSILONS) -> list[Instance]:
    """The properties of a network; each time the same ones.

    Args:
        net: Of this suite.
        epsilons: Of robustness, where inputs are images: around one and within [0, 1].
    """
    return _of_images(net, epsilons) if net.base else _of_least(net)


def _of_images(net: Net, epsilons: Sequence[float]) -> list[Instance]:
    """That images keep their labels; the last property is of two images at once."""
    images, labels = _chosen(net)
    num_outputs = run(net.proto, images[:1]).shape[1]
    found = []
    for epsilon in epsilons:
        lower, upper = (images[0] - epsilon).clamp_min(0), (images[0] + epsilon).clamp_max(1)
        box = _box(*(side.double().flatten().numpy() for side in (lower, upper)))
        text = _vnnlib(images[0].numel(), num_outputs, [*box, _wrong(int(labels[0]), num_outputs)])
        answer = _attacked(net, lower, upper, partial(_is_wrong, label=int(labels[0])))
        if answer is None and net.base == "dense":
            answer = _by_program(epsilon)
        found.append(Instance(f"robust-{epsilon:g}", text, answer))
    return [*found, _of_two(images, labels, num_outputs)]


def _of_two(images: Tensor, labels: Tensor, num_outputs: int, epsilon: float = 0.01) -> Instance:
    cases = []
    for image, label in zip(images[:2].double().flatten(1).numpy(), labels[:2].tolist(), strict=True):
        box = _box((image - epsilon).clip(0), (image + epsilon).clip(None, 1))
        cases += [
            f"(and {' '.join(box)} (>= Y_{other} Y_{label}))"
            for other in range(num_outputs)
            if other != label
        ]
    text = _vnnlib(images[0].numel(), num_outputs, [f"(or {' '.join(cases)})"])
    return Instance(f"two-boxes-{epsilon:g}", text, None)


def _is_wrong(outputs: Tensor, label: int) -> Tensor:
    """How much another output is above that of a label, (batch,)."""
    others = outputs.clone()
    others[:, label] = -torch.inf
    return others.amax(1) - outputs[:, label]


def _chosen(net: Net) -> tuple[Tensor, Tensor]:
    """Two test images that the network gets right, in its shape, the one of middle margin first."""
    images, labels = test_batch(20, net.base)
    style = STYLES.get(net.name)
    if style is not None:
        images = images.permute(0, 2, 3, 1) if style.shape == (8, 4, 2) else images.reshape(-1, *net.shape)
    outputs = net.module(images).flatten(1)
    margins = torch.tensor(
        [-float(_is_wrong(row[None], int(label))) for row, label in zip(outputs, labels, strict=True)]
    )
    right = [int(index) for index in margins.argsort() if margins[index] > 0]
    order = [right[len(right) // 2], right[0]]
    return images[order].contiguous(), labels[order]


def _attacked(net: Net, lower: Tensor, upper: Tensor, gain: Callable[[Tensor], Tensor]) -> Answer | None:
    """``sat`` where some steps uphill come to an input of positive gain, by onnxruntime too."""
    middle, half = (lower + upper) / 2, (upper - lower) / 2
    point = middle[None]
    for step in (1.0, *torch.linspace(0.5, 0.02, 30).tolist()):
        point = point.detach().requires_grad_()
        (slope,) = torch.autograd.grad(gain(net.module(point).flatten(1)).sum(), point)
        point = (point.detach() + step * half * slope.sign()).clamp(lower, upper)
        if float(gain(net.module(point).flatten(1))) > 0 and float(gain(run(net.proto, point))) > 0:
            return "sat"
    return None


@cache
def _by_program(epsilon: float) -> Answer | None:
    """The answer of robust dense networks, which are one in all styles, by integer programs of seconds.

    None where the least margin is next to 0.
    """
    net = made("gemm-9")
    images, labels = _chosen(net)
    layers = [layer for layer in net.module.modules() if isinstance(layer, nn.Linear)]
    dense = Dense(
        [layer.weight.double().numpy() for layer in layers], [layer.bias.double().numpy() for layer in layers]
    )
    image, label = images[0].double().flatten().numpy(), int(labels[0])
    low, high = (image - epsilon).clip(0, None), (image + epsilon).clip(None, 1)
    rows = np.eye(10)[label] - np.eye(10)
    margin = min(least(dense, low, high, row) for row in rows[np.arange(10) != label])
    return None if abs(margin) < _GAP else "unsat" if margin > 0 else "sat"


def _of_least(net: Net) -> list[Instance]:
    """Conditions on outputs a little below and above their least values, by themselves and joined."""
    dense = random(0, *_RANDOM[net.name][0])
    count, outputs = dense.weights[0].shape[1], len(dense.biases[-1])
    lower, upper = np.full(count, -0.5), np.full(count, 0.5)
    first, difference = np.eye(outputs)[0], np.eye(outputs)[0] - np.eye(outputs)[1]
    value, gap = (least(dense, lower, upper, row) for row in (first, difference))
    box = _box(lower, upper)
    order = "(<= (- Y_0 Y_1) {})"
    second = 3.0 * np.ones(count)  # far from the first box
    other = least(dense, second, second + 0.25, first)
    found: dict[str, tuple[list[str], Answer]] = {
        "value-above": ([*box, f"(<= Y_0 {value + _GAP})"], "sat"),
        "value-below": ([*box, f"(<= Y_0 {value - _GAP})"], "unsat"),
        "order-above": ([*box, order.format(gap + _GAP)], "sat"),
        "order-below": ([*box, order.format(gap - _GAP)], "unsat"),
        "both": ([*box, f"(<= Y_0 {value - _GAP})", "(<= Y_1 1e6)"], "unsat"),
        "either": ([*box, f"(or (and (<= Y_0 {value - _GAP})) (and {order.format(gap + _GAP)}))"], "sat"),
        "boxes": (
            [
                f"(or (and {' '.join(box)} (<= Y_0 {value - _GAP})) "
                f"(and {' '.join(_box(second, second + 0.25))} (<= Y_0 {other - _GAP})))"
            ],
            "unsat",
        ),
    }
    return [Instance(name, _vnnlib(count, outputs, parts), answer) for name, (parts, answer) in found.items()]


def write(folder: Path, *, timeout: float, only: str = "") -> dict[tuple[str, str], Answer | None]:
    """Writes the whole suite: ``onnx/``, ``vnnlib/`` and ``instances.csv``.

    Args:
        folder: Where to.
        timeout: Seconds that each instance has.
        only: Networks whose names have this; all where it is empty.

    Returns:
        (network, property) as in ``instances.csv`` -> the right answer, where it is known.
    """
    answers: dict[tuple[str, str], Answer | None] = {}
    seen: set[str] = set()
    for part in ("onnx", "vnnlib"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    for net in map(made, (name for name in (*BY_HAND, *BY_TORCH) if only in name)):
        file = f"onnx/{net.name}.onnx"
        (folder / file).write_bytes(net.proto.SerializeToString())
        is_first = net.base not in seen
        seen.add(net.base)
        for instance in instances(net, _EPSILONS if is_first else _EPSILONS[1:2]):
            stated = f"vnnlib/{net.name}-{instance.name}.vnnlib"
            (folder / stated).write_text(instance.text, encoding="utf-8")
            answers[file, stated] = instance.answer
    rows = [f"{net},{stated},{timeout:g}" for net, stated in answers]
    (folder / "instances.csv").write_text("\n".join([*rows, ""]), encoding="utf-8")
    return answers
