"""The reader of ONNX held against onnxruntime, on a file in each style that frameworks write."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import withstand as ws
from onnx_suite.bases import BASES
from onnx_suite.styles import STYLES
from onnx_suite.suite import BY_HAND, BY_TORCH, made, run

_SLOW = "export-"  # as withstand's own files are written, which tests/graph/test_onnx_graph.py runs


@pytest.mark.parametrize("name", [name for name in (*BY_HAND, *BY_TORCH) if not name.startswith(_SLOW)])
def test_a_file_is_read_to_what_onnxruntime_gives(name: str, tmp_path: Path) -> None:
    net, file = made(name, epochs=1), tmp_path / "net.onnx"
    inputs = torch.rand(4, *net.shape)
    expected = run(net.proto, inputs)
    assert torch.allclose(net.module(inputs).flatten(1), expected, atol=2e-5)  # the suite itself
    file.write_bytes(net.proto.SerializeToString())
    model = ws.load(file)
    assert not model.training
    assert torch.allclose(model(inputs), expected, atol=2e-5)


def test_each_network_is_written_by_hand() -> None:
    assert {style.base for style in STYLES.values()} == set(BASES)
