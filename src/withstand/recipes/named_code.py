"""What a recipe may name: what is this package's or torch.optim's, and what the person trusts."""

from __future__ import annotations

import re
import sys
import threading
from argparse import ArgumentError
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from jsonargparse._common import parsing_settings

from withstand.attacks import losses, targets
from withstand.core import trust
from withstand.data.load import is_function
from withstand.models.hosted import is_hosted
from withstand.recipes import schema
from withstand.training.settings import adam
from withstand.types import UntrustedCodeError

_FUNCTIONS = (
    *(adam, losses.cross_entropy, losses.margin, losses.dlr, losses.kl_divergence),
    *(targets.least_likely, targets.next_likely, targets.random_class),
)
_ROOTS = ("withstand.", "torch.optim.")  # their classes; a class fits its key, which the parser sees to
_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)+")
_LOCK = threading.RLock()
_DENIED = re.compile(r"Importing '([^']+)' is not allowed")


@contextmanager
def guarded(files: Sequence[Path]) -> Iterator[Callable[[Namespace], None]]:
    """While a recipe is parsed: nothing is imported that its files must not run.

    Args:
        files: What it is parsed from.

    Yields:
        To be called with what was parsed, before anything in it is made.

    Raises:
        UntrustedCodeError: it names code of others, and the files are not trusted.
    """
    strange = [file for file in files if not trust.is_trusted(file)]
    if not strange:
        yield lambda config: None
        return
    typed = {name for name in trust.typed_names() if _PATH.fullmatch(name) and not Path(name).exists()}
    packages = {name.partition(".")[0] for name in typed} - {"jsonargparse"}
    try:
        with _imports_only_from({*(root.rstrip(".") for root in _ROOTS), *packages}):
            yield lambda config: _require_known(config, strange)
    except (ArgumentError, ValueError) as error:
        if denied := _DENIED.search(str(error)):
            raise _refused(denied[1], strange) from error
        raise


@contextmanager
def _imports_only_from(packages: set[str]) -> Iterator[None]:
    """Keeps the parser from importing anything else that values name.

    Its settings are those of the process, so they are put back, for which it has no call.
    """
    with _LOCK:
        former = dict(parsing_settings)
        set_parsing_settings(
            import_path_denylist=["*"],
            import_path_allowlist=sorted(packages),
            instantiate_subclass_spec_in_any=False,
        )
        try:
            yield
        finally:
            parsing_settings.update(former)


def _require_known(config: Namespace, strange: Sequence[Path]) -> None:
    typed = trust.typed_names()
    known = [code for code in map(_imported, typed) if code is not None]
    strangers = {
        name: any(code is other for other in known)
        for name, code in _code_in({key.name: config[key.name] for key in fields(schema.Recipe)})
        if not _is_ours(code)
    }
    factory = config["model"]["name"] or ""
    if ":" in factory and not is_hosted(factory):
        strangers[factory] = factory in typed
    of_data = [config["data"]["name"], *_texts_in(config["evaluation"])]  # meters name other data
    # Data that were handed over in Python have no name.
    strangers |= {name: name in typed for name in of_data if name is not None and is_function(name)}
    for name, is_typed in strangers.items():
        if not is_typed:
            options = config["model"]["options"] if name == factory else {}
            raise _refused(name, strange, options)
    if strangers:
        trust.warn_without_key()


def _is_ours(code: Any) -> bool:
    return f"{code.__module__}.".startswith(_ROOTS) if isinstance(code, type) else code in _FUNCTIONS


def _refused(
    name: str, strange: Sequence[Path], options: Mapping[str, Any] | None = None
) -> UntrustedCodeError:
    """The error of a name; of the model's factory, with the options that it is called with."""
    file = next((file for file in strange if name in file.read_text(errors="replace")), strange[0])
    arguments = "".join(f" {key}={value!r}" for key, value in (options or {}).items())
    what = f"{name} with{arguments}" if arguments else name
    return UntrustedCodeError(trust.refusal(file, what, remedy=", or type the name in the command yourself"))


def _code_in(value: Any) -> Iterator[tuple[str, Any]]:
    """All classes and functions in what was parsed, with their names."""
    if isinstance(value, Namespace | Mapping):
        inside = vars(value) if isinstance(value, Namespace) else value
        if isinstance(path := inside.get("class_path"), str):
            yield path, _imported(path)
        for part in inside.values():
            yield from _code_in(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _code_in(part)
    elif callable(value):
        yield f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', value)}", value


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Namespace | Mapping):
        yield from _texts_in([*(vars(value) if isinstance(value, Namespace) else value).values()])
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts_in(part)


def _imported(name: str) -> Any:
    """What a dotted path leads to, where its module has been imported; else None."""
    module, _, attribute = name.rpartition(".")
    return getattr(sys.modules[module], attribute, None) if module in sys.modules else None
