"""What Ctrl-C does while a command is still being imported."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Makes Ctrl-C end the process within, with exit status 130 and one line.

    An exception would not do: where a library is being imported it is at times swallowed, or comes out as an
    ``ImportError``. Nothing has begun that would need an end.
    """
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not (is_usual and threading.current_thread() is threading.main_thread()):
        yield
        return
    signal.signal(signal.SIGINT, _leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _leave(number: int, frame: FrameType | None) -> None:
    os.write(2, b"Interrupted.\n")
    os._exit(130)
