"""What runs are called, and the commands that make what they lack."""

from __future__ import annotations

import math
import os
import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from withstand.core import schedules
from withstand.core.writing import epsilon_text, norm_text
from withstand.reporting.formatting import dataset_title
from withstand.reporting.read import Run
from withstand.reporting.section import Prose
from withstand.results.results import covers

_SETTINGS = "init_args"
_MOST_CHANGES = 8
_JOINTS = "-_/, "
_PARTS = re.compile(rf"[^{_JOINTS}]+[{_JOINTS}]*|^[{_JOINTS}]+")
_NUMBER = re.compile(rf"\(?[\d.]+\)?[{_JOINTS}]*")
_HALVED = re.compile(r"back to the end of epoch (\d+), step of epsilon halved")  # a note of the training log


def lookup(recipe: Mapping[str, object] | None, key: str) -> str | None:
    """A recipe's value at a dotted key, as a text; None where there is none."""
    value = _value(recipe, key)
    return None if value is None else str(value)


def _value(recipe: object, key: str) -> Any:
    for part in key.split("."):
        recipe = recipe.get(part) if isinstance(recipe, Mapping) else None
    return recipe


def run_title(run: Run) -> str:
    """The recipe's title where it speaks of what was measured, else what was trained on what.

    Where that is not known it is the recipe's name, or the folder's.
    """
    name = lookup(run.recipe, "name")
    if not _speaks_of(run):
        return _subject(run) or run.path.resolve().name
    changed = _value(run.recipe, "changed")
    title = lookup(run.recipe, "title") or (None if changed else name)
    return title or _subject(run) or run.path.resolve().name


def run_description(run: Run) -> str | None:
    """The recipe's description, where it speaks of what was measured."""
    return lookup(run.recipe, "description") if _speaks_of(run) else None


def run_changes(run: Run) -> str | None:
    """In which values the run differs from the file of its recipe, or that it is of none; else None."""
    if _is_outside(run):
        return "Measured by ws.evaluate, of a network that the recipe of this folder may not describe."
    changed = [str(change) for change in _value(run.recipe, "changed") or []]
    more = f"; and {len(changed) - _MOST_CHANGES} more" if len(changed) > _MOST_CHANGES else ""
    listed = "; ".join(changed[:_MOST_CHANGES]) + more
    return f"Recipe {lookup(run.recipe, 'name') or ''}, changed: {listed}." if changed else None


def _speaks_of(run: Run) -> bool:
    """Whether a run's results are of its recipe: all that it asks for was measured, as it asks."""
    asked = _value(run.recipe, "evaluation")
    if run.results is None or not isinstance(asked, Mapping):
        return True
    return covers(run.results.settings, {key: asked[key] for key in asked if key != "batch_size"})


def _is_outside(run: Run) -> bool:
    """Whether another network than a folder's own was measured in Python, in a folder that has a recipe."""
    results = run.results
    return bool(run.recipe and results and results.model and not (results.settings or results.weights))


def was_trained_here(run: Run) -> bool:
    """Whether a folder holds a training, or the recipe of one; not where a network of others was measured."""
    return run.history is not None or _value(run.recipe, "training") is not None


def run_labels(runs: Sequence[Run]) -> list[str]:
    """A short name a run, no two alike: the recipe's, and where that repeats, the folder's too.

    Where ``folder_labels`` gives any, these. A run whose recipe was changed goes by its folder's name, unless
    the recipe was given a title with it.
    """
    if folders := folder_labels(runs):
        return folders
    labels: list[str] = []
    names = [_name(run) or run.path.resolve().name for run in runs]
    for run, name in zip(runs, names, strict=True):
        label = name if names.count(name) == 1 else f"{name} ({run.path.resolve().name})"
        labels.append(label if label not in labels else f"{label} {len(labels) + 1}")
    return labels


def _name(run: Run) -> str | None:
    """The recipe's name, where it is that of the run."""
    is_of_another = _value(run.recipe, "changed") and not lookup(run.recipe, "title")
    return None if is_of_another or _is_outside(run) else lookup(run.recipe, "name")


def folder_labels(runs: Sequence[Run]) -> list[str]:
    """The names of the runs' folders, where points of a sweep stand beside runs that are none; else nothing.

    The name of a point says little there.

    Returns:
        Each folder's path below the folder that holds them all, no two alike.
    """
    names = [lookup(run.recipe, "name") or "" for run in runs]
    paths = [run.path.resolve() for run in runs]
    if not 0 < sum("/" in name for name in names) < len(names) or len(set(paths)) < len(paths):
        return []
    above = Path(os.path.commonpath([path.parent for path in paths]))
    return [path.relative_to(above).as_posix() for path in paths]


def what_differs(names: Sequence[str]) -> list[str]:
    """Names without the parts at their beginning and end that all of them share, for a legend.

    ``mnist-plain-small`` and ``mnist-certified-small`` are ``plain`` and ``certified``; a number keeps the
    word before it. Names that would be alike or empty stay whole.
    """
    parts = [_PARTS.findall(name) for name in names]
    fewest = min(map(len, parts), default=0)
    first = _num_shared(parts, fewest - 1)
    last = _num_shared([part[::-1] for part in parts], fewest - 1 - first)
    while first and any(_NUMBER.fullmatch(part[first]) for part in parts):
        first -= 1
    short = ["".join(part[first : len(part) - last]).rstrip(_JOINTS) for part in parts]
    short = [name.strip("()") if name.startswith("(") else name for name in short]
    return short if len(set(short)) == len(names) > 1 and all(short) else list(names)


