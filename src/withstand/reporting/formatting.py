"""How the page writes numbers, norms, data sets and runs in words."""

from __future__ import annotations

import math

from withstand.core.writing import SPACE, epsilon_text, norm_text, percent
from withstand.reporting.section import PROSE
from withstand.results.measurements import Measurement
from withstand.results.shares import Share

_DATASETS = {
    "digits": "Digits (8×8)",
    "mnist": "MNIST",
    "fashion-mnist": "Fashion-MNIST",
    "cifar10": "CIFAR-10",
    "cifar100": "CIFAR-100",
    "cifar10-jpeg": "cifar10-jpeg",
}

ShareLike = Measurement | Share
"""A share with what is known of it."""


def as_published(share: float) -> str:
    """A share as per cent with the digits that it was published with."""
    return f"{100 * share:.6g}{SPACE}%"


def share_text(share: ShareLike) -> str:
    """A share as per cent."""
    return percent(share.value)


def measured(share: ShareLike) -> list[str]:
    """A share, its interval, and how many of how many it is, for the cells of a table."""
    return [share_text(share), interval(share), counted(share)]


def interval(share: ShareLike) -> str:
    """The ends of a share's interval: ``97.1-98.3 %`` with an en dash; empty where it has none."""
    if share.lower is None or share.upper is None or math.isnan(share.lower):
        return ""
    lower, upper = (percent(end) for end in (share.lower, share.upper))
    return f"{lower.removesuffix(SPACE + '%')}\N{EN DASH}{upper}"


def counted(share: ShareLike) -> str:
    """How many of how many: ``981 of 1,000``; empty where it is not known."""
    if share.correct is None or share.total is None:
        return ""
    return f"{count(share.correct)} of {count(share.total)}"


def budget(norm: str, epsilon: float) -> str:
    """Norm and epsilon of an attack, on one line: ``ℓ∞ ε = 8/255``."""
    return f"{norm_text(norm)} ε = {epsilon_text(epsilon)}".replace(" ", SPACE)


def count(number: int) -> str:
    """A whole number with thin groups: ``10,000``."""
    return f"{number:,}"


def duration(seconds: float) -> str:
    """Seconds in the units that fit: ``0.8 ms``, ``12.3 s``, ``3 min 5 s``, ``2 h 4 min``."""
    if seconds < 1:
        return f"{1000 * seconds:.3g}{SPACE}ms"
    if seconds < 59.95:
        return f"{seconds:.1f}{SPACE}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes}{SPACE}min {rest}{SPACE}s"
    return f"{minutes // 60}{SPACE}h {minutes % 60}{SPACE}min"


def memory(num_bytes: int) -> str:
    """Bytes in binary units: ``117.7 MiB``."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if num_bytes >= size:
            return f"{num_bytes / size:.1f}{SPACE}{unit}"
    return f"{num_bytes}{SPACE}bytes"


def cell(value: float | None) -> str:
    """A number in a table of many kinds; an em dash where there is none."""
    return "\N{EM DASH}" if value is None else f"{value:.4g}"


def dataset_title(name: str) -> str:
    """The name that readers know a data set by."""
    return _DATASETS.get(name, name)


def sentence(text: str) -> str:
    """A text with one full stop at its end, where it has no other end."""
    bare = text.rstrip()
    return bare if not bare or bare.endswith((".", "!", "?")) else f"{bare}."


def dataset_note(name: str) -> str | None:
    """What a reader must know of a data set before comparing figures; mostly None."""
    return PROSE["data_sets"].get(name)
