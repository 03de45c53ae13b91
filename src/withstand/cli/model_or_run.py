"""The first argument of a command that measures: a run folder, or a model or net of which one is made."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from withstand.cli.arguments import add_model_arguments, data_settings, is_model, model_settings, of_recipe
from withstand.cli.terminal import ERRORS, OUTPUT
from withstand.core import processes
from withstand.core.run_folder import RunFolder
from withstand.core.suggest import nearest
from withstand.core.zoo import is_run, zoo_nets
from withstand.models import MODEL_NAMES
from withstand.models.hosted import is_hosted
from withstand.runs.adoption import adopt_model, adopt_net, folder_name
from withstand.types import ModelError, RecipeError

WHAT = "RUN, a run folder or a net of the zoo, or MODEL"
_OUT = "--out="
_DATA = "--data."
_OF_A_MODEL = ("--weights", "--out", "--model.")
_FOREIGN = ("--weights", "--out", "--model.normalize", "--model.options")  # of no run


@dataclass(frozen=True)
class Measured:
    """What a command measures.

    Attributes:
        folder: The run folder.
        overrides: What was typed of the run's recipe, such as ``--data.root=DIR``.
    """

    folder: Path
    overrides: list[str]


def add_measured_arguments(parser: ArgumentParser) -> None:
    """Adds the options of a model that is no run, of data, and of the run folder to make."""
    add_network_arguments(parser)
    _add_out(parser)


def add_foreign_arguments(parser: ArgumentParser) -> None:
    """Adds those that no recipe has."""
    _add_weights(parser)
    _add_out(parser)


def add_network_arguments(parser: ArgumentParser) -> None:
    """Adds the options of a model that is no run, and of data."""
    _add_weights(parser)
    add_model_arguments(parser)
    parser.add_argument(
        "--model.name",
        type=str | None,
        default=None,
        help="Of a run in Python that cannot make its network: file.py:function.",
    )


def _add_weights(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        type=str | None,
        default=None,
        help="Of MODEL: .safetensors, .pt, .pth, .bin, .ckpt, an .index.json of parts, or a run folder.",
    )
    parser.add_argument(
        "--weights_entry",
        type=str | None,
        default=None,
        help="Of a checkpoint with several state dicts: which, such as ema.",
    )


def _add_out(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=str | None, default=None, help="Of MODEL: the folder to make; runs/NAME where null."
    )


def is_of_a_model(option: str) -> bool:
    """Whether an option says which model, weights or data are meant."""
    return option.startswith((*_OF_A_MODEL, _DATA))


def refuse_foreign(options: Sequence[str]) -> None:
    """Accepts options that do not say which model a run holds.

    Raises:
        RecipeError: one does.
    """
    if misplaced := [option for option in options if option.startswith(_FOREIGN)]:
        raise RecipeError(
            f"{misplaced[0].partition('=')[0]} is for a model, but a run folder says itself which model it "
            "holds. Leave it out."
        )


@contextmanager
def measured(
    name: str, values: Namespace, overrides: Sequence[str], *, doing: str, command: str
) -> Iterator[Measured]:
    """The run folder that a first argument names, or one that is made of the model that it names.

    Args:
        name: A folder, or a model's name.
        values: Of ``add_measured_arguments``.
        overrides: All options as they were typed.
        doing: What is done meanwhile, for whoever comes second: ``certifying``.
        command: The command that repeats it.

    Yields:
        What to measure. Of a start that fails before it came to anything no folder stays.

    Raises:
        ModelError: there is neither folder nor model, or a built-in one without weights.
        RecipeError: a model's option is given with a run, or the data of a model are not named.
        RunFolderError: the folder holds another model.
    """
    name, overrides = with_own_folder(name, overrides, doing)
    if Path(name).is_dir():
        refuse_foreign(overrides)
        yield Measured(Path(name), of_recipe(overrides))
        return
    require_model(name, values)
    out = RunFolder.at(Path("runs") / folder_name(name) if values.out is None else values.out)
    weights = None if values.weights is None else Path(values.weights)
    with ExitStack() as starting:
        with processes.agreeing():
            if processes.is_first():
                starting.enter_context(out.starting(doing))
                adopt_model(
                    out,
                    data_settings(values),
                    model_settings(name, values),
                    weights,
                    entry=values.weights_entry,
                    command=command,
                )
        yield Measured(out.path, [])


def with_own_folder(name: str, options: Sequence[str], doing: str) -> tuple[str, list[str]]:
    """A first argument and the options; of a net of the zoo the run folder made of it, and no ``--out``.

    Args:
        name: A folder, or the name of a net or model.
        options: All, as they were typed.
        doing: What is done in the folder, for whoever comes second: ``certifying``.

    Raises:
        RunFolderError: the net's files are damaged, or the folder holds another run.
    """
    net = None if is_run(Path(name)) else zoo_nets().get(name)
    if net is None:
        return name, list(options)
    outs = [option.removeprefix(_OUT) for option in options if option.startswith(_OUT)]
    others = [option for option in options if not option.startswith(_OUT)]
    refuse_foreign(others)
    out = RunFolder.at(outs[-1] if outs else Path("runs") / name)
    with processes.agreeing():
        if processes.is_first():
            is_new = not out.recipe.exists()
            with out.starting(doing):
                adopt_net(out, net)
            if is_new:
                OUTPUT.print(f"zoo: {name} is copied to {out.path}", soft_wrap=True)
    return str(out.path), others


def require_model(name: str, values: Namespace) -> None:
    """Accepts a first argument that names a trained model; weights that may be random are warned of.

    Raises:
        ModelError: there is neither folder nor model, or a built-in one without weights.
        RecipeError: another model is named, too.
    """
    if values.model.name is not None:
        raise RecipeError(f"The model is {name}; leave out --model.name, which is of a run.")
    if not is_model(name):
        raise ModelError(
            f"There is no run folder and no model {name!r}; {nearest(name, [*zoo_nets(), *MODEL_NAMES])} "
            "A model of your own is path/to/file.py:function, package.module:function or net.onnx, and a run "
            f"folder is made by `withstand train RECIPE --out={name}`."
        )
    if values.weights is None and name in MODEL_NAMES:
        raise ModelError(f"Without weights {name} is random. Give those of a trained one: --weights=FILE.")
    if values.weights is None and not is_hosted(name):  # which comes with weights of its own
        ERRORS.print(
            f"warning: without --weights the network is taken as {name} makes it: random, if that is so.",
            style="yellow",
        )
