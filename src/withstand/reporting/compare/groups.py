"""Runs that differ in their seeds alone as one group: what tells it from others, means and intervals."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy

from withstand.core.flat import flat
from withstand.reporting.formatting import duration
from withstand.reporting.naming import folder_labels, lookup
from withstand.reporting.read import Run

# Two runs that differ in no more than these are repetitions of one another.
_SEEDS = ("seed", "data.seed")
_WORDS = ("name", "title", "description", "data.root")
_TO = "\N{EN DASH}"
_SEED_PART = re.compile(r"(?:^|[,/])(?:data\.)?seed=[^,/]*")
_LONGEST_LABEL = 60
_ABSENT = object()  # which is not None

Values = Mapping[str, object]
"""Dotted key -> number, text, truth value or None."""


@dataclass(frozen=True, eq=False)
class Group:
    """Runs of one recipe but for the seed.

    Attributes:
        label: What tells it from the other groups.
        values: The recipe's values by dotted key, of those in which the groups differ.
        members: Places of its runs among all; the first is what ``means_of`` calls the group.
    """

    label: str
    values: Values
    members: Sequence[int] = (0,)


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """The evaluated runs, those that differ in their seeds alone together, in their order."""
    gathered: dict[object, list[int]] = {}
    identities = _identities(runs)
    seen: Counter[object] = Counter()
    for place, run in enumerate(runs):
        if run.results is not None:
            identity, seeds = identities[place], tuple(lookup(run.recipe, key) for key in _SEEDS)
            # The same seed again is no other seed: a repetition of a run is a group of its own.
            gathered.setdefault((identity, seen[identity, seeds]), []).append(place)
            seen[identity, seeds] += 1
    members = list(gathered.values())
    values = [_values(runs[places[0]]) for places in members]
    keys = differing(values)
    are_single = all(len(places) == 1 for places in members)
    folders = folder_labels([runs[places[0]] for places in members]) if are_single else []
    names = folders or labels([_name([runs[place] for place in places]) for places in members], values)
    return [
        Group(name, {key: values_of_group[key] for key in keys if key in values_of_group}, places)
        for name, values_of_group, places in zip(names, values, members, strict=True)
    ]


def means_of(points: pd.DataFrame, groups: Sequence[Group]) -> pd.DataFrame:
    """The means of groups in each aspect in which all runs of a group were measured.

    Args:
        points: The figures of all runs, as ``points_of`` gives them.
        groups: Of the same runs.

    Returns:
        Indexed by the first run of a group, in the order of aspects: ``aspect``, ``kind``, ``norm``,
        ``level``, ``value``, ``num_seeds``, and the 95 % interval ``lower``, ``upper``: Student's of the
        mean, cut to [0, 1]; of one run, which says nothing of other seeds, the binomial one of its examples;
        none of times, which say more of the machine.
    """
    first = {place: group.members[0] for group in groups for place in group.members}
    gathered = points.assign(group=points.run.map(first)).groupby(["group", "aspect"], sort=False)
    means = gathered.agg(
        **{name: (name, "first") for name in ("kind", "norm", "level", "lower", "upper")},
        value=("value", "mean"),
        deviation=("value", "std"),
        num_seeds=("value", "size"),
    )
    half = scipy.stats.t.ppf(0.975, means.num_seeds - 1) * means.deviation / np.sqrt(means.num_seeds)
    is_mean = means.num_seeds > 1
    means["lower"] = means.lower.astype(float).mask(is_mean, (means.value - half).clip(lower=0))
    means["upper"] = means.upper.astype(float).mask(is_mean, (means.value + half).clip(upper=1))
    means.loc[means.kind == "time", ["lower", "upper"]] = np.nan
    sizes = {group.members[0]: len(group.members) for group in groups}
    means = means.drop(columns="deviation").reset_index("aspect")
    return means[means.num_seeds == means.index.map(sizes)]


def mean_text(mean: Any) -> str:
    """A row of ``means_of``, with the ends of its interval: ``97.3 % (96.9-97.7)`` with an en dash."""
    if mean.kind == "time":
        return duration(mean.value)
    is_area = mean.kind == "agreement"
    scale, digits, unit = (1, 3, "") if is_area else (100, 1, "\N{NO-BREAK SPACE}%")
    value, lower, upper = (f"{scale * number:.{digits}f}" for number in (mean.value, mean.lower, mean.upper))
    return f"{value}{unit}" if np.isnan(mean.lower) else f"{value}{unit} ({lower}{_TO}{upper})"


def seeds_text(number: int) -> str:
    """Of how many runs a mean is."""
    return "one run" if number == 1 else f"mean of {number} seeds"


def _identities(runs: Sequence[Run]) -> list[object]:
    """What runs have in common that differ in their seeds alone: their recipe and their test data."""
    recipes = [_identity(run) for run in runs]
    data = [run.results.test_data if run.results else "" for run in runs]
    # Test data of former versions are not known, and taken to be those of another run of the recipe.
    known: dict[object, str] = {}
    for recipe, tested in zip(recipes, data, strict=True):
        if tested:
            known.setdefault(recipe, tested)
    return [(recipe, tested or known.get(recipe)) for recipe, tested in zip(recipes, data, strict=True)]


def _identity(run: Run) -> object:
    if run.recipe is None:
        return str(run.path)
    return tuple(sorted((key, repr(value)) for key, value in _values(run).items()))


def _values(run: Run) -> dict[str, object]:
    return {
        key: value
        for key, value in flat(run.recipe or {}).items()
        if key not in (*_SEEDS, *_WORDS) and not f"{key}.".startswith(("published.", "changed."))
    }


def _name(members: Sequence[Run]) -> str | None:
    """The name that all runs of a group have but for the seed in it."""
    names = {
        _SEED_PART.sub("", lookup(run.recipe, "name") or run.path.resolve().name).strip(",/")
        for run in members
    }
    name = names.pop() if len(names) == 1 else ""
    return re.sub("[,/]+", ", ", name) or None


def differing(groups: Sequence[Values]) -> list[str]:
    """The keys whose values are not the same in all groups, in order of appearance."""
    keys = dict.fromkeys(key for values in groups for key in values)
    return [key for key in keys if not _is_one([values.get(key, _ABSENT) for values in groups])]


def _is_one(values: Sequence[object]) -> bool:
    return all(value == values[0] for value in values)


def short_keys(keys: Sequence[str]) -> dict[str, str]:
    """Key -> its shortest ending that ends no other key: ``train_size`` for ``data.train_size``."""
    return {key: _short(key, [other for other in keys if other != key]) for key in keys}


def _short(key: str, others: Sequence[str]) -> str:
    parts = key.split(".")
    endings = [".".join(parts[start:]) for start in range(len(parts) - 1, 0, -1)]
    free = [
        ending
        for ending in endings
        if not ending[0].isdecimal() and not any(f".{other}".endswith(f".{ending}") for other in others)
    ]
    return free[0] if free else key


def labels(names: Sequence[str | None], groups: Sequence[Values]) -> list[str]:
    """What to call groups of runs, no two alike.

    Args:
        names: Of each group, where all its runs agree on one but for the seed.
        groups: The values of each.

    Returns:
        The names, where they tell the groups apart; else the values in which the groups differ, or the name
        of a group of which these say too much.
    """
    if None not in names and len(set(names)) == len(names):
        return [str(name) for name in names]
    keys = differing(groups)
    # That a setting is there at all tells no more than the class that it belongs to.
    informative = [
        key
        for key in keys
        if not _is_one([values_of_group[key] for values_of_group in groups if key in values_of_group])
    ]
    described = _described(informative, groups)
    if len(set(described)) < len(described):
        described = _described(keys, groups)
    shortened = [
        text if len(text) <= _LONGEST_LABEL else name or f"{text[: _LONGEST_LABEL - 1]}…"
        for text, name in zip(described, names, strict=True)
    ]
    return apart([text or name or "run" for text, name in zip(shortened, names, strict=True)])


def apart(names: Sequence[str]) -> list[str]:
    """The names, each with its number where it is not the only one of its kind."""
    return [
        name if names.count(name) == 1 else f"{name} ({number})" for number, name in enumerate(names, start=1)
    ]


def _described(keys: Sequence[str], groups: Sequence[Values]) -> list[str]:
    words = short_keys(keys)
    return [
        ", ".join(f"{word}={_text(values[key])}" for key, word in words.items() if key in values)
        for values in groups
    ]


def _text(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
