"""``ws.verify``: whether a property holds of a network, whatever names it."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from torch import nn

from withstand.core.packed import unpacked
from withstand.core.setting_rules import POSITIVE
from withstand.models.onnx import read, read_logits
from withstand.properties.originals import Original, original_onnx
from withstand.properties.property import Property
from withstand.properties.verdicts import Verdict
from withstand.properties.verifying import as_property, verify_module
from withstand.runs.sharing import load
from withstand.types import ModelError

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
    what = prepared(model, property, input_shape=input_shape)
    return replace(verify_prepared(what, deadline=deadline), seconds=time.monotonic() - begun)


class Prepared(NamedTuple):
    """A network and a property, read.

    Attributes:
        network: The network.
        stated: The property.
        original: An ONNX file as onnxruntime runs it, where the network came from one.
        input_shape: Of one input, where it was said.
    """

    network: nn.Module
    stated: Property
    original: Original | None
    input_shape: Sequence[int] | None


def prepared(
    model: nn.Module | Path | str,
    property: Property | Path | str,  # noqa: A002
    *,
    input_shape: Sequence[int] | None = None,
) -> Prepared:
    """Reads a network and a property, as ``verify`` takes them."""
    stated = as_property(property)
    if isinstance(model, nn.Module):
        return Prepared(model, stated, None, input_shape)
    if not str(model).lower().endswith(_ONNX):
        return Prepared(load(model), stated, None, input_shape)
    with _unpacked(Path(model)) as file:
        network = read(file, None if input_shape is None else tuple(input_shape))
        # A softmax of all outputs keeps their order, and bounds of it are loose.
        logits = read_logits(file, network) if stated.is_of_order else None
        return Prepared(logits or network, stated, original_onnx(file, network), input_shape)


def verify_prepared(what: Prepared, *, deadline: float) -> Verdict:
    """The verdict on what was read; ``deadline`` in seconds of ``time.monotonic``."""
    return verify_module(
        what.network, what.stated, deadline=deadline, original=what.original, input_shape=what.input_shape
    )


@contextmanager
def _unpacked(file: Path) -> Iterator[Path]:
    """A file, or what is compressed in it as a file of its own meanwhile."""
    if file.suffix.lower() != ".gz":
        yield file
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / file.stem
        try:
            copy.write_bytes(unpacked(file))
        except OSError as error:
            raise ModelError(f"Cannot read the model {file}: {error}.") from error
        yield copy
