"""The command ``withstand moments``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import Any

from jsonargparse import ArgumentParser, Namespace
from rich.table import Table

from withstand.cli.arguments import parse, plain_parser, target
from withstand.cli.commands import COMMANDS
from withstand.cli.model_or_run import WHAT, add_measured_arguments, measured
from withstand.cli.terminal import OUTPUT, progress_of, say
from withstand.evaluation.meters import MomentCheck
from withstand.evaluation.moment_check import METHODS, MomentSettings
from withstand.reporting.formatting import duration
from withstand.results.analytic import Moments, MomentsLevel, MomentsMethod
from withstand.runs.stages import measure_run
from withstand.types import RecipeError

_DASH = "\N{EM DASH}"


def moments(arguments: Sequence[str]) -> None:
    """Compares analytic moments of a run's logits with samples, and adds the figures to its results."""
    parser = _parser()
    name, overrides = target("moments", WHAT, arguments, parser)
    values = parse(parser, overrides)
    meter = {"class_path": "MomentCheck", "init_args": asdict(_settings(values))}
    command = shlex.join(["withstand", "moments", name, *overrides])
    with (
        measured(name, values, overrides, doing="sampling", command=command) as what,
        progress_of("sampling") as on_batch,
    ):
        result = measure_run(
            what.folder,
            [meter],
            sizes={},
            overrides=what.overrides,
            command=command,
            stage="moments",
            on_batch=on_batch,
        )
    if result.results.moments is not None:
        _print(result.results.moments)
    OUTPUT.print(f"next: withstand report {what.folder}", soft_wrap=True)


def _parser() -> ArgumentParser:
    default = MomentCheck()
    parser = plain_parser(
        "withstand moments RUN|MODEL",
        COMMANDS["moments"].about,
    )
    parser.add_argument(
        "--noise_std", type=list[float] | float, default=list(default.noise_std), help="In [0, 1] units."
    )
    parser.add_argument("--methods", type=list[str], default=list(METHODS), help="Of these analytic forms.")
    parser.add_class_arguments(MomentSettings, as_group=False, skip={"noise_std", "methods"})
    add_measured_arguments(parser)
    return parser


def _settings(values: Namespace) -> MomentCheck:
    requested: dict[str, Any] = {field.name: values[field.name] for field in fields(MomentCheck)}
    if isinstance(requested["noise_std"], float | int):
        requested["noise_std"] = [float(requested["noise_std"])]
    try:
        return MomentCheck(**requested)
    except ValueError as error:
        raise RecipeError(str(error)) from error


# -- what is shown ----------------------------------------------------------------------------------


def _print(moments: Moments) -> None:
    table = Table(
        *("noise_std", "analytic form", "mean error", "std ratio", "an image"),
        *("draws as good", "speed-up"),
        title=f"logits of {moments.num_examples} images under noise, {moments.num_samples} draws each",
    )
    reasons: dict[str, str] = {}
    for level in moments.levels:
        for number, method in enumerate(level.methods):
            table.add_row("" if number else f"{level.noise_std:g}", *_method_cells(method))
            if method.reason is not None:
                reasons[method.name] = method.reason
        table.add_section()
    OUTPUT.print(table)
    say(
        f"Mean errors are in sampled deviations of the logit and hold the samples' own error, "
        f"{moments.standard_error:.3g}. Draws as good have a mean as far off; speed-up is the time of those "
        "draws over that of the analytic form. The std ratio is the median of analytic to sampled."
    )
    for name, reason in reasons.items():
        say(f"{name}: {reason}")
    _print_layers(max(moments.levels, key=lambda level: level.noise_std))
    say(f"{moments.description}.")


def _print_layers(level: MomentsLevel) -> None:
    table = Table(
        *("layers", "form", "mean error", "own", "std error", "own", "costs draws"),
        title=f"outputs of layers at noise_std {level.noise_std:g}; the report has all levels",
    )
    for cells in _layer_rows(level):
        table.add_row(*cells)
    if table.row_count:
        OUTPUT.print(table)
        say(
            "Errors are over images and coordinates, in root mean square sampled deviations; own is that "
            "where the input has its sampled means and deviations; costs draws is how many draws through the "
            "layers take as long as the analytic rule."
        )


def _method_cells(method: MomentsMethod) -> list[str]:
    if method.reason is not None:
        return [method.name, "not tried", "", "", "", ""]
    ratio = method.std_ratio
    return [
        method.name,
        _number(method.mean_error),
        _DASH if ratio is None else f"{ratio.median:.3f}",
        _DASH if method.seconds is None else duration(method.seconds),
        _number(method.matching_samples),
        _number(method.speed_up),
    ]


def _layer_rows(level: MomentsLevel) -> list[list[str]]:
    return [
        [
            f"{layer.operation} x {layer.count}",
            name,
            *(
                _number(getattr(getattr(form, part), key))
                for key in ("mean_error", "std_error")
                for part in ("accumulated", "own")
            ),
            _number(form.samples),
        ]
        for layer in level.layers
        for name, form in layer.forms.items()
    ]


def _number(value: float | None) -> str:
    if value is None:
        return _DASH
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
