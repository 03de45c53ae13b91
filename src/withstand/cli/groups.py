"""Commands that torchrun starts several times, as processes of one group."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from withstand.cli.terminal import ERRORS, OUTPUT

_SHARED = ("evaluate", "certify", "attack", "moments")  # commands whose work is shared from their start
_OF_FABRIC = ("NODE_RANK", "LOCAL_RANK")  # by which it numbers the processes that it starts
_TRAINING = ("train", "run", "sweep")  # those that join the group when they train


@contextmanager
def group_joined(name: str) -> Iterator[bool]:
    """Joins the group that this process was started in, if any and if the command shares its work.

    The first process alone prints; of the others, where they are not agreed on an error, it stands in theirs.

    Args:
        name: Of the command.

    Yields:
        Whether this process has anything to do: of a command that shares no work the first does all.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":  # torch is not imported for this
        yield True
        return
    numbers = [os.environ.get("RANK")] if "RANK" in os.environ else map(os.environ.get, _OF_FABRIC)
    is_first = all(number in (None, "0") for number in numbers)
    OUTPUT.quiet = not is_first
    if not is_first:
        logging.disable()
        warnings.simplefilter("ignore")
    if name not in _SHARED:
        yield is_first or name in _TRAINING
        return
    ERRORS.quiet = not is_first
    from withstand.core.processes import joined

    try:
        with joined():
            yield True
    except KeyboardInterrupt:
        atexit.register(_leave)
        raise


def _leave() -> None:
    """Ends the process: Python's own end aborts it where a thread still waits for another process."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)
