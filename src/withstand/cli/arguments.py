"""Reading a command's arguments, with errors that name the nearest valid option.

Among them those that say which model and which data a command is about, where no run or recipe does.
"""

from __future__ import annotations

from argparse import ArgumentError
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from withstand.core import trust
from withstand.core.suggest import nearest
from withstand.recipes.parsing import LOADER, with_numbers
from withstand.recipes.plain_words import in_words
from withstand.types import RecipeError

if TYPE_CHECKING:  # commands that need no torch read their arguments too
    from withstand.recipes.schema import DataSettings, ModelSettings

_SIZES = ("num_examples", "batch_size")


def plain_parser(program: str, description: str) -> ArgumentParser:
    """A parser that raises its errors, for ``parse``, and guesses no abbreviations."""
    return ArgumentParser(
        prog=program,
        description=f"{description} {trust.ABOUT}",
        parser_mode=LOADER,
        exit_on_error=False,
        allow_abbrev=False,
    )


def target(
    command: str, what: str, arguments: Sequence[str], parser: ArgumentParser
) -> tuple[str, list[str]]:
    """The first argument, which names what to work on, and the others as ``--key=value``.

    Args:
        command: For the error.
        what: What the first argument must be, for the error.
        arguments: What stands after the command.
        parser: Prints the help where that is asked for.

    Raises:
        RecipeError: there is no first argument.
        SystemExit: the help was asked for.
    """
    if any(argument in ("-h", "--help") for argument in arguments):
        parser.print_help()
        raise SystemExit(0)
    if not arguments or arguments[0].startswith("-"):
        raise RecipeError(f"`withstand {command}` needs {what}, as its first argument.")
    return arguments[0], _joined(arguments[1:])


def _joined(arguments: Sequence[str]) -> list[str]:
    """``--key value`` as ``--key=value``, so that both are read alike."""
    joined: list[str] = []
    for argument in arguments:
        waits = joined and joined[-1].startswith("--") and "=" not in joined[-1]
        if waits and not argument.startswith("--"):
            joined[-1] = f"{joined[-1]}={argument}"
        else:
            joined.append(argument)
    return joined


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parses arguments; fractions such as 8/255 are numbers.

    Raises:
        RecipeError: an option is unknown (the text names the nearest) or a value does not fit.
    """
    try:
        return parser.parse_args(with_numbers(arguments, parser))
    except ArgumentError as error:
        known = [
            option
            for action in parser._actions
            for option in action.option_strings
            if option.startswith("--") and not option.endswith(("help", "shtab"))
        ]
        unknown = [
            a.partition("=")[0] for a in arguments if a.startswith("--") and a.partition("=")[0] not in known
        ]
        hint = f"; {nearest(unknown[0], known)}" if unknown else "."
        words = in_words(" ".join(str(error).split())).removesuffix(".")
        raise RecipeError(f"{words}{hint} `{parser.prog} --help-all` explains.") from error


def requested_sizes(values: Namespace) -> dict[str, int]:
    """How many examples to measure, and how many a batch has, where the command says so.

    Raises:
        RecipeError: one is below 1.
    """
    sizes = {key: values[key] for key in _SIZES if values[key] is not None}
    for key, size in sizes.items():
        if size < 1:
            raise RecipeError(f"Expected --{key} of at least 1, but got {size}.")
    return sizes


def is_model(name: str) -> bool:
    """Whether an argument names a model, built in or of the user's own."""
    from withstand.models import MODEL_NAMES
    from withstand.models.hosted import is_onnx

    return ":" in name or name in MODEL_NAMES or is_onnx(name)


def of_recipe(arguments: Sequence[str]) -> list[str]:
    """The arguments that are about a run's data and model."""
    return [argument for argument in arguments if argument.startswith(("--data.", "--model."))]


def add_model_arguments(parser: ArgumentParser) -> None:
    """Adds the options that say which model and data are meant where no run or recipe does."""
    from withstand.recipes.schema import DataSettings

    parser.add_argument(
        "--model.normalize",
        type=bool | None,
        default=None,
        help="Put the data set's normalisation before MODEL; where null, before those of this package alone.",
    )
    parser.add_argument("--model.options", type=dict[str, Any], default={}, help="Of the model's builder.")
    parser.add_class_arguments(DataSettings, "data", skip={"name"})
    parser.add_argument("--data.name", type=str | None, default=None, help="As `withstand data` lists it.")


def model_settings(name: str, values: Namespace) -> ModelSettings:
    """The model that an argument and its options name.

    Raises:
        RecipeError: a normalisation is asked for that is not put in front of it.
    """
    from withstand.models import MODEL_NAMES
    from withstand.models.hosted import is_hosted, is_onnx
    from withstand.recipes.schema import ModelSettings

    chosen = values.model.normalize
    if chosen and is_onnx(name):
        raise RecipeError(
            "The data's normalisation is not put in front of an ONNX file. Say the one that it was trained "
            "with: --model.options={mean: [0.5], std: [0.25]}, one number a channel."
        )
    has_own = name in MODEL_NAMES or (is_hosted(name) and not is_onnx(name))
    normalize = has_own if chosen is None else chosen
    return ModelSettings(name=name, normalize=normalize, options=dict(values.model.options))


def data_settings(values: Namespace) -> DataSettings:
    """The data set that the options name.

    Raises:
        RecipeError: they name none.
    """
    from withstand.recipes.schema import DataSettings

    if values.data.name is None:
        raise RecipeError("Say which data the model is for: --data.name=mnist.")
    return DataSettings(**vars(values.data))
