"""Reads and writes VNN-LIB 1.0, the language of the competitions in verification of networks.

``X_0 …`` are the flattened inputs and ``Y_0 …`` the outputs. All assertions together describe a
*counter-example*. They become boxes of inputs, each with the conjunctions of output conditions under which an
input of it is one. The reader is one of our own, because the package ``vnnlib`` reads version 2 alone.
"""

from __future__ import annotations

import itertools
import logging
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TypeAlias

from withstand.core.packed import unpacked
from withstand.properties.property import Property
from withstand.properties.vnnlib_boxes import Atom, Boxes, Conjunction, Terms
from withstand.types import DataError

_TOKEN = re.compile(r';[^\n]*|"[^"]*"|[()]|[^\s();"]+')
_VARIABLE = re.compile(r"([XY])_(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[-+]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_IGNORED = {"set-logic", "set-info", "set-option", "check-sat", "get-model", "exit"}
_SECOND = {"vnnlib-version", "declare-network", "declare-input", "declare-output", "declare-hidden"}
_COMPARED = {"<=", "<", ">=", ">", "="}
_MOST_CONJUNCTIONS = 100_000

_logger = logging.getLogger(__name__)

_Formula: TypeAlias = list[Conjunction]
"""In disjunctive normal form."""


def read_vnnlib(path: Path | str) -> Property:
    """The property in a file, which may be compressed by gzip (``.gz``).

    Raises:
        DataError: the file is missing or damaged, or ``parse_vnnlib`` cannot read it.
    """
    file = Path(path)
    try:
        text = unpacked(file).decode("utf-8-sig")
    except FileNotFoundError:
        raise DataError(f"There is no property {file}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Cannot read the property {file}: {error}.") from error
    return parse_vnnlib(text, name=str(file))


def parse_vnnlib(text: str, *, name: str = "") -> Property:
    """The property that a text in VNN-LIB 1.0 states.

    A strict bound of an input, ``(< X_0 1)``, ends at the next float64.

    Args:
        text: What the file holds.
        name: Of the file, for errors.

    Raises:
        DataError: it is no VNN-LIB 1.0, an input has no bounds, or something is not linear or no box; with
            the line.
    """
    return _Reader(text, name).property()


class _Reader:
    """One pass over the tokens; each method that reads returns the place after what it read, too."""

    def __init__(self, text: str, name: str) -> None:
        self._text, self._name = text, name
        self._tokens = [token for token in _TOKEN.findall(text) if token[0] != ";"]
        self._variables: dict[str, int] = {}  # with the place of their declaration
        self._asserted: list[_Formula] = []

    def property(self) -> Property:
        """The property that all of the text states."""
        place = 0
        try:
            while place < len(self._tokens):
                place = self._command(place)
        except IndexError:
            self.fail(len(self._tokens) - 1, "the text ends within brackets")
        except RecursionError:
            self.fail(place, "brackets are nested too deeply")
        num_inputs, num_outputs = (self._count(kind) for kind in "XY")
        common = [atom for part in self._asserted if len(part) == 1 for atom in part[0]]
        choices = [part for part in self._asserted if len(part) != 1]
        boxes = Boxes(self.fail, self._variables, (num_inputs, num_outputs), common)
        for conjunction in self._joined(choices, len(self._tokens) - 1):
            boxes.add(conjunction)
        cases = boxes.cases()
        if not cases:
            _logger.warning("%s: no input is within its bounds, so there is nothing to prove.", self._name)
        return Property(cases, num_inputs, num_outputs, name=self._name)

    def fail(self, place: int, problem: str) -> NoReturn:
        """Raises an error that names the line of a token."""
        tokens = (match for match in _TOKEN.finditer(self._text) if match[0][0] != ";")
        match = next(itertools.islice(tokens, max(0, place), None), None)
        line = self._text.count("\n", 0, match.start() if match else 0) + 1
        raise DataError(f"{self._name or 'VNN-LIB'}, line {line}: {problem}.")

    def _command(self, place: int) -> int:
        self._expect("(", place)
        command = self._tokens[place + 1]
        if command == "assert":
            formula, end = self._formula(place + 2)
            self._asserted.append(formula)
            self._expect(")", end)
            return end + 1
        if command in ("declare-const", "declare-fun"):
            return self._declaration(place)
        if command in _SECOND:
            self.fail(place, "this is VNN-LIB 2, but version 1.0 is read, with (declare-const X_0 Real)")
        if command not in _IGNORED:
            self.fail(place, f"there is no command {command!r} in VNN-LIB 1.0")
        return self._after(place)

    def _declaration(self, place: int) -> int:
        name, end = self._tokens[place + 2], self._after(place)
        kind = [token for token in self._tokens[place + 3 : end - 1] if token not in "()"]
        if not _VARIABLE.fullmatch(name):
            self.fail(place, f"variables are X_0, X_1 … and Y_0, Y_1 …, but {name!r} is declared")
        if kind != ["Real"]:
            self.fail(place, f"{name} must be Real, but is {' '.join(kind) or 'of no type'}")
        if name in self._variables:
            self.fail(place, f"{name} is declared twice")
        self._variables[name] = place
        return end

    def _count(self, kind: str) -> int:
        """How many inputs or outputs are declared; accepts no gaps."""
        names = [name for name in self._variables if name[0] == kind]
        missing = next((i for i in range(len(names)) if f"{kind}_{i}" not in self._variables), None)
        if not names:
            self.fail(0, f"no {kind}_0 is declared: (declare-const {kind}_0 Real)")
        if missing is not None:
            last = max(names, key=lambda name: int(name[2:]))
            self.fail(self._variables[last], f"{last} is declared, but {kind}_{missing} is not")
        return len(names)

    def _formula(self, place: int) -> tuple[_Formula, int]:
        self._expect("(", place)
        word = self._tokens[place + 1]
        if word in _COMPARED:
            return self._comparison(place)
        if word not in ("and", "or"):
            self.fail(place, f"expected and, or, or a comparison, but got {word!r}")
        parts, end = [], place + 2
        while self._tokens[end] != ")":
            part, end = self._formula(end)
            parts.append(part)
        if not parts:
            self.fail(place, f"({word}) is of nothing")
        if word == "and":
            return self._joined(parts, place), end + 1
        return [conjunction for part in parts for conjunction in part], end + 1

    def _joined(self, parts: Sequence[_Formula], place: int) -> _Formula:
        """The conjunction of some formulas."""
        common = [atom for part in parts if len(part) == 1 for atom in part[0]]
        choices = [part for part in parts if len(part) != 1]
        if math.prod(map(len, choices)) > _MOST_CONJUNCTIONS:
            self.fail(place, f"written out this is more than {_MOST_CONJUNCTIONS:,} conjunctions")
        return [[*common, *itertools.chain.from_iterable(chosen)] for chosen in itertools.product(*choices)]

    def _comparison(self, place: int) -> tuple[_Formula, int]:
        word = self._tokens[place + 1]
        name, other, last = self._tokens[place + 2], self._tokens[place + 3], self._tokens[place + 4]
        if last == ")" and word != "=" and name in self._variables and other not in self._variables:
            # What nearly all of a large file is made of, twice as fast.
            number, sign = self._number(place + 3), 1.0 if word[0] == "<" else -1.0
            return [[Atom({name: sign}, -sign * number, len(word) == 1, place)]], place + 5
        left, of_left, end = self._sum(place + 2)
        right, of_right, end = self._sum(end)
        if self._tokens[end] != ")":
            self.fail(place, f"{word} compares two terms")
        if word in (">=", ">"):
            left, of_left, right, of_right = right, of_right, left, of_left
        below = Atom(_combined(left, right, -1.0), of_left - of_right, word in ("<", ">"), place)
        if word != "=":
            return [[below]], end + 1
        above = Atom(_combined(right, left, -1.0), of_right - of_left, False, place)
        return [[below, above]], end + 1

    def _sum(self, place: int) -> tuple[Terms, float, int]:
        """A linear term: variables with their numbers, a constant, and the place after it."""
        token = self._tokens[place]
        if token in self._variables:
            return {token: 1.0}, 0.0, place + 1
        if token != "(":
            return {}, self._number(place), place + 1
        word, parts, end = self._tokens[place + 1], [], place + 2
        if word not in ("+", "-", "*", "/"):
            self.fail(place, f"expected +, -, * or /, but got {word!r}")
        while self._tokens[end] != ")":
            terms, constant, end = self._sum(end)
            parts.append((terms, constant))
        if not parts:
            self.fail(place, f"({word}) is of nothing")
        return (*self._folded(word, parts, place), end + 1)

    def _folded(self, word: str, parts: Sequence[tuple[Terms, float]], place: int) -> tuple[Terms, float]:
        """The sum, difference, product or quotient of some terms."""
        (terms, constant), *others = parts
        if word == "-" and not others:
            return _combined({}, terms, -1.0), -constant
        for other, number in others:
            if word in ("+", "-"):
                sign = 1.0 if word == "+" else -1.0
                terms, constant = _combined(terms, other, sign), constant + sign * number
                continue
            if other and (terms or word == "/"):
                self.fail(place, "the product or quotient of variables is not linear")
            if word == "/" and number == 0:
                self.fail(place, "it divides by 0")
            if other:  # and the former is a number
                terms, constant = _combined({}, other, constant), constant * number
            else:
                scale = 1 / number if word == "/" else number
                terms, constant = _combined({}, terms, scale), constant * scale
        return terms, constant

    def _number(self, place: int) -> float:
        token = self._tokens[place]
        if not _NUMBER.fullmatch(token):
            if _VARIABLE.fullmatch(token):
                self.fail(place, f"{token} is not declared")
            self.fail(place, f"expected a variable or a number, but got {token!r}")
        number = float(token)
        if not math.isfinite(number):
            self.fail(place, f"{token} is beyond the numbers of float64")
        return number

    def _expect(self, token: str, place: int) -> None:
        if self._tokens[place] != token:
            self.fail(place, f"expected {token!r}, but got {self._tokens[place]!r}")

    def _after(self, place: int) -> int:
        """The place after what begins with a bracket."""
        depth = 0
        for end in range(place, len(self._tokens)):
            depth += {"(": 1, ")": -1}.get(self._tokens[end], 0)
            if depth == 0:
                return end + 1
        raise IndexError


def _combined(terms: Terms, others: Terms, scale: float) -> Terms:
    """``terms + scale * others``."""
    total = dict(terms)
    for name, number in others.items():
        total[name] = total.get(name, 0.0) + scale * number
    return total
