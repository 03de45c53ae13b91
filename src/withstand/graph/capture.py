"""Captures a network as the graph of its operations, by ``torch.export``."""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn
from torch._C import DispatchKey
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter
from torch.overrides import TorchFunctionMode
from typing_extensions import override

from withstand import bayes
from withstand.core.batch_shares import alone
from withstand.graph.capture_surroundings import quiet, unchanged, unfused
from withstand.graph.functional import make_functional, writes
from withstand.graph.rule_registry import rule_of
from withstand.graph.structure import attributes_changed, structure
from withstand.types import ModelError

_BATCH = 2  # of the capture; 0 and 1 are taken for constants
_NO_LIMIT = 2**40  # images of a batch
_ROOT = "model."
_STOPPING = (torch.ops.aten.detach.default, torch.ops.higher_order.wrap_with_set_grad_enabled)
_TORCH = str(Path(torch.__file__).parent)


# What torch writes in Python as several operations that say less than the one, at once or as soon as it takes
# out what is changed in place.
_LIBRARY: Any = torch.library.Library("withstand", "FRAGMENT")
_LIBRARY.define("softsign(Tensor x) -> Tensor")
_LIBRARY.impl("softsign", lambda x: x / (x.abs() + 1), "CompositeImplicitAutograd")
_LIBRARY.define("softshrink(Tensor x, float lambd=0.5) -> Tensor")
_LIBRARY.impl(
    "softshrink", lambda x, lambd=0.5: torch.ops.aten.softshrink(x, lambd), "CompositeImplicitAutograd"
)
SOFTSIGN = torch.ops.withstand.softsign
SOFTSHRINK = torch.ops.withstand.softshrink
_WHOLE: dict[Any, Any] = {nn.functional.softsign: SOFTSIGN, nn.functional.softshrink: SOFTSHRINK}


class _Whole(TorchFunctionMode):
    """Keeps functions whole for which there are rules."""

    @override
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _WHOLE.get(func, func)(*args, **(kwargs or {}))


class _Root(nn.Module):
    """A network as the only part of another, so that its ``forward`` may have any signature.

    Args:
        model: Maps one tensor to another.
        written: Takes up the attributes that the forward changes.
    """

    def __init__(self, model: nn.Module, written: set[tuple[str, str]]) -> None:
        super().__init__()
        self.model = model
        self._written = written

    @override
    def forward(self, images: Tensor) -> Any:
        before = structure(self.model)
        with _Whole():
            outputs = self.model(images)
        self._written |= attributes_changed(before, structure(self.model))
        return outputs


class Constant(NamedTuple):
    """A tensor that the network holds.

    Attributes:
        path: Where, such as ``layers.0.weight``; None where it is no attribute of a module.
        tensor: Where there is no path, the tensor itself.
    """

    path: str | None
    tensor: Tensor | None

    def read(self, model: nn.Module) -> Tensor:
        """The tensor as it now is."""
        if self.path is None:
            assert self.tensor is not None
            return self.tensor
        tensor: Tensor = attribute(model, self.path)
        return tensor


class Capture(NamedTuple):
    """The operations of a network.

    Attributes:
        graph: One node an ATen operator, none of which writes to what it is called with.
        images: The node that stands for the images.
        outputs: The nodes, or constants, that the network returns.
        returns: What the network returns, in words: ``tensor``, or ``tuple`` and the like.
        constants: The nodes that stand for parameters, buffers and plain tensors.
        updates: Path of a buffer -> node whose value it is given.
        written: Attributes that the forward itself changes, such as counters; path of the module and name.
        stops_gradients: Whether some values are computed without gradients, which the graph does not know.
    """

    graph: fx.Graph
    images: fx.Node
    outputs: tuple[Any, ...]
    returns: str
    constants: Mapping[fx.Node, Constant]
    updates: Mapping[str, fx.Node]
    written: frozenset[tuple[str, str]]
    stops_gradients: bool


