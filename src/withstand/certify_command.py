"""The command ``withstand certify``."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from withstand.arguments import given_sizes, parse, plain_parser, target
from withstand.certificates import Method
from withstand.certifying import Request, adopt_model, certify_run
from withstand.console import OUTPUT, print_results, progress_of
from withstand.model_arguments import add_model_arguments, given_data, given_model, is_model
from withstand.models import MODEL_NAMES
from withstand.run_folder import RunFolder
from withstand.suggest import nearest
from withstand.types import ModelError, RecipeError

_OF_A_MODEL = ("--weights", "--out", "--model.")


def certify(arguments: Sequence[str]) -> None:
    """Certifies a run or a model, and writes rows, metrics and curve."""
    parser = _parser()
    name, overrides = target("certify", "RUN, a run folder, or MODEL", arguments, parser)
    values = parse(parser, overrides)
    request = _request(values)
    command = shlex.join(["withstand", "certify", name, *overrides])
    if Path(name).is_dir():
        _refuse([each for each in overrides if each.startswith(_OF_A_MODEL)])
        folder, of_recipe = Path(name), [each for each in overrides if each.startswith("--data.")]
    else:
        folder, of_recipe = _adopted(name, values, request, command), []
    with progress_of("certifying") as on_batch:
        result = certify_run(folder, request, of_recipe, command=command, on_batch=on_batch)
    print_results(result.results, result.table)
    OUTPUT.print(f"next: withstand report {folder}", soft_wrap=True)


def _parser() -> ArgumentParser:
    parser = plain_parser(
        "withstand certify RUN|MODEL",
        "Prove of each test example, where it can be proven, that no image within epsilon changes its "
        "prediction. RUN is a run folder: its rows and metrics gain what is certified. MODEL is "
        "path/to/file.py:function, package.module:function or a model's name, with --weights, --data.name "
        "and --out. What is not given is as the run's recipe says.",
    )
    parser.add_argument("--norm", type=float | None, default=None, help="Of the ball: 2 or inf.")
    parser.add_argument(
        "--epsilons", type=list[float] | float | None, default=None, help="Budgets: [0.5,1.58] or [8/255]."
    )
    parser.add_argument("--method", type=Method | None, default=None, help="best, box_ball, box or ball.")
    parser.add_argument(
        "--radius", type=bool | None, default=None, help="Also the largest certified epsilon of each example."
    )
    parser.add_argument(
        "--clip", type=bool | None, default=None, help="Whether the attacker keeps to [0, 1], as is usual."
    )
    parser.add_argument("--num_examples", type=int | None, default=None, help="The first so many; all else.")
    parser.add_argument("--batch_size", type=int | None, default=None, help="Examples a batch.")
    parser.add_argument("--weights", type=str | None, default=None, help="Of MODEL: .safetensors, .pt, .pth.")
    parser.add_argument("--out", type=str | None, default=None, help="Of MODEL: the folder to make.")
    add_model_arguments(parser)
    return parser


def _request(values: Namespace) -> Request:
    given = {field.name: values[field.name] for field in fields(Request)}
    if isinstance(given["epsilons"], float | int):
        given["epsilons"] = [float(given["epsilons"])]
    return Request(**{**given, **given_sizes(values)})


def _refuse(options: Sequence[str]) -> None:
    if options:
        raise RecipeError(
            f"{options[0].partition('=')[0]} is for a model, but a run folder says itself which model it "
            "holds. Leave it out."
        )


def _adopted(name: str, values: Namespace, request: Request, command: str) -> Path:
    """The run folder that is made of a model."""
    if not is_model(name):
        raise ModelError(
            f"There is no run folder and no model {name!r}; {nearest(name, MODEL_NAMES)} "
            "A model of your own is path/to/file.py:function or package.module:function."
        )
    if values.weights is None and name in MODEL_NAMES:
        raise ModelError(f"Without weights {name} is random. Give those of a trained one: --weights=FILE.")
    request.certificates([])  # what is missing is said before a folder is made
    out = Path(values.out) if values.out else Path("runs") / _short(name)
    weights = None if values.weights is None else Path(values.weights)
    adopt_model(RunFolder(out), given_data(values), given_model(name, values), weights, command=command)
    return out


def _short(name: str) -> str:
    """A folder's name for a model: ``net-make`` for ``path/to/net.py:make``."""
    place, _, function = name.rpartition(":")
    return "-".join(part for part in (Path(place).stem, function) if part)