def _num_shared(parts: Sequence[Sequence[str]], most: int) -> int:
    """How many parts at the beginning all share, of so many at most."""
    alike = [len({part[place].rstrip(_JOINTS) for part in parts}) == 1 for place in range(max(0, most))]
    return alike.index(False) if False in alike else len(alike)


def setting(run: Run) -> str:
    """What was trained on what, how and how long: ``cnn-small on MNIST, CrossEntropy, 40 epochs, seed 0``."""
    recipe = None if _is_outside(run) else run.recipe
    epochs, seed = lookup(recipe, "training.epochs"), lookup(recipe, "seed")
    size = lookup(recipe, "data.train_size")
    parts = [
        _subject(run),
        size and f"{size} training images",
        epochs and f"{epochs} {'epoch' if epochs == '1' else 'epochs'}",
        seed and f"seed {seed}",
    ]
    return ", ".join(part for part in parts if part)


def _subject(run: Run) -> str:
    """Model, data and objective, as far as they are known."""
    recipe = None if _is_outside(run) else run.recipe
    data = run.results.dataset if run.results else lookup(recipe, "data.name")
    model = lookup(recipe, "model.name") or (run.results.model if run.results else None)
    known = {"": model, "on ": data and dataset_title(data)}
    subject = " ".join(f"{word}{value}" for word, value in known.items() if value)
    return ", ".join(filter(None, (subject, _objective(_value(recipe, "objective"), _trained(run)))))


def _trained(run: Run) -> tuple[float, list[int]]:
    """How many epochs a network was trained for, and at which of them epsilon was slowed down."""
    if run.history is None or not run.history.notes:
        epochs = _value(run.recipe, "training.epochs")
        return (epochs if isinstance(epochs, int | float) and epochs > 0 else math.inf), []
    done = [epoch for epoch in run.history.columns.get("epoch", ()) if epoch is not None]
    halved = [int(at) for note in run.history.notes for at in _HALVED.findall(note)]
    return (max(done) if done else math.inf), halved


def _objective(objective: object, trained: tuple[float, list[int]]) -> str:
    """Its class and strength: ``Adversarial ℓ∞ ε to 0.15``; of a sum those of each term."""
    if isinstance(terms := _value(objective, f"{_SETTINGS}.terms"), list):
        return " + ".join(_objective(term, trained) for term in terms)
    if (term := _value(objective, f"{_SETTINGS}.term")) is not None:
        weight = _value(objective, f"{_SETTINGS}.weight")
        level = _level(weight, (trained[0], [])).removeprefix("= ")
        return " × ".join(filter(None, (level, _objective(term, trained))))
    name = str(_value(objective, "class_path") or "").rpartition(".")[2]
    if (inner := _value(objective, f"{_SETTINGS}.objective")) is not None:
        return f"{name} of {_objective(inner, trained)}"
    return " ".join([name, *dict.fromkeys(_strengths(objective, trained))]).strip()


def _strengths(settings: object, trained: tuple[float, list[int]]) -> Iterator[str]:
    """Every epsilon with its norm, and every noise_std, however deep."""
    if not isinstance(settings, Mapping):
        return
    for key, value in settings.items():
        if key == "epsilon" and value is not None:
            yield f"{norm_text(str(settings.get('norm', '')))} ε {_level(value, trained)}".strip()
        elif key == "noise_std" and value is not None:
            yield f"{key} {_level(value, trained)}"
        else:
            yield from _strengths(value, trained)


def _level(value: object, trained: tuple[float, list[int]]) -> str:
    """A number with its sign, what a schedule had come to when training ended, or the largest of a list."""
    if isinstance(value, int | float):
        return f"= {epsilon_text(value)}"
    if isinstance(value, list) and all(isinstance(part, int | float) for part in value):
        return f"to {epsilon_text(max(value))}" if value else "by a schedule"
    schedule = _schedule(value)
    if not isinstance(schedule, schedules.Schedule):
        return "by a schedule"
    epochs, halved = trained
    for at in halved:
        schedule = schedules.Slowed(schedule, at)
    return f"to {epsilon_text(schedule(math.nextafter(epochs, 0)) if epochs < math.inf else schedule())}"


def _schedule(settings: object) -> Any:
    """The schedule that a recipe names, with those inside; what is none stays, and so do a user's own."""
    if isinstance(settings, list):
        return [_schedule(part) for part in settings]
    package, _, name = str(_value(settings, "class_path") or "").rpartition(".")
    if name not in schedules.__all__ or package.partition(".")[0] not in ("", "withstand"):
        return settings
    try:
        arguments = _value(settings, _SETTINGS) or {}
        return getattr(schedules, name)(**{key: _schedule(part) for key, part in arguments.items()})
    except (TypeError, ValueError, AttributeError):  # it was written by another version, or by hand
        return settings


def command_for(run: Run, verb: str) -> str:
    """The command that writes what this run folder lacks."""
    return f"withstand {verb} {shlex.quote(str(run.path))}"


def missing(run: Run, file: str, what: str, verb: str | None = None) -> Prose:
    """What a run folder lacks, and the command that makes it, where one does without another network."""
    made_by = Markup(" To make it: <code>{}</code>").format(command_for(run, verb)) if verb else ""
    text = Markup("{}{}").format(what, made_by)
    return Prose(text, "missing", Markup("Missing: <code>{}</code>.").format(escape(file)))