def capture(model: nn.Module, images: Tensor) -> Capture:
    """The graph of a network, in the modes that its layers are in.

    Args:
        model: Maps one tensor (batch, …) to another; its forward must not depend on the values of its input.
        images: Some of its inputs (batch, …), of which the shape of an example, device and dtype count.

    Raises:
        ModelError: it cannot be captured, or its weights are random.
    """
    require_python(model)
    bayes.require_certain(model, to="pass bounds or moments through it")
    _require_fit(model, images)
    with alone(), torch.inference_mode(False), torch.enable_grad(), quiet(), unchanged(model), unfused():
        example = images.detach().new_zeros((_BATCH, *images.shape[1:]))
        written: set[tuple[str, str]] = set()
        try:
            exported = _export(_Root(model, written), example)
            stops = _stops_gradients(exported)
            exported, updates = _functional(exported, _Root(model, written), example)
        except Exception as error:
            raise refusal(model, error) from error
        require_any_batch(exported, model)
    captured = _captured(exported, updates, model)
    return captured._replace(written=frozenset(written), stops_gradients=stops)


def attribute(model: nn.Module, path: str) -> Any:
    """What stands at a path such as ``layers.0.weight``."""
    value: Any = model
    for name in path.split("."):
        value = getattr(value, name)
    return value


def _export(root: _Root, example: Tensor) -> ExportedProgram:
    shapes = ({0: Dim.DYNAMIC},)
    return torch.export.export(root, (example,), dynamic_shapes=shapes, strict=False)


def _stops_gradients(exported: ExportedProgram) -> bool:
    """Whether a value that depends on the images is cut off from gradients, or computed without them."""
    values = {*exported.graph_signature.user_inputs}
    for node in exported.graph.nodes:
        if node.op == "call_function" and not values.isdisjoint(read.name for read in node.all_input_nodes):
            values.add(node.name)
            if node.target in (
                torch.ops.aten.detach.default,
                torch.ops.higher_order.wrap_with_set_grad_enabled,
            ):
                return True
    return False


def _functional(
    exported: ExportedProgram, root: _Root, example: Tensor
) -> tuple[ExportedProgram, dict[str, str]]:
    """A program without operations in place, and which node gives which input of the graph its new value."""
    composite = _composite(exported)
    updates = None if composite else make_functional(exported.graph)
    if updates is not None:
        return exported, {written.name: node.name for written, node in updates.items()}
    # What writes to views, torch takes out itself; that takes five times as long.
    exported = (exported if composite else _export(root, example)).run_decompositions(composite)
    while composite := _composite(exported):
        exported = exported.run_decompositions(composite)
    inputs = {target: name for name, target in exported.graph_signature.inputs_to_buffers.items()}
    mutations = exported.graph_signature.buffers_to_mutate
    return exported, {inputs[target]: name for name, target in mutations.items()}


def _composite(exported: ExportedProgram) -> dict[Any, Any]:
    """Operators of values that have no rule and that torch makes of others -> what they are made of."""
    values, parts = {*exported.graph_signature.user_inputs}, {}
    for node in exported.graph.nodes:
        if node.op != "call_function" or values.isdisjoint(read.name for read in node.all_input_nodes):
            continue
        values.add(node.name)
        operator = node.target
        is_known = rule_of(operator) is not None or not isinstance(node.meta.get("val"), Tensor | list)
        if isinstance(operator, OpOverload) and operator._can_decompose() and not (is_known or writes(node)):
            # Not operator.decompose, which torch would call again while it takes it apart.
            parts[operator] = partial(operator._op_dk, DispatchKey.CompositeImplicitAutograd)
    return parts


