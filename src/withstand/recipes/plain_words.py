"""Errors of the parser of settings in plain words: the key, what it takes, and what it was given."""

from __future__ import annotations

import re

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
        (r"Expected a dot import path string: (\S+?)\.?$", r"There is no class '\1'."),
        (r"\.? Got value: ?(.*)$", r", but got \1"),
        (r"(Expected a [\w ]+) - There is no class '(.*?)'\.", r"\1, but got \2."),
    )
]
_ONE_OF = re.compile(r"Expected a typing\.Literal\[([^\]]*)\]")
_NORM = "Expected a norm of 1, 2 or inf, or as text l1, l2 or linf"


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
