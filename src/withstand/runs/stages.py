"""From a recipe to a run folder: train, evaluate, report; each stage can be run alone."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import torch

from withstand.core.environment import (
    add_cost,
    describe_device,
    environment,
    git_commit,
    peak_memory_bytes,
)
from withstand.core.processes import num_processes, own_folder
from withstand.core.run_folder import RunFolder
from withstand.core.trust import write_signed
from withstand.data import Dataset
from withstand.evaluation import Evaluation, Processes, evaluate
from withstand.evaluation.workers import Alone, Workers
from withstand.recipes import schema as recipes
from withstand.recipes.parsing import ParsedRecipe, flow, parse_recipe
from withstand.recipes.schema import Recipe
from withstand.results import read_results
from withstand.results.results import Published
from withstand.runs.asked import MeterPair, fitting, pairs_of
from withstand.runs.loading import RecipeSources, load_run_model, training_factory
from withstand.runs.run_parts import (
    device_of,
    initial_model,
    load_data,
    model_spec,
    model_to_go_on_with,
    open_run,
    recipe_of,
    require_not_of_python,
    require_same_data,
    require_same_network,
    require_same_recipe,
    require_spelled,
)
from withstand.training import Observer, TrainingResult
from withstand.training.fit import train
from withstand.training.run_record import write_model
from withstand.training.setup import launched
from withstand.types import RecipeError, RunFolderError

Stage = Literal["evaluate", "certify", "attack", "moments"]
"""What a command that measures does; none forgets the results of another."""

_SAME_KEYS = ("num_examples", "weights", "sampling")  # of the evaluation: what figures must share
_logger = logging.getLogger(__name__)


def train_recipe(
    parsed: ParsedRecipe, out: RunFolder, *, command: str, observers: Sequence[Observer] = ()
) -> TrainingResult:
    """Trains a recipe into a run folder, or goes on where a former process was stopped.

    Args:
        parsed: The recipe.
        out: Where to.
        command: The command that repeats it, for ``environment.json``.
        observers: Called as it goes on.

    Raises:
        WithstandError: of the part that failed; nothing that was written before is lost.
    """
    with launched(parsed.recipe.training), own_folder(out) as own, own.starting("training"):
        return _train(parsed, own, command, observers)


def _train(
    parsed: ParsedRecipe, out: RunFolder, command: str, observers: Sequence[Observer]
) -> TrainingResult:
    recipe = parsed.recipe
    require_spelled(recipe)
    require_not_of_python(out)
    require_same_recipe(parsed, out)
    out.require_no_other_network()
    device = device_of(recipe)
    dataset = load_data(recipe)
    is_begun = out.is_begun()
    if is_begun:
        factory = training_factory(out, recipe)
        model = model_to_go_on_with(out, recipe, dataset.info, factory)
        require_same_data(out, dataset, are_named=False)
        require_same_network(out, model)
    else:
        model = initial_model(recipe, dataset.info)
        write_model(out, dataset.info, model_spec(recipe), model)
    out.forget_start()
    write_recipe(out, parsed)
    if not (is_begun and out.last_weights.exists()):  # else training is done: nothing is added to it
        _write_environment(out, recipe, command, dataset, device)
    result = train(
        model,
        dataset,
        recipe.objective,
        recipe.training,
        run=out,
        seed=recipe.seed,
        observers=observers,
    )
    add_cost(
        out,
        train_seconds=result.seconds,
        train_steps=result.steps,
        peak_memory_bytes=peak_memory_bytes(device),
    )
    return result


def evaluate_run(
    run: RunFolder,
    parsed: ParsedRecipe,
    *,
    command: str,
    stage: Stage = "evaluate",
    on_batch: Callable[[int, int], None] | None = None,
    workers: Workers | None = None,
) -> Evaluation:
    """Measures a trained run into its folder: what the recipe asks for, and all that was measured before.

    Nothing that the folder holds of the same model and data is computed again.

    Args:
        run: Where its weights are, and where rows, table and results go.
        parsed: Its recipe, with the evaluation that is requested.
        command: The command that repeats it, for ``environment.json``.
        stage: What the command does, for the same.
        on_batch: Called with how many examples are done, of how many.
        workers: Who scores the batches; where None all processes of the group that this one is in, which
            have all called this, or this one alone.

    Raises:
        WithstandError: of the part that failed; what was measured before stays.
    """
    workers = workers or (Processes() if num_processes() > 1 else Alone())
    started = time.monotonic()
    with ExitStack() as holding:
        with workers.agreeing():
            require_same_recipe(parsed, run)
            if workers.is_first:
                holding.enter_context(run.held("evaluating"))
            before = _measured_before(former_evaluation(run), parsed)
        evaluation = measure_all(run, parsed, [*before, *pairs_of(parsed)], on_batch, workers)
        if not workers.is_first:
            return evaluation
        add_cost(run, **{f"{stage}_seconds": time.monotonic() - started})
        about = {
            f"{stage}_command": command,
            f"{stage}_device": describe_device(device_of(parsed.recipe)),
            f"{stage}_commit": git_commit(),
        }
        note_command(run, command, is_first=not before, **about)
    return evaluation


def measure_all(
    run: RunFolder,
    parsed: ParsedRecipe,
    meters: Sequence[MeterPair],
    on_batch: Callable[[int, int], None] | None = None,
    workers: Workers | None = None,
) -> Evaluation:
    """Measures a trained run by some meters and no others, into its folder.

    Args:
        run: Where its weights are.
        parsed: Its recipe, with how to evaluate.
        meters: Each with its plain values.
        on_batch: Called with how many examples are done, of how many.
        workers: Who scores the batches; this process alone where None.
    """
    workers = workers or Alone()
    recipe, settings = parsed.recipe, parsed.recipe.evaluation
    with workers.agreeing():
        dataset = load_data(recipe)
        then = recipe_of(run).recipe.data
        are_named = recipe.data.root != then.root or then.name is None
        require_same_data(run, dataset, are_named=are_named)
        meters = fitting(meters, dataset.info)
        model = load_run_model(run, recipe)
        resolved = [meter.resolved(RecipeSources(recipe)) for meter, _ in meters]
    return evaluate(
        model,
        dataset,
        resolved,
        sampling=settings.sampling,
        num_examples=settings.num_examples,
        batch_size=settings.batch_size,
        seed=recipe.seed,
        device=device_of(recipe),
        out=run.path,
        on_batch=on_batch,
        workers=workers,
        about={
            "weights": settings.weights,
            "published": [_figure(figure) for figure in recipe.published],
            "settings": {**parsed.values["evaluation"], "meters": [plain for _, plain in meters]},
        },
    )


def note_command(run: RunFolder, command: str, *, is_first: bool = False, **about: Any) -> None:
    """Puts a command that measured after those before it, or in their place, in ``environment.json``."""
    noted = run.read_json(run.environment)
    former = [] if is_first else [known for known in noted.get("measured_by", []) if known != command]
    run.write_json(run.environment, {**noted, "measured_by": [*former, command], **about})


def write_recipe(run: RunFolder, parsed: ParsedRecipe) -> None:
    """Puts a recipe in the place of the run's."""
    write_signed(run.recipe, parsed.text)


