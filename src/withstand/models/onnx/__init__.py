"""Networks from ONNX files, as modules of plain operations of torch; nothing in a file is code that runs."""

from __future__ import annotations

from withstand.models.onnx.comparison import runtime
from withstand.models.onnx.onnx_factory import OnnxFactory, read
from withstand.models.onnx.onnx_file import files_of

__all__ = ["OnnxFactory", "files_of", "read", "runtime"]
