"""The command ``withstand certify``: certificates of a run, or of a model that was trained elsewhere."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser, Namespace
from torch import nn

from withstand import models
from withstand.certificates import Method
from withstand.cli.arguments import (
    add_model_arguments,
    data_settings,
    is_model,
    model_settings,
    of_recipe,
    parse,
    plain_parser,
    requested_sizes,
    target,
)
from withstand.cli.commands import COMMANDS
from withstand.cli.console import print_results
from withstand.cli.terminal import ERRORS, OUTPUT, progress_of
from withstand.core.environment import environment
from withstand.core.run_folder import RunFolder
from withstand.core.suggest import nearest
from withstand.core.trust import write_signed
from withstand.data import Dataset
from withstand.evaluation import Evaluation
from withstand.evaluation.meters import Certificate
from withstand.models import MODEL_NAMES
from withstand.models.weights import read_weights
from withstand.recipes.schema import DataSettings, ModelSettings, Recipe
from withstand.runs.run_parts import (
    build_model,
    device_of,
    load_data,
    model_spec,
    open_run,
    recipe_of,
    require_same_network,
)
from withstand.runs.stages import former_evaluation, measure_run
from withstand.training.run_record import write_model
from withstand.types import ModelError, RecipeError, RunFolderError

_OF_A_MODEL = ("--weights", "--out", "--model.normalize")


def certify(arguments: Sequence[str]) -> None:
    """Certifies a run or a model, and writes rows, metrics and curve."""
    parser = _parser()
    name, overrides = target("certify", "RUN, a run folder, or MODEL", arguments, parser)
    values = parse(parser, overrides)
    request = _request(values)
    command = shlex.join(["withstand", "certify", name, *overrides])
    if Path(name).is_dir():
        _refuse([argument for argument in overrides if argument.startswith(_OF_A_MODEL)])
        folder, changes = Path(name), of_recipe(overrides)
        starting: AbstractContextManager[None] = nullcontext()
    else:
        out = RunFolder.at(Path("runs") / _short(name) if values.out is None else values.out)
        folder, changes, starting = out.path, [], out.starting("certifying")
        _require_adoptable(name, values, request)
    with starting, progress_of("certifying") as on_batch:
        if not Path(name).is_dir():
            _adopt(name, values, RunFolder(folder), command)
        result = certify_run(folder, request, changes, command=command, on_batch=on_batch)
    print_results(result.results, result.table)
    OUTPUT.print(f"next: withstand report {folder}", soft_wrap=True)


def _parser() -> ArgumentParser:
    parser = plain_parser(
        "withstand certify RUN|MODEL",
        COMMANDS["certify"].about,
    )
    parser.add_class_arguments(Request, as_group=False)
    parser.add_argument("--weights", type=str | None, default=None, help="Of MODEL: .safetensors, .pt, .pth.")
    parser.add_argument("--out", type=str | None, default=None, help="Of MODEL: the folder to make.")
    add_model_arguments(parser)
    return parser


def _request(values: Namespace) -> Request:
    requested = {field.name: values[field.name] for field in fields(Request)}
    return Request(**{**requested, **requested_sizes(values)})


def _refuse(options: Sequence[str]) -> None:
    if options:
        raise RecipeError(
            f"{options[0].partition('=')[0]} is for a model, but a run folder says itself which model it "
            "holds. Leave it out."
        )


def _require_adoptable(name: str, values: Namespace, request: Request) -> None:
    """Accepts a model of which a run folder can be made, before one is."""
    if not is_model(name):
        raise ModelError(
            f"There is no run folder and no model {name!r}; {nearest(name, MODEL_NAMES)} "
            "A model of your own is path/to/file.py:function or package.module:function."
        )
    if values.weights is None and name in MODEL_NAMES:
        raise ModelError(f"Without weights {name} is random. Give those of a trained one: --weights=FILE.")
    request.certificates([])


def _adopt(name: str, values: Namespace, out: RunFolder, command: str) -> None:
    """Makes a run folder of a model."""
    weights = None if values.weights is None else Path(values.weights)
    if weights is None:
        ERRORS.print(
            f"warning: without --weights the network is measured as {name} makes it: random, if that is so.",
            style="yellow",
        )
    adopt_model(out, data_settings(values), model_settings(name, values), weights, command=command)


def _short(name: str) -> str:
    """A folder's name for a model: ``net-make`` for ``path/to/net.py:make``."""
    place, _, function = name.rpartition(":")
    return "-".join(part for part in (Path(place).stem, function) if part)


