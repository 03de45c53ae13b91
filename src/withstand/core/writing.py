"""How figures are written for people: shares, epsilons and norms, alike on the console and on the page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

SPACE = "\N{NO-BREAK SPACE}"
_NORMS = {"inf": "ℓ∞", "linf": "ℓ∞", "1": "ℓ₁", "1.0": "ℓ₁", "2": "ℓ₂", "2.0": "ℓ₂"}
# Letters and signs beside which the spelling is part of a name, a path or an option.
_APART = r"(?<![\w/=-]){}(?![\w/=-])"
_VALUED = re.compile(r"\bepsilon (?=\d)")
_SPELLED = re.compile(r"(?<![A-Za-z0-9])[lL]-?(inf|1|2)(?![A-Za-z0-9])")


def percent(share: float) -> str:
    """A share as per cent with one decimal: ``97.2 %``."""
    return f"{100 * share:.1f}{SPACE}%"


def epsilon_text(epsilon: float) -> str:
    """An epsilon as people write it: ``0.3``, or ``8/255`` where it is no short decimal."""
    levels = round(epsilon * 255)
    is_short = abs(epsilon - round(epsilon, 3)) < 1e-9
    is_levels = abs(epsilon * 255 - levels) < 1e-4
    return f"{levels}/255" if is_levels and not is_short else f"{epsilon:.4g}"


def norm_text(norm: str) -> str:
    """A norm's sign: ``ℓ∞`` for ``"inf"``; a norm that has none here stays as it is."""
    return _NORMS.get(norm, norm)


def with_signs(names: Iterable[str] = ()) -> Callable[[str], str]:
    """What writes norms, and epsilon before a number, by their signs where files and commands spell them.

    Args:
        names: Of attacks and certificates, in which a norm is written so too: ``pgd-20-ℓ∞`` for
            ``pgd-20-linf``. Other names, such as those of runs and folders, stay as somebody typed them.

    Returns:
        A function from a text to itself with the sign of each ``linf``, ``l2`` and ``l1`` that stands alone
        or in these names.
    """
    spelled = sorted(filter(_SPELLED.search, names), key=len, reverse=True)
    words = [*map(re.escape, spelled), "[lL]-?(?:inf|1|2)"]
    pattern = re.compile("|".join(map(_APART.format, words)))

    def signed(name: re.Match[str]) -> str:
        return _SPELLED.sub(lambda spelling: norm_text(spelling[1]), name[0])

    return lambda text: _VALUED.sub(f"ε{SPACE}={SPACE}", pattern.sub(signed, text))
