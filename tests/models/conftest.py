"""What tests of ONNX files share: a writer of small ones."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper


@pytest.fixture
def write_onnx(tmp_path: Path) -> Callable[..., Path]:
    """Writes a network of nodes from x to y, with its constants, and gives the file."""

    def write(
        nodes: Sequence[onnx.NodeProto] | onnx.NodeProto,
        shape: Sequence[int | str],
        constants: Mapping[str, np.ndarray[Any, Any]] | None = None,
        *,
        opset: int = 18,
        kind: int = TensorProto.FLOAT,
        inputs: Sequence[str] = ("x",),
        outputs: Sequence[str] = ("y",),
        output_shape: Sequence[int | str] | None = None,
        external: bool = False,
    ) -> Path:
        graph = helper.make_graph(
            [nodes] if isinstance(nodes, onnx.NodeProto) else nodes,
            "net",
            [helper.make_tensor_value_info(name, kind, shape) for name in inputs],
            [helper.make_tensor_value_info(name, kind, output_shape) for name in outputs],
            [numpy_helper.from_array(value, name) for name, value in (constants or {}).items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        file = tmp_path / "net.onnx"
        options: dict[str, Any] = {"location": "net.weights", "size_threshold": 0} if external else {}
        onnx.save(model, file, save_as_external_data=external, **options)
        return file

    return write
