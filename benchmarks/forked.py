"""Processes made by a fork, for a job that is started often: all has been imported then.

What ``subprocess`` starts anew spends seconds on that. A job runs in a fork of this process; the other
process that it starts by Fabric is a fork of the first, made before anything ran in it.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from threading import Lock
from types import SimpleNamespace
from typing import Any, NoReturn

from lightning_fabric.strategies.launchers import subprocess_script

__all__ = ["Forked", "Job"]


class Forked:
    """A process of one's own, with what ``subprocess.Popen`` has.

    Args:
        run: What it does; its answer is the exit status.
    """

    def __init__(self, run: Callable[[], int]) -> None:
        self._lock, self.returncode = Lock(), None
        self.pid = os.fork()
        if self.pid == 0:
            _leave_after(run)

    returncode: int | None

    def poll(self) -> int | None:
        """The exit status, minus the signal that ended it; None where it still runs."""
        with self._lock:
            if self.returncode is None:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                self.returncode = os.waitstatus_to_exitcode(status) if pid else None
            return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """The same once it has ended.

        Raises:
            TimeoutExpired: it has not within so many seconds.
        """
        until = None if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            time.sleep(0.005)
        return status

    def send_signal(self, number: int) -> None:
        """Sends a signal to it, if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Ends it at once."""
        self.send_signal(signal.SIGKILL)


class Job:
    """A job of one process, or of two if it asks Fabric for them.

    Args:
        run: What each process does; its answer is the exit status.
    """

    def __init__(self, run: Callable[[], int]) -> None:
        self._output, written = os.pipe()
        numbers, told = os.pipe()

        def first() -> int:
            os.dup2(written, 1)
            os.dup2(written, 2)
            for end in (self._output, written, numbers):
                os.close(end)
            os.write(told, f"{_hold_other(run)}\n".encode())
            os.close(told)
            return run()

        self.first = Forked(first)
        os.close(written)
        os.close(told)
        with os.fdopen(numbers) as lines:
            self.other = int(lines.readline())  # its pid

    def kill(self, number: int, signal_number: int) -> None:
        """Sends a signal to the first process (0) or the other (1), where it still runs."""
        if number == 0:
            self.first.send_signal(signal_number)
            return
        if self.first.poll() is None:
            with suppress(ProcessLookupError):  # it ended just now
                os.kill(self.other, signal_number)

    def wait(self, timeout: float) -> str:
        """What all processes wrote, once all have ended.

        Raises:
            TimeoutError: one has not within so many seconds; both are ended then.
        """
        os.set_blocking(self._output, False)
        text, until = b"", time.monotonic() + timeout
        while time.monotonic() < until:
            try:
                part = os.read(self._output, 1 << 16)
            except BlockingIOError:
                time.sleep(0.005)
                continue
            if not part:
                os.close(self._output)
                self.first.wait(timeout)
                return text.decode(errors="replace")
            text += part
        self.first.kill()
        os.kill(self.other, signal.SIGKILL)
        raise TimeoutError(f"A process did not end within {timeout} s: {text.decode(errors='replace')}")


def _hold_other(run: Callable[[], int]) -> int:
    """Makes the other process, which waits until Fabric would start it; its pid."""
    environment, told = os.pipe()

    def other() -> int:
        os.close(told)
        interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a process that is not there yet
        with os.fdopen(environment) as lines:
            text = lines.readline()
        signal.signal(signal.SIGINT, interrupt)
        if not text:  # the first ended without it
            return 0
        os.environ.clear()
        os.environ.update(json.loads(text))
        return run()

    process = Forked(other)
    os.close(environment)

    def start(command: object, env: Mapping[str, str], cwd: object) -> Forked:
        os.write(told, (json.dumps(dict(env)) + "\n").encode())
        os.close(told)
        return process

    launcher: Any = subprocess_script
    launcher.subprocess = SimpleNamespace(Popen=start)
    return process.pid


def _leave_after(run: Callable[[], int]) -> NoReturn:
    atexit._clear()  # what the process that this one was forked from has to tidy up
    status = 1
    try:
        status = run()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        atexit._run_exitfuncs()
        os._exit(status)
