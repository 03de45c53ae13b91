"""What a function does, read from its instructions: comments, formatting and descriptions leave no trace."""

from __future__ import annotations

import dis
import hashlib
from collections.abc import Iterator
from functools import cache
from types import CodeType


@cache
def digest_of_code(code: CodeType) -> str:
    """A digest of instructions with their constants and names; it differs between versions of Python."""
    digest = hashlib.sha256()
    arguments = code.co_argcount + code.co_kwonlyargcount
    digest.update(repr((code.co_varnames[:arguments], code.co_flags)).encode())
    for instruction in dis.get_instructions(code):
        digest.update(f"{instruction.opname} {_text(instruction.argval)};".encode())
    return digest.hexdigest()


def _text(argument: object) -> str:
    if isinstance(argument, CodeType):
        return digest_of_code(argument)
    if isinstance(argument, frozenset):  # its order differs between processes
        return " ".join(sorted(map(_text, argument)))
    if isinstance(argument, tuple):
        return f"({', '.join(map(_text, argument))})"
    return repr(argument)


def names_in(code: CodeType) -> Iterator[tuple[str, ...]]:
    """The global names that code reads, each with the attributes that are read of it at once."""
    chain: tuple[str, ...] = ()
    for instruction in dis.get_instructions(code):
        if chain and instruction.opname in ("LOAD_ATTR", "LOAD_METHOD"):
            chain = (*chain, instruction.argval)
            continue
        if chain:
            yield chain
        chain = (instruction.argval,) if instruction.opname == "LOAD_GLOBAL" else ()
        if isinstance(instruction.argval, CodeType):
            yield from names_in(instruction.argval)
    if chain:
        yield chain
