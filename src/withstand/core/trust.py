"""Whose code may run: what files name beyond this package runs only where the person allowed it.

A person allows it by typing the name on the command line, by ``--trust``, or by having had this package
write the file: it signs run folders with a key that lies outside of them. What ``--trust`` allowed once is
remembered beside the key until the file changes.
"""

from __future__ import annotations

import hmac
import json
import logging
import os
import re
import secrets
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from withstand.core.run_folder import replaced

SIGNATURES = "trust.json"
ABOUT = "--trust lets code beyond withstand run that the files name: only where you trust whoever wrote them."
_KEY_BYTES = 32
_NAMES_CODE = re.compile(r"--(?:data|objective|training|evaluation|model|loss|over)\b")
_BETWEEN_NAMES = re.compile(r"[\s,\[\]{}='\"]+")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Allowed:
    """What the person let run; another process may be handed it."""

    everything: bool = False
    is_remembered: bool = False
    names: frozenset[str] = frozenset()


_NOTHING = Allowed()
_allowed: ContextVar[Allowed] = ContextVar("allowed", default=_NOTHING)


@contextmanager
def trusting(arguments: Iterable[str] | None = None) -> Iterator[None]:
    """Lets code run meanwhile that recipes and run folders name: ``with ws.trusting(): ws.report(folder)``.

    Args:
        arguments: Command-line arguments: only the functions and classes that they name may run; with
            ``--trust`` among them all that any file names, which is remembered. Where None, all meanwhile.
    """
    typed = list(arguments or ())
    has_word = "--trust" in typed
    with allowing(Allowed(has_word or arguments is None, has_word, frozenset(_names(typed)))):
        yield


@contextmanager
def allowing(allowed: Allowed) -> Iterator[None]:
    """Lets run meanwhile what was allowed elsewhere, such as in the process that gave out the work."""
    token = _allowed.set(allowed)
    try:
        yield
    finally:
        _allowed.reset(token)


def now_allowed() -> Allowed:
    """What may run now."""
    return _allowed.get()


def _names(arguments: Sequence[str]) -> Iterator[str]:
    """What may be a name in arguments: a model's factory, and all in values of the keys that name code."""
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option, equals, value = argument.partition("=")
        if not argument.startswith("--"):
            option, value = before, argument
        if value and _NAMES_CODE.match(option) and (equals or option is before):
            yield from (value, *_BETWEEN_NAMES.split(value))
        elif ":" in argument:
            yield argument


def typed_names() -> frozenset[str]:
    """The names that the person typed on the command line, among other words."""
    return _allowed.get().names


def is_trusted(file: Path) -> bool:
    """Whether what a file names may run: the person said so, or this package wrote it for them."""
    mark = _mark(file.name, _content(file))
    if any(hmac.compare_digest(mark, known) for known in _marks(file).get(file.name, [])):
        return True
    remembered = _home() / "allowed" / _mark(str(file.resolve()), _content(file))
    if _allowed.get().is_remembered and not remembered.exists():
        try:
            remembered.parent.mkdir(parents=True, exist_ok=True)
            remembered.touch()
        except OSError:
            warn_without_key()
    return _allowed.get().everything or remembered.exists()


def write_signed(file: Path, text: str) -> None:
    """Replaces a file of a run folder, and signs it, so that what it names may run again.

    Raises:
        RunFolderError: the folder cannot be written.
    """
    marks = _marks(file)
    # First, and beside the former one: a process that is killed in between leaves a file that is known.
    former = [mark for mark in marks.get(file.name, []) if mark == _mark(file.name, _content(file))]
    marks[file.name] = [*former, _mark(file.name, text.encode())]
    with replaced(file.with_name(SIGNATURES)) as temporary:
        temporary.write_text(json.dumps(marks, indent=2) + "\n", encoding="utf-8")
    with replaced(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def refusal(file: Path, what: str, *, remedy: str = "") -> str:
    """Why the code that a file names does not run, and how to let it.

    Args:
        file: The recipe, or what a run folder holds.
        what: What would be run.
        remedy: What lets it run, too, beside ``--trust``.
    """
    reasons = _no_key()
    if file.with_name(SIGNATURES).exists():
        reasons += f" {file.name} was changed since withstand wrote it, or was written under another account."
    return (
        f"{file} asks to run {what}, which could do anything on this computer.{reasons} If you trust whoever "
        f"wrote it, add --trust, which is remembered until the file changes{remedy}; in Python, `with "
        "ws.trusting():`."
    )


def warn_if_changed(file: Path) -> None:
    """Says, once, that a file is not as this package wrote it; nothing where that cannot be known."""
    marks = _marks(file).get(file.name, [])
    if not marks or not file.exists() or not (_home() / "key").exists() or _no_key():
        return
    if _mark(file.name, _content(file)) not in marks:
        _warn(
            f"{file} was changed since withstand wrote it, or was written under another account: what it "
            "says need not be what was done."
        )


def warn_without_key() -> None:
    """Says, once, that what is allowed now cannot be recognised later, where that is so."""
    if fault := _no_key():
        _warn(f"{fault.lstrip()} Later commands on code of your own will ask for --trust.")


@cache
def _warn(text: str) -> None:
    _logger.warning(text)


# -- the key, and what is known by it ---------------------------------------------------------------


def _home() -> Path:
    """Where the key lies."""
    if named := os.environ.get("WITHSTAND_CONFIG"):
        return Path(named)
    return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "withstand"


def _stored_key() -> bytes:
    """The person's key, made where there is none.

    Raises:
        OSError: it cannot be made or read.
    """
    file = _home() / "key"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent) as whole:  # no one else may read it
            whole.write(secrets.token_bytes(_KEY_BYTES))
            whole.flush()
            with suppress(FileExistsError):  # another process was faster
                os.link(whole.name, file)
    key = file.read_bytes()
    if len(key) != _KEY_BYTES:
        raise OSError(f"{file} is damaged; delete it")
    return key


@cache
def _passing_key() -> bytes:
    """Of this process alone, where none can be stored."""
    return secrets.token_bytes(_KEY_BYTES)


def _no_key() -> str:
    """Why there is no key that lasts, as a sentence; empty where there is one."""
    try:
        _stored_key()
    except (OSError, RuntimeError) as error:
        return f" Run folders of your own cannot be recognised as yours, for want of a key: {error}."
    return ""


def _mark(name: str, content: bytes) -> str:
    try:
        key = _stored_key()
    except (OSError, RuntimeError):  # Path.expanduser has the latter where there is no home
        key = _passing_key()
    return hmac.digest(key, name.encode() + b"\0" + content, "sha256").hex()


def _content(file: Path) -> bytes:
    return file.read_bytes() if file.exists() else b""


def _marks(file: Path) -> dict[str, list[str]]:
    """The signatures beside a file; none where they are damaged."""
    try:
        marks = json.loads(file.with_name(SIGNATURES).read_text(encoding="utf-8"))
        return {str(name): [str(mark) for mark in several] for name, several in marks.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
