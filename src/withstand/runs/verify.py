"""``ws.verify``: whether a property holds of a network, whatever names it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from withstand.core.setting_rules import POSITIVE
from withstand.properties.property import Property
from withstand.properties.verdicts import Verdict
from withstand.properties.verifying import as_property, verify_module
from withstand.runs.sharing import load

_ONNX = (".onnx", ".onnx.gz")


def verify(
    model: nn.Module | Path | str,
    property: Property | Path | str,  # noqa: A002 - the word that users know
    *,
    timeout: float,
    input_shape: Sequence[int] | None = None,
) -> Verdict:
    """Proves a property of a network, or finds a counter-example.

    A short attack comes first, then bounds. ``unsat`` is a proof for the function that the network computes
    in exact arithmetic with its weights as stored, as ``ws.certify`` gives it: bounds in float64, whose own
    rounding is not accounted for. ``sat`` is only said of an input within the box for which both the model
    as it was given, in its own precision (by onnxruntime where it is an ONNX file), and its float64 copy
    break the property. Where rounding decides between the two, the answer is ``unknown``.

    Args:
        model: A network; or a run folder, ``net.onnx``, or whatever else ``ws.load`` takes.
        property: A ``Property``, the path of a VNN-LIB file, which may be ``.gz``, or the text of one.
        timeout: Seconds, above 0; kept within about one, but for the time that loading the model takes.
        input_shape: Of one input, such as (1, 28, 28); known by itself of ONNX files, of models of
            ``ws.models.create`` and for properties of ``ws.properties.robustness``.

    Raises:
        DataError: the property cannot be read, or is none of boxes and linear conditions.
        ModelError: there is no such model, it has other numbers of inputs or outputs than the property, or it
            computes something else than its graph.
        UnsupportedOperationError: there is no rule for an operation of the model.
    """
    begun = time.monotonic()
    deadline = begun + POSITIVE("timeout", timeout)
    stated = as_property(property)
    is_onnx = not isinstance(model, nn.Module) and str(model).lower().endswith(_ONNX)
    network = model if isinstance(model, nn.Module) else load(model)
    verdict = verify_module(
        network,
        stated,
        deadline=deadline,
        onnx=Path(str(model)) if is_onnx else None,
        input_shape=input_shape,
    )
    return replace(verdict, seconds=time.monotonic() - begun)
