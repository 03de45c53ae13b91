"""What a function does, read from its instructions: comments, formatting and descriptions leave no trace."""

from __future__ import annotations

import dis
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from importlib import import_module
from types import CodeType

_NOTHING = ("NOP", "RESUME", "CACHE")


@cache
def digest_of_code(code: CodeType) -> str:
    """A digest of instructions with their constants and names; it differs between versions of Python."""
    digest = hashlib.sha256()
    digest.update(repr((code.co_argcount, code.co_kwonlyargcount, code.co_flags)).encode())
    for instruction in dis.get_instructions(code):
        if instruction.opname not in _NOTHING:
            digest.update(f"{instruction.opname} {_argument(instruction)};".encode())
    return digest.hexdigest()


def _argument(instruction: dis.Instruction) -> str:
    """What an instruction works on; of a local variable its place alone, and of a jump nothing."""
    if instruction.opcode in dis.haslocal:
        return str(instruction.arg)
    is_jump = instruction.opcode in dis.hasjrel or instruction.opcode in dis.hasjabs
    return "" if is_jump else _text(instruction.argval)


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


def imported_in(code: CodeType, package: str) -> Iterator[tuple[str, object]]:
    """What code imports from modules when it runs: each name with its value, where it can be imported.

    Args:
        code: Of a function.
        package: That it is in, for relative imports.
    """
    numbers, module = [], None
    for instruction in dis.get_instructions(code):
        if instruction.opname == "LOAD_CONST":
            numbers.append(instruction.argval)
        elif instruction.opname == "IMPORT_NAME":
            module = None
            level = numbers[-2] if len(numbers) > 1 and isinstance(numbers[-2], int) else 0
            with suppress(Exception):  # what fails here fails when it runs, too
                module = import_module("." * level + instruction.argval, package or None)
            if numbers and numbers[-1] is None:  # `import helpers`, of which anything may be used
                yield instruction.argval, module
        elif instruction.opname == "IMPORT_FROM":
            yield instruction.argval, getattr(module, instruction.argval, None)
        if isinstance(instruction.argval, CodeType):
            yield from imported_in(instruction.argval, package)
