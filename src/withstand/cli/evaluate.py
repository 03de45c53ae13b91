"""The command ``withstand evaluate``."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from jsonargparse import ArgumentParser

from withstand.cli.arguments import parse, plain_parser, target
from withstand.cli.commands import COMMANDS
from withstand.cli.console import print_results
from withstand.cli.model_or_run import (
    WHAT,
    add_foreign_arguments,
    add_measured_arguments,
    is_of_a_model,
    measured,
    refuse_foreign,
    with_own_folder,
)
from withstand.cli.terminal import OUTPUT, progress_of
from withstand.core.processes import is_first, num_processes
from withstand.core.run_folder import RunFolder
from withstand.evaluation.ray_workers import RayWorkers
from withstand.evaluation.workers import Workers
from withstand.integrations import ray_cluster
from withstand.recipes.parsing import ParsedRecipe, flow, parse_recipe, recipe_parser
from withstand.reporting import report
from withstand.results import read_results
from withstand.runs.adoption import usual_epsilon, usual_meters
from withstand.runs.forgetting import figures_of, forget
from withstand.runs.run_parts import open_run
from withstand.runs.stages import evaluate_run
from withstand.types import RecipeError

_FORGET = "--forget="
_METERS = "--evaluation.meters"
_SHARING = ("--on=", "--workers=")


def evaluate(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name."""
    parser = recipe_parser("withstand evaluate RUN|MODEL", COMMANDS["evaluate"].about)
    add_foreign_arguments(parser)
    parser.add_argument(
        "--forget",
        type=str,
        help="Take something out of the results of RUN instead, such as pgd-20-linf, pgd-20-linf@0.3, "
        "NoiseCurve or 'accuracy under noise', and write the report anew; may be repeated.",
    )
    _add_sharing(parser)
    name, options = target("evaluate", WHAT, arguments, parser)
    command = shlex.join(["withstand", "evaluate", name, *options])
    name, options = with_own_folder(name, options, "evaluating")
    overrides = [option for option in options if not option.startswith(_SHARING)]
    if any(option.startswith(_FORGET) for option in overrides):
        if is_first():
            _forget(open_run(Path(name))[0], overrides, command)
        return
    with _workers([option for option in options if option.startswith(_SHARING)]) as workers:
        if Path(name).is_dir():
            refuse_foreign(overrides)
            run, _ = open_run(Path(name))
            evaluate_into(run, parse_recipe(run.recipe, overrides, parser=parser), command, workers)
            OUTPUT.print(f"next: withstand report {run.path}", soft_wrap=True)
        else:
            _evaluate_model(name, overrides, command, parser, workers)


def _add_sharing(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--on",
        type=str | None,
        default=None,
        help="Who scores batches: ray (workers here), ray:HOST:PORT or ray:auto (a cluster that this machine "
        "is part of), ray://HOST:PORT (one reached from outside); this process where null.",
    )
    parser.add_argument(
        "--workers", type=int | None, default=None, help="Of Ray: how many; one a CPU, or a GPU, where null."
    )


@contextmanager
def _workers(options: Sequence[str]) -> Iterator[Workers | None]:
    """Who scores the batches; None where that is as usual.

    Raises:
        ClusterError: Ray is not installed, or cannot be reached.
        RecipeError: the options do not fit.
    """
    own = plain_parser("withstand evaluate", COMMANDS["evaluate"].about)
    _add_sharing(own)
    values = parse(own, options)
    if values.on is None:
        if values.workers is not None:
            raise RecipeError(
                "--workers is of --on=ray; torchrun --nproc-per-node=2 starts processes instead."
            )
        yield None
        return
    if num_processes() > 1:
        raise RecipeError("--on=ray is for one process: leave torchrun out, or --on.")
    with ExitStack() as joined:
        try:
            cluster = joined.enter_context(ray_cluster.connected(values.on, num_cpus=values.workers))
            workers = RayWorkers(cluster, values.workers)
        except ValueError as error:
            raise RecipeError(str(error)) from error
        OUTPUT.print(f"batches are scored by {cluster}", soft_wrap=True)
        yield workers


def _evaluate_model(
    name: str, options: Sequence[str], command: str, parser: ArgumentParser, workers: Workers | None
) -> None:
    """Makes a run folder of a model, measures it by what is asked for or by what is usual, and reports it."""
    own = plain_parser("withstand evaluate MODEL", COMMANDS["evaluate"].about)
    add_measured_arguments(own)
    of_model = [option for option in options if is_of_a_model(option)]
    asked = [option for option in options if not is_of_a_model(option)]
    values = parse(own, of_model)
    with measured(name, values, of_model, doing="evaluating", command=command) as what:
        if not any(option.startswith(_METERS) for option in asked):
            asked.append(f"{_METERS}={flow(usual_meters(values.data.name))}")
            OUTPUT.print(
                "measuring clean accuracy, the suite fast at linf epsilon "
                f"{usual_epsilon(values.data.name):.4g}, and accuracy under noise; {_METERS}+=… measures "
                "something else instead, --evaluation.num_examples=1000 fewer examples",
                soft_wrap=True,
            )
        run = RunFolder(what.folder)
        evaluate_into(run, parse_recipe(run.recipe, asked, parser=parser), command, workers)
        if is_first():
            OUTPUT.print(f"report: {report([run.path])}", soft_wrap=True)


def _forget(run: RunFolder, options: Sequence[str], command: str) -> None:
    names = [option.removeprefix(_FORGET) for option in options if option.startswith(_FORGET)]
    others = [option for option in options if not option.startswith(_FORGET)]
    if strange := [option for option in others if not option.startswith("--data.")]:
        raise RecipeError(
            f"--forget measures nothing: leave {strange[0].partition('=')[0]} out, or evaluate after."
        )
    before = read_results(run)
    with progress_of("evaluating") as on_batch:
        result = forget(run.path, names, others, command=command, on_batch=on_batch)
    print_results(result.results, result.table)
    kept = figures_of(result.table)
    gone = [name for name in figures_of(before[1]) if name not in kept] if before else []
    OUTPUT.print(f"forgotten: {', '.join(gone)}", soft_wrap=True)
    OUTPUT.print(f"report: {report([run.path])}", soft_wrap=True)


def evaluate_into(out: RunFolder, parsed: ParsedRecipe, command: str, workers: Workers | None = None) -> None:
    """Measures what a recipe names of a trained run, and prints it."""
    with progress_of("evaluating") as on_batch:
        result = evaluate_run(out, parsed, command=command, on_batch=on_batch, workers=workers)
    print_results(result.results, result.table)
