"""Reading recipes: YAML files and ``--key=value``, to a typed recipe and back."""

from __future__ import annotations

import difflib
import inspect
import re
import warnings
from argparse import ArgumentError
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace, set_loader

from withstand.attacks import Attack
from withstand.recipe import Recipe
from withstand.schedules import Schedule
from withstand.terms import Objective
from withstand.types import RecipeError

__all__ = ["ParsedRecipe", "find_recipe", "packaged_recipes", "parse_recipe", "recipe_parser", "with_numbers"]

_LOADER = "withstand-recipe"
_NUMBER = r"[0-9]+(?:\.[0-9]*)?"
_FRACTION = re.compile(rf"^-?{_NUMBER}/{_NUMBER}$")
_FRACTION_ARGUMENT = re.compile(rf"^(--[^=]+=)(-?{_NUMBER})/({_NUMBER})$")


@dataclass(frozen=True)
class ParsedRecipe:
    """A recipe with the text that made it.

    Attributes:
        recipe: Typed, ready to run.
        values: All values, resolved, as plain data.
        text: The same as YAML: what ``recipe.yaml`` holds.
    """

    recipe: Recipe
    values: dict[str, Any]
    text: str


class _RecipeYaml(yaml.SafeLoader):
    """YAML in which 8/255, 1e-3 and inf are the numbers they look like."""


