"""The command ``withstand check``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor, nn

from withstand import data, models
from withstand.cli.arguments import (
    add_model_arguments,
    data_settings,
    is_model,
    model_settings,
    parse,
    plain_parser,
    target,
)
from withstand.cli.commands import COMMANDS
from withstand.cli.terminal import OUTPUT
from withstand.core.contract import adapted
from withstand.core.dataset_info import DatasetInfo
from withstand.core.float64_copy import float64_copy
from withstand.core.modes import eval_mode
from withstand.core.run_folder import RunFolder
from withstand.core.suggest import nearest
from withstand.domains import DomainName, UnsupportedOperationError, input_set, propagate, unsupported
from withstand.models import MODEL_NAMES
from withstand.operators import PowerIteration
from withstand.recipes.parsing import find_recipe, packaged_recipes, parse_recipe, recipe_parser
from withstand.recipes.schema import Recipe
from withstand.runs.loading import info_of, run_model
from withstand.runs.run_parts import build_model, data_name, require_recipe
from withstand.types import ModelError, RecipeError

_EPSILON = 0.1  # any: whether a set can pass does not depend on it


def check(arguments: Sequence[str]) -> None:
    """Says whether boxes, balls and both at once can pass through a model.

    Raises:
        UnsupportedOperationError: they cannot; the text lists all that keeps them from it.
    """
    model, info = _model_of(arguments)
    models.check(model, info)
    images = torch.rand(2, *info.shape, generator=torch.Generator().manual_seed(0))
    images, copied = images.double(), float64_copy(model)  # as certificates compute
    copied = adapted(copied, images)
    with eval_mode(copied), torch.no_grad():
        faults = unsupported(copied, images) or _refused(copied, images)
    if faults:
        listed = "\n".join(f"{number}. {fault}" for number, fault in enumerate(faults, start=1))
        raise UnsupportedOperationError(f"Nothing can be proven of this model yet:\n{listed}")
    layers = sum(not list(module.children()) for module in model.modules())
    OUTPUT.print(
        f"Boxes, balls and both at once can pass through this model: {layers} layers, images "
        f"{' x '.join(map(str, info.shape))}, {info.num_classes} classes.",
        soft_wrap=True,
    )


def _refused(model: nn.Module, images: Tensor) -> list[str]:
    """Why a domain does not get through, although every operation has a rule."""
    for domain in get_args(DomainName):
        try:
            propagate(model, input_set(images, 2.0, _EPSILON, domain, clip=True), norms=PowerIteration())
        except ModelError as error:
            return [str(error)]
    return []


def _model_of(arguments: Sequence[str]) -> tuple[nn.Module, DatasetInfo]:
    """The model that the arguments name, with random weights, and the data that it is for."""
    parser = plain_parser("withstand check MODEL|RECIPE|RUN", COMMANDS["check"].about)
    add_model_arguments(parser)
    name, overrides = target("check", "MODEL, RECIPE or RUN", arguments, parser)
    if is_model(name):
        values = parse(parser, overrides)
        recipe = Recipe(data=data_settings(values), model=model_settings(name, values))
    else:
        own = recipe_parser(f"withstand check {name}", COMMANDS["check"].about)
        recipe = parse_recipe(_recipe_file(name), overrides, parser=own).recipe
    if Path(name).is_dir():
        run = RunFolder(Path(name))
        info = info_of(run, recipe)
        return run_model(run, recipe), info
    info = data.info(data_name(recipe), root=recipe.data.root, size=recipe.data.size)
    return build_model(recipe, info), info


def _recipe_file(name: str) -> Path:
    if Path(name).is_dir():
        return require_recipe(RunFolder(Path(name)))
    known = packaged_recipes()
    if name not in known and not Path(name).is_file():
        raise RecipeError(
            f"There is no model, recipe or run {name!r}; {nearest(name, [*MODEL_NAMES, *known])} "
            "A model of your own is path/to/file.py:function or package.module:function."
        )
    return find_recipe(name)
