"""A description of a network without its weights, and what has changed between two of them."""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Mapping, Sequence, Set

import torch
from torch import nn

from withstand._version import __version__
from withstand.core.identity import Reader
from withstand.core.wrappers import unwrapped

_SHOWN = 4  # changes that a text names
_SETTINGS = ", settings"
_LONGEST = 120  # characters of a value in a text
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_VERSIONS = {"Python": ".".join(platform.python_version_tuple()[:2]), "torch": str(torch.__version__)}
_logger = logging.getLogger(__name__)

Description = Mapping[str, str]
"""Name of a part of a network -> what it is: layers, attributes, hooks, code, versions of libraries."""


def describe(network: nn.Module, *, is_stateful: bool = True, but: nn.Module | None = None) -> dict[str, str]:
    """Layers, shapes, attributes, hooks and the code of a user's own classes; the same in any process.

    Args:
        network: A model or an objective.
        is_stateful: Whether lists and dictionaries that its code names outside itself count.
        but: A model that does not count, wherever it is met: the one that is trained.
    """
    reader = Reader(is_stateful=is_stateful, but=but)
    reader.read_layers(unwrapped(network))
    # Where in memory an object without words of its own lies is another place each time.
    parts = {key: _ADDRESS.sub("", text) for key, text in reader.entries.items()}
    return parts | {"versions": " ".join(f"{name} {version}" for name, version in _versions().items())}


def _versions() -> dict[str, str]:
    return {**_VERSIONS, "withstand": __version__}


def written_by_forward(before: Description, after: Description) -> Set[str]:
    """The parts that a forward pass has changed, such as a counter, which are no part of what it is."""
    return {key for key in {**before, **after} if before.get(key) != after.get(key)}


def without(description: Description, parts: Set[str]) -> dict[str, str]:
    """A description that leaves out some parts."""
    return {key: text for key, text in description.items() if key not in parts}


def changes(then: Description, now: Description) -> list[str]:
    """What is another in a network than it was, in words; instructions of another Python are not compared.

    Args:
        then: A description that was stored.
        now: That of the network at hand.
    """
    earlier, present = then.get("versions", ""), now.get("versions", "")
    skipped = {"versions"}
    if earlier != present:  # torch's layers may have other attributes, and Python other instructions
        skipped |= {key for key in {**then, **now} if key.endswith(_SETTINGS)}
    if earlier.split()[:2] != present.split()[:2]:
        code = {key for key in {**then, **now} if key.startswith("code of ")}
        if code:
            _logger.warning(
                "The code was compiled by %s, so it could not be compared with that of now.", earlier
            )
        skipped |= code
    keys = [key for key in {**now, **then} if key not in skipped and then.get(key) != now.get(key)]
    # Of a layer that is another, the settings say nothing more.
    keys = [
        key for key in keys if key.removesuffix(_SETTINGS) == key or key.removesuffix(_SETTINGS) not in keys
    ]
    return [_change(key, then.get(key), now.get(key)) for key in keys]


def in_words(changed: Sequence[str]) -> str:
    """The first few changes, as one text."""
    more = len(changed) - _SHOWN
    return "; ".join(changed[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def _change(key: str, then: str | None, now: str | None) -> str:
    if then is None or now is None:
        return f"{key} is {'new' if then is None else 'gone'}"
    if key.startswith("code of ") or key.endswith((_SETTINGS, ", graph")):
        return f"{key} has changed"
    if (kind := then.partition(") ")[0]) != now.partition(") ")[0]:  # of a layer, before its shapes
        then, now = f"{kind})" if ") " in then else then, now.partition(") ")[0] + ")" * (") " in now)
    return f"{key}: {_short(then)} then, {_short(now)} now"


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
