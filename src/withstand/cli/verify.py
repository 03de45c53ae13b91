"""The command ``withstand verify``: a property proven or refuted, or all instances of a benchmark."""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from jsonargparse import ArgumentParser, Namespace

from withstand.cli.arguments import parse, plain_parser
from withstand.cli.commands import COMMANDS
from withstand.cli.terminal import ERRORS, OUTPUT
from withstand.core.setting_rules import POSITIVE
from withstand.reporting.find import write_text
from withstand.results.instances import OUTCOMES, InstanceRow
from withstand.types import RecipeError, WithstandError

if TYPE_CHECKING:
    from torch import nn

_GRACE = 1.0  # seconds after its deadline that a proof has to end by itself
_DEFAULT_TIMEOUT = 60.0


def verify(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name.

    Raises:
        WithstandError: an argument does not fit, or model or property cannot be used.
    """
    values = parse(_parser(), arguments)
    try:
        timeout = None if values.timeout is None else POSITIVE("--timeout", values.timeout)
    except ValueError as error:
        raise RecipeError(str(error)) from error
    if values.instances is not None:
        _verify_all(values, timeout)
    else:
        _verify_one(values, _DEFAULT_TIMEOUT if timeout is None else timeout)


def _parser() -> ArgumentParser:
    parser = plain_parser("withstand verify", COMMANDS["verify"].about)
    parser.add_argument(
        "model", nargs="?", type=str | None, default=None, help="net.onnx, a run folder, or a name."
    )
    parser.add_argument(
        "property", nargs="?", type=str | None, default=None, help="A VNN-LIB file, also as .gz."
    )
    parser.add_argument(
        "--timeout",
        type=float | None,
        default=None,
        help=f"Seconds, {_DEFAULT_TIMEOUT:g} by default; of instances at most so many.",
    )
    parser.add_argument(
        "--results_file",
        "--results-file",
        type=str | None,
        default=None,
        help="Where result and counter-example are written; the latter is printed without.",
    )
    parser.add_argument(
        "--input_shape", type=list[int] | None, default=None, help="Of one input, such as [1,28,28]."
    )
    parser.add_argument("--weights", type=str | None, default=None, help="Of a model that is named.")
    parser.add_argument(
        "--dataset", type=str | None, default=None, help="Of a model that is named: its data."
    )
    parser.add_argument(
        "--instances", type=str | None, default=None, help="A file of lines net.onnx,property.vnnlib,seconds."
    )
    parser.add_argument(
        "--out", type=str | None, default=None, help="Of instances: the folder; runs/verify-NAME by default."
    )
    return parser


def _verify_one(values: Namespace, timeout: float) -> None:
    if values.model is None or values.property is None:
        raise RecipeError(
            "`withstand verify` needs a model and a property: withstand verify net.onnx property.vnnlib "
            "--timeout=60; or --instances=instances.csv."
        )
    if values.out is not None:
        raise RecipeError(
            "--out is for --instances. Of one property, --results_file=FILE says where it goes."
        )
    tell = _teller(values.results_file)
    try:
        with _ending(timeout + _GRACE, lambda: tell("timeout")):
            from withstand.runs.verify import verify as verify_model

            model = _model(values.model, values.weights, values.dataset)
            shape = None if values.input_shape is None else tuple(values.input_shape)
            verdict = verify_model(model, values.property, timeout=timeout, input_shape=shape)
    except WithstandError:
        if values.results_file is not None:
            write_text(Path(values.results_file), "error\n")
        raise
    tell(verdict.text)
    ERRORS.print(repr(verdict), soft_wrap=True)


def _model(name: str, weights: str | None, dataset: str | None) -> nn.Module | str:
    from withstand.runs.sharing import load

    return name if weights is None else load(name, weights=weights, dataset=dataset)


def _teller(file: str | None) -> Callable[[str], None]:
    """What prints an answer: all of it, or its first line where a file takes all."""

    def tell(text: str) -> None:
        if file is not None:
            write_text(Path(file), text + "\n")
        OUTPUT.print(text if file is None else text.partition("\n")[0], soft_wrap=True)

    return tell


@contextmanager
def _ending(seconds: float, answer: Callable[[], None]) -> Iterator[None]:
    """Answers and ends the process after some time, should what goes on within not have ended by itself.

    Operations of torch cannot be interrupted, and a large network's may take long.
    """

    def end() -> None:
        answer()
        sys.stdout.flush()
        os._exit(0)

    timer = threading.Timer(min(seconds, threading.TIMEOUT_MAX), end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _verify_all(values: Namespace, timeout: float | None) -> None:
    single = {
        "--results_file": values.results_file,
        "--input_shape": values.input_shape,
        "--weights": values.weights,
    }
    if values.model is not None or (
        misplaced := [name for name, value in single.items() if value is not None]
    ):
        what = f"{values.model!r}" if values.model is not None else misplaced[0]
        raise RecipeError(f"{what} is of a single property; --instances names models and properties itself.")
    from withstand.runs.benchmark import PAGE, verify_instances

    file = Path(values.instances)
    out = Path("runs") / f"verify-{file.absolute().parent.name}" if values.out is None else Path(values.out)
    rows = verify_instances(file, out, timeout=timeout, on_row=_tell_row)
    counts = Counter(row.result for row in rows)
    OUTPUT.print(", ".join(f"{outcome} {counts[outcome]}" for outcome in OUTCOMES if counts[outcome]))
    OUTPUT.print(f"page: {out / PAGE}", soft_wrap=True)


def _tell_row(done: int, total: int, row: InstanceRow, is_new: bool) -> None:
    about = f": {row.message}" if row.message else ""
    took = f"after {row.time:.2f} s" if is_new else "as before"
    OUTPUT.print(f"{done}/{total} {row.onnx} {row.vnnlib}: {row.result} {took}{about}", soft_wrap=True)
