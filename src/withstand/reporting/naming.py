"""What runs are called, and the commands that make what they lack."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from markupsafe import Markup, escape

from withstand.reporting.formatting import dataset_title
from withstand.reporting.read import Run
from withstand.reporting.section import Prose


def lookup(recipe: Mapping[str, object] | None, key: str) -> str | None:
    """A recipe's value at a dotted key, as a text; None where there is none."""
    value: object = recipe
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return None if value is None else str(value)


def run_title(run: Run) -> str:
    """The recipe's title, else its name, else the folder's name."""
    return lookup(run.recipe, "title") or lookup(run.recipe, "name") or run.path.resolve().name


def run_labels(runs: Sequence[Run]) -> list[str]:
    """A short name a run, no two alike: the recipe's, and where that repeats, the folder's too.

    Where ``folder_labels`` gives any, these.
    """
    if folders := folder_labels(runs):
        return folders
    labels: list[str] = []
    names = [lookup(run.recipe, "name") or run.path.resolve().name for run in runs]
    for run, name in zip(runs, names, strict=True):
        label = name if names.count(name) == 1 else f"{name} ({run.path.resolve().name})"
        labels.append(label if label not in labels else f"{label} {len(labels) + 1}")
    return labels


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


def setting(run: Run) -> str:
    """What was trained on what, for how long: ``cnn-small on MNIST, 40 epochs, seed 0``."""
    data = run.results.dataset if run.results else lookup(run.recipe, "data.name")
    model, epochs = lookup(run.recipe, "model.name"), lookup(run.recipe, "training.epochs")
    known = {"": model, "on ": data and dataset_title(data)}
    subject = " ".join(f"{word}{value}" for word, value in known.items() if value)
    seed = lookup(run.recipe, "seed")
    parts = [
        subject,
        epochs and f"{epochs} {'epoch' if epochs == '1' else 'epochs'}",
        seed and f"seed {seed}",
    ]
    return ", ".join(part for part in parts if part)


def command_for(run: Run, verb: str) -> str:
    """The command that writes what this run folder lacks."""
    return f"withstand {verb} {shlex.quote(str(run.path))}"


def missing(run: Run, file: str, what: str, verb: str | None = None) -> Prose:
    """What a run folder lacks, and the command that makes it, where one does without another network."""
    made_by = Markup(" To make it: <code>{}</code>").format(command_for(run, verb)) if verb else ""
    text = Markup("{}{}").format(what, made_by)
    return Prose(text, "missing", Markup("Missing: <code>{}</code>.").format(escape(file)))
