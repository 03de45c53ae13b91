"""From a recipe to a run folder: train, evaluate, report; each stage can be run alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import nn

from withstand import bayes, data, models
from withstand.constraints import PARAMETRIZATIONS
from withstand.data import Dataset
from withstand.dataset_info import DatasetInfo
from withstand.environment import describe_device, environment, git_commit, peak_memory_bytes
from withstand.evaluation import Evaluation, Sampling, evaluate
from withstand.evaluation.uncertainty_meter import require_others
from withstand.recipe import Recipe
from withstand.recipe_file import ParsedRecipe, parse_recipe
from withstand.run_folder import RunFolder, replaced
from withstand.same_recipe import require_same_recipe
from withstand.training import Observer, TrainingResult, fit
from withstand.types import RecipeError

__all__ = [
    "add_cost",
    "build_model",
    "device_of",
    "evaluate_run",
    "load_data",
    "load_run_model",
    "model_spec",
    "open_run",
    "require_other_data",
    "train_recipe",
]


def load_data(recipe: Recipe) -> Dataset:
    """The data set of a recipe.

    Raises:
        DataError: it is unknown, missing or damaged.
    """
    settings = recipe.data
    return data.load(
        settings.name,
        root=settings.root,
        size=settings.size,
        validation_size=settings.validation_size,
        train_size=settings.train_size,
        seed=settings.seed,
        partition=settings.partition,
    )


def build_model(recipe: Recipe, info: DatasetInfo) -> nn.Module:
    """The model of a recipe, with weights fixed by its seed.

    Raises:
        ModelError: it is unknown or does not fit the data.
    """
    return _made_random(_plain_model(recipe, info), recipe)


def _initial_model(recipe: Recipe, info: DatasetInfo) -> nn.Module:
    """The model that training begins with: the means of random weights are read, where a file has them.

    Raises:
        ModelError: it is unknown or does not fit the data, or its means are missing or do not fit it.
    """
    model = _plain_model(recipe, info)
    settings = recipe.model.bayes
    if settings is not None and settings.means is not None:
        models.load_weights(model, settings.means)
    return _made_random(model, recipe)


def _plain_model(recipe: Recipe, info: DatasetInfo) -> nn.Module:
    torch.manual_seed(recipe.seed)
    settings = recipe.model
    model = models.create(settings.name, dataset=info, normalize=settings.normalize, **settings.options)
    if settings.parametrize is not None:
        PARAMETRIZATIONS[settings.parametrize](model)
    return model


def _made_random(model: nn.Module, recipe: Recipe) -> nn.Module:
    settings = recipe.model.bayes
    return model if settings is None else bayes.convert(model, settings.posterior, settings.layers)


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
    model = (build_model if is_begun else _initial_model)(recipe, dataset.info)
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


def open_run(folder: Path) -> tuple[RunFolder, ParsedRecipe]:
    """A run folder that training has filled, and its recipe.

    Raises:
        RunFolderError: there is none.
        RecipeError: its recipe does not fit this version.
    """
    run = RunFolder(folder)
    run.require(run.recipe, f"withstand train RECIPE --out={folder}")
    return run, parse_recipe(run.recipe)


def load_run_model(run: RunFolder, recipe: Recipe, dataset: Dataset) -> nn.Module:
    """The trained model of a run, on the CPU.

    Raises:
        RunFolderError: it is not trained to its end.
        ModelError: its weights do not fit.
    """
    remedy = f"withstand train {run.recipe} --out={run.path}"
    last = run.require(run.last_weights, remedy)  # written when training has come to its end
    weights = last if recipe.evaluation.weights == "last" else run.require(run.best_weights, remedy)
    model = build_model(recipe, dataset.info)
    models.load_weights(model, weights)
    return model


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
        certificates=settings.certificates,
        kernel_norms=settings.kernel_norms,
        noise=settings.noise,
        sampling=settings.sampling,
        others=_others(recipe) if bayes.is_stochastic(model) else {},
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
    """Accepts the other data sets that an evaluation will read, before training takes its time.

    Raises:
        DataError: one is unknown, missing or damaged, or its images have another shape.
    """
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


def device_of(recipe: Recipe) -> torch.device:
    """Where Fabric puts the model: the accelerator asked for, or the best there is.

    Raises:
        RecipeError: the accelerator is not to be had.
    """
    name = recipe.training.accelerator
    try:
        return Fabric(accelerator=name, devices=1).device
    except (ImportError, RuntimeError, ValueError) as error:
        raise RecipeError(
            f"training.accelerator={name!r} is not to be had here ({error}). Leave it at auto."
        ) from error


def model_spec(recipe: Recipe, info: DatasetInfo) -> dict[str, Any]:
    """How to build the model, as ``model.json`` holds it."""
    return {
        "name": recipe.model.name,
        "normalize": recipe.model.normalize,
        "options": recipe.model.options,
        "parametrize": recipe.model.parametrize,
        "bayes": None if recipe.model.bayes is None else asdict(recipe.model.bayes),
        "dataset": info.name,
        "input_shape": list(info.shape),
        "num_classes": info.num_classes,
    }


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
