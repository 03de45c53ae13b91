"""The command ``withstand export``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from jsonargparse import Namespace
from torch import nn

from withstand.cli.arguments import data_settings, model_settings, of_recipe, parse, plain_parser, target
from withstand.cli.commands import COMMANDS
from withstand.cli.model_or_run import WHAT, add_network_arguments, refuse_foreign, require_model
from withstand.cli.terminal import OUTPUT
from withstand.core.dataset_info import DatasetInfo
from withstand.core.run_folder import RunFolder
from withstand.core.zoo import run_path
from withstand.data import Dataset
from withstand.models import load_weights
from withstand.recipes.parsing import parse_recipe
from withstand.recipes.schema import Recipe
from withstand.runs.adoption import folder_name, usual_epsilon
from withstand.runs.exporting import Network, network_of_run, write_onnx
from withstand.runs.loading import data_or_info
from withstand.runs.property_files import INSTANCES, Robustness, write_properties
from withstand.runs.run_parts import build_model, require_recipe
from withstand.types import RecipeError

_OF_PROPERTIES: Mapping[str, tuple[type, str]] = MappingProxyType(
    {
        "norm": (str, "of the ball: linf"),
        "epsilon": (float, "its radius, in [0, 1] units; as is usual of the data where null"),
        "clip": (bool, "whether only images in [0, 1] count; true where null"),
        "count": (int, "of how many test images, the first that the network gets right; 10 where null"),
        "timeout": (float, "seconds that instances.csv gives to each; 60 where null"),
    }
)


def export(arguments: Sequence[str]) -> None:
    """The command, with what stands after its name.

    Raises:
        RecipeError: an option does not fit, or is of the other format.
    """
    parser = plain_parser("withstand export RUN|MODEL", COMMANDS["export"].about)
    parser.add_argument("--format", choices=("onnx", "vnnlib"), default="onnx", help="What to write.")
    parser.add_argument(
        "--out", type=str | None, default=None, help="The file or folder; in RUN, or here, where null."
    )
    for name, (kind, text) in _OF_PROPERTIES.items():
        parser.add_argument(f"--{name}", type=kind | None, default=None, help=f"Of vnnlib: {text}.")
    add_network_arguments(parser)
    name, overrides = target("export", WHAT, arguments, parser)
    values = parse(parser, overrides)
    given = {key: values[key] for key in _OF_PROPERTIES if values[key] is not None}
    if values.format == "onnx" and given:
        raise RecipeError(f"--{next(iter(given))} is of properties: --format=vnnlib.")
    network, stem = _network(name, values, overrides)
    if values.format == "onnx":
        OUTPUT.print(str(write_onnx(network, values.out or f"{stem}.onnx")), soft_wrap=True)
        return
    try:
        asked = Robustness(**{"epsilon": usual_epsilon(network.info.name), **given})
    except ValueError as error:
        raise RecipeError(str(error)) from error
    written = write_properties(network, values.out or f"{stem}-linf-{asked.epsilon:.4g}", asked)
    OUTPUT.print(str(written), soft_wrap=True)
    OUTPUT.print(f"next: withstand verify --instances={written.folder / INSTANCES}", soft_wrap=True)


def _network(name: str, values: Namespace, overrides: Sequence[str]) -> tuple[Network, Path]:
    """The network that a first argument names, and the path without its ending that its files have."""
    folder = run_path(name)
    if folder.is_dir():
        refuse_foreign([option for option in overrides if not option.startswith("--out")])
        run = RunFolder.at(folder)
        recipe = parse_recipe(require_recipe(run), of_recipe(overrides)).recipe
        return network_of_run(run, recipe), run.path / "model" if folder == Path(name) else Path(name)
    require_model(name, values)
    recipe = Recipe(data=data_settings(values), model=model_settings(name, values))
    data = data_or_info(recipe)
    return Network(_model(recipe, data, values), data, {"model": name}), Path(folder_name(name))


def _model(recipe: Recipe, data: Dataset | DatasetInfo, values: Namespace) -> nn.Module:
    model = build_model(recipe, data.info if isinstance(data, Dataset) else data)
    if values.weights is not None:
        load_weights(model, values.weights, entry=values.weights_entry)
    return model
