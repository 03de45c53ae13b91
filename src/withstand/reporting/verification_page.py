"""The page of a benchmark in verification: what was proven, what refuted, and how long that took."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from withstand.reporting.figures import axis, chart, hover, logarithmic, series
from withstand.reporting.find import write_text
from withstand.reporting.formatting import cell, count, duration, sentence
from withstand.reporting.page import page_of
from withstand.reporting.section import PROSE, Card, Cell, Figure, Notice, Prose, Section, Table
from withstand.results.instances import OUTCOMES, SOLVED, InstanceRow

_TEXTS = PROSE["verification"]
_MEANINGS = {
    "unsat": "proven",
    "sat": "refuted by a counter-example",
    "unknown": "all ways were tried, or rounding decides",
    "timeout": "time was up",
    "error": "could not be run",
}
_LEAST_TIME = 0.01  # seconds; below it a time is its own noise, and a logarithm leads astray
_FEW = 10  # instances, each of which has a tick of its own


def verification_page(rows: Sequence[InstanceRow], out: Path, *, total: int) -> None:
    """Writes the page.

    Args:
        rows: Of the instances that are done, at least one.
        out: Its path.
        total: How many instances there are.

    Raises:
        RunFolderError: it cannot be written.
    """
    category = rows[0].category
    done = "" if len(rows) == total else f"{len(rows)} of {total} instances are done so far"
    view = {
        "id": "run",
        "label": category,
        "title": category,
        "setting": done,
        "description": _TEXTS["description"],
        "changes": "",
        "command": "",
        "tabs": [
            {"key": "summary", "title": "Summary", "sections": [_summary(rows)]},
            {"key": "instances", "title": "Instances", "sections": [_instances(rows)]},
        ],
    }
    write_text(out, page_of(f"Verification of {category}", [view]))


def _summary(rows: Sequence[InstanceRow]) -> Section:
    counts = Counter(row.result for row in rows)
    solved = sum(row.is_solved for row in rows)
    cards = [Card("solved", f"{count(solved)} of {count(len(rows))}", ["proven or refuted"])]
    cards += [
        Card(outcome, count(counts[outcome]), [_MEANINGS[outcome]])
        for outcome in OUTCOMES
        if counts[outcome] or outcome in SOLVED
    ]
    return Section(
        key="verification",
        title="What was answered",
        tab="summary",
        prose=[Prose(_TEXTS["meaning"], "meaning", "How to read it.")],
        cards=cards,
        figures=[_cactus(rows)] if solved else [],
        notices=_errors(rows),
        tables=[_by_network(rows)],
    )


def _cactus(rows: Sequence[InstanceRow]) -> Figure:
    """How many instances are solved within a time, each by itself: the further to the right, the better."""
    traces = []
    for index, (name, results) in enumerate({"solved": SOLVED, "unsat": ("unsat",), "sat": ("sat",)}.items()):
        times = sorted(max(row.time, _LEAST_TIME) for row in rows if row.result in results)
        texts = [
            hover(name, f"{count(number)} in at most {duration(seconds)} each")
            for number, seconds in enumerate(times, start=1)
        ]
        if times:
            numbers = list(range(1, len(times) + 1))
            traces.append(series(name, numbers, times, index, texts=texts, line={"shape": "hv"}))
    seconds = [max(row.time, _LEAST_TIME) for row in rows if row.is_solved]
    return chart(
        traces,
        "Instances solved within a time",
        _TEXTS["cactus"],
        x=axis("instances solved, the quickest first", **({"dtick": 1} if len(seconds) <= _FEW else {})),
        y=axis("seconds an instance", **logarithmic(seconds)),
        height=400,
    )


def _by_network(rows: Sequence[InstanceRow]) -> Table:
    body: list[list[Cell | str]] = []
    for onnx in dict.fromkeys(row.onnx for row in rows):
        own = [row for row in rows if row.onnx == onnx]
        counts = Counter(row.result for row in own)
        times = [row.time for row in own if row.is_solved]
        body.append(
            [
                PurePosixPath(onnx).name,
                *(_number(value) for value in (len(own), *(counts[outcome] for outcome in OUTCOMES))),
                _time(statistics.median(times) if times else None),
                _time(max(row.time for row in own)),
            ]
        )
    header = ["Network", "Instances", *OUTCOMES, "Median time", "Longest time"]
    return Table("By network", header, body, _TEXTS["networks"], is_sortable=len(body) > 1)


def _instances(rows: Sequence[InstanceRow]) -> Section:
    body: list[list[Cell | str]] = [
        [
            PurePosixPath(row.onnx).name,
            Cell(PurePosixPath(row.vnnlib).name, is_words=True),
            Cell(row.result, is_words=True, is_bold=row.is_solved),
            _time(row.time),
            _time(row.timeout),
            Cell(cell(row.bound), sort=row.bound),
            _number(row.num_splits),
        ]
        for row in rows
    ]
    header = ["Network", "Property", "Result", "Time", "Timeout", "Bound", "Splits"]
    table = Table("All instances", header, body, _TEXTS["table"], is_sortable=True, is_tall=len(body) > 20)
    return Section(key="instances", title="Each instance", tab="summary", tables=[table])


def _errors(rows: Sequence[InstanceRow]) -> list[Notice]:
    """The messages of instances that failed, each once with how many have it."""
    messages = Counter(row.message for row in rows if row.result == "error")
    items = [f"{count(number)} × {sentence(message)}" for message, number in messages.most_common()]
    return [Notice("Errors", items, "warnings", _TEXTS["errors"])] if items else []


def _number(value: int) -> Cell:
    return Cell(count(value), sort=value)


def _time(seconds: float | None) -> Cell:
    return Cell("\N{EM DASH}" if seconds is None else duration(seconds), sort=seconds)