@dataclass(frozen=True)
class Request:
    """What to certify; what is None is as the run's last evaluation or its recipe says.

    Args:
        norm: 2 or inf.
        epsilons: Budgets in [0, 1] units, such as [0.5, 1.58] or [8/255].
        method: The domain to bound with, or best for the tightest.
        clip: Whether the attacker stays in [0, 1].
        radius: Compute the largest certified epsilon of each example, too.
        num_examples: How many test examples, of each class its share; all where null.
        batch_size: Examples a batch.
    """

    norm: float | None = None
    epsilons: list[float] | float | None = None
    method: Method | None = None
    clip: bool | None = None
    radius: bool | None = None
    num_examples: int | None = None
    batch_size: int | None = None

    def certificates(self, known: Sequence[Certificate]) -> list[Certificate]:
        """The certificates of a recipe with what is asked for in their place; else one that is.

        Args:
            known: Of the recipe.

        Raises:
            RecipeError: neither says what to certify, or a value does not fit.
        """
        epsilons = [float(self.epsilons)] if isinstance(self.epsilons, float | int) else self.epsilons
        asked = {"epsilons": epsilons, "method": self.method, "clip": self.clip, "radius": self.radius}
        requested: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
        of_norm = [certificate for certificate in known if self.norm in (None, certificate.norm)]
        try:
            if of_norm:
                changed = [Certificate(**{**asdict(certificate), **requested}) for certificate in of_norm]
                return list({certificate.name: certificate for certificate in changed}.values())
            if self.norm is None or epsilons is None:
                raise RecipeError(
                    "There is no certificate in the recipe, so say what to certify: "
                    "--norm=2 --epsilons=[0.5,1.58], or --norm=inf --epsilons=[8/255]."
                )
            return [Certificate(norm=self.norm, **requested)]
        except ValueError as error:
            raise RecipeError(str(error)) from error


def certify_run(
    folder: Path,
    request: Request,
    overrides: Sequence[str] = (),
    *,
    command: str,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Certifies a trained run, beside the results of its last evaluation.

    Args:
        folder: The run folder; a run that was never evaluated is scored clean as well.
        request: What to certify.
        overrides: ``--key=value`` of its recipe, such as ``--data.root=PATH``.
        command: The command that repeats it, for ``environment.json``.
        on_batch: Told how many examples are done, of how many.

    Raises:
        WithstandError: of the part that failed; nothing that was written before is lost.
    """
    run, own = open_run(folder)
    former = (former_evaluation(run) or own).recipe.evaluation.meters
    known = [meter for meter in (*former, *own.recipe.evaluation.meters) if isinstance(meter, Certificate)]
    certificates = request.certificates(known)
    meters = [{"class_path": "Certificate", "init_args": asdict(certificate)} for certificate in certificates]
    sizes = {"num_examples": request.num_examples, "batch_size": request.batch_size}
    return measure_run(
        folder,
        meters,
        sizes={key: value for key, value in sizes.items() if value is not None},
        overrides=overrides,
        command=command,
        stage="certify",
        on_batch=on_batch,
    )


# -- a model that was trained elsewhere -------------------------------------------------------------


def adopt_model(
    out: RunFolder, data: DataSettings, model: ModelSettings, weights: Path | None, *, command: str
) -> None:
    """Makes a run folder of a model, so that it is evaluated, certified and reported like a run.

    Args:
        out: The folder; one that holds this very model already is left as it is.
        data: What it was trained on.
        model: How to build it.
        weights: Its weights; those that it is built with where None.
        command: The command that repeats it, for ``environment.json``.

    Raises:
        WithstandError: the model cannot be built, or the folder holds another.
    """
    recipe = Recipe(name=out.path.resolve().name or "unnamed", data=data, model=model)
    device = device_of(recipe)
    dataset = load_data(recipe)
    network = build_model(recipe, dataset.info)
    if weights is not None:
        models.load_weights(network, weights)
    if out.recipe.exists():
        _require_same_model(out, recipe, network)
        return
    out.create()
    write_model(out, dataset.info, model_spec(recipe), network)
    _write_environment(out, dataset, device, command)
    models.save_weights(network, out.last_weights)
    content = {
        "name": recipe.name,
        "title": f"Certificates of {model.name}",
        "data": asdict(data),
        "model": asdict(model),
        "evaluation": {"weights": "last"},
    }
    write_signed(
        out.recipe, yaml.safe_dump(content, sort_keys=False)
    )  # last, since it makes the folder a run


def _write_environment(out: RunFolder, dataset: Dataset, device: torch.device, command: str) -> None:
    about = environment(seed=0, command=command, data_fingerprint=dataset.fingerprint, device=device)
    out.write_json(out.environment, about)


def _require_same_model(out: RunFolder, recipe: Recipe, network: nn.Module) -> None:
    held = recipe_of(out).recipe
    if (held.data, held.model) != (recipe.data, recipe.model) or not out.last_weights.exists():
        raise RunFolderError(
            f"{out.path} holds another run or model: {held.model.name} on {held.data.name}, perhaps with "
            "other options. Choose another folder with --out."
        )
    require_same_network(out, network)
    state, stored = network.state_dict(), read_weights(out.last_weights)
    if set(stored) != set(state) or not all(torch.equal(stored[name], state[name]) for name in stored):
        raise RunFolderError(
            f"{out.path} holds the same model with other weights, and what was measured of those. Choose "
            "another folder with --out, or delete this one."
        )
