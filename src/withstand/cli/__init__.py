"""The command line, a file a command."""

from withstand.cli.entry import main

__all__ = ["main"]