def _captured(exported: ExportedProgram, updates: Mapping[str, str], model: nn.Module) -> Capture:
    signature, graph = exported.graph_signature, exported.graph
    named = {node.name: node for node in graph.nodes}
    constants: dict[fx.Node, Constant] = {}
    images = next(named[name] for name in signature.user_inputs if isinstance(name, str))
    for spec in signature.input_specs:
        if spec.kind != InputKind.USER_INPUT:
            constants[named[spec.arg.name]] = _constant(str(spec.target), exported.constants, model)
    buffers = {
        constants[named[name]].path: named[node] for name, node in updates.items() if named[name] in constants
    }
    outputs = tuple(named.get(str(name), name) for name in signature.user_outputs)
    kind = exported.call_spec.out_spec.type if exported.call_spec.out_spec is not None else None
    returns = "tensor" if kind is None else kind.__name__
    known = {path: node for path, node in buffers.items() if path is not None}
    return Capture(graph, images, outputs, returns, constants, known, frozenset(), False)


def _constant(target: str, lifted: Mapping[str, Any], model: nn.Module) -> Constant:
    path = target.removeprefix(_ROOT)
    try:
        value = attribute(model, path)
    except AttributeError:
        value = None
    if isinstance(value, Tensor):
        return Constant(path, None)
    return Constant(None, lifted[target])


def require_any_batch(exported: ExportedProgram, model: nn.Module) -> None:
    """Refuses a graph that holds for some sizes of a batch alone, such as that of ``if len(x) > 16``."""
    for size in exported.range_constraints.values():
        if size.upper < _NO_LIMIT or size.lower > _BATCH:
            raise ModelError(
                f"The model {type(model).__name__} does something else for batches of other sizes than "
                f"{size.lower} to {size.upper}, so an image has no logits of its own. Let its forward do the "
                "same for all."
            )


def _require_fit(model: nn.Module, images: Tensor) -> None:
    """Refuses images of another precision than the weights."""
    dtypes = (part.dtype for part in (*model.parameters(), *model.buffers()) if part.is_floating_point())
    own = next(dtypes, images.dtype)
    if not isinstance(images, Tensor):
        raise ModelError(f"Expected images as a tensor (batch, …), but got a {type(images).__name__}.")
    if not images.is_floating_point() or own != images.dtype:
        is_short = own.itemsize < torch.float32.itemsize
        remedy = (
            "bounds need float32 or float64: call model.float()" if is_short else f"give images.to({own})"
        )
        raise ModelError(f"The weights of the model are {own}, but the images {images.dtype}; {remedy}.")


def require_python(model: nn.Module) -> None:
    """Accepts a module whose forward is Python that can be followed.

    Raises:
        ModelError: it is none.
    """
    name = type(model).__name__
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise ModelError(
            f"The model {name} is scripted, and the steps of a scripted module cannot be seen. Give the "
            "Python module that it was made of."
        )
    tensors = (*model.parameters(), *model.buffers())
    if any(isinstance(tensor, UninitializedParameter | UninitializedBuffer) for tensor in tensors):
        raise ModelError(
            f"The model {name} has lazy layers, whose weights have no shape yet. Run it once on some images."
        )


def refusal(model: nn.Module, error: BaseException) -> ModelError:
    """What keeps a model from being captured, in one line, and what to do about it."""
    message, name = str(error), type(model).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if frame.filename != __file__ and not frame.filename.startswith(_TORCH)]
    where = f" ({own[-1].filename}:{own[-1].lineno}: {own[-1].line})" if own else ""
    if "data-dependent" in message:
        reason = f"what it does depends on the values of its input{where}"
        remedy = (
            "Write it by operations on tensors, such as torch.where, or keep it whole as an operation of "
            "your own, by torch.library.custom_op, and give that a rule by withstand.domains.register."
        )
    elif "Constraints violated" in message or "specialized" in message:
        reason = f"its forward holds for one batch size alone{where}"
        remedy = (
            "Take sizes from the input by x.shape[0] or x.flatten(1); numbers, and len(x), hold for one size."
        )
    else:
        first = message.strip().splitlines()[0] if message.strip() else type(error).__name__
        reason = f"{first.rstrip('. ')}{where}"
        remedy = (
            "Bounds need a forward that torch.export can capture: one tensor in, and steps that do not "
            "depend on its values."
        )
    return ModelError(f"The model {name} cannot be captured as a graph: {reason}. {remedy}")
