"""A run folder of a model that was trained elsewhere, so that it is measured and reported like a run.

Elsewhere is in a program of someone else's, or with the package: a net of the zoo.
"""

from __future__ import annotations

import copy
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from withstand import models
from withstand.core.environment import environment
from withstand.core.run_folder import RunFolder
from withstand.core.trust import write_signed
from withstand.core.zoo import ZooNet
from withstand.data import Dataset
from withstand.models.hosted import is_onnx
from withstand.models.weight_files import read_weights
from withstand.recipes.schema import DataSettings, ModelSettings, Recipe
from withstand.runs.run_parts import (
    build_model,
    device_of,
    load_data,
    model_spec,
    recipe_of,
    require_same_network,
)
from withstand.training.run_record import write_model
from withstand.types import RunFolderError

# In linf, as most of what is published of these data has it; of others as of colour pictures.
_USUAL_EPSILONS = {"digits": 0.1, "mnist": 0.3, "fashion-mnist": 0.1}
_USUAL_EPSILON = 8 / 255


def usual_epsilon(data: str) -> float:
    """The linf epsilon that is usual of a data set, in [0, 1] units; 8/255 of one that is not known."""
    return _USUAL_EPSILONS.get(data, _USUAL_EPSILON)


def usual_meters(data: str) -> list[dict[str, Any]]:
    """What a model is measured by where nothing is named, as a recipe spells it.

    Args:
        data: Name of the data set.
    """
    suite = {"level": "fast", "epsilons": [usual_epsilon(data)]}
    return [{"class_path": "Suite", "init_args": suite}, {"class_path": "NoiseCurve"}]


def folder_name(model: str) -> str:
    """A folder's name for a model: ``net-make`` for ``path/to/net.py:make``, ``net`` for ``net.onnx``."""
    if is_onnx(model):
        return Path(model).stem
    place, _, function = model.rpartition(":")
    return "-".join(part for part in (Path(place).stem, Path(function).name) if part)


def adopt_model(
    out: RunFolder,
    data: DataSettings,
    model: ModelSettings,
    weights: Path | None,
    *,
    entry: str | None = None,
    command: str,
) -> None:
    """Makes a run folder of a model, so that it is evaluated, certified and reported like a run.

    Args:
        out: The folder; one that holds this very model already is left as it is.
        data: What it was trained on.
        model: How to build it.
        weights: Its weights, a file or a run folder; those that it is built with where None.
        entry: Which of several state dicts of a checkpoint.
        command: The command that repeats it, for ``environment.json``.

    Raises:
        WithstandError: the model cannot be built, or the folder holds another.
    """
    recipe = Recipe(name=out.path.resolve().name or "unnamed", data=data, model=model)
    device = device_of(recipe)
    dataset = load_data(recipe)
    network = build_model(recipe, dataset.info)
    loaded = copy.deepcopy(network)  # a file may bring another mean to normalise by, which shows in a network
    if weights is not None:
        models.load_weights(loaded, weights, entry=entry)
    if out.recipe.exists():
        _require_same_model(out, recipe, network, loaded)
        return
    out.create()
    write_model(out, dataset.info, model_spec(recipe), network)
    _write_environment(out, dataset, device, command)
    models.save_weights(loaded, out.last_weights)
    content = {
        "name": recipe.name,
        **_words(str(model.name), str(data.name), weights),
        "data": asdict(data),
        "model": asdict(model),
        "evaluation": {"weights": "last"},
    }
    # Last, since it makes the folder a run.
    write_signed(out.recipe, yaml.safe_dump(content, sort_keys=False))


_OF_MEASURING = ("measured_by", "evaluate_", "certify_", "attack_", "moments_", "cost")


def adopt_net(out: RunFolder, net: ZooNet) -> None:
    """Makes a run folder of a net of the zoo, without what was measured of it.

    Args:
        out: The folder; one that holds this very net already is left as it is.
        net: Of the zoo.

    Raises:
        RunFolderError: the net's files are damaged, or the folder holds another run.
    """
    net.require_whole()
    source = RunFolder(net.folder)
    weights = next(file for file in (source.best_weights, source.last_weights) if file.exists())
    if out.recipe.exists():
        there = out.path / weights.name
        if not there.is_file() or there.read_bytes() != weights.read_bytes():
            raise RunFolderError(
                f"{out.path} holds another run than the net {net.folder.name} of the zoo. Choose another "
                "folder with --out, or delete this one."
            )
        return
    out.create()
    for file in (source.model_spec, weights):
        shutil.copyfile(file, out.path / file.name)
    about = source.read_json(source.environment)
    out.write_json(out.environment, {key: about[key] for key in about if not key.startswith(_OF_MEASURING)})
    # Last, since it makes the folder a run.
    write_signed(out.recipe, source.text_of(source.recipe))


def _words(model: str, data: str, weights: Path | None) -> dict[str, str]:
    """Title and description of the folder's page."""
    short = Path(model).name if ".py:" in model or is_onnx(model) else model
    source = f"the weights of {weights.name}" if weights else "the weights that it is built with"
    return {
        "title": f"Evaluation of {short} on {data}",
        "description": f"{short} with {source}; it was not trained in this folder.",
    }


def _write_environment(out: RunFolder, dataset: Dataset, device: torch.device, command: str) -> None:
    about = environment(seed=0, command=command, data_fingerprint=dataset.fingerprint, device=device)
    out.write_json(out.environment, about)


def _require_same_model(out: RunFolder, recipe: Recipe, network: nn.Module, loaded: nn.Module) -> None:
    held = recipe_of(out).recipe
    if (held.data, held.model) != (recipe.data, recipe.model) or not out.last_weights.exists():
        raise RunFolderError(
            f"{out.path} holds another run or model: {held.model.name} on {held.data.name}, perhaps with "
            "other options. Choose another folder with --out."
        )
    require_same_network(out, network)
    state, stored = loaded.state_dict(), read_weights(out.last_weights)
    if set(stored) != set(state) or not all(torch.equal(stored[name], state[name]) for name in stored):
        raise RunFolderError(
            f"{out.path} holds the same model with other weights, and what was measured of those. Choose "
            "another folder with --out, or delete this one."
        )
