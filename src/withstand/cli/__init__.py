"""The command line, a file a command."""

from __future__ import annotations

from collections.abc import Sequence

from withstand.cli.interrupts import leaving_at_once

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """The command ``withstand``: as ``entry.main``, which is imported here so that Ctrl-C ends that too."""
    with leaving_at_once():
        from withstand.cli import entry
    return entry.main(arguments)
