"""Runs that differ in their seeds alone, as one group with means and intervals."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean, stdev
from typing import TypeVar

from scipy.stats import t

from withstand.reporting.certified import most_certified
from withstand.reporting.differences import differing, flat, labels
from withstand.reporting.old_read import Run, read_run
from withstand.reporting.schema import Accuracy, Metrics, Noise, Published
from withstand.reporting.summary import folder_labels, lookup, strongest
from withstand.reporting.old_wording import budget, duration, noise_scale, norm_text, percent

__all__ = [
    "Group",
    "Mean",
    "NoiseOfGroup",
    "Target",
    "groups_of",
    "mean_of",
    "mean_text",
    "shared",
    "summarize_seeds",
    "table_of_groups",
]

Target = tuple[str, float]
"""Norm and epsilon."""

_Place = TypeVar("_Place", Target, float)

# Two runs that differ in no more than these are repetitions of one another.
_SEEDS = ("seed", "data.seed")
_WORDS = ("name", "title", "description", "published", "data.root")
_SEED_PART = re.compile(r"(?:^|[,/])(?:data\.)?seed=[^,/]*")
_DASH = "\N{EM DASH}"
_TO = "\N{EN DASH}"


@dataclass(frozen=True)
class Mean:
    """A mean accuracy over seeds, with its 95 % interval, all in [0, 1].

    Attributes:
        value: The mean.
        lower: Of Student's interval of the mean; of one run, of the binomial interval of its examples.
        upper: Likewise.
        runs: The accuracy of each run.
    """

    value: float
    lower: float
    upper: float
    runs: Sequence[float]


@dataclass(frozen=True)
class NoiseOfGroup:
    """The answers of a group's runs under noise.

    Attributes:
        scale: Over what they are summed up, as a text.
        accuracy: noise_std -> accuracy.
        mean: The mean accuracy over all levels, of each run.
        area: The area under the curve of agreement with the prediction without noise, of each run.
    """

    scale: str
    accuracy: Mapping[float, Mean]
    mean: Sequence[float]
    area: Sequence[float]


@dataclass(frozen=True)
class Group:
    """Runs of one recipe but for the seed.

    Attributes:
        label: What tells it from the other groups.
        values: The recipe's values by dotted key, of those in which the groups differ.
        num_seeds: How many runs.
        clean: Clean accuracy.
        attacked: Accuracy under the strongest attack at each norm and epsilon that all its runs share.
        certified: Likewise what is certified.
        train_seconds: The mean, where it is known.
        noise: None where not all its runs were measured at the same levels.
        protocols: Accuracy under each attack ("clean" for none) and epsilon of published protocols that all
            its runs share.
        published: Every figure that was published, as its runs have it.
        members: The runs themselves.
    """

    label: str
    values: Mapping[str, object]
    num_seeds: int
    clean: Mean
    attacked: Mapping[Target, Mean]
    certified: Mapping[Target, Mean]
    train_seconds: float | None
    noise: NoiseOfGroup | None = None
    protocols: Mapping[Target, Mean] = field(default_factory=dict)
    published: Sequence[Published] = ()
    members: Sequence[Run] = field(default=(), compare=False, repr=False)


def mean_of(accuracies: Sequence[Accuracy]) -> Mean:
    """The mean of one accuracy a run, at least one, with its 95 % interval.

    The interval says how well the mean over seeds is known (Student's t, cut to [0, 1]). One run
    says nothing of that; its interval is the binomial one of its test examples.
    """
    runs = [each["accuracy"] for each in accuracies]
    if len(runs) == 1:
        return Mean(runs[0], accuracies[0]["lower"], accuracies[0]["upper"], runs)
    return _students(runs)


def _students(runs: Sequence[float]) -> Mean:
    """The mean of at least two shares with Student's interval."""
    mean = fmean(runs)
    half = float(t.ppf(0.975, len(runs) - 1)) * stdev(runs) / math.sqrt(len(runs))
    return Mean(mean, max(0.0, mean - half), min(1.0, mean + half), runs)


def groups_of(runs: Sequence[Run]) -> list[Group]:
    """The evaluated runs, those that differ in their seeds alone together, in their order."""
    gathered: dict[object, list[Run]] = {}
    seen: Counter[object] = Counter()
    for run in runs:
        if run.metrics is not None:
            identity, seeds = _identity(run), tuple(lookup(run.recipe, key) for key in _SEEDS)
            # The same seed again is no other seed: a repetition of a run is a group of its own.
            gathered.setdefault((identity, seen[identity, seeds]), []).append(run)
            seen[identity, seeds] += 1
    members = list(gathered.values())
    values = [_values(each[0]) for each in members]
    keys = differing(values) if values else []
    are_single = all(len(each) == 1 for each in members)
    folders = folder_labels([each[0] for each in members]) if are_single else []
    names = folders or labels([_name(each) for each in members], values)
    return [
        _group(name, {key: each[key] for key in keys if key in each}, runs_of_it)
        for name, each, runs_of_it in zip(names, values, members, strict=True)
    ]


def shared(measured: Sequence[Mapping[Target, Mean]]) -> list[Target]:
    """The norms and epsilons at which all groups were measured, ascending."""
    common = set.intersection(*(set(each) for each in measured)) if measured else set()
    return sorted(common)


def summarize_seeds(run_dirs: Sequence[Path | str]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the means over seeds of several run folders, one row a group, for a terminal.

    Of the norms and epsilons that all share, the middle one stands for all; the page has all.

    Args:
        run_dirs: The run folders; those without ``metrics.json`` are left out.

    Raises:
        RunFolderError: one is missing or damaged.
    """
    groups = groups_of([read_run(folder) for folder in run_dirs])
    attacked = shared([group.attacked for group in groups])
    certified = shared([group.certified for group in groups])
    header, rows = _table(groups, _middle(attacked), _middle(certified), _MEAN)
    return header[:-1], [row[:-1] for row in rows]  # without the time, for which there is no room


def table_of_groups(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of groups, as texts."""
    attacked = shared([group.attacked for group in groups])
    certified = shared([group.certified for group in groups])
    return _table(groups, attacked, certified, _MEAN | _AREA)


def _middle(targets: Sequence[Target]) -> Sequence[Target]:
    return targets[(len(targets) - 1) // 2 :][:1]


def _table(
    groups: Sequence[Group],
    attacked: Sequence[Target],
    certified: Sequence[Target],
    noise: Mapping[str, Callable[[NoiseOfGroup], str]],
) -> tuple[list[str], list[list[str]]]:
    scales = list(dict.fromkeys(group.noise.scale for group in groups if group.noise))
    header = [
        *("Run", "Seeds", "Clean"),
        *(f"Attacked, {budget(*target)}" for target in attacked),
        *(f"Certified, {budget(*target)}" for target in certified),
        *(f"{name}, {scale}" for scale in scales for name in noise),
        "Training time",
    ]
    rows = [
        [
            group.label,
            str(group.num_seeds),
            mean_text(group.clean),
            *(mean_text(group.attacked[target]) for target in attacked),
            *(mean_text(group.certified[target]) for target in certified),
            *(_under_noise(group.noise, scale, text) for scale in scales for text in noise.values()),
            _DASH if group.train_seconds is None else duration(group.train_seconds),
        ]
        for group in groups
    ]
    return header, rows


def _under_noise(noise: NoiseOfGroup | None, scale: str, text: Callable[[NoiseOfGroup], str]) -> str:
    return text(noise) if noise and noise.scale == scale else _DASH


def _mean_under_noise(noise: NoiseOfGroup) -> str:
    return mean_text(_students(noise.mean)) if len(noise.mean) > 1 else percent(noise.mean[0], 10**6)


def _area_under_noise(noise: NoiseOfGroup) -> str:
    if len(noise.area) == 1:
        return f"{noise.area[0]:.3f}"
    mean = _students(noise.area)
    return f"{mean.value:.3f} ({mean.lower:.3f}{_TO}{mean.upper:.3f})"


_MEAN = {"Mean accuracy under noise": _mean_under_noise}
_AREA = {"Agreement area": _area_under_noise}


def mean_text(mean: Mean) -> str:
    """A mean and the ends of its interval: ``97.3 % (96.9-97.7)`` with an en dash."""
    return f"{100 * mean.value:.2f}\N{NO-BREAK SPACE}% ({100 * mean.lower:.2f}{_TO}{100 * mean.upper:.2f})"


def _identity(run: Run) -> object:
    if run.recipe is None:
        return str(run.path)
    return tuple(sorted((key, repr(value)) for key, value in _values(run).items()))


def _values(run: Run) -> dict[str, object]:
    free = (*_SEEDS, *_WORDS)
    every = flat(run.recipe or {})
    return {
        key: value for key, value in every.items() if key not in free and not key.startswith("published.")
    }


def _name(members: Sequence[Run]) -> str | None:
    """The name that all runs of a group have but for the seed in it."""
    names = {
        _SEED_PART.sub("", lookup(run.recipe, "name") or run.path.resolve().name).strip(",/")
        for run in members
    }
    name = names.pop() if len(names) == 1 else ""
    return re.sub("[,/]+", ", ", name) or None


def _group(label: str, values: Mapping[str, object], members: Sequence[Run]) -> Group:
    measured = [run.metrics for run in members if run.metrics is not None]
    seconds = [(run.environment or {}).get("cost", {}).get("train_seconds") for run in members]
    known = [each for each in seconds if each is not None]
    return Group(
        label=label,
        values=values,
        num_seeds=len(members),
        clean=mean_of([metrics["clean"] for metrics in measured]),
        attacked=_means([_attacked(metrics) for metrics in measured]),
        certified=_means([_certified(metrics) for metrics in measured]),
        train_seconds=fmean(known) if known else None,
        noise=_noise([metrics.get("noise") for metrics in measured]),
        protocols=_means([_under_protocols(metrics) for metrics in measured]),
        published=_published(measured),
        members=members,
    )


def _published(measured: Sequence[Metrics]) -> list[Published]:
    """Each once, though every seed has it."""
    found: list[Published] = []
    for metrics in measured:
        found += [each for each in metrics.get("published", []) if each not in found]
    return found


def _noise(measured: Sequence[Noise | None]) -> NoiseOfGroup | None:
    found = [each for each in measured if each and each["levels"]]
    scales = {noise_scale(each) for each in found}
    if len(found) < len(measured) or len(scales) > 1:
        return None
    levels = [{round(level["noise_std"], 9): level["accuracy"] for level in each["levels"]} for each in found]
    return NoiseOfGroup(
        scale=scales.pop(),
        accuracy=_means(levels),
        mean=[each["mean"]["accuracy"] for each in found],
        area=[each["area"]["agreement"] for each in found],
    )


def _means(measured: Sequence[Mapping[_Place, Accuracy]]) -> dict[_Place, Mean]:
    """Of each norm and epsilon, or noise_std, at which all runs of a group were measured."""
    common = set.intersection(*(set(each) for each in measured))
    return {place: mean_of([each[place] for each in measured]) for place in sorted(common)}


def _attacked(metrics: Metrics) -> dict[Target, Accuracy]:
    return {_target(each.norm, each.point["epsilon"]): each.point for each in strongest(metrics)}


def _certified(metrics: Metrics) -> dict[Target, Accuracy]:
    return {_target(each.norm, each.point["epsilon"]): each.point for each in most_certified(metrics)}


def _under_protocols(metrics: Metrics) -> dict[Target, Accuracy]:
    """By attack and epsilon; of several protocols with an attack of one name, that of the first."""
    found: dict[Target, Accuracy] = {}
    for protocol in metrics.get("protocols") or []:
        found.setdefault(("clean", 0.0), protocol["clean"])
        for attack in protocol["attacks"]:
            for point in attack["curve"]:
                found.setdefault((attack["name"], round(point["epsilon"], 6)), point)
    return found


def _target(norm: str, epsilon: float) -> Target:
    """Equal for what is equal but for rounding."""
    return norm_text(norm), round(epsilon, 6)
