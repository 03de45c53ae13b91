"""The command ``withstand attack``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from inspect import signature
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from withstand.attacks import PGD
from withstand.cli.arguments import (
    parse,
    plain_parser,
    requested_sizes,
    target,
)
from withstand.cli.commands import COMMANDS
from withstand.cli.console import print_results
from withstand.cli.model_or_run import WHAT, add_measured_arguments, measured
from withstand.cli.terminal import OUTPUT, progress_of
from withstand.recipes.parsing import load_yaml
from withstand.runs.stages import measure_run
from withstand.types import RecipeError

_SAMPLING = {
    "num_samples": "Draws of random weights a prediction",
    "attack_samples": "Draws of random weights a gradient",
    "most_attack_samples": "The most draws a gradient to try, where their number is searched for",
}


def attack(arguments: Sequence[str]) -> None:
    """Attacks a trained run by PGD, and adds the outcomes to its rows, table and results.

    Args:
        arguments: What stands after ``withstand attack``.

    Raises:
        WithstandError: of the part that failed.
    """
    parser = plain_parser(
        "withstand attack RUN|MODEL",
        COMMANDS["attack"].about,
    )
    parser.add_class_arguments(PGD, as_group=False)
    for name, text in (
        ("num_examples", "So many, by share of class; all else."),
        ("batch_size", "Examples a batch."),
    ):
        parser.add_argument(f"--{name}", type=int | None, default=None, help=text)
    for name, text in _SAMPLING.items():
        parser.add_argument(
            f"--{name}", type=int | None, default=None, help=f"{text}; as the run's recipe has it where null."
        )
    add_measured_arguments(parser)
    name, overrides = target("attack", WHAT, arguments, parser)
    values = parse(parser, overrides)
    sizes = requested_sizes(values)
    sampling = {name: values[name] for name in _SAMPLING if values[name] is not None}
    if "most_attack_samples" in sampling:
        sampling = {"attack_samples": None, **sampling}  # what is to be tried is not fixed
    meter = _meter(parser, values)
    command = shlex.join(["withstand", "attack", name, *overrides])
    with (
        measured(name, values, overrides, doing="attacking", command=command) as what,
        progress_of("attacking") as on_batch,
    ):
        result = measure_run(
            what.folder,
            [meter],
            sizes=sizes,
            overrides=what.overrides,
            command=command,
            stage="attack",
            sampling=sampling,
            on_batch=on_batch,
        )
    print_results(result.results, result.table)
    OUTPUT.print(f"next: withstand report {what.folder}", soft_wrap=True)


def _meter(parser: ArgumentParser, values: Namespace) -> dict[str, Any]:
    """One PGD at its own epsilon, as a recipe spells it."""
    try:
        arguments = vars(parser.instantiate(values))
        pgd = PGD(**{key: value for key, value in arguments.items() if key in signature(PGD).parameters})
    except ValueError as error:
        raise RecipeError(str(error)) from error
    plain = load_yaml(parser.dump(values, skip_unset=False))
    settings = {key: plain[key] for key in signature(PGD).parameters if key in plain}
    attacks = [{"class_path": "PGD", "init_args": settings}]
    return {"class_path": "Attacks", "init_args": {"attacks": attacks, "epsilons": [pgd.epsilon_at()]}}
