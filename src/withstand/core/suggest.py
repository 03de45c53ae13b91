"""What to say when a name does not exist: the nearest that does, and all of them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


def nearest(word: str, known: Iterable[str]) -> str:
    """A hint such as ``did you mean 'vgg11'? There are: vgg11, vgg16.``.

    Args:
        word: What was asked for.
        known: What there is, in the order to show; may be empty.
    """
    names = list(known)
    if not names:
        return "there are none."
    # Without a cut-off there is always a nearest one.
    match = get_close_matches(word, names, n=1, cutoff=0.0)[0]
    return f"did you mean {match!r}? There are: {', '.join(names)}."
