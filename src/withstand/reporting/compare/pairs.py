"""Differences between runs, each measured on the same test examples and described in words."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from withstand.core.run_folder import RunFolder
from withstand.reporting.compare.comparison import Comparison, aspects_of, records
from withstand.reporting.compare.paired import Difference, holm, paired_difference
from withstand.reporting.formatting import budget, count, dataset_title
from withstand.reporting.section import PROSE, Cell, Choice, Notice, Prose, Section, Table

_MOST_BASELINES = 8  # of more runs, all are compared with the first alone
_SIGNIFICANT = 0.05
_MINUS, _DASH = "\N{MINUS SIGN}", "\N{EM DASH}"
_INDEX, _LABEL, _PREDICTION, _CLEAN = "index", "label", "prediction", "clean"
_TEXTS = ["points", "ends", "verdict", "sentence", "is_significant"]
_PROSE = PROSE["compare_pairs"]


class _Side(NamedTuple):
    """A run as far as it is compared: the column of its outcomes in each aspect, and what decided it."""

    place: int
    label: str
    dataset: str
    test_data: str
    columns: dict[str, str]
    by: dict[str, str]
    outcomes: pd.DataFrame | None


def section(compared: Comparison) -> Section | None:
    """Compares runs with each other; None where no two hold outcomes of the same examples.

    Raises:
        RunFolderError: an ``examples.csv`` is damaged.
    """
    differences = differences_of(compared)
    if differences.empty:
        return None
    tested = differences[differences.reason == ""]
    baselines = differences.baseline.unique()
    prose = [_PROSE["method"]] + ([_PROSE["shares"]] if (tested.method == "t").any() else [])
    of_many = _PROSE["of_many"] if len(baselines) < differences.run.nunique() else ""
    prose += [_PROSE["correction"].format(number=count(tested.comparison.nunique()), of_many=of_many)]
    options = [_against(compared, differences[differences.baseline == place]) for place in baselines]
    title, choices = "Differences on the same test examples", [Choice("Baseline", options)]
    return Section("compare-pairs", title, "summary", prose=[Prose(" ".join(prose), "note")], choices=choices)


def differences_of(compared: Comparison) -> pd.DataFrame:
    """Every run less every other one; of many runs all less the first.

    Returns:
        A row a baseline, a run and an aspect, ordered so, of aspects in which any two compare: ``baseline``
        and ``run``, places; ``aspect``; ``reason`` why they do not compare, empty where they do; the fields
        of ``Difference``; ``comparison``, one number for both directions; ``is_significant`` among all; and
        as texts ``points``, ``ends``, ``verdict`` and ``sentence``. Empty where no two compare.
    """
    aspects = aspects_of(compared.points)
    aspects = aspects[aspects.kind != "agreement"]  # an area under a curve of means is of no example
    sides = list(_sides(compared, list(aspects.index)))
    are_many = len(sides) > _MOST_BASELINES
    pairs = ((sides[0], other) for other in sides[1:]) if are_many else itertools.combinations(sides, 2)
    rows = [row for first, second in pairs for row in _rows(first, second, list(aspects.index))]
    table = pd.DataFrame(rows, columns=["baseline", "run", "aspect", "reason", *Difference._fields])
    tested = table.reason == ""
    table = table.assign(comparison=table.index, adjusted=np.nan)
    table.loc[tested, "adjusted"] = holm(table.p_value[tested].tolist())
    turned = {"value": -table.value, "lower": -table.upper, "upper": -table.lower}
    turned |= {"baseline": table.run, "run": table.baseline}
    both = table if are_many else pd.concat([table, table.assign(**turned)])
    both = both[both.aspect.isin(table.aspect[tested])]
    both = both.sort_values(["baseline", "run", "comparison"], ignore_index=True)
    side_at = {side.place: side for side in sides}
    texts = [
        _texts(row, side_at[row.run], side_at[row.baseline], aspects.loc[row.aspect]) for row in records(both)
    ]
    return both.assign(**pd.DataFrame(texts, columns=_TEXTS, index=both.index))


def _sides(compared: Comparison, aspects: Sequence[str]) -> Iterator[_Side]:
    points = compared.points[compared.points.aspect.isin(aspects)]
    for place, run in enumerate(compared.runs):
        if run.results:
            own = points[points.run == place].set_index("aspect")
            outcomes = read_outcomes(run.path, own.column)
            columns, by = (
                {str(aspect): text for aspect, text in own[name].items()} for name in ("column", "by")
            )
            data = run.results.dataset, run.results.test_data
            yield _Side(place, compared.labels[place], *data, columns, by, outcomes)


def _rows(first: _Side, second: _Side, aspects: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """The second less the first in each aspect, or why they do not compare."""
    for aspect in aspects:
        known = _difference(first, second, aspect)
        if isinstance(known, Difference):
            yield first.place, second.place, aspect, "", *known.reversed()
        else:
            yield first.place, second.place, aspect, known, *[np.nan] * len(Difference._fields)


def _difference(first: _Side, second: _Side, aspect: str) -> Difference | str:
    """The first less the second; or why they do not compare."""
    if first.dataset != second.dataset:
        return f"{dataset_title(first.dataset)} against {dataset_title(second.dataset)}"
    if first.test_data and second.test_data and first.test_data != second.test_data:
        return "other test data"
    if first.outcomes is None or second.outcomes is None:
        return f"no examples.csv of {first.label if first.outcomes is None else second.label}"
    if aspect not in first.columns or aspect not in second.columns:
        return "not measured"
    one = first.outcomes.get([_LABEL, first.columns[aspect]])
    other = second.outcomes.get([_LABEL, second.columns[aspect]])
    if one is None or other is None:
        return "examples not recorded"
    both = one.set_axis(["label", "one"], axis=1).join(other.set_axis(["same", "other"], axis=1), how="inner")
    if (both.label != both.same).any():
        return "other labels"
    both = both.dropna()
    return (
        paired_difference(both.one.to_numpy(), both.other.to_numpy()) if len(both) > 1 else "other examples"
    )


def _texts(
    difference: Any, run: _Side, baseline: _Side, aspect: pd.Series[Any]
) -> tuple[str, str, str, str, bool]:
    """How a difference is written; of none a dash and why."""
    if difference.reason:
        return _DASH, difference.reason, "", "", False
    total, is_alone = int(difference.num_examples), difference.p_value < _SIGNIFICANT
    points, ends = _signed(difference.value), _ends(difference.lower, difference.upper)
    where = _where(aspect, {run.by[str(aspect.name)], baseline.by[str(aspect.name)]})
    if difference.adjusted < _SIGNIFICANT:
        word = "above" if difference.value > 0 else "below"
        # Of a run that is below, the interval is of how far, like the figure before it.
        far = ends if difference.value > 0 else _ends(-difference.upper, -difference.lower)
        sentence = (
            f"{run.label} is {_points(abs(difference.value))} points {word} {baseline.label} {where} "
            f"(95 % interval {far}, {count(total)} examples, paired): significant."
        )
        return points, ends, f"{word}, significant", sentence, True
    alone = "; alone it would be significant, among all comparisons here it is not" if is_alone else ""
    sentence = (
        f"{run.label} and {baseline.label} {where}: no difference that {count(total)} examples can show "
        f"({points} points, 95 % interval {ends}, paired{alone})."
    )
    verdict = "not significant among all" if is_alone else "no difference shown"
    return points, ends, verdict, sentence, False


def _where(aspect: pd.Series[Any], attacks: set[str]) -> str:
    at = f"at {budget(aspect.norm, aspect.level)}"
    return {
        "attacked": f"under {min(attacks) if len(attacks) == 1 else 'the strongest attack on each'} {at}",
        "certified": f"in what is certified {at}",
        "noise": f"under noise, {aspect.norm}",
        "corruptions": "under corruptions",
    }.get(aspect.kind, "on clean images")


def _points(share: float) -> str:
    """Percentage points without their sign for minus zero."""
    text = f"{100 * share:.1f}"
    bare = text.removeprefix("-")
    return f"{_MINUS}{bare}" if text != bare and float(bare) else bare


def _signed(share: float) -> str:
    text = _points(share)
    return f"+{text}" if share > 0 and float(text) else text


def _ends(lower: float, upper: float) -> str:
    return f"{_points(lower)} to {_points(upper)}"


def _against(compared: Comparison, differences: pd.DataFrame) -> Section:
    """All other runs compared with one."""
    baseline = compared.labels[differences.baseline.iloc[0]]
    runs, header = differences.run.unique(), ["Run", *differences.aspect.unique()]
    rows = [[Cell(compared.labels[run]), *_cells(differences[differences.run == run])] for run in runs]
    caption = f"Percentage points above the baseline {baseline}, with 95 % intervals."
    look: dict[str, Any] = {"is_sortable": True, "is_tall": len(rows) > 8, "kind": "compare"}
    tables = [Table(f"Differences from {baseline}", header, rows, caption, **look)]
    sentences = differences[differences.sentence != ""].sort_values(
        "is_significant", ascending=False, kind="stable"
    )
    notices = [Notice("In words", sentences.sentence.tolist(), "sentences")] if len(sentences) else []
    return Section("", baseline, "summary", tables=tables, notices=notices)


def _cells(of_run: pd.DataFrame) -> list[Cell]:
    reasons = of_run.reason.unique()
    if len(reasons) == 1 and reasons[0]:
        return [Cell(f"not comparable: {reasons[0]}", is_words=True, span=len(of_run))]
    return [
        Cell(difference.points, [difference.ends], is_bold=True)
        if difference.reason
        else Cell(
            difference.points,
            [difference.ends, difference.verdict],
            is_bold=True,
            sort=difference.value,
            kind="significant" if difference.is_significant else "",
        )
        for difference in records(of_run)
    ]


def read_outcomes(path: Path, requested: Collection[str]) -> pd.DataFrame | None:
    """Reads each test example's outcomes: those of the requested columns that a run folder has.

    Args:
        path: The run folder.
        requested: Columns of ``examples.csv``; ``clean`` comes also of comparing predictions with labels.

    Returns:
        Indexed by the examples' places in the test split, ascending and none twice: ``label``, and outcomes
        0 or 1, or the share of repeats; NaN where a cell is empty. None where there is no ``examples.csv``,
        or it does not say which examples it holds.

    Raises:
        RunFolderError: the file is damaged.
    """
    file = RunFolder(path).examples
    if not file.exists():
        return None
    needed = {_INDEX, _LABEL, _PREDICTION, *requested}
    try:
        table = pd.read_csv(file, usecols=lambda name: name in needed, dtype=np.float64)
    except (ValueError, OSError) as error:
        raise RunFolder(path).damaged(file, f"{error}.") from error
    if not {_INDEX, _LABEL} <= {*table.columns} or table[[_INDEX, _LABEL]].isna().to_numpy().any():
        return None
    if _CLEAN not in table.columns and _PREDICTION in table.columns:
        table[_CLEAN] = (table[_PREDICTION] == table[_LABEL]).astype(float)
    columns = [name for name in table.columns if name in {_LABEL, *requested}]
    return table.drop_duplicates(_INDEX).set_index(_INDEX).sort_index()[columns]
