"""The command ``withstand check``."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

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
from withstand.core.dataset_info import DatasetInfo
from withstand.core.made import made_of
from withstand.core.run_folder import RunFolder
from withstand.core.suggest import nearest
from withstand.core.zoo import run_path, zoo_nets
from withstand.data import Dataset
from withstand.evaluation.model_report import ModelReport
from withstand.evaluation.model_report import check as check_model
from withstand.models import MODEL_NAMES, create, load_weights
from withstand.models.hosted import is_onnx
from withstand.recipes.parsing import find_recipe, packaged_recipes, parse_recipe, recipe_parser
from withstand.recipes.schema import Recipe
from withstand.runs.loading import data_or_info, load_run_model, run_model
from withstand.runs.run_parts import build_model, require_recipe
from withstand.types import ModelError, RecipeError

_FORMATS = ("text", "json")
_logger = logging.getLogger(__name__)


def check(arguments: Sequence[str]) -> None:
    """Says what a model is, what can be done with it, what that costs, and how to go on.

    Raises:
        ModelError: nothing can be done with it; what is known of it is printed before.
    """
    arguments, form = _without_format(arguments)
    parser = plain_parser("withstand check MODEL|RECIPE|RUN", COMMANDS["check"].about)
    add_model_arguments(parser)
    parser.add_argument(
        "--weights", type=str | None, default=None, help="Of MODEL: .safetensors, .pt or .pth."
    )
    parser.add_argument("--format", choices=_FORMATS, default=_FORMATS[0], help="What to print.")
    name, overrides = target("check", "MODEL, RECIPE or RUN", arguments, parser)
    name = str(run_path(name))
    if is_model(name):
        values = parse(parser, overrides)
        if values.data.name is None and is_onnx(name):
            _finish(_checked_alone(name, values.model.options, values.weights), form)
            return
        recipe = Recipe(data=data_settings(values), model=model_settings(name, values))
        options = [text for text in overrides if not text.startswith("--weights")]
        weights = values.weights
    else:
        own = recipe_parser(f"withstand check {name}", COMMANDS["check"].about)
        recipe = parse_recipe(_recipe_file(name), overrides, parser=own).recipe
        options, weights = [f"--data.name={recipe.data.name}"], None
        if ":" in (recipe.model.name or ""):
            options.append(f"--model.normalize={str(recipe.model.normalize).lower()}")
    dataset = data_or_info(recipe, RunFolder(Path(name)) if Path(name).is_dir() else None)
    info = dataset.info if isinstance(dataset, Dataset) else dataset
    model = _model_of(name, recipe, info)
    if weights is not None:
        load_weights(model, weights)
    _finish(check_model(model, dataset, name=recipe.model.name, options=options), form)


def _checked_alone(name: str, options: Mapping[str, Any], weights: str | None) -> ModelReport:
    """Of an ONNX file, which says itself what it takes: on random numbers in [0, 1]."""
    model = create(name, **options)
    if weights is not None:
        load_weights(model, weights)
    _logger.warning("Random numbers in [0, 1] are taken, since no data are named: --data.name=NAME.")
    made = made_of(model)
    assert made is not None
    return check_model(model, made.input_shape)


def _without_format(arguments: Sequence[str]) -> tuple[list[str], str]:
    """The other arguments, and the form to print in: it is of no recipe.

    Raises:
        RecipeError: there is no such form.
    """
    forms = [text.partition("=")[2] for text in arguments if text.startswith("--format=")]
    form = forms[-1] if forms else _FORMATS[0]
    if form not in _FORMATS:
        raise RecipeError(f"Expected --format of {' or '.join(_FORMATS)}, but got {form!r}.")
    return [text for text in arguments if not text.startswith("--format=")], form


def _model_of(name: str, recipe: Recipe, info: DatasetInfo) -> nn.Module:
    """The model that is meant: trained where it is a run that is, else with random weights."""
    if not Path(name).is_dir():
        return build_model(recipe, info)
    run = RunFolder(Path(name))
    return load_run_model(run, recipe) if run.is_trained() else run_model(run, recipe)


def _recipe_file(name: str) -> Path:
    if Path(name).is_dir():
        return require_recipe(RunFolder(Path(name)))
    known = packaged_recipes()
    if name not in known and not Path(name).is_file():
        hint = nearest(name, [*MODEL_NAMES, *known, *zoo_nets()])
        raise RecipeError(
            f"There is no model, recipe or run {name!r}; {hint} "
            "A model of your own is path/to/file.py:function, package.module:function or net.onnx."
        )
    return find_recipe(name)


def _finish(report: ModelReport, form: str) -> None:
    """Prints a report, and then says what is wrong with the model, where something is."""
    if form == "json":
        text = json.dumps(_finite(report.as_dict()), indent=2, ensure_ascii=False, allow_nan=False)
    else:
        text = str(report)
    OUTPUT.print(text, soft_wrap=True)  # commands stay whole
    if report.problem is not None:
        raise ModelError(report.problem)


def _finite(value: Any) -> Any:
    """The same with null for numbers that JSON has none for."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
