"""Reading recipes: YAML files and ``--key=value``, to a typed recipe and back."""

from __future__ import annotations

import inspect
import re
import sys
import warnings
from argparse import Action, ArgumentError
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from jsonargparse import ArgumentParser, Namespace, set_loader

from withstand.core import trust
from withstand.core.bounded_yaml import require_bounded
from withstand.core.setting_rules import as_number
from withstand.core.suggest import nearest
from withstand.recipes.list_items import Item, is_item, put
from withstand.recipes.plain_words import explain
from withstand.recipes.upgrade import refuse_old_keys, with_moved_modules
from withstand.recipes.words import is_unspoken, kept_words
from withstand.types import RecipeError

if TYPE_CHECKING:  # what lists recipes needs no torch
    from withstand.recipes.schema import Recipe

LOADER = "withstand-recipe"
_ABOUT_KEYS = (
    "Any value can be set by --key=value, those of a class by the key that names it and a dot: "
    "--objective.attack.epsilon=8/255, those of a list's item by its number, from 0: "
    "--evaluation.meters.0.epsilons=[0.1]; --evaluation.meters+=Suite adds one, and "
    "--evaluation.meters.level=fast then sets it. --objective.help=Adversarial and "
    "--objective.attack.help=PGD explain a class; --print_config shows all values and does nothing. "
    f"{trust.ABOUT}"
)
_PRINTS = "--print_config"
_NUMBER = r"[0-9]+(?:\.[0-9]*)?"
_FRACTION = re.compile(rf"^-?{_NUMBER}/{_NUMBER}$")
_INFINITE_ARGUMENT = re.compile(r"(?<=^--)([^=]+)=(?:l_?)?inf$")
_NORMS = ("norm", "norms")
_TEXTS = ("name", "title", "description", "source", "note", "options", "root")
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


