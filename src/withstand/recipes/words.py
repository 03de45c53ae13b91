"""What a recipe says of itself, where its values were changed: its title, description and published figures.

They are of the recipe as it stands in its file. Where ``--key=value`` changes what they speak of, they are
left out or marked, and what was changed is listed in their place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_WORDS = ("title", "description", "published")
_MACHINE = ("data.root", "training.accelerator", "training.checkpoint_seconds", "training.tensorboard")
_UNSPOKEN = ("seed", "data.seed", "evaluation.batch_size")  # listed as changes, but no word depends on them
_OF_PUBLISHED = "of the recipe as it was, which this run changed"
_LONGEST = 80
_CLASS, _SETTINGS = "class_path", "init_args"


def is_unspoken(key: str) -> bool:
    """Whether no words of a recipe depend on a key: what it is called, where it runs, its seeds."""
    return key in _UNSPOKEN or _is_no_change(key)


def _is_no_change(key: str) -> bool:
    return key in (*_MACHINE, "name", "changed") or key.partition(".")[0] in _WORDS


def kept_words(own: Mapping[str, Any], values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """The words of a recipe's values that hold for them, and what was changed of its file.

    A title and a description stay where nothing but seeds, the machine and further meters was changed.
    Published figures stand beside those of a run on the same data and model; where its training was changed,
    their notes say so. Words that the command itself gives stay as they are.

    Args:
        own: All values that the file has, as plain data.
        values: With the overrides.
        overrides: Each ``--key=value``.

    Returns:
        ``title``, ``description``, ``published`` and ``changed``, as plain data.
    """
    from withstand.results.results import covers  # what lists recipes needs no tables

    changes = {key: text for key, text in _changes(own, values) if not _is_no_change(key)}
    trained = [key for key in changes if not (is_unspoken(key) or key.startswith("evaluation."))]
    kept = {word: values[word] for word in _WORDS}
    if trained or not covers(values["evaluation"], _but_batches(own["evaluation"])):
        kept |= {"title": "", "description": ""}
    if any(key.startswith(("data.", "model.")) for key in trained):
        kept["published"] = []
    elif trained:
        kept["published"] = [_marked(figure) for figure in kept["published"]]
    given = {override.removeprefix("--").partition("=")[0].partition(".")[0] for override in overrides}
    kept |= {word: values[word] for word in _WORDS if word in given}
    return {**kept, "changed": [*own["changed"], *(f"{key} {text}" for key, text in changes.items())]}


def _but_batches(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in evaluation.items() if key != "batch_size"}


def _marked(figure: Mapping[str, Any]) -> dict[str, Any]:
    return {**figure, "note": "; ".join(filter(None, (figure["note"], _OF_PUBLISHED)))}


def _changes(own: object, values: object, key: str = "") -> Iterator[tuple[str, str]]:
    """Dotted key -> what it was and what it is; of another class, or a list of others, as a whole."""
    if isinstance(own, Mapping) and isinstance(values, Mapping) and own.get(_CLASS) == values.get(_CLASS):
        for name in dict.fromkeys((*own, *values)):
            inside = key if name == _SETTINGS else f"{key}.{name}".lstrip(".")
            yield from _changes(own.get(name), values.get(name), inside)
    elif isinstance(own, list) and isinstance(values, list) and _are_alike(own, values):
        for number, pair in enumerate(zip(own, values, strict=True)):
            yield from _changes(*pair, f"{key}.{number}")
    elif own != values:
        yield key, f"{_text(own)} \N{RIGHTWARDS ARROW} {_text(values)}"


def _are_alike(own: Sequence[object], values: Sequence[object]) -> bool:
    """Whether two lists hold items of the same classes."""
    classes = [_class_of(item) for item in own]
    return any(classes) and classes == [_class_of(item) for item in values]


def _text(value: object) -> str:
    """A value in one short line: ``Linear(start=0, end=0.15, epochs=20)``."""
    text = _whole_text(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def _class_of(value: object) -> str:
    return str(value.get(_CLASS, "")).rpartition(".")[2] if isinstance(value, Mapping) else ""


def _whole_text(value: object) -> str:
    if isinstance(value, Mapping):
        name = _class_of(value)
        settings = value.get(_SETTINGS, {}) if _CLASS in value else value
        inside = ", ".join(f"{key}={_whole_text(item)}" for key, item in settings.items())
        return f"{name}({inside})" if inside else name or "{}"
    if isinstance(value, list):
        return f"[{', '.join(_class_of(item) or _whole_text(item) for item in value)}]"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:.6g}" if isinstance(value, float) else str(value)
