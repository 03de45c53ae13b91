"""Errors of the parser of settings in plain words: the key, what it takes, and what it was given."""

from __future__ import annotations

import re

_KEY = re.compile(r'Parser key "([^"]+)": ')
_GIVEN = r"(?: Given value type: <class '\w+'>)? Given value: (?P<given>.*)"
_IN_WORDS = [
    (re.compile(pattern), words)
    for pattern, words in (
        (r"Expected a <class 'float'>", "Expected a number"),
        (r"Expected a <class 'int'>", "Expected a whole number"),
        (r"Expected a <class 'bool'>", "Expected true or false"),
        (r"Expected a <class 'str'>", "Expected a text"),
        (r"Expected a <class 'dict'>", "Expected {name: value, …}"),
        (
            r"Expected a <class '(?:list|tuple|collections\.abc\.Sequence)'>",
            "Expected a list, in brackets",
        ),
        (r"Unable to load config ['\"](.*?)['\"].*$", r"Expected {name: value, …}, but got \1"),
        (r" - Unexpected import path format: (.*)$", r", but got \1"),
        (r"\.? Got value: ?(.*)$", r", but got \1"),
        (r"(Expected a [\w ]+) - (There is no class .*?)$", r"\1, or a class. \2"),
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
    if not matches:
        return message
    keys = list(dict.fromkeys(match[1] for match in matches))
    reason = re.sub(_GIVEN + "$", "", message[matches[-1].end() :]).strip()
    for pattern, words in _IN_WORDS:
        reason = pattern.sub(words, reason)
    reason = _ONE_OF.sub(lambda match: f"Expected one of {match[1].replace(chr(39), '')}", reason)
    reason = " - ".join(dict.fromkeys(part.strip() for part in reason.split(" - ")))
    if keys[-1].rpartition(".")[2] in ("norm", "norms"):
        reason = reason.replace("Expected a number", _NORM)
    return f"{'.'.join(keys)}: {reason[:1].lower()}{reason[1:]}"
