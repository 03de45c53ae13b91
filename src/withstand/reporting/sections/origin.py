"""What a run cost, what it was made with, and the commands that repeat it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from markupsafe import Markup

from withstand.reporting.formatting import count, duration, memory
from withstand.reporting.naming import missing, was_trained_here
from withstand.reporting.read import Environment, Run
from withstand.reporting.section import Code, Prose, Section

PLACE = 10
_UNKNOWN = "What the run cost, and where and how it was made, is not known."


def section(run: Run) -> list[Section]:
    """Cost, environment and how to repeat the run."""
    costs, known = cost_rows(run.environment), _environment_rows(run.environment)
    cost = Section("cost", "Cost", "about", facts=costs, is_brief=True)
    if _is_of_python(run):
        return [_again(run)]
    if not costs:
        file = "environment.json" if run.environment is None else "cost in environment.json"
        cost = replace(cost, prose=[missing(run, file, _UNKNOWN)])
    environment = Section("environment", "Environment", "about", facts=known, is_brief=True)
    return [cost, *([environment] if known else []), _again(run)]


def _is_of_python(run: Run) -> bool:
    """Whether a network was measured in Python, in a folder of no training: a script did it, no command."""
    return run.environment is None and not was_trained_here(run)


def cost_rows(environment: Environment | None) -> list[tuple[str, str]]:
    """Name and value of each cost that is known."""
    if environment is None:
        return []
    cost = environment.cost
    seconds, steps = cost.train_seconds, cost.train_steps
    step = seconds / steps if seconds is not None and steps else None
    known: list[tuple[str, Any, Callable[[Any], str]]] = [
        ("Training time", seconds, duration),
        ("Training steps", steps, count),
        ("Time a step", step, duration),
        ("Evaluation time", cost.evaluate_seconds, duration),
        ("Certification time", cost.certify_seconds, duration),
        ("Attack time", cost.attack_seconds, duration),
        ("Moments time", cost.moments_seconds, duration),
        ("Peak memory", cost.peak_memory_bytes, memory),
    ]
    return [(name, written(value)) for name, value, written in known if value is not None]


def _environment_rows(environment: Environment | None) -> list[tuple[str, str]]:
    """Name and value of what a run was made with and where."""
    if environment is None:
        return []
    rows = [
        *((f"{name} version", version) for name, version in environment.versions.items()),
        ("Platform", environment.platform),
        ("Device", environment.device),
        ("Seed", None if environment.seed is None else str(environment.seed)),
        ("Git commit", environment.git_commit),
        ("Data fingerprint", environment.data_fingerprint),
        ("Started", environment.started),
    ]
    return [(name, value) for name, value in rows if value]


def _again(run: Run) -> Section:
    commands = [Code(command) for command in commands_of(run)]
    recipe = [] if run.recipe_text is None else [Code(run.recipe_text, "The full recipe")]
    unknown = Markup("The command is not known; <code>environment.json</code> would name it.")
    if _is_of_python(run):
        unknown = Markup(
            "Measured in Python, by <code>ws.evaluate</code>: the script that did so repeats it."
        )
    lacking = missing(run, "recipe.yaml", "The recipe is not stored here.")
    return Section(
        key="again",
        title="Reproduce",
        tab="about",
        prose=[] if commands else [Prose(unknown, "note")],
        codes=[*commands, *recipe],
        notes=[] if recipe or _is_of_python(run) else [lacking],
        is_brief=True,
    )


def commands_of(run: Run) -> list[str]:
    """What repeats the run: one command, or one to train and all that measured."""
    environment = run.environment or Environment()
    latest = (environment.evaluate_command, environment.certify_command, environment.moments_command)
    commands = (environment.command, *(environment.measured_by or latest))  # older folders list none
    return list(dict.fromkeys(command for command in commands if command))