def _fraction(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    numerator, denominator = str(loader.construct_scalar(node)).split("/")
    return float(numerator) / float(denominator)


def _float(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    return float(
        str(loader.construct_scalar(node)).replace("_", "").replace(".inf", "inf").replace(".nan", "nan")
    )


_RecipeYaml.add_implicit_resolver("!fraction", _FRACTION, list("-0123456789"))
_RecipeYaml.add_constructor("!fraction", _fraction)
_RecipeYaml.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:inf|[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+)$"),
    list("-+i0123456789"),
)
_RecipeYaml.add_constructor("tag:yaml.org,2002:float", _float)


def _load(text: str) -> Any:
    return yaml.load(text, _RecipeYaml)


set_loader(_LOADER, _load)


def recipe_parser(program: str, description: str) -> ArgumentParser:
    """The command-line parser of a recipe: ``--recipe FILE`` and a ``--key`` for each value."""
    parser = ArgumentParser(
        prog=program, description=description, parser_mode=_LOADER, exit_on_error=False, allow_abbrev=False
    )
    parser.add_argument("--recipe", action="config", help="The recipe; RECIPE is short for it.")
    parser.add_class_arguments(Recipe, as_group=False)
    return parser


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with the package, name -> file, in order of name."""
    folder = Path(str(resources.files("withstand"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_recipe(name: str) -> Path:
    """The file of a packaged recipe or of the user's own.

    Args:
        name: A packaged name (``mnist-iat``) or a path to a YAML file.

    Raises:
        RecipeError: there is none; the text names the nearest.
    """
    known = packaged_recipes()
    if name in known:
        return known[name]
    path = Path(name)
    if path.is_file():
        return path
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise RecipeError(
        f"There is no recipe {name!r}.{hint} `withstand recipes` lists those that come with the package; "
        "your own is a path to a YAML file."
    )


def parse_recipe(
    path: Path, overrides: Sequence[str] = (), *, parser: ArgumentParser | None = None
) -> ParsedRecipe:
    """Reads a recipe file and overrides.

    Args:
        path: A YAML file.
        overrides: Each ``--key=value``; keys are dotted, fractions such as 8/255 are numbers.
        parser: To parse with; a plain one where None.

    Raises:
        RecipeError: a key is unknown (the text names the nearest valid one) or a value does not fit.
    """
    parser = parser or recipe_parser("withstand", "")
    arguments = [f"--recipe={path}", *with_numbers(overrides)]
    with warnings.catch_warnings():
        # jsonargparse warns when an override replaces a class and drops the former's settings,
        # which is what the user asked for.
        warnings.filterwarnings("ignore", message="Due to class_path change")
        try:
            _require_file_keys(parser, path)
            config = parser.parse_args(arguments)
            recipe = parser.instantiate(config)
        except (ArgumentError, TypeError, ValueError, yaml.YAMLError) as error:
            raise RecipeError(_explain(parser, path, overrides, error)) from error
    config.pop("recipe", None)
    text = parser.dump(config, skip_unset=False)
    values = _load(text)
    return ParsedRecipe(_recipe_of(recipe), values, text)


def with_numbers(arguments: Sequence[str]) -> list[str]:
    """Arguments with fractions as decimals: ``--epsilon=8/255`` -> ``--epsilon=0.03137…``."""
    return [
        _FRACTION_ARGUMENT.sub(lambda m: f"{m[1]}{float(m[2]) / float(m[3])!r}", argument)
        for argument in arguments
    ]


def _recipe_of(values: Namespace) -> Recipe:
    fields = {name: getattr(values, name) for name in inspect.signature(Recipe).parameters}
    return Recipe(**fields)


# -- errors that name the nearest valid key ---------------------------------------------------------


def _require_file_keys(parser: ArgumentParser, path: Path) -> None:
    content = _load(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict):
        raise TypeError(f"Expected a mapping of keys in {path}, but got {type(content).__name__}.")


def _explain(parser: ArgumentParser, path: Path, overrides: Sequence[str], error: Exception) -> str:
    """An error text that names the nearest valid key where a key is unknown."""
    full = _dotted_keys(parser)
    leaves = {key.rpartition(".")[2] for key in full} | set(_class_parameters())
    for key in [*_override_keys(overrides), *_file_keys(path)]:
        if key in full or _stem_is_class(key, full, leaves):
            continue
        near = [known for known in (*sorted(full), "objective.attack.epsilon") if known.endswith(f".{key}")]
        near += difflib.get_close_matches(key, full, n=1, cutoff=0.75)
        near += difflib.get_close_matches(key.rpartition(".")[2], leaves, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        return f"Unknown key {key!r}.{hint} `withstand run RECIPE --help` lists all keys."
    return f"The recipe does not fit: {_shorten(error)}"


def _stem_is_class(key: str, full: set[str], leaves: set[str]) -> bool:
    """Whether a key may be a setting of a class that another key names."""
    stem, _, leaf = key.rpartition(".")
    while stem and stem not in full:
        stem = stem.rpartition(".")[0]
    return bool(stem) and leaf in leaves


def _shorten(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return " ".join(lines)[:1500]


def _dotted_keys(parser: ArgumentParser) -> set[str]:
    return {action.dest for action in parser._actions if action.dest not in ("help", "print_config")}


def _class_parameters() -> Iterator[str]:
    """The parameters of every class that a recipe can name."""
    yield from ("class_path", "init_args", "lr", "momentum", "weight_decay", "nesterov", "betas", "eps")
    pending: list[type] = [Objective, Attack, Schedule]
    while pending:
        cls = pending.pop()
        pending.extend(cls.__subclasses__())
        yield from inspect.signature(cls).parameters


def _override_keys(overrides: Sequence[str]) -> list[str]:
    keys = [argument[2:].partition("=")[0] for argument in overrides if argument.startswith("--")]
    return [key.rstrip("+").replace("init_args.", "") for key in keys]


def _file_keys(path: Path) -> list[str]:
    try:
        content = _load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return []
    return list(_flat_keys(content, ""))


def _flat_keys(content: Any, prefix: str) -> Iterator[str]:
    if isinstance(content, list):
        for item in content:
            yield from _flat_keys(item, prefix)
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        inner = prefix if key in ("init_args", "class_path") else f"{prefix}{key}."
        if inner != prefix:
            yield f"{prefix}{key}"
        if key != "options":  # a model's own
            yield from _flat_keys(value, inner)
