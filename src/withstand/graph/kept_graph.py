"""A network's graph in a file, for networks that no name makes anew; read, it is a module like any other."""

from __future__ import annotations

import copy
import io
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from typing_extensions import override

from withstand import bayes
from withstand.core.outputs import as_logits
from withstand.core.wrappers import unwrapped
from withstand.graph.capture import refusal, require_any_batch, require_python
from withstand.graph.capture_surroundings import quiet, unfused
from withstand.types import ModelError

_EXAMPLES = 2  # of the capture; 0 and 1 are taken for constants
_TRIED = 3  # on which graph and network are compared
_ROOT = "model"
_NAME = "name"


class _Logits(nn.Module):
    """A network as the only part of another, whose output is the logits alone."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @override
    def forward(self, images: Tensor) -> Tensor:
        return as_logits(self.model(images), images.shape[0])


def graph_bytes(model: nn.Module, shape: tuple[int, ...]) -> bytes:
    """The graph of a network in eval mode, of a batch of any size, as ``torch.export.save`` writes it.

    Args:
        model: Maps images (batch, *shape) in [0, 1] to logits; it is copied, and stays as it is.
        shape: Of one image.

    Raises:
        ModelError: it cannot be captured, its weights are random, or the graph does something else.
    """
    require_python(model)
    bayes.require_certain(model, to="keep its graph")
    try:
        copied = _Logits(copy.deepcopy(unwrapped(model)).cpu()).eval()
    except (Exception, SystemExit) as error:  # whatever a module of the user's own has in it
        raise ModelError(f"The model {type(model).__name__} cannot be copied: {error}") from error
    dtypes = (weight.dtype for weight in copied.parameters() if weight.is_floating_point())
    images = torch.rand(
        (_TRIED, *shape), generator=torch.Generator().manual_seed(0), dtype=next(dtypes, torch.float32)
    )
    with torch.inference_mode(False), torch.no_grad(), quiet(), unfused():
        try:
            example = torch.zeros_like(images[:_EXAMPLES])
            exported = torch.export.export(
                copied, (example,), dynamic_shapes=({0: Dim.DYNAMIC},), strict=False
            )
        except (Exception, SystemExit) as error:
            raise refusal(model, error) from error
        require_any_batch(exported, model)
        written = io.BytesIO()
        torch.export.save(exported, written, extra_files={_NAME: type(unwrapped(model)).__name__})
        if not torch.allclose(_module_of(exported)(images), copied(images), atol=1e-5, equal_nan=True):
            raise ModelError(
                f"The graph of the model {type(model).__name__} does not give what the model gives: it does "
                "something else from call to call."
            )
    return written.getvalue()


def graph_module(content: bytes) -> nn.Module:
    """The network that a graph's file holds, in eval mode, with its names of parameters and buffers.

    Reading such a file may run any code that is in it: whoever wrote it must be trusted.

    Raises:
        ModelError: it is damaged, or written by another version of torch.
    """
    names = {_NAME: ""}
    try:
        with quiet():
            module = _module_of(torch.export.load(io.BytesIO(content), extra_files=names))
    except Exception as error:  # whatever damaged bytes lead to
        version, reason = torch.__version__, (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise ModelError(f"The graph of the model cannot be read by torch {version}: {reason}") from error
    name = names[_NAME]
    name = name.decode() if isinstance(name, bytes) else name
    module.__class__.__name__ = name if name.isidentifier() else "Graph"  # each has a class of its own
    return module.eval()


def _module_of(exported: ExportedProgram) -> fx.GraphModule:
    """The graph as a module whose modes can be set, which may be moved and given batches of any size."""
    module = exported.module(check_guards=False)
    graph: fx.Graph = module.graph
    images = next(node for node in graph.nodes if node.op == "placeholder")
    for node in list(graph.nodes):
        if node.op == "get_attr":
            node.target = node.target.removeprefix(f"{_ROOT}.")
        elif node.target is torch.ops.aten._assert_tensor_metadata.default:
            graph.erase_node(node)  # it asks for the device of the capture
    for node in list(graph.nodes):
        _follow_device(node, images)
    graph.set_codegen(fx.graph.CodeGen())  # one tensor in and one out, without torch's trees around them
    ((outputs,),) = (node.args for node in graph.nodes if node.op == "output")
    graph.output_node().args = tuple(outputs)
    root = getattr(module, _ROOT, nn.Module())
    for path, value in vars(module).items():  # what the capture has lifted out of the network
        if isinstance(value, Tensor) and not hasattr(root, path):
            setattr(root, path, value)
    for path, buffer in module.named_buffers(recurse=False):
        root.register_buffer(path, buffer)
    whole = fx.GraphModule(root, graph)
    for path, _ in list(whole.named_buffers()):
        if f"{_ROOT}.{path}" not in exported.state_dict:
            place, _, name = path.rpartition(".")
            whole.get_submodule(place)._non_persistent_buffers_set.add(name)
    return whole


def _follow_device(node: fx.Node, images: fx.Node) -> None:
    """Makes tensors that an operation creates on the device of the images, not on that of the capture."""
    values: list[Any] = [*node.args, *node.kwargs.values()]
    if node.op != "call_function" or not any(isinstance(value, torch.device) for value in values):
        return
    with node.graph.inserting_before(node):
        device = node.graph.call_function(getattr, (images, "device"))
    swapped = fx.node.map_aggregate(
        (node.args, node.kwargs), lambda value: device if isinstance(value, torch.device) else value
    )
    node.args, node.kwargs = swapped
