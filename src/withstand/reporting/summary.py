"""What the page says of runs: headline figures, curves, published figures, costs."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from withstand.reporting.old_read import Run
from withstand.reporting.schema import CurvePoint, Environment, Metrics
from withstand.reporting.old_wording import (
    count,
    dataset_title,
    duration,
    memory,
    norm_text,
)

__all__ = [
    "Attacked",
    "Curve",
    "chance_of",
    "clean_point",
    "command_for",
    "cost_rows",
    "curves",
    "environment_rows",
    "folder_labels",
    "lookup",
    "norms",
    "run_labels",
    "run_title",
    "setting",
    "strongest",
    "strongest_at",
    "strongest_curve",
]


class Attacked(NamedTuple):
    """An attacked accuracy and the attack that it was measured under."""

    norm: str
    attack: str
    point: CurvePoint


@dataclass(frozen=True)
class Curve:
    """Accuracy against epsilon in one norm, from the clean accuracy at epsilon 0 on.

    Attributes:
        name: What the legend calls it.
        points: Ascending in epsilon.
        attacks: The attack at each point, or the certificate.
        steps: (epsilon, share of examples certified there), one a certified radius and ascending;
            empty where radii are not known.
        is_certified: Whether it is proven, not attacked.
        series: Curves of one number share colour and marker; its place among the curves where None.
    """

    name: str
    points: Sequence[CurvePoint]
    attacks: Sequence[str]
    steps: Sequence[tuple[float, float]] = ()
    is_certified: bool = False
    series: int | None = None


def norms(metrics: Metrics) -> list[str]:
    """The norms that a run was attacked or certified in, in their order."""
    measured = [*metrics.get("attacks", []), *metrics.get("certificates", [])]
    return list(dict.fromkeys(each["norm"] for each in measured))


def strongest(metrics: Metrics) -> list[Attacked]:
    """At each norm and epsilon above 0, the attack that left the lowest accuracy."""
    lowest: dict[tuple[str, float], Attacked] = {}
    for attack in metrics.get("attacks", []):
        for point in attack["curve"]:
            key = (attack["norm"], point["epsilon"])
            if key not in lowest or point["accuracy"] < lowest[key].point["accuracy"]:
                lowest[key] = Attacked(attack["norm"], attack["name"], point)
    order = norms(metrics)
    found = sorted(lowest.values(), key=lambda each: (order.index(each.norm), each.point["epsilon"]))
    return [each for each in found if each.point["epsilon"] > 0]


def strongest_at(metrics: Metrics, norm: str, epsilon: float) -> Attacked | None:
    """The attack that left the lowest accuracy at one epsilon; None where none was run there."""
    found = (
        each
        for each in strongest(metrics)
        if norm_text(each.norm) == norm_text(norm) and abs(each.point["epsilon"] - epsilon) < 1e-6
    )
    return next(found, None)


def curves(metrics: Metrics, norm: str) -> list[Curve]:
    """One curve an attack in a norm."""
    start = clean_point(metrics)
    result = []
    for attack in metrics.get("attacks", []):
        if attack["norm"] == norm:
            points = sorted(attack["curve"], key=lambda point: point["epsilon"])
            points = [start, *(point for point in points if point["epsilon"] > 0)]
            names = ["clean", *[attack["name"]] * (len(points) - 1)]
            result.append(Curve(attack["name"], points, names))
    return result


def strongest_curve(metrics: Metrics, norm: str, name: str) -> Curve:
    """The curve of the strongest attack at each epsilon of a norm."""
    found = [each for each in strongest(metrics) if each.norm == norm]
    points = [clean_point(metrics), *(each.point for each in found)]
    return Curve(name, points, ["clean", *(each.attack for each in found)])


def clean_point(metrics: Metrics) -> CurvePoint:
    """Where every curve begins: clean accuracy at epsilon 0."""
    clean = metrics["clean"]
    return CurvePoint(
        epsilon=0.0,
        accuracy=clean["accuracy"],
        lower=clean["lower"],
        upper=clean["upper"],
        correct=clean["correct"],
        total=clean["total"],
    )


def chance_of(measured: Sequence[Metrics | None]) -> float | None:
    """The accuracy of guessing, where all runs have as many classes; else None."""
    numbers = {metrics["num_classes"] for metrics in measured if metrics}
    return 1 / numbers.pop() if len(numbers) == 1 else None


def cost_rows(environment: Environment) -> list[tuple[str, str]]:
    """Name and value of each cost that is known."""
    cost = environment.get("cost", {})
    seconds, steps = cost.get("train_seconds"), cost.get("train_steps")
    evaluated, peak = cost.get("evaluate_seconds"), cost.get("peak_memory_bytes")
    certified = cost.get("certify_seconds")
    each = seconds / steps if seconds is not None and steps else None
    return [
        *([] if seconds is None else [("Training time", duration(seconds))]),
        *([] if steps is None else [("Training steps", count(steps))]),
        *([] if each is None else [("Time a step", duration(each))]),
        *([] if evaluated is None else [("Evaluation time", duration(evaluated))]),
        *([] if certified is None else [("Certification time", duration(certified))]),
        *([] if peak is None else [("Peak memory", memory(peak))]),
    ]


def environment_rows(environment: Environment) -> list[tuple[str, str]]:
    """Name and value of what a run was made with and where."""
    versions = environment.get("versions", {}).items()
    seed = environment.get("seed")
    known = [
        *((f"{name} version", version) for name, version in versions),
        ("Platform", environment.get("platform")),
        ("Device", environment.get("device")),
        ("Seed", None if seed is None else str(seed)),
        ("Git commit", environment.get("git_commit")),
        ("Data fingerprint", environment.get("data_fingerprint")),
        ("Started", environment.get("started")),
    ]
    return [(name, value) for name, value in known if value]


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
    labels: list[str] = []
    names = [lookup(run.recipe, "name") or run.path.resolve().name for run in runs]
    if folders := folder_labels(runs):
        return folders
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
    data = run.metrics["dataset"] if run.metrics else lookup(run.recipe, "data.name")
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
