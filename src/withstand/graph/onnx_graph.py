"""A network as ONNX: its graph, written by torch's exporter once what depends on no image is computed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram

from withstand import bayes
from withstand.graph.capture import attribute
from withstand.graph.capture_surroundings import quiet, unfused
from withstand.graph.kept_graph import graph_bytes, graph_module
from withstand.models.layers import GROUP_SORT
from withstand.types import ModelError

INPUT, OUTPUT = "input", "logits"
"""What the file calls them."""
_BATCH = "batch"
_OPSET = 18  # the oldest that torch's exporter writes itself, which most other tools read
_MOST_PAIRED = 8  # of a group that is sorted by minima and maxima, which more tools read than TopK
_ABSENT = re.compile(r"No ONNX function found for <OpOverload\(op='([\w.]+)'")


def onnx_bytes(model: nn.Module, shape: tuple[int, ...], about: Mapping[str, str]) -> bytes:
    """A network in eval mode as an ONNX file, of a batch of any size.

    Its input is ``input`` (batch, *shape), in the precision of the weights; its output ``logits`` (batch,
    classes). Weights that are computed of others, such as parametrised ones, are written as they are now.

    Args:
        model: Maps images (batch, *shape) in [0, 1] to logits; it is copied, and stays as it is.
        shape: Of one image.
        about: What to note in the file's ``metadata_props``.

    Raises:
        ModelError: it cannot be captured, its weights are random, ONNX has no operator for one of its, or
            what writes ONNX is not installed.
    """
    _require_exporter()
    bayes.require_certain(model, to="write it as ONNX")
    module = graph_module(graph_bytes(model, shape))
    precisions = (part.dtype for part in module.parameters() if part.is_floating_point())
    example = torch.zeros(2, *shape, dtype=next(precisions, torch.float32))  # 1 is taken for a constant
    sizes = ({0: Dim("batch")},)
    with torch.inference_mode(False), torch.no_grad(), quiet(), unfused():
        _compute_constants(module)
        try:
            exported = torch.export.export(module, (example,), dynamic_shapes=sizes, strict=False)
            proto = _converted(exported.run_decompositions({GROUP_SORT.default: _sorted_by_pairs}))
        except (Exception, SystemExit) as error:
            raise _refusal(model, error) from error
    _tidy(proto)
    for key, value in about.items():
        proto.metadata_props.add(key=key, value=value)
    try:
        content: bytes = proto.SerializeToString()
    except Exception as error:  # of protobuf's own, which differs from version to version
        raise ModelError(
            f"The model {type(model).__name__} is too large for one ONNX file, which holds 2 GiB: {error}."
        ) from error
    return content


def _require_exporter() -> None:
    try:
        import onnx  # here, since these are an extra
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ModelError(f"Writing ONNX needs {error.name}: pip install 'withstand[onnx]'.") from error
    del onnx


def _converted(exported: ExportedProgram) -> Any:
    program = torch.onnx.export(
        exported,
        input_names=[INPUT],
        output_names=[OUTPUT],
        opset_version=_OPSET,
        dynamo=True,
        custom_translation_table={torch.ops.aten.softplus.default: _softplus},
        external_data=False,
        verbose=False,
    )
    assert program is not None
    return program.model_proto


def _tidy(proto: Any) -> None:
    """Calls the batch so, and takes out what torch notes of each part, such as the paths of its source."""
    graph = proto.graph
    named = graph.input[0].type.tensor_type.shape.dim[0].dim_param
    for value in (*graph.input, *graph.output, *graph.value_info):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param:
                size.dim_param = re.sub(rf"\b{re.escape(named)}\b", _BATCH, size.dim_param)
    for part in (*graph.input, *graph.output, *graph.value_info, *graph.initializer, *graph.node):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _softplus(x: Any, beta: float = 1.0, threshold: float = 20.0) -> Any:
    """Softplus as one operator; that torch gives ``x`` itself above the threshold is within rounding."""
    from onnxscript import opset18 as op

    return op.Softplus(x) if beta == 1 else op.Div(op.Softplus(op.Mul(x, beta)), beta)


def _compute_constants(module: nn.Module) -> None:
    """Computes once what depends on weights alone: ONNX has no operators for some of what makes weights."""
    assert isinstance(module, fx.GraphModule)
    graph, known = module.graph, dict[fx.Node, Any]()
    for node in graph.nodes:
        if node.op == "get_attr" and isinstance(value := attribute(module, str(node.target)), Tensor):
            known[node] = value.detach()
        elif node.op != "call_function" or _draws(node.target):
            continue
        elif node.target is getattr and node.args[1] == "device":
            known[node] = torch.device("cpu")
        elif all(part in known for part in node.all_input_nodes):
            args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
            known[node] = node.target(*args, **kwargs)
    for number, (node, value) in enumerate(known.items()):
        is_needed = isinstance(value, Tensor) and not known.keys() >= node.users.keys()
        if node.op == "call_function" and is_needed:
            module.register_buffer(f"constant_{number}", value.contiguous())
            with graph.inserting_before(node):
                node.replace_all_uses_with(graph.get_attr(f"constant_{number}"))
    graph.eliminate_dead_code()
    module.recompile()


def _draws(target: Any) -> bool:
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ())


def _sorted_by_pairs(x: Tensor, group_size: int) -> Tensor:
    """GroupSort by minima and maxima of neighbours: as many rounds as there are channels in a group."""
    groups = torch.unflatten(x, 1, (x.shape[1] // group_size, group_size))
    if group_size > _MOST_PAIRED:
        return torch.sort(groups, dim=2).values.flatten(1, 2)
    parts = list(groups.unbind(2))
    for number in range(group_size):
        for first in range(number % 2, group_size - 1, 2):
            pair = parts[first], parts[first + 1]
            parts[first], parts[first + 1] = torch.minimum(*pair), torch.maximum(*pair)
    return torch.stack(parts, dim=2).flatten(1, 2)


def _refusal(model: nn.Module, error: BaseException) -> ModelError:
    name = type(model).__name__
    if absent := _ABSENT.search(str(error)):
        return ModelError(
            f"The model {name} cannot be written as ONNX, which has no operator for {absent[1]}. Make it of "
            "others."
        )
    first = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ModelError(f"The model {name} cannot be written as ONNX by torch {torch.__version__}: {first}")
