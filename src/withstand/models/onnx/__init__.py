"""Networks from ONNX files, as modules of plain operations of torch; nothing in a file is code that runs."""

from __future__ import annotations

from withstand.models.onnx.onnx_factory import OnnxFactory, read, read_logits
from withstand.models.onnx.onnx_file import files_of
from withstand.models.onnx.onnx_network import OnnxNetwork
from withstand.models.onnx.onnx_runtime import runtime

__all__ = ["OnnxFactory", "OnnxNetwork", "files_of", "read", "read_logits", "runtime"]