def measure_run(
    folder: Path,
    meters: Sequence[Mapping[str, Any]],
    *,
    sizes: Mapping[str, int],
    overrides: Sequence[str],
    command: str,
    stage: Stage,
    sampling: Mapping[str, int | None] = MappingProxyType({}),
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Measures something of a trained run, beside the results of its last evaluation.

    Args:
        folder: The run folder; a run that was never evaluated is scored clean as well.
        meters: What to measure, as a recipe spells it.
        sizes: ``num_examples`` and ``batch_size``, where they are set.
        overrides: ``--key=value`` of its recipe, such as ``--data.root=PATH``.
        command: The command that repeats it, for ``environment.json``.
        stage: What the command does, for the same.
        sampling: How to score random answers, where not as the last evaluation or the recipe does.
        on_batch: Called with how many examples are done, of how many.

    Raises:
        RunFolderError: the run was evaluated on another number of examples, or sampled otherwise.
        WithstandError: of the part that failed; nothing that was written before is lost.
    """
    run, own = open_run(folder)
    former = former_evaluation(run)
    settings: dict[str, Any] = dict((former or own).values["evaluation"])
    drawn = {**(settings["sampling"] or {}), **sampling} or None
    if former is not None:
        _require_same_number(run, sizes.get("num_examples"))
        if sampling and drawn != settings["sampling"]:
            raise RunFolderError(
                f"{run.path} was evaluated with answers drawn otherwise, and all else is measured so too: "
                f"leave {', '.join(f'--{key}' for key in sampling)} out, or evaluate so first by "
                f"`withstand evaluate {run.path}` with --evaluation.sampling.… ."
            )
        sizes = {"batch_size": sizes.get("batch_size", settings["batch_size"])}
    settings |= {**sizes, "meters": list(meters), "sampling": drawn}
    set_by_key = [f"--evaluation.{key}={flow(value)}" for key, value in settings.items()]
    sources = [] if former is None else [run.metrics]
    parsed = parse_recipe(run.recipe, [*overrides, *set_by_key], sources=sources)
    return evaluate_run(run, parsed, command=command, stage=stage, on_batch=on_batch)


def _require_same_number(run: RunFolder, num_examples: int | None) -> None:
    known = read_results(run)
    if known is not None and num_examples not in (None, known[0].num_examples):
        raise RunFolderError(
            f"{run.path} was evaluated on {known[0].num_examples} examples, so all else is measured on the "
            "same ones: leave --num_examples out, or evaluate others first by "
            f"`withstand evaluate {run.path} --evaluation.num_examples={num_examples}`, which starts the "
            "table anew."
        )


def former_evaluation(run: RunFolder) -> ParsedRecipe | None:
    """The run's recipe with what its last evaluation measured; None where there is none that can be read.

    That it cannot be read, such as of an older version, is logged.
    """
    try:
        known = read_results(run)
        if known is None:
            return None
        if not known[0].settings:
            _logger.warning(
                "What ws.evaluate measured of %s leaves its table; to keep it, name its meters.", run.path
            )
            return None
        changes = [f"--evaluation.{key}={flow(value)}" for key, value in known[0].settings.items()]
        return parse_recipe(run.recipe, changes, sources=[run.metrics])
    except (RecipeError, RunFolderError) as error:
        _logger.warning("What was measured of %s before is left out: %s", run.path, error)
        return None


def _measured_before(former: ParsedRecipe | None, parsed: ParsedRecipe) -> list[MeterPair]:
    """What was measured before and is not requested anew by its name, with its plain values.

    With other examples, other weights, or answers drawn otherwise it is nothing, which is logged.
    """
    if former is None:
        return []
    names = [meter.name for meter in parsed.recipe.evaluation.meters]
    before = [pair for pair in pairs_of(former) if pair[0].name not in names]
    now, then = parsed.values["evaluation"], former.values["evaluation"]
    differing = [key for key in _SAME_KEYS if now[key] != then[key]]
    if before and now["batch_size"] != then["batch_size"]:
        _logger.warning("Another batch_size than before: all is measured anew, in such batches.")
    if before and differing:
        _logger.warning(
            "The figures of %s were measured with %s, not with %s, and leave the table and the report. To "
            "have them back, name these meters and values again; what was computed is stored.",
            ", ".join(type(meter).__name__ for meter, _ in before),
            _values(then, differing),
            _values(now, differing),
        )
        return []
    return before


def _values(evaluation: Mapping[str, Any], keys: Sequence[str]) -> str:
    return " ".join(f"--evaluation.{key}={flow(evaluation[key])}" for key in keys)


def _figure(figure: recipes.Published) -> Published:
    norm = None if figure.norm is None else f"{figure.norm:g}"
    return Published(**{**vars(figure), "norm": norm})


def _write_environment(
    out: RunFolder, recipe: Recipe, command: str, dataset: Dataset, device: torch.device
) -> None:
    former = out.read_json(out.environment) if out.is_begun() else {}
    current = environment(
        seed=recipe.seed, command=command, data_fingerprint=dataset.fingerprint, device=device
    )
    if former:  # resumed: the run began when it first did
        current["started"] = former.get("started", current["started"])
        current["cost"] = former.get("cost", {})
    out.write_json(out.environment, current)
