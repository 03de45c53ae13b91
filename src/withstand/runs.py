"""What a run is made of: its data, its model, and where it runs."""

from __future__ import annotations

import itertools
from collections.abc import Collection
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
from withstand.evaluation import Suite
from withstand.recipe import Recipe
from withstand.recipe_file import ParsedRecipe, parse_recipe
from withstand.run_folder import RunFolder
from withstand.types import RecipeError

__all__ = [
    "build_model",
    "device_of",
    "initial_model",
    "load_data",
    "load_run_model",
    "load_surrogates",
    "model_spec",
    "open_run",
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


def build_model(recipe: Recipe, info: DatasetInfo) -> nn.Module:
    """The model of a recipe, with weights fixed by its seed.

    Raises:
        ModelError: it is unknown or does not fit the data.
    """
    return _made_random(_plain_model(recipe, info), recipe)


def initial_model(recipe: Recipe, info: DatasetInfo) -> nn.Module:
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


def load_surrogates(suite: Suite | None, dataset: Dataset) -> dict[str, nn.Module]:
    """The models of other runs, whose adversarial images a suite tries, by the names of their folders.

    Raises:
        RunFolderError: one is no trained run.
        RecipeError: one is of images of another shape, or of another number of classes.
    """
    found: dict[str, nn.Module] = {}
    for folder in [] if suite is None else suite.transfer_from:
        run, parsed = open_run(Path(folder))
        spec = run.read_json(run.model_spec)
        fits = (dataset.info.num_classes, list(dataset.info.shape))
        if spec and (spec["num_classes"], spec["input_shape"]) != fits:
            raise RecipeError(
                f"Attacks cannot be transferred from {folder}: its model takes images of shape "
                f"{spec['input_shape']} to {spec['num_classes']} classes, but those here are of shape "
                f"{fits[1]} and {fits[0]} classes."
            )
        found[_unlike(Path(folder).resolve().name, found)] = load_run_model(run, parsed.recipe, dataset)
    return found


def _unlike(name: str, others: Collection[str]) -> str:
    """The name, numbered where others have it."""
    alike = (f"{name}-{number}" if number > 1 else name for number in itertools.count(1))
    return next(each for each in alike if each not in others)
