"""Where commands print: to the two consoles, and a progress bar."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress

# No markup: what is printed holds names and paths of the user.
OUTPUT = Console(markup=False, highlight=False)
ERRORS = Console(stderr=True, markup=False, highlight=False)


def say(text: str) -> None:
    """Prints a line of prose, as wide as the console; no break falls between a figure and its unit."""
    lines = textwrap.wrap(text, OUTPUT.width, break_long_words=False, break_on_hyphens=False)
    OUTPUT.print("\n".join(lines), soft_wrap=True)


@contextmanager
def progress_of(what: str) -> Iterator[Callable[[int, int], None]]:
    """A bar while something goes on, where there is a terminal.

    Args:
        what: What goes on.

    Yields:
        What to call with how many examples are done, of how many.
    """
    with Progress(console=OUTPUT, disable=not OUTPUT.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            progress.update(task, completed=done, total=total)

        yield tell
