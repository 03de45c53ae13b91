"""Errors of the parser of settings in plain words: the key, what it takes, and what it was given."""

from __future__ import annotations

import difflib
import inspect
import re
from collections.abc import Iterator

from jsonargparse import ArgumentParser

_KEY = re.compile(r'Parser key "([^"]+)": ')
_GIVEN = re.compile(r"(?: Given value type: <class '\w+'>)? Given value: (.*)$")
_REPLACED = [
    (re.compile(pattern), words)
    for pattern, words in (
        (r"Does not validate against any of the Union subtypes Subtypes: \[.*?\] Errors: - ", ""),
        (r" - Expected a <class 'NoneType'>.*", ""),  # that it is not null either need not be said
        (r"<class 'float'>", "number"),
        (r"<class 'int'>", "whole number"),
        (r"Expected a <class 'bool'>", "Expected true or false"),
        (r"<class 'str'>", "text"),
        (r"Expected a <class 'dict'>", "Expected {name: value, …}"),
        (r"<class '(?:list|tuple|collections\.abc\.Sequence)'>", "list in brackets"),
        (r"Unable to load config ['\"](.*?)['\"].*$", r"Expected {name: value, …}, but got \1"),
        (r" - Unexpected import path format: (.*)$", r", but got \1"),
        (r"^Unexpected import path format: (.*)$", r"Expected {name: value, …}, but got \1"),
        (r"There is no class '(true|false)'", r"Expected {name: value, …}, but got \1"),
        (r"Expected a dot import path string: (\S+?)\.?$", r"There is no class '\1'."),
        (r"\.? Got value: ?(.*)$", r", but got \1"),
        (r"(Expected a [\w ]+) - There is no class '(.*?)'\.", r"\1, but got \2."),
    )
]
_ONE_OF = re.compile(r"Expected a typing\.Literal\[([^\]]*)\]")
_NORM = "Expected a norm of 1, 2 or inf, or as text l1, l2 or linf"
_UNKNOWN = re.compile(
    r"(?:Group '(?P<group>[^']+)' does not accept option|Option|unrecognized arguments:) "
    r"(?:'|--)(?P<key>[^'=\s]+)(?:' is not accepted|'|=|\s|$)"
)
_UNKNOWN_CLASS = re.compile(r"Expected a dot import path string: ([\"\w/]+)(?![\w.])")


def in_words(message: str) -> str:
    """An error of jsonargparse, on one line, as ``objective.attack.norm: expected …, but got …``.

    Args:
        message: Without line breaks.
    """
    matches = list(_KEY.finditer(message))
    keys = list(dict.fromkeys(match[1] for match in matches))
    reason = message[matches[-1].end() :] if matches else message
    given = _GIVEN.search(reason)
    reason = _GIVEN.sub("", reason)
    for pattern, words in _REPLACED:
        reason = pattern.sub(words, reason)
    reason = _ONE_OF.sub(lambda match: f"Expected one of {match[1].replace(chr(39), '')}", reason)
    if keys and keys[-1].rpartition(".")[2] in ("norm", "norms"):
        reason = reason.replace("Expected a number", _NORM)
    reason = ", or ".join(dict.fromkeys(part.strip() for part in reason.split(" - Expected ")))
    if given and reason.startswith("Expected") and "but got" not in reason:
        reason = f"{reason.removesuffix('.')}, but got {given[1]}"
    reason = " ".join(dict.fromkeys(part.strip() for part in reason.split(" - ")))
    return f"{'.'.join(keys)}: {reason[:1].lower()}{reason[1:]}" if keys else reason


def explain(parser: ArgumentParser, error: Exception) -> str:
    """An error text that names the nearest valid key where a key is unknown."""
    message = " ".join(str(error).split())
    unknown = _UNKNOWN.search(message)
    if unknown is None:
        explanation = _UNKNOWN_CLASS.sub(_nearest_class, message)
        return f"The recipe does not fit: {in_words(explanation)[:500]}"
    group = f"{unknown['group']}." if unknown["group"] else ""
    key = group + unknown["key"].replace("init_args.", "")
    hint = f" Did you mean {near!r}?" if (near := _nearest_key(parser, key)) not in (None, key) else ""
    command = parser.prog if " " in parser.prog else "withstand run RECIPE"
    return f"Unknown key {key!r}.{hint} `{command} --help-all` lists all keys."


def _nearest_key(parser: ArgumentParser, key: str) -> str | None:
    """The valid key most like a mistyped one: by its whole path, by its end, or by its last word."""
    paths = {action.dest for action in parser._actions} - {"help", "print_config", "recipe", "out"}
    settings = set(_class_parameters())
    ending = [path for path in (*sorted(paths), "objective.attack.epsilon") if path.endswith(f".{key}")]
    alike = difflib.get_close_matches(key, paths, n=1, cutoff=0.75)
    last_word = difflib.get_close_matches(key.rpartition(".")[2], settings | paths, n=1)
    return next(iter([*ending, *alike, *last_word]), None)


def _nearest_class(unknown: re.Match[str]) -> str:
    """The error text of a class that does not exist."""
    names = [
        cls.__name__ for cls in _classes() if not (inspect.isabstract(cls) or cls.__name__.startswith("_"))
    ]
    if unknown[1] in names:
        return f"The class {unknown[1]!r} is of another kind."
    near = difflib.get_close_matches(unknown[1], names, n=1, cutoff=0.7)
    return f"There is no class {unknown[1]!r}.{f' Did you mean {near[0]!r}?' if near else ''}"


def _class_parameters() -> Iterator[str]:
    """The settings of every class that a recipe can name."""
    for cls in _classes():
        yield from inspect.signature(cls).parameters


def _classes() -> Iterator[type]:
    """Every class that a recipe can name, and those they come from."""
    from torch.optim import SGD, Adam

    from withstand.attacks import Attack, Mask
    from withstand.bayes import Posterior, Prior
    from withstand.constraints import Constraint
    from withstand.core.schedules import Schedule
    from withstand.data import Deform
    from withstand.evaluation import Meter, Sampling
    from withstand.loss.terms import Objective
    from withstand.objectives.worst_losses import WorstLoss
    from withstand.recipes.schema import BayesSettings
    from withstand.training import Plateau, Rollback, WeightAverage
    from withstand.training.measure import Measure

    pending: list[type] = [
        *(Objective, Attack, Constraint, Measure, Meter, Schedule, Posterior, BayesSettings, Prior),
        *(Sampling, Deform, Plateau, Rollback, WeightAverage, WorstLoss, Mask, SGD, Adam),
    ]
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        yield cls
