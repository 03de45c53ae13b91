"""What a run is made of: its recipe, its data, its model, and where it runs."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from withstand import bayes, data, models
from withstand.constraints import PARAMETRIZATIONS
from withstand.core.dataset_info import KNOWN_DATASETS, DatasetInfo
from withstand.core.flat import flat
from withstand.core.made import Made
from withstand.core.network import changes, describe, in_words
from withstand.core.run_folder import RunFolder
from withstand.core.trust import warn_if_changed
from withstand.data import Dataset
from withstand.data.content import digest
from withstand.data.load import is_place
from withstand.models.registry import Factory, assemble
from withstand.recipes.parsing import ParsedRecipe, parse_recipe
from withstand.recipes.schema import Recipe
from withstand.training.checkpoint import fitting, newest_checkpoint, read_checkpoint
from withstand.training.run_record import IN_PYTHON
from withstand.types import DataError, ModelError, RecipeError, RunFolderError, UntrustedCodeError

_logger = logging.getLogger(__name__)


def require_spelled(recipe: Recipe) -> None:
    """Accepts a recipe that says all that is trained.

    Raises:
        RecipeError: it was written by ``ws.fit`` of what a recipe cannot say.
    """
    missing = [f"{key}.name" for key in ("data", "model") if getattr(recipe, key).name is None]
    if missing := [*missing, *recipe.unspelled]:
        raise RecipeError(
            f"This recipe was written by ws.fit and does not say {', '.join(missing)}, made in Python. "
            "Train by ws.fit; or say them by --key=value, and --unspelled=[]."
        )


def require_not_of_python(out: RunFolder) -> None:
    """Accepts a folder that a recipe's training may go on in.

    Raises:
        RunFolderError: a training in Python was begun there.
    """
    if out.is_begun() and out.read_json(out.model_spec).get("made_by") == IN_PYTHON:
        raise RunFolderError(
            f"{out.path} was trained in Python. Go on by the same call of ws.fit, or choose another --out."
        )


def load_data(recipe: Recipe) -> Dataset:
    """The data set of a recipe.

    Raises:
        DataError: it is unknown, missing or damaged.
    """
    settings = recipe.data
    return data.load(
        data_name(recipe),
        root=settings.root,
        size=settings.size,
        validation_size=settings.validation_size,
        train_size=settings.train_size,
        seed=settings.seed,
        partition=settings.partition,
    )


def data_name(recipe: Recipe) -> str:
    """The name of a recipe's data.

    Raises:
        DataError: it has none, since they were handed over in Python.
    """
    if recipe.data.name is None:
        raise DataError(
            "The data of this run were handed over in Python, so they cannot be found again. Say where they "
            "are: --data.name=NAME, one of `withstand data`, or folder:PATH, FILE.npz or FILE.py:FUNCTION; "
            "or measure in Python by ws.evaluate(model, dataset, out=…)."
        )
    return recipe.data.name


def device_of(recipe: Recipe) -> torch.device:
    """Where Fabric puts the model: the accelerator asked for, or the best there is.

    Raises:
        RecipeError: the accelerator is not to be had.
    """
    from lightning_fabric import Fabric  # here, since it takes as long to import as torch itself

    name = recipe.training.accelerator
    try:
        return Fabric(accelerator=name, devices=1).device
    except (ImportError, RuntimeError, ValueError) as error:
        raise RecipeError(
            f"training.accelerator={name!r} is not to be had here ({error}). Leave it at auto."
        ) from error


def build_model(recipe: Recipe, info: DatasetInfo, factory: Factory | None = None) -> nn.Module:
    """The model of a recipe, with weights fixed by its seed.

    Args:
        recipe: Which names it.
        info: Of the data.
        factory: Makes it, where the name is not to be looked for.

    Raises:
        ModelError: it is unknown or does not fit the data.
    """
    return _with_random_weights(_plain_model(recipe, info, factory), recipe)


def initial_model(recipe: Recipe, info: DatasetInfo, factory: Factory | None = None) -> nn.Module:
    """The model that training begins with: the means of random weights are read, where a file has them.

    Args:
        recipe: Which names it.
        info: Of the data.
        factory: Makes it, where the name is not to be looked for.

    Raises:
        ModelError: it is unknown or does not fit the data, or its means are missing or do not fit it.
    """
    model = _plain_model(recipe, info, factory)
    settings = recipe.model.bayes
    if settings is not None and settings.means is not None:
        models.load_weights(model, settings.means)
    return _with_random_weights(model, recipe)


def _plain_model(recipe: Recipe, info: DatasetInfo, factory: Factory | None) -> nn.Module:
    torch.manual_seed(recipe.seed)
    settings = recipe.model
    if settings.name is None:
        raise ModelError(
            "The network of this run was handed over in Python. Name a function that makes it: "
            "--model.name=file.py:function."
        )
    if factory is None:
        model = models.create(settings.name, dataset=info, normalize=settings.normalize, **settings.options)
    else:
        normalizes_by = info if settings.normalize else None
        made = Made(settings.name, info.shape, info.num_classes, normalizes_by, settings.options)
        model = assemble(factory, made)
    if settings.parametrize is not None:
        PARAMETRIZATIONS[settings.parametrize](model)
    return model


def _with_random_weights(model: nn.Module, recipe: Recipe) -> nn.Module:
    settings = recipe.model.bayes
    return model if settings is None else bayes.convert(model, settings.posterior, settings.layers)


def model_to_go_on_with(
    run: RunFolder, recipe: Recipe, info: DatasetInfo, factory: Factory | None = None
) -> nn.Module:
    """The model of a training that was begun; a file of means that is gone by now is not needed.

    Args:
        run: The run folder.
        recipe: Its recipe.
        info: Of the data.
        factory: Makes it, where the name is not to be looked for.

    Raises:
        ModelError: it is unknown or does not fit the data.
        CheckpointError: the checkpoint is damaged, or does not fit it.
    """
    means = None if recipe.model.bayes is None else recipe.model.bayes.means
    checkpoint = newest_checkpoint(run)
    if means is None or Path(means).exists() or checkpoint is None:
        return initial_model(recipe, info, factory)
    model = build_model(recipe, info, factory)
    with fitting(checkpoint):
        model.load_state_dict(read_checkpoint(checkpoint)["model"])
    return model


def model_spec(recipe: Recipe) -> dict[str, Any]:
    """How to build the model, as ``model.json`` holds it beside what is built (``training.run_record``)."""
    return {
        "name": recipe.model.name,
        "normalize": recipe.model.normalize,
        "options": recipe.model.options,
        "parametrize": recipe.model.parametrize,
        "bayes": None if recipe.model.bayes is None else asdict(recipe.model.bayes),
    }


def open_run(folder: Path) -> tuple[RunFolder, ParsedRecipe]:
    """A run folder that training has filled, and its recipe.

    Raises:
        RunFolderError: there is none, or its recipe is damaged.
        RecipeError: its recipe does not fit this version.
    """
    run = RunFolder.at(folder)
    require_recipe(run)
    return run, recipe_of(run)


def require_recipe(run: RunFolder) -> Path:
    """The recipe of a run folder, where the command line made it.

    Raises:
        RunFolderError: there is none; the text says how to go on.
    """
    if not run.recipe.exists() and (run.train_log.exists() or run.metrics.exists()):
        raise RunFolderError(
            f"{run.path} has no {run.recipe.name}: it holds what ws.evaluate measured, or was trained in "
            f"Python by an older version. Measure its network there: ws.evaluate(model, dataset, "
            f"out={str(run.path)!r}); or name the network and its weights, `withstand certify MODEL "
            "--weights=FILE`."
        )
    return run.require(run.recipe, f"withstand train RECIPE --out={run.path}")


def recipe_of(run: RunFolder) -> ParsedRecipe:
    """The recipe that a run folder holds.

    Raises:
        RunFolderError: it is damaged.
        RecipeError: it does not fit this version.
    """
    run.text_of(run.recipe)
    warn_if_changed(run.recipe)
    try:
        return parse_recipe(run.recipe)
    except UntrustedCodeError:
        raise
    except RecipeError as error:
        raise RecipeError(
            f"{run.recipe}: {error} Restore the file as training wrote it, or train again into another one."
        ) from error


def require_same_network(run: RunFolder, model: nn.Module) -> None:
    """Accepts a model that is built as it was when training began, from the same code.

    Raises:
        ModelError: it is another; the text says in what, and how to go on.
    """
    then = run.read_json(run.model_spec).get("network")
    if then is None:
        _logger.warning(
            "%s was written by an older version, so whether the code of its model is still the same could "
            "not be compared.",
            run.path,
        )
        return
    if changed := changes(then, describe(model)):
        raise ModelError(
            f"The model of {run.path} is not the one that was trained there ({in_words(changed)}). Make it "
            "as it was to go on. To train the new one, choose another --out; to measure the new one with the "
            f"old weights, where they fit: withstand certify MODEL --weights={run.best_weights} --out=ANOTHER"
        )


def require_same_data(run: RunFolder, dataset: Dataset, *, are_named: bool) -> None:
    """Accepts the data that the run folder was begun with.

    Args:
        run: The run folder.
        dataset: The data at hand.
        are_named: Whether other data were named on purpose, which is logged and not refused.

    Raises:
        DataError: they have changed since.
    """
    noted = run.read_json(run.environment)
    then = noted.get("data_fingerprint")
    if then in (None, dataset.fingerprint) or (are_named and noted.get("test_data") == digest(dataset.test)):
        return
    if are_named:
        words = "The data that --data.name or --data.root leads to are not those that %s was trained on."
        _logger.warning(words, run.path)
        return
    name, of = dataset.info.name, run.read_json(run.model_spec).get("info", {}).get("name")
    if of != name and {of, name} <= set(KNOWN_DATASETS):
        raise DataError(f"{run.path} is of {of}, not {name}: to measure it there, name --data.root, too.")
    raise DataError(
        f"The data {name} have changed since {run.path} was begun: images, labels or the order of classes "
        f"are others (fingerprint {then[:16]} then, {dataset.fingerprint[:16]} now). Restore them to go on, "
        "or train again into another --out. To measure the changed ones on purpose, name --data.root=PATH."
    )


def require_unchanged(run: RunFolder, recipe: Recipe) -> None:
    """Accepts a run whose data and whose model's code are still those that it was trained with.

    Raises:
        ModelError: the model is built otherwise, or cannot be.
        DataError: the data have changed, or cannot be read.
    """
    dataset = load_data(recipe)
    require_same_data(run, dataset, are_named=False)
    require_same_network(run, build_model(recipe, dataset.info))


# What may change between a run and its resumption: none of it changes what is trained, but for rounding.
_FREE_KEYS = ("title", "description", "published", "changed", "unspelled", "evaluation")
_FREE_TRAINING = ("accelerator", "checkpoint_seconds", "tensorboard", "devices", "num_nodes", "strategy")


def require_same_recipe(parsed: ParsedRecipe, out: RunFolder) -> None:
    """Refuses to go on with another recipe than the one the folder was begun with.

    Raises:
        RunFolderError: it is another.
    """
    if not out.recipe.exists() or not out.is_begun():
        return  # nothing has been trained yet
    then = recipe_of(out).values
    named = [key for key in ("data", "model") if then[key]["name"] is None]  # what no recipe could say
    are_places = all(is_place(values["data"]["name"] or "") for values in (then, parsed.values))
    places = ("root", "name") if are_places else ("root",)  # what lies there is compared when it is read
    former, current = (
        flat(trained_part({**values, **dict.fromkeys(named)}, places), opens=False)
        for values in (then, parsed.values)
    )
    differing = [key for key in sorted({*former, *current}) if former.get(key) != current.get(key)]
    if differing:
        shown = "; ".join(f"{key}: {former.get(key)} then, {current.get(key)} now" for key in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise RunFolderError(
            f"{out.path} holds a run of another recipe ({shown}{more}). "
            "Choose another --out, or give the values it was begun with to go on."
        )


def trained_part(values: Mapping[str, Any], places: Collection[str]) -> dict[str, Any]:
    """The values that decide what is trained."""
    part = {key: value for key, value in values.items() if key not in _FREE_KEYS}
    part["training"] = {key: value for key, value in part["training"].items() if key not in _FREE_TRAINING}
    part["data"] = {key: value for key, value in (part["data"] or {}).items() if key not in places}
    return part
