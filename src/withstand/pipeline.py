"""From a recipe to a run folder: train, evaluate, report; each stage can be run alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from withstand import bayes, data
from withstand.attacks import require_packages
from withstand.data import Dataset
from withstand.environment import describe_device, environment, git_commit, peak_memory_bytes
from withstand.evaluation import Evaluation, Sampling, evaluate, plan_suite
from withstand.evaluation.uncertainty_meter import require_others
from withstand.recipe import Recipe
from withstand.recipe_file import ParsedRecipe
from withstand.run_folder import RunFolder, replaced
from withstand.runs import (
    build_model,
    device_of,
    initial_model,
    load_data,
    load_run_model,
    load_surrogates,
    model_spec,
)
from withstand.same_recipe import require_same_recipe
from withstand.training import Observer, TrainingResult, fit

__all__ = [
    "add_cost",
    "evaluate_run",
    "require_other_data",
    "train_recipe",
]

_MANY_CLASSES = 10


def train_recipe(
    parsed: ParsedRecipe, out: RunFolder, *, command: str, observers: Sequence[Observer] = ()
) -> TrainingResult:
    """Trains a recipe into a run folder, or goes on where a former process was stopped.

    Args:
        parsed: The recipe.
        out: Where to.
        command: The command that repeats it, for ``environment.json``.
        observers: Who is told how it goes.

    Raises:
        WithstandError: of the part that failed; nothing that was written before is lost.
    """
    recipe = parsed.recipe
    out.create()
    require_same_recipe(parsed, out)
    device = device_of(recipe)
    dataset = load_data(recipe)
    is_begun = out.is_begun()  # the file of the means may be gone by then, and is not needed
    model = (build_model if is_begun else initial_model)(recipe, dataset.info)
    out.forget_start()
    with replaced(out.recipe) as temporary:
        temporary.write_text(parsed.text, encoding="utf-8")
    out.write_json(out.model_spec, model_spec(recipe, dataset.info))
    if not (is_begun and out.last_weights.exists()):  # else training is done: nothing is added to it
        _write_environment(out, recipe, command, dataset, device)
    result = fit(
        model,
        dataset,
        recipe.objective,
        recipe.training,
        out=out.path,
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
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Evaluates a trained run into its folder.

    Args:
        run: Where its weights are, and where rows and metrics go.
        parsed: Its recipe, with the evaluation that is wanted.
        command: The command that repeats it, for ``environment.json``.
        on_batch: Told after each batch how many examples are done, of how many.

    Raises:
        WithstandError: of the part that failed.
    """
    require_same_recipe(parsed, run)
    recipe = parsed.recipe
    dataset = load_data(recipe)
    model = load_run_model(run, recipe, dataset)
    settings = recipe.evaluation
    device = device_of(recipe)
    started = time.monotonic()
    evaluation = evaluate(
        model,
        dataset,
        settings.attacks,
        settings.epsilons,
        suite=settings.chosen_suite,
        certificates=settings.certificates,
        kernel_norms=settings.kernel_norms,
        noise=settings.noise,
        corruptions=settings.corruptions,
        smoothing=settings.smoothing,
        sampling=settings.sampling,
        others=_others(recipe) if bayes.is_stochastic(model) else {},
        surrogates=load_surrogates(settings.chosen_suite, dataset),
        num_examples=settings.num_examples,
        batch_size=settings.batch_size,
        seed=recipe.seed,
        device=device,
        out=run.path,
        on_batch=on_batch,
    )
    published = [_json_ready(vars(figure)) for figure in recipe.published]
    metrics = {
        **evaluation.metrics,
        "protocols": _measure_protocols(model, dataset, recipe, device),
        "weights": settings.weights,
        "published": published,
        "settings": parsed.values["evaluation"],
    }
    run.write_json(run.metrics, metrics)
    add_cost(run, evaluate_seconds=time.monotonic() - started)
    about = {
        "evaluate_command": command,
        "evaluate_device": describe_device(device),
        "evaluate_commit": git_commit(),
        "certify_command": None,  # what was certified apart from it is gone, and moments are
        "moments_command": None,
    }
    run.write_json(run.environment, {**run.read_json(run.environment), **about})
    return Evaluation(evaluation.rows, metrics)


def require_other_data(recipe: Recipe) -> None:
    """Accepts what an evaluation will need beside the run, before training takes its time.

    That is other data sets, other runs, and the packages of its attacks.

    Raises:
        AttackError: a package is not installed.
        DataError: a data set is unknown, missing or damaged, or its images have another shape.
        WithstandError: a run is missing, or its model does not fit.
    """
    suite = recipe.evaluation.chosen_suite
    require_packages(recipe.evaluation.attacks)
    if suite is not None:
        is_random = recipe.model.bayes is not None
        # Neither norm nor number of classes changes the packages.
        plans = plan_suite(suite, {math.inf: [0.0]}, _MANY_CLASSES, is_random=is_random)
        require_packages(plan.attack for plan in plans)
    if suite is not None and suite.transfer_from:
        load_surrogates(suite, load_data(recipe))
    others = _others(recipe) if recipe.model.bayes is not None else {}
    if others:
        require_others(recipe.evaluation.sampling, others, load_data(recipe).info)


def _others(recipe: Recipe) -> dict[str, Dataset]:
    """The data sets, beside the one that is scored, on which the uncertainty of random weights is measured.

    Raises:
        DataError: one is unknown, missing or damaged.
    """
    uncertainty = (recipe.evaluation.sampling or Sampling()).uncertainty
    if uncertainty is None:
        return {}
    settings = recipe.data
    return {
        name: data.load(name, root=settings.root, size=settings.size)
        for name in uncertainty.out_of_distribution
    }


def _measure_protocols(
    model: nn.Module, dataset: Dataset, recipe: Recipe, device: torch.device
) -> list[dict[str, Any]]:
    """One entry a published protocol, of the test examples that the evaluation scored."""
    settings = recipe.evaluation
    if not settings.protocols:
        return []
    number = min(settings.num_examples or len(dataset.test), len(dataset.test))
    test = dataset.test.subset(torch.arange(number)).to(device)
    return [
        each.measure(model.to(device), test, batch_size=settings.batch_size, seed=recipe.seed)
        for each in settings.protocols
    ]


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


def add_cost(out: RunFolder, **costs: float) -> None:
    """Puts what a stage cost beside what the others did, in ``environment.json``."""
    content = out.read_json(out.environment)
    content["cost"] = {**content.get("cost", {}), **costs}
    out.write_json(out.environment, content)


def _json_ready(values: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: f"{value:g}" if key == "norm" and value is not None else value for key, value in values.items()
    }