class _RecipeYaml(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """YAML in which 8/255, 1e-3 and inf are the numbers they look like."""


def _fraction(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> float:
    numerator, denominator = str(loader.construct_scalar(node)).split("/")
    return _quotient(numerator, denominator)


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


def load_yaml(text: str) -> Any:
    """Reads YAML in which 8/255, 1e-3 and inf are the numbers they look like, and norms may be l2 or linf.

    Raises:
        yaml.YAMLError: the text is no YAML, or stands for more than is read (``core/bounded_yaml.py``).
    """
    require_bounded(text)
    return _with_numbers(yaml.load(with_moved_modules(text), _RecipeYaml))


def _with_numbers(value: Any, key: str = "") -> Any:
    """Plain data in which norms, and fractions between quotes, are numbers.

    What a model's own options hold stays as it is, and what is a text.
    """
    if isinstance(value, dict):
        return {name: part if name in _TEXTS else _with_numbers(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [_with_numbers(part, key) for part in value]
    if isinstance(value, str) and key in _NORMS:
        from withstand.core.norms import as_norm

        with suppress(ValueError):
            return as_norm(value)
    return as_number(key, value) if isinstance(value, str) and _FRACTION.match(value) else value


def flow(value: object) -> str:
    """A value as one line of YAML, for ``--key=value``."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9, sort_keys=False, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


set_loader(LOADER, load_yaml)


def recipe_parser(program: str, description: str) -> ArgumentParser:
    """The command-line parser of a recipe: ``--recipe FILE`` and a ``--key`` for each value."""
    from withstand.recipes.schema import Recipe

    parser = ArgumentParser(
        prog=program,
        usage=f"{program} [--key=value ...]",
        description=f"{description} {_ABOUT_KEYS}",
        parser_mode=LOADER,
        exit_on_error=False,
        allow_abbrev=False,
    )
    parser.add_argument("--recipe", action="config", help="The recipe; RECIPE is short for it.")
    parser.add_class_arguments(Recipe, as_group=False)
    # As plain data, since an object that stands as a default cannot be written down again.
    parser.set_defaults({"objective": {"class_path": "CrossEntropy"}})
    return parser


@cache
def _plain_parser() -> ArgumentParser:
    """Made once: it is a sixth of the time that reading a recipe takes."""
    return recipe_parser("withstand", "")


def packaged_recipes() -> dict[str, Path]:
    """The recipes that come with the package, name -> file, in order of name."""
    folder = Path(str(resources.files("withstand.recipes"))) / "library"
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
    raise RecipeError(
        f"There is no recipe {name!r}; {nearest(name, known)} Your own is a path to a YAML file."
    )


def parse_recipe(
    path: Path,
    overrides: Sequence[str] = (),
    *,
    parser: ArgumentParser | None = None,
    sources: Sequence[Path] = (),
) -> ParsedRecipe:
    """Reads a recipe file and overrides.

    Its title, description and published figures stay where they hold for the values (``words.kept_words``).

    Classes, functions and models beyond this package's are neither imported nor called unless the files are
    trusted, or the person typed their names (``core/trust.py``).

    Args:
        path: A YAML file.
        overrides: Each ``--key=value``; keys are dotted, fractions such as 8/255 are numbers. Those
            of a list's item, such as ``--objective.terms.1.weight=0.3``, come after all others.
        parser: To parse with; a plain one where None.
        sources: Files other than ``path`` that the overrides come from.

    Raises:
        RecipeError: a key is unknown (the text names the nearest valid one), a value does not fit, or code is
            named that must not run.
        SystemExit: an override asks to print all values.
    """
    from withstand.recipes.named_code import guarded
    from withstand.recipes.schema import Recipe

    refuse_old_keys(path, overrides, load_yaml)
    if _PRINTS in overrides:
        others = [override for override in overrides if override != _PRINTS]
        sys.stdout.write(parse_recipe(path, others, parser=parser, sources=sources).text)
        raise SystemExit(0)
    parser = parser or _plain_parser()
    fields = inspect.signature(Recipe).parameters
    arguments = [f"--recipe={path}", *with_numbers(overrides, parser)]
    items = [argument for argument in arguments if is_item(argument)]
    with warnings.catch_warnings():
        # jsonargparse warns when an override replaces a class and drops the former's settings,
        # as the user asked.
        warnings.filterwarnings("ignore", message="Due to class_path change")
        try:
            with guarded([path, *sources]) as require_known:
                config = _parsed(parser, arguments, items)
                require_known(config)
                parts = parser.instantiate(config)
            recipe = Recipe(**{name: getattr(parts, name) for name in fields})
        except RecipeError:
            raise
        except (ArgumentError, TypeError, ValueError, yaml.YAMLError) as error:
            raise RecipeError(explain(parser, error)) from error
    for key in set(vars(config)) - set(fields):
        config.pop(key)  # of the command, not of the recipe
    text = parser.dump(config, skip_unset=False, skip_validation=True)  # it was parsed just now
    return _with_kept_words(ParsedRecipe(recipe, load_yaml(text), text), path, overrides)


def _with_kept_words(parsed: ParsedRecipe, path: Path, overrides: Sequence[str]) -> ParsedRecipe:
    """The same without what the recipe says of itself that no longer holds, and with what was changed."""
    from withstand.recipes.schema import Published

    if all(is_unspoken(override.removeprefix("--").partition("=")[0]) for override in overrides):
        return parsed
    is_trusted, typed = trust.is_trusted(path), trust.typed_names()
    words = kept_words(_own_values(path, path.read_bytes(), is_trusted, typed), parsed.values, overrides)
    if all(parsed.values[word] == value for word, value in words.items()):
        return parsed
    published = [Published(**figure) for figure in words["published"]]
    values = {**parsed.values, **words}
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    return ParsedRecipe(replace(parsed.recipe, **{**words, "published": published}), values, text)


@lru_cache(maxsize=8)
def _own_values(path: Path, content: bytes, is_trusted: bool, typed: frozenset[str]) -> dict[str, Any]:
    """All values of a recipe's file; of one that is no recipe without overrides those of none.

    Read once for all points of a sweep: all that decides them beside the path is there to tell them apart.
    """
    from withstand.recipes.named_code import guarded

    parser = _plain_parser()
    try:
        with guarded([path]):
            config = parser.parse_args([f"--recipe={path}"])
    except (RecipeError, ArgumentError, TypeError, ValueError, yaml.YAMLError):
        config = parser.parse_args([])
    values: dict[str, Any] = load_yaml(parser.dump(config, skip_unset=False, skip_validation=True))
    return values


def _parsed(parser: ArgumentParser, arguments: Sequence[str], items: Sequence[str]) -> Namespace:
    """Parses all but the items, puts the items into what came of it, and parses that."""
    if not items:
        return parser.parse_args(arguments)
    printing = [argument for argument in arguments if argument.startswith("--print_config")]
    config = parser.parse_args([argument for argument in arguments if argument not in (*items, *printing)])
    document = load_yaml(parser.dump(config, skip_unset=False, skip_validation=True))
    put(document, [_item(argument) for argument in items])
    return parser.parse_args([f"--recipe={yaml.safe_dump(document, sort_keys=False)}", *printing])


def _item(argument: str) -> Item:
    key, equals, text = argument.removeprefix("--").partition("=")
    if not equals:
        raise RecipeError(f"--{key} needs a value: --{key}=VALUE.")
    return Item(key, load_yaml(text))


def with_numbers(arguments: Sequence[str], parser: ArgumentParser) -> list[str]:
    """Arguments with numbers as YAML spells them: ``=8/255`` -> ``=0.03137…``, ``=inf`` -> ``=.inf``.

    Args:
        arguments: Each ``--key=value``, or a positional one, which stays as it is.
        parser: Tells which keys hold text, such as a path, in which a fraction is none.

    Raises:
        RecipeError: a fraction divides by 0.
    """
    texts = {action.dest for action in parser._actions if _holds_text(action)}
    return [
        argument if argument[2:].partition("=")[0] in texts else _norm(_number(argument))
        for argument in arguments
    ]


def _norm(argument: str) -> str:
    key, _, text = argument.partition("=")
    name = key.rpartition(".")[2].removeprefix("--").removesuffix("+")
    is_number = text and (name in _NORMS or text[0] in "\"'") and ".options." not in key
    try:
        return f"{key}={flow(_with_numbers(load_yaml(text), name))}" if is_number else argument
    except yaml.YAMLError as error:
        raise RecipeError(f"{key} cannot be read: {' '.join(str(error).split())}") from error


def _holds_text(action: Action) -> bool:
    return getattr(action, "_typehint", action.type) in (str, str | None)


def _number(argument: str) -> str:
    return _INFINITE_ARGUMENT.sub(r"\1=.inf", _FRACTION_ARGUMENT.sub(_decimal, argument))


def _decimal(match: re.Match[str]) -> str:
    return f"{match[1]}{_quotient(match[2], match[3])!r}"


def _quotient(numerator: str, denominator: str) -> float:
    if float(denominator) == 0:
        raise RecipeError(f"{numerator}/{denominator} divides by 0.")
    return float(numerator) / float(denominator)
