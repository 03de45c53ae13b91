"""The section on differences between runs, each measured on the same test examples and said in words."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from withstand.reporting.aspects import Aspect, Measured, aspects_of, measure
from withstand.reporting.outcomes import Outcomes, read_outcomes
from withstand.reporting.compare.paired import Difference, holm, paired_difference
from withstand.reporting.old_read import Run
from withstand.reporting.summary import run_labels
from withstand.reporting.old_wording import budget, count, dataset_title

__all__ = ["Against", "PairedCell", "PairedView", "view_pairs"]

_MOST_BASELINES = 8  # of more runs, all are held against the first alone
_SIGNIFICANT = 0.05
_NOT_SHOWN = "no difference shown"
_ALONE = "not significant among all"
_MINUS, _DASH = "\N{MINUS SIGN}", "\N{EM DASH}"
_MANY_EXAMPLES = 5000


@dataclass(frozen=True)
class PairedCell:
    """A run's difference from the baseline in one aspect.

    Attributes:
        value: ``+2.1``, in percentage points; a dash where there is none.
        detail: Its interval, or why there is none.
        verdict: ``above, significant``, ``no difference shown`` and the like; empty where there is none.
        sentence: All of it in words; empty where there is none.
        number: The difference, for sorting; None where there is none.
    """

    value: str
    detail: str
    verdict: str = ""
    sentence: str = ""
    number: float | None = None

    @property
    def is_significant(self) -> bool:
        """Whether the difference holds among all comparisons."""
        return bool(self.verdict) and self.verdict not in (_NOT_SHOWN, _ALONE)


@dataclass(frozen=True)
class Against:
    """All other runs held against one.

    Attributes:
        baseline: Its label.
        rows: Label of another run -> a cell an aspect.
        sentences: Every difference in words, those that are significant first.
    """

    baseline: str
    rows: Mapping[str, Sequence[PairedCell]]
    sentences: Sequence[str]


@dataclass(frozen=True)
class PairedView:
    """The section.

    Attributes:
        titles: Of the aspects in which any two compare.
        against: One a baseline, the first run's first.
        num_comparisons: For how many the p-values are adjusted.
        has_shares: Whether some outcomes are shares, which Student's t compares.
        are_many: Whether the runs are too many for each to be a baseline.
    """

    titles: Sequence[str]
    against: Sequence[Against]
    num_comparisons: int
    has_shares: bool
    are_many: bool


_Key = tuple[int, int, int]  # of the first run, of the second, of the aspect


class _Side(NamedTuple):
    """A run as far as it is compared; ``found`` has one entry an aspect."""

    label: str
    dataset: str
    found: Sequence[Measured | None]
    outcomes: Outcomes | None


class _Pair(NamedTuple):
    difference: Difference | None
    reason: str
    p_value: float = 1.0  # adjusted


def view_pairs(runs: Sequence[Run]) -> PairedView | None:
    """Holds runs against each other; None where no two hold outcomes of the same examples.

    Args:
        runs: All of them, the default baseline first; those without ``metrics.json`` are left out.

    Raises:
        RunFolderError: an ``examples.csv`` is damaged.
    """
    having = [(label, run) for label, run in zip(run_labels(runs), runs, strict=True) if run.metrics]
    measured = [run.metrics for _, run in having if run.metrics]
    every = [aspect for aspect in aspects_of(measured) if _is_of_examples(aspect)]
    sides = [_side(label, run, every) for label, run in having]
    are_many = len(sides) > _MOST_BASELINES
    places = range(len(sides))
    chosen = [(0, other) for other in places[1:]] if are_many else itertools.combinations(places, 2)
    pairs = {
        (first, second, place): _pair(sides[first], sides[second], place)
        for first, second in chosen
        for place in range(len(every))
    }
    tested = [each.difference for each in pairs.values() if each.difference]
    if not tested:
        return None
    compared = sorted({place for (*_, place), each in pairs.items() if each.difference})
    table = _Table({place: every[place] for place in compared}, sides, _adjusted(pairs))
    return PairedView(
        titles=[every[place].title for place in compared],
        against=[table.against(baseline) for baseline in (places[:1] if are_many else places)],
        num_comparisons=len(tested),
        has_shares=any(each.method == "t" for each in tested),
        are_many=are_many,
    )


def _side(label: str, run: Run, aspects: Sequence[Aspect]) -> _Side:
    metrics = run.metrics
    found = [measure(metrics, aspect) if metrics else None for aspect in aspects]
    wanted = {each.column for each in found if each and each.column}
    return _Side(label, metrics["dataset"] if metrics else "", found, read_outcomes(run.path, wanted))


def _is_of_examples(aspect: Aspect) -> bool:
    """Whether an example has an outcome of its own in it; an area under a curve of means has none."""
    return aspect.kind != "agreement"


def _pair(first: _Side, second: _Side, place: int) -> _Pair:
    """The first less the second; or why they do not compare."""
    if reason := _unlike(first, second):
        return _Pair(None, reason)
    one, other = first.found[place], second.found[place]
    if one is None or other is None:
        return _Pair(None, "not measured")
    left, right = first.outcomes, second.outcomes
    if left is None or right is None or one.column not in left.columns or other.column not in right.columns:
        return _Pair(None, "examples not kept")
    _, mine, yours = np.intersect1d(left.index, right.index, assume_unique=True, return_indices=True)
    if (left.label[mine] != right.label[yours]).any():
        return _Pair(None, "other labels")
    outcomes = np.stack([left.columns[one.column][mine], right.columns[other.column][yours]])
    outcomes = outcomes[:, ~np.isnan(outcomes).any(axis=0)]
    if outcomes.shape[1] < 2:
        return _Pair(None, "other examples")
    return _Pair(paired_difference(outcomes[0], outcomes[1]), "")


def _unlike(first: _Side, second: _Side) -> str:
    if first.dataset != second.dataset:
        return f"{dataset_title(first.dataset)} against {dataset_title(second.dataset)}"
    lacking = [side.label for side in (first, second) if side.outcomes is None]
    return f"no examples.csv of {lacking[0]}" if lacking else ""


def _adjusted(pairs: Mapping[_Key, _Pair]) -> dict[_Key, _Pair]:
    tested = {key: each.difference.p_value for key, each in pairs.items() if each.difference}
    adjusted = dict(zip(tested, holm(list(tested.values())), strict=True))
    return {key: each._replace(p_value=adjusted.get(key, 1.0)) for key, each in pairs.items()}


@dataclass(frozen=True)
class _Table:
    """All differences, of which each baseline shows its own; ``aspects`` by their place."""

    aspects: Mapping[int, Aspect]
    sides: Sequence[_Side]
    pairs: Mapping[_Key, _Pair]

    def against(self, baseline: int) -> Against:
        """All other runs held against one."""
        rows = {
            self.sides[other].label: [self._cell(other, baseline, place) for place in self.aspects]
            for other in range(len(self.sides))
            if other != baseline
        }
        said = [cell for cells in rows.values() for cell in cells if cell.sentence]
        said.sort(key=lambda cell: not cell.is_significant)
        return Against(self.sides[baseline].label, rows, [cell.sentence for cell in said])

    def _cell(self, run: int, baseline: int, place: int) -> PairedCell:
        pair = self.pairs[min(run, baseline), max(run, baseline), place]
        if pair.difference is None:
            return PairedCell(_DASH, pair.reason)
        difference = pair.difference if run < baseline else pair.difference.reversed()
        verdict = _ALONE if difference.p_value < _SIGNIFICANT else _NOT_SHOWN
        if pair.p_value < _SIGNIFICANT:
            verdict = "above, significant" if difference.value > 0 else "below, significant"
        one, other = self.sides[run], self.sides[baseline]
        where = _where(self.aspects[place], one.found[place], other.found[place])
        return PairedCell(
            value=_signed(difference.value, difference.num_examples),
            detail=_interval(difference),
            verdict=verdict,
            sentence=_sentence(difference, pair.p_value, (one.label, other.label), where),
            number=difference.value,
        )


def _sentence(difference: Difference, p_value: float, labels: tuple[str, str], where: str) -> str:
    one, other = labels
    examples = f"{count(difference.num_examples)} examples"
    known = f"95 % interval {_interval(difference)}"
    if p_value >= _SIGNIFICANT:
        points = _signed(difference.value, difference.num_examples)
        alone = (
            "; alone it would be significant, among all comparisons here it is not"
            if difference.p_value < _SIGNIFICANT
            else ""
        )
        return (
            f"{one} and {other} {where}: no difference that {examples} can show "
            f"({points} points, {known}, paired{alone})."
        )
    word = "above" if difference.value > 0 else "below"
    # Of a run that is below, the interval is of how far, like the figure before it.
    known = f"95 % interval {_interval(difference if difference.value > 0 else difference.reversed())}"
    points = _points(abs(difference.value), difference.num_examples)
    return f"{one} is {points} points {word} {other} {where} ({known}, {examples}, paired): significant."


def _where(aspect: Aspect, one: Measured | None, other: Measured | None) -> str:
    at = f"at {budget(aspect.norm, aspect.epsilon)}"
    attacks = {each.by for each in (one, other) if each}
    match aspect.kind:
        case "attacked":
            return f"under {attacks.pop() if len(attacks) == 1 else 'the strongest attack on each'} {at}"
        case "certified":
            return f"in what is certified {at}"
        case "noise":
            return f"under noise, {aspect.norm}"
        case "corruptions":
            return "under corruptions"
        case _:
            return "on clean images"


def _points(share: float, total: int) -> str:
    """Percentage points without their sign for minus zero, with as many digits as the examples tell."""
    text = f"{100 * share:.{2 if total >= _MANY_EXAMPLES else 1}f}"
    bare = text.removeprefix("-")
    return f"{_MINUS}{bare}" if text != bare and float(bare) else bare


def _signed(share: float, total: int) -> str:
    text = _points(share, total)
    return f"+{text}" if share > 0 and float(text) else text


def _interval(difference: Difference) -> str:
    ends = (_points(each, difference.num_examples) for each in (difference.lower, difference.upper))
    return " to ".join(ends)
