"""An ONNX file as plain values: its nodes, its constants, and what goes in and out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from withstand.models.hosted import imported
from withstand.types import ModelError

COMMAND = "pip install 'withstand[onnx]'"
SUPPORTED = "docs/own.md, 'Networks in ONNX files', lists those that are read"
LARGEST = 2**28  # numbers of one value: 1 GiB of float32
_DOMAINS = ("", "ai.onnx")
_FIRST_OPSET = 7  # before it, shapes were made equal by other rules
PRECISIONS = {1: "float32", 11: "float64"}  # as the standard numbers them

Known = npt.NDArray[Any]
"""A value that does not depend on the input."""


class Node(NamedTuple):
    """One operation of a file.

    Attributes:
        op: Of the standard, such as ``Gemm``; another's with its domain in front.
        name: As the file has it, or where it stands.
        inputs: Names of values; empty where an input is left out.
        outputs: Names of values.
        attributes: Numbers, texts, lists, and arrays for tensors.
        opset: Version of the standard.
    """

    op: str
    name: str
    inputs: Sequence[str]
    outputs: Sequence[str]
    attributes: Mapping[str, Any]
    opset: int

    def get(self, key: str, default: Any = None) -> Any:
        """An attribute, or what it is where the file does not say."""
        return self.attributes.get(key, default)

    def refusal(self, reason: str) -> ModelError:
        """The error that this node cannot be read."""
        return ModelError(f"{self.op} ({self.name}) {reason}")


class OnnxFile(NamedTuple):
    """What a file holds.

    Attributes:
        nodes: In order, each with what the onnx package has of it.
        constants: Name -> array.
        weights: Names of those that are stored as weights, rather than written among the operations.
        input_name: Of the one input.
        input_sizes: Of it; None where the file leaves a size open.
        taken: Precision of the input, ``float32`` or ``float64``.
        precision: The highest that it casts to, in which a network of it computes.
        output_name: Of the one output.
        output_sizes: Of it.
    """

    nodes: Sequence[tuple[Node, Any]]
    constants: dict[str, Known]
    weights: frozenset[str]
    input_name: str
    input_sizes: tuple[int | None, ...]
    taken: str
    precision: str
    output_name: str
    output_sizes: tuple[int | None, ...]


def files_of(file: Path) -> dict[str, bytes]:
    """A file, and those beside it that hold its weights.

    Returns:
        Path below the file's folder -> content, the file itself first.

    Raises:
        ModelError: there is no such file, it is no ONNX, or weights are missing or lie outside its folder.
    """
    if not file.is_file():
        raise ModelError(f"There is no file {file}; check the path.")
    files = {file.name: file.read_bytes()}
    for place in sorted(set(_places(_parsed(file, files[file.name])))):
        path = file.parent / place
        if Path(place).is_absolute() or ".." in Path(place).parts:
            raise ModelError(f"{file} says that weights are in {place}, but they must lie beside it.")
        if not path.is_file():
            raise ModelError(
                f"{file} says that weights are in {place}, but there is no {path}; put it there."
            )
        files[place] = path.read_bytes()
    return files


def digest_of_files(files: Mapping[str, bytes]) -> str:
    """SHA-256 of contents, in hex."""
    digest = hashlib.sha256()
    for content in files.values():
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()


def read_file(file: Path) -> OnnxFile:
    """Reads a file; nothing in it is code that runs.

    Args:
        file: It exists.

    Raises:
        ModelError: onnx is not installed; the file is damaged, or has not one input and one output.
    """
    onnx = imported("onnx", f"{file}:", COMMAND)
    model = _parsed(file, file.read_bytes())
    try:
        onnx.load_external_data_for_model(model, str(file.parent))
        if model.functions:
            model = imported("onnx.inliner", f"{file}:", COMMAND).inline_local_functions(model)
        constants = {part.name: onnx.numpy_helper.to_array(part) for part in model.graph.initializer}
        weights = frozenset(constants)
        opset = next(part.version for part in model.opset_import if part.domain in _DOMAINS)
        nodes = list(_nodes(model.graph, opset))
        constants |= {node.outputs[0]: _constant(node) for node, _ in nodes if node.op == "Constant"}
    except ModelError:
        raise
    except Exception as error:  # of many kinds, for whatever is damaged
        raise ModelError(f"{file} is damaged: {_first_line(error)}") from error
    if opset < _FIRST_OPSET:
        raise ModelError(
            f"{file} is of opset {opset}, but those from {_FIRST_OPSET} on are read. Convert it by "
            "onnx.version_converter.convert_version(onnx.load(FILE), 13)."
        )
    if model.graph.sparse_initializer:
        raise ModelError(f"{file} has sparse weights; write them as dense ones.")
    (name, elements, sizes), (output, _, output_sizes) = (
        _only(file, what, [part for part in parts if part.name not in weights])
        for what, parts in (("input", model.graph.input), ("output", model.graph.output))
    )
    if elements not in PRECISIONS:
        kind = onnx.TensorProto.DataType.Name(elements).lower()
        raise ModelError(
            f"{file} takes {kind}, but networks of {' or '.join(PRECISIONS.values())} are read; export it as "
            "one of these."
        )
    kinds = {elements, *(node.get("to") for node, _ in nodes if node.op == "Cast")}
    precision = PRECISIONS[max(kinds & {*PRECISIONS})]
    nodes = [(node, proto) for node, proto in nodes if node.op != "Constant"]
    return OnnxFile(
        nodes, constants, weights, name, sizes, PRECISIONS[elements], precision, output, output_sizes
    )


def _parsed(file: Path, content: bytes) -> Any:
    onnx = imported("onnx", f"{file}:", COMMAND)
    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # of protobuf
        raise ModelError(f"{file} is damaged, or no ONNX file.") from error
    if not model.graph.node:
        raise ModelError(f"{file} holds no network: it is empty, or no ONNX file.")
    return model


def _places(model: Any) -> Iterator[str]:
    """Where weights lie that are not in the file."""
    attributes = (attribute.t for node in model.graph.node for attribute in node.attribute)
    for tensor in (*model.graph.initializer, *attributes):
        yield from (entry.value for entry in tensor.external_data if entry.key == "location")


def _only(file: Path, what: str, values: Sequence[Any]) -> tuple[str, int, tuple[int | None, ...]]:
    """Name, type and sizes of the one input or output."""
    if len(values) != 1:
        names = ", ".join(value.name for value in values) or "none"
        raise ModelError(
            f"{file} has {len(values)} {what}s ({names}), but networks of one are read. Export it with the "
            "one that is meant; what does not change, such as a mask, as a constant."
        )
    kind = values[0].type.tensor_type
    sizes = (part.dim_value if part.HasField("dim_value") else None for part in kind.shape.dim)
    return values[0].name, kind.elem_type, tuple(size if size and size > 0 else None for size in sizes)


def _nodes(graph: Any, opset: int) -> Iterator[tuple[Node, Any]]:
    for number, proto in enumerate(graph.node):
        op = proto.op_type if proto.domain in _DOMAINS else f"{proto.domain}.{proto.op_type}"
        attributes = {attribute.name: _value(attribute) for attribute in proto.attribute}
        name = proto.name or f"node {number}"
        yield Node(op, name, tuple(proto.input), tuple(proto.output), attributes, opset), proto


def _value(attribute: Any) -> Any:
    onnx = imported("onnx", "", COMMAND)
    value = onnx.helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, onnx.TensorProto):
        return onnx.numpy_helper.to_array(value)
    if attribute.type in (onnx.AttributeProto.INTS, onnx.AttributeProto.FLOATS):
        return tuple(value)
    return value


def folded(node: Node, proto: Any, inputs: Sequence[Known | None]) -> list[Known]:
    """What a node gives of constants, by the reference of the onnx package.

    Raises:
        ModelError: it gives more numbers than any network has, or fails.
    """
    if _size_of(node, inputs) > LARGEST:
        raise node.refusal(f"makes a constant of more than {LARGEST} numbers; the file is damaged.")
    reference = imported("onnx.reference", node.name, COMMAND)
    given = {name: value for name, value in zip(node.inputs, inputs, strict=True) if name}
    try:
        results = reference.ReferenceEvaluator(proto, opsets={"": node.opset}).run(None, given)
    except Exception as error:  # of many kinds
        raise node.refusal(f"of constants cannot be computed: {_first_line(error)}") from error
    return [np.asarray(value) for value in results]


def _constant(node: Node) -> Known:
    for key, kind in (("value", None), *((f"value_{ending}", np.int64) for ending in ("int", "ints"))):
        if key in node.attributes:
            return np.asarray(node.attributes[key], kind)
    for key in ("value_float", "value_floats"):
        if key in node.attributes:
            return np.asarray(node.attributes[key], np.float32)
    raise node.refusal("holds no numbers; sparse tensors and texts are not read.")


def _size_of(node: Node, inputs: Sequence[Known | None]) -> float:
    """How many numbers an operation gives that makes many of few; 0 of others."""
    first, second, third = [*(value for value in inputs if value is not None), *[np.ones(1)] * 3][:3]
    match node.op:
        case "ConstantOfShape":
            return float(np.prod(first, dtype=float))
        case "Expand":
            return float(first.size) * float(np.prod(second, dtype=float))
        case "Tile":
            return float(first.size) * float(np.prod(second, dtype=float))
        case "Range":
            return float(abs(second - first) / max(abs(float(third)), 1e-9))
        case "Pad" | "Resize" | "Upsample" | "OneHot" | "Einsum" | "Scan" | "Loop" | "If":
            raise node.refusal(f"of constants alone is not computed; {SUPPORTED}.")
    return 0.0


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
