"""Sweeps: one recipe with some of its values varied, each combination a point."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from withstand.core.suggest import nearest
from withstand.recipes.parsing import find_recipe, flow, load_yaml, packaged_recipes
from withstand.types import RecipeError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=-]*")
_UNSAFE = re.compile(r"[^A-Za-z0-9._+-]+")
_LONGEST_LABEL = 40
_KEYS = ("name", "title", "description", "recipe", "set", "over", "variants")


@dataclass(frozen=True)
class Sweep:
    """What to vary in a recipe.

    Args:
        name: Short name; the folder is runs/NAME unless --out says otherwise.
        recipe: The recipe that is varied: a packaged name or a path.
        title: One line for people.
        description: What the sweep shows.
        settings: Dotted key -> value, the same at every point.
        over: Dotted key -> its values; every combination of them is run. Several keys with commas between
            them take the same value: ``seed,data.seed``.
        variants: Name -> dotted keys and their values; each is run with every combination.
        files: Where the above was read from, none where it was not.

    Raises:
        RecipeError: nothing is varied, a name does not do for a folder, a list of values is empty or
            repeats one, or a key is set twice.
    """

    name: str
    recipe: str
    title: str = ""
    description: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    over: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    variants: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: Sequence[Path] = ()

    def __post_init__(self) -> None:
        if not self.over and not self.variants:
            raise RecipeError(
                f"The sweep {self.name!r} varies nothing. Give it `over: {{seed: [0, 1, 2]}}` or `variants`."
            )
        for name in (self.name, *self.variants):
            if not _NAME.fullmatch(name) or name in (".", ".."):
                raise RecipeError(
                    f"{name!r} does not do for a folder. Use letters, digits and . _ + = - in names."
                )
        if clash := _repeated([name.lower() for name in self.variants]):
            raise RecipeError(f"Two variants are called {clash!r}, but for upper and lower case.")
        for key, values in self.over.items():
            if not values:
                raise RecipeError(f"over.{key} has no values. Give it at least one: {key}: [0, 1].")
            if twice := _repeated([_text(value) for value in values]):
                raise RecipeError(f"over.{key} has the value {twice} twice.")
        _refuse_keys_set_twice(self)


@dataclass(frozen=True)
class Point:
    """One combination of a sweep.

    Attributes:
        name: Its folder below the sweep's, with ``/`` between variant and values:
            ``plain/seed=0,train_size=300``.
        overrides: Each ``--key=value``, in the order to apply; the first ones give the point a name and
            words of its own, since those of the recipe may not hold for it.
    """

    name: str
    overrides: tuple[str, ...]


def points(sweep: Sweep, overrides: Sequence[str] = ()) -> list[Point]:
    """Every point of a sweep: each variant with each combination of values, the last key fastest.

    Args:
        sweep: What is varied.
        overrides: Each ``--key=value``, after the sweep's own but for what it varies.

    Returns:
        At least one point; no two have the same name.
    """
    from withstand.reporting.compare.groups import short_keys  # with pandas and plotly

    words = dict(zip(sweep.over, short_keys([keys_of(key)[0] for key in sweep.over]).values(), strict=True))
    labels = {key: _labels(values) for key, values in sweep.over.items()}
    all_points = []
    for variant, settings in (sweep.variants or {"": {}}).items():
        for places in itertools.product(*(range(len(values)) for values in sweep.over.values())):
            chosen = dict(zip(sweep.over, places, strict=True))
            combination = ",".join(f"{words[key]}={labels[key][place]}" for key, place in chosen.items())
            values = {part: sweep.over[key][place] for key, place in chosen.items() for part in keys_of(key)}
            name = "/".join(part for part in (variant, combination) if part)
            all_points.append(
                Point(
                    name=name,
                    overrides=(
                        *_arguments({**_words(sweep, name), **sweep.settings, **settings}),
                        *overrides,
                        *_arguments(values),  # last, since an override may name the class that they are of
                    ),
                )
            )
    return all_points


def keys_of(key: str) -> list[str]:
    """The keys that take the same value: ``seed,data.seed`` are two."""
    return [part.strip() for part in key.split(",")]


# -- from files -------------------------------------------------------------------------------------


def packaged_sweeps() -> dict[str, Path]:
    """The sweeps that come with the package, name -> file, in order of name."""
    folder = Path(str(resources.files("withstand.recipes"))) / "sweeps"
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def find_sweep(name: str) -> Path:
    """The file of a sweep or of a recipe, packaged or the user's own.

    Args:
        name: A packaged name or a path to a YAML file.

    Raises:
        RecipeError: there is none; the text names the nearest.
    """
    known = packaged_sweeps()
    if name in known:
        return known[name]
    if name in packaged_recipes() or Path(name).is_file():
        return find_recipe(name)
    raise RecipeError(
        f"There is no sweep and no recipe {name!r}; {nearest(name, [*known, *packaged_recipes()])} "
        "Your own is a path to a YAML file."
    )


def is_sweep(file: Path) -> bool:
    """Whether a YAML file is a sweep, not a recipe: it names the recipe that it varies.

    Raises:
        RecipeError: it cannot be read.
    """
    content = _content(file)
    return isinstance(content, dict) and not {"recipe", "over", "variants"}.isdisjoint(content)


def read_sweep(file: Path) -> Sweep:
    """Reads a sweep.

    Args:
        file: YAML with ``recipe`` (a packaged name, or a path relative to the file), ``over`` and
            ``variants``, and perhaps ``name``, ``title``, ``description`` and ``set``.

    Raises:
        RecipeError: a key is unknown or a value does not fit.
    """
    content = _mapping(_content(file), f"The sweep {file}")
    for key in content:
        if key not in _KEYS:
            raise RecipeError(f"Unknown key {key!r} in the sweep {file}; {nearest(key, _KEYS)}")
    if not isinstance(content.get("recipe"), str):
        raise RecipeError(f"The sweep {file} must name the recipe that it varies: recipe: NAME.")
    variants = _mapping(content.get("variants"), "variants")
    return Sweep(
        name=str(content.get("name", file.stem)),
        recipe=_base(content["recipe"], file),
        title=str(content.get("title", "")),
        description=str(content.get("description", "")),
        settings=_mapping(content.get("set"), "set"),
        over={key: _values(key, values) for key, values in _mapping(content.get("over"), "over").items()},
        variants={name: _mapping(keys, f"variants.{name}") for name, keys in variants.items()},
        files=[file],
    )


def read_over(argument: str) -> tuple[str, list[Any]]:
    """Key and values of ``key=v1,v2``, as ``--over`` takes them.

    Raises:
        RecipeError: it is none.
    """
    key, equals, text = argument.partition("=")
    try:
        values = load_yaml(f"[{text}]")
    except yaml.YAMLError:
        values = None
    if not key or not equals or not values:
        raise RecipeError(f"Expected --over key=v1,v2, but got --over {argument}.")
    return key, list(values)


def _content(file: Path) -> Any:
    try:
        return load_yaml(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise RecipeError(f"Cannot read {file}: {' '.join(str(error).split())}") from error


def _base(name: str, file: Path) -> str:
    beside = file.parent / name
    if name in packaged_recipes() or not beside.is_file():
        find_recipe(name)
        return name
    return str(beside)


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise RecipeError(f"{where} must be a mapping of keys to values, but is {value!r}.")
    return {str(key): item for key, item in value.items()}


def _values(key: str, values: Any) -> list[Any]:
    if not isinstance(values, list):
        raise RecipeError(f"over.{key} must be a list of values, such as [0, 1], but is {values!r}.")
    return values


# -- names and arguments ----------------------------------------------------------------------------


def _labels(values: Sequence[Any]) -> list[str]:
    """A short text a value that does for a folder; no two alike, even where case is ignored."""
    labels = [_label(value) for value in values]
    if _repeated([label.lower() for label in labels]):
        return [f"{place}-{label}"[:_LONGEST_LABEL] for place, label in enumerate(labels, start=1)]
    return labels


def _label(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, int) or value is None:
        return _text(value)
    if isinstance(value, Mapping) and "class_path" in value:
        value = str(value["class_path"]).rpartition(".")[2]
    return _UNSAFE.sub("-", _text(value)).strip("-")[:_LONGEST_LABEL] or "empty"


def _words(sweep: Sweep, point: str) -> dict[str, str]:
    title = f"{sweep.title or sweep.name}: {point}"
    return {"name": point, "title": title, "description": sweep.description}


def _arguments(values: Mapping[str, Any]) -> list[str]:
    return [f"--{key}={_text(value)}" for key, value in values.items()]


def _text(value: Any) -> str:
    """A value as the command line takes it: a text as it is, all else as YAML on one line."""
    if isinstance(value, str):
        return value
    return flow(value)


def _refuse_keys_set_twice(sweep: Sweep) -> None:
    varied = [part for key in sweep.over for part in keys_of(key)]
    if twice := _repeated(varied):
        raise RecipeError(f"over gives {twice} twice. Leave out one of them.")
    for name, settings in sweep.variants.items():
        if both := settings.keys() & set(varied):
            raise RecipeError(f"Both over and the variant {name!r} set {min(both)}. Leave out one of them.")
    if both := sweep.settings.keys() & set(varied):
        raise RecipeError(f"Both over and set give {min(both)}. Leave out one of them.")


def _repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None
