"""Verifies one instance in a process of its own, which may crash or be ended without harm to others."""

from __future__ import annotations

import gc
import hashlib
import math
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeAlias

from withstand.models.onnx import files_of
from withstand.properties.verdicts import Verdict
from withstand.results.instances import Instance, InstanceRow
from withstand.runs.verify import prepared, verify_prepared
from withstand.types import ModelError, WithstandError

_Stamp: TypeAlias = tuple[Path, int, int]
"""A file, when it was changed, and its size."""

_GRACE = 2.0  # seconds beyond its own that a process has before it is ended
_LONGEST = 2.0e6  # seconds that a connection can be waited for
_START = 120.0  # seconds that a process may take to begin, on a machine that is busy
# What every process needs is imported once, in one of which the others are copies.
_PRELOADED = [__name__, "torch.export._trace", "onnx", "onnxruntime"]


def run_instance(instance: Instance) -> tuple[InstanceRow, str]:
    """Verifies an instance in a new process.

    Args:
        instance: What to verify.

    Returns:
        The row, an ``error`` where the process failed; and the counter-example as text, if there is one.
    """
    context = _context()
    here, there = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(there, instance), daemon=True)
    with _ended(process):
        process.start()
        there.close()
        answer = _answer_of(here, instance)
        if answer is None:
            process.join(_GRACE)
            ended = f"its process ended with exit code {process.exitcode}, which may be a lack of memory"
            answer = {"result": "error", "message": ended}
    row = InstanceRow(
        instance.category,
        instance.onnx,
        instance.vnnlib,
        answer.get("prepare_time", 0.0),
        answer["result"],
        answer.get("time", 0.0),
        instance.timeout,
        answer.get("bound"),
        answer.get("num_splits", 0),
        answer.get("message", ""),
    )
    return row, answer.get("counterexample", "")


def key_of(instance: Instance) -> str:
    """What an answer depends on: both files and their content, the timeout and this package's code.

    Empty where a file is missing, so that nothing that came of it is kept.
    """
    try:
        digests = [_digest(_stamps(file)) for file in instance.files]
    except OSError:
        return ""
    return _hash([instance.onnx, instance.vnnlib, *digests, instance.timeout, _code()])[:16]


def _context() -> Any:
    """What processes are made by: copies of one that has all imported, where the system has such."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)  # else it may import another withstand than this
    try:
        forkserver.ensure_running()
    finally:
        os.environ.pop("PYTHONPATH")
        if before is not None:
            os.environ["PYTHONPATH"] = before
    return context


def _answer_of(connection: Connection, instance: Instance) -> dict[str, Any] | None:
    """What the process sends; None where it ended before."""
    try:
        if not connection.poll(_START):
            return {"result": "error", "message": f"its process did not begin within {_START:.0f} s"}
        connection.recv()
        if not connection.poll(min(instance.timeout + _GRACE, _LONGEST)):
            return {"result": "timeout", "time": instance.timeout + _GRACE}
        answer: dict[str, Any] = connection.recv()
    except EOFError:
        return None
    return answer


@contextmanager
def _ended(process: Any) -> Iterator[None]:
    """Ends a process in the end, however that comes."""
    try:
        yield
    finally:
        if process.pid is not None:
            process.kill()
            process.join()


def _work(connection: Connection, instance: Instance) -> None:
    """In the process: verifies, and sends what came of it."""
    gc.freeze()  # else a collection goes through, and so copies, all that is shared with the first process
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever waits ends this process
    connection.send("begun")
    begun = time.monotonic()
    try:
        what = prepared(*map(str, instance.files))
        read = time.monotonic()
        verdict = verify_prepared(what, deadline=begun + instance.timeout)
        answer = _told(replace(verdict, seconds=time.monotonic() - read))
        answer["prepare_time"] = read - begun
    except (Exception, SystemExit) as error:
        kind = "" if isinstance(error, WithstandError) else f"{type(error).__name__}: "
        message = kind + " ".join(str(error).split())
        answer = {"result": "error", "time": time.monotonic() - begun, "message": message}
    connection.send(answer)


def _told(verdict: Verdict) -> dict[str, Any]:
    return {
        "result": verdict.result,
        "time": verdict.seconds,
        "bound": verdict.bound if math.isfinite(verdict.bound) else None,
        "num_splits": verdict.num_splits,
        "message": verdict.reason,
        "counterexample": "" if verdict.counterexample is None else verdict.text,
    }


def _stamps(file: Path) -> tuple[_Stamp, ...]:
    """A file with those that hold its weights, or all in a folder."""
    if file.is_dir():
        return tuple(_stamp(part) for part in sorted(file.iterdir()) if part.is_file())
    return tuple(_stamp(file.parent / name) for name in _names(_stamp(file)))


def _stamp(file: Path) -> _Stamp:
    stat = file.stat()
    return file, stat.st_mtime_ns, stat.st_size


@cache
def _names(stamp: _Stamp) -> list[str]:
    """Of a file and of those beside it that hold its weights."""
    file = stamp[0]
    try:
        return list(files_of(file)) if file.suffix.lower() == ".onnx" else [file.name]
    except ModelError:  # which whoever reads it will say
        return [file.name]


@cache
def _digest(stamps: tuple[_Stamp, ...]) -> str:
    """Of the content; many instances have one network."""
    return _hash(path.read_bytes() for path, *_ in stamps)


@cache
def _code() -> str:
    """Of all files of this package."""
    return _hash(file.read_bytes() for file in sorted(Path(__file__).parents[1].rglob("*.py")))


def _hash(parts: Any) -> str:
    total = hashlib.sha256()
    for part in parts:
        total.update(hashlib.sha256(part if isinstance(part, bytes) else str(part).encode()).digest())
    return total.hexdigest()
