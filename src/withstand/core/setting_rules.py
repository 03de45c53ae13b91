"""What users set: numbers, norms and lists of them, read alike everywhere or refused in one line.

A *rule* is a function of a setting's name and of what was given. It returns the value that is used from then
on, a plain Python number whatever it was given as, or raises an error that names the setting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeAlias

from typing_extensions import override

Rule: TypeAlias = Callable[[str, Any], Any]

_NUMBER = r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:e[-+]?[0-9]+)?"
_TEXT = re.compile(rf"\s*({_NUMBER}|[-+]?inf(?:inity)?)\s*(?:/\s*({_NUMBER})\s*)?", re.IGNORECASE)
_MOST = 2**31 - 1  # of what is counted; some sizes in torch end there
_ANY, _WHOLE = 'a number, such as 0.1, 8 / 255 or "8/255"', "a whole number, such as 20"


def as_number(name: str, value: Any, kind: str = _ANY) -> float:
    """A number as a float: of Python, NumPy or torch, or as text such as ``"8/255"``, ``"0.1"``, ``"inf"``.

    Args:
        name: Of the setting, for errors.
        value: What was given.
        kind: What is expected, for errors.

    Raises:
        TypeError: it is no number.
        ValueError: it is a text that is no number.
    """
    if isinstance(value, str):
        match = _TEXT.fullmatch(value)
        if match is None:
            raise ValueError(f"Expected {name} as {kind}, but got {value!r}.")
        if match[2] and float(match[2]) == 0:
            raise ValueError(f"Expected {name} as {kind}, but {value} divides by 0.")
        return float(match[1]) / float(match[2] or 1)
    if getattr(value, "shape", None) == () and hasattr(value, "item"):  # of NumPy or torch
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"Expected {name} as {kind}, but got {value!r}.")
    try:
        return float(value)
    except OverflowError:  # of a whole number
        raise ValueError(f"Expected {name} as {kind}, but got one of more than 300 digits.") from None


@dataclass(frozen=True)
class Number:
    """The rule of a finite number in a range.

    Args:
        least: The smallest that will do.
        most: The largest that will do.
        above: What it must lie above.
        below: What it must lie below.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    _kind = _ANY

    def __call__(self, name: str, value: Any) -> float:
        """The number as a float."""
        number = as_number(name, value, self._kind)
        if not (math.isfinite(number) and self._holds(number)):
            raise ValueError(f"Expected {name} {self._words(number)}, but got {number:g}.")
        return number

    def _words(self, wrong: float) -> str:
        """The range as it stands in an error: ``of at least 0``, ``from 0 to 1``."""
        if math.isfinite(self.least) and math.isfinite(self.most):
            return f"from {self.least:.15g} to {self.most:.15g}"
        if math.isfinite(self.above) and math.isfinite(self.below):
            return f"between {self.above:.15g} and {self.below:.15g}"
        ends = {"of at least": self.least, "above": self.above, "at most": self.most, "below": self.below}
        parts = [f"{words} {end:.15g}" for words, end in ends.items() if math.isfinite(end)]
        return " and ".join(parts + ["finite"] * (not math.isfinite(wrong))) or "as a number"

    def _holds(self, number: float) -> bool:
        return self.least <= number <= self.most and self.above < number < self.below


@dataclass(frozen=True)
class Whole(Number):
    """The rule of a whole number in a range, as ``Number`` has it."""

    _kind = _WHOLE

    def __call__(self, name: str, value: Any) -> int:
        """The number as an int."""
        number = super().__call__(name, value)
        if not number.is_integer():
            raise ValueError(f"Expected a whole number as {name}, but got {number:g}.")
        return (
            int(value) if isinstance(value, int) else int(number)
        )  # an int may have more digits than a float


@dataclass(frozen=True)
class _Count(Whole):
    """The rule of how many there are: at least one."""

    least: float = 1
    most: float = _MOST

    @override
    def _words(self, wrong: float) -> str:
        """Only the end that was passed: the other is far away."""
        return f"at most {_MOST:,}" if wrong > self.most else f"of at least {self.least:g}"


COUNT = _Count()
SEED = Whole(least=0, most=2**63 - 1)
FINITE = Number()
AT_LEAST_0 = Number(least=0.0)
POSITIVE = Number(above=0.0)
SHARE = Number(least=0.0, most=1.0)
PROBABILITY = Number(above=0.0, below=1.0)


def flag(name: str, value: Any) -> bool:
    """The rule of what is on or off."""
    if not isinstance(value, bool):
        raise TypeError(f"Expected {name} as True or False, but got {value!r}.")
    return value


def instance_of(kind: type, example: str) -> Rule:
    """The rule of a setting that is an object of a class.

    Args:
        kind: The class.
        example: One such, for the error: ``an attack, such as PGD(num_steps=20)``.
    """

    def check(name: str, value: Any) -> Any:
        if isinstance(value, kind):
            return value
        is_class = isinstance(value, type) and issubclass(value, kind)
        got = f"the class itself: write {value.__name__}(…)" if is_class else repr(value)
        raise TypeError(f"Expected {name} to be {example}, but got {got}.")

    return check


def optional(rule: Rule) -> Rule:
    """The rule of a setting that may be None."""
    return lambda name, value: None if value is None else rule(name, value)


def list_of(rule: Rule, *, least: int = 1) -> Rule:
    """The rule of a list of values, each of which keeps a rule.

    Args:
        rule: Of each.
        least: How many there must be.
    """

    def check(name: str, values: Any) -> list[Any] | tuple[Any, ...]:
        # A mapping has values that would be lost, and a set has no order.
        is_none = isinstance(values, str | bytes | Mapping | Set) or getattr(values, "shape", None) == ()
        if is_none or not isinstance(values, Iterable):
            raise TypeError(f"Expected {name} as a list, in brackets, but got {values!r}.")
        read = [rule(f"every one of {name}", value) for value in values]
        if len(read) < least:
            number = "one" if least == 1 else least
            raise ValueError(f"Expected at least {number} in {name}, but got {len(read) or 'none'}.")
        return tuple(read) if isinstance(values, tuple) else read

    return check


def settle(settings: object, **rules: Rule) -> None:
    """Puts an object's settings in order, each by its rule; for ``__post_init__`` of a frozen dataclass too.

    Args:
        settings: Has an attribute for each rule.
        **rules: Name of a setting -> its rule.

    Raises:
        TypeError: a setting is of the wrong type.
        ValueError: a setting is out of its range.
    """
    for name, rule in rules.items():
        object.__setattr__(settings, name, rule(name, getattr(settings, name)))
