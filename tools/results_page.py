"""Writes the pages of docs/ that quote runs, from docs/templates/ and the files of results/.

    python tools/results_page.py

A template is Markdown with Jinja for what repeats. In it ``[WHERE > WHAT: FORM]`` is a figure, and a figure
that is not there is an error.

WHERE is below results/, with ``*`` for all that fit and ``;`` between several, whose figures are averaged. It
is a run folder, and WHAT then a word of ``MEASURES`` and, as far as they are needed, the norm (linf, l2), the
level and by what it was measured; or a file, and WHAT then the keys to go down by, ``>`` between them. A key
of a list is a place, a name, or ``key=value``. Figures may be joined by ``+``, ``-``, ``/``. FORM is as in
``written``.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from fractions import Fraction
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from scipy.stats import t as student

from withstand.core.run_folder import RunFolder
from withstand.recipes.parsing import packaged_recipes
from withstand.recipes.sweep import packaged_sweeps
from withstand.results import measurements
from withstand.results.results_file import read_results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"
TEMPLATES = ROOT / "docs" / "templates"

MEASURES = {
    "clean": (measurements.CLEAN, "mean"),
    "attacked": (measurements.ATTACKED, "min"),
    "certified": (measurements.CERTIFIED, "max"),
    "noise": (measurements.NOISE_ACCURACY, "mean"),
    "agreement": (measurements.NOISE_AGREEMENT, "area"),
    "corrupted": (measurements.CORRUPTED, "mean"),
    "radius": (measurements.MEAN_SMOOTHED_RADIUS, "mean"),
    "largest-radius": (measurements.LARGEST_SMOOTHED_RADIUS, "mean"),
    "calibration": (measurements.CALIBRATION_ERROR, "mean"),
    "sebr": (measurements.protocol_measure("sebr"), "mean"),
    "lower": (measurements.CLEAN, "lower"),
    "upper": (measurements.CLEAN, "upper"),
}
"""Word -> measure, and what is taken of its rows: an end of an interval, or of the values the mean, the
smallest, the largest, or the area under their curve by the trapezoid rule."""


# The figures of runs.


@cache
def table_of(run: Path) -> pd.DataFrame:
    """The table of measurements of a run folder."""
    contents = read_results(RunFolder(run))
    if contents is None:
        raise LookupError(f"{run} has not been evaluated.")
    return contents[1]


@cache
def content(file: Path) -> Any:
    """What a CSV or JSON file holds."""
    if file.suffix == ".csv":
        return pd.read_csv(file).to_dict("records")
    return json.loads(file.read_text(encoding="utf-8"))


def measured(run: Path, what: str) -> float:
    """A figure of a run's table of measurements."""
    word, *conditions = what.split()
    measure, taken = MEASURES[word]
    table = table_of(run)
    rows = table[table["measure"] == measure]
    for condition in conditions:
        if condition in ("linf", "l2"):
            rows = rows[rows["norm"] == condition[1:]]
        elif re.fullmatch(r"[\d.]+(/\d+)?", condition):
            rows = rows[(rows["level"] - float(Fraction(condition))).abs() < 1e-9]
        else:
            rows = rows[rows["by"] == condition]
    if rows.empty:
        raise LookupError(f"{run} has no {what}.")
    if taken == "area":
        return float(((rows["value"] + rows["value"].shift()) / 2).mean())
    return float(rows[taken].iloc[0] if taken in rows else rows["value"].agg(taken))


def entered(of: Any, key: str) -> Any:
    """What a key leads to, one step down."""
    if isinstance(of, dict):
        return of[key]
    if re.fullmatch(r"-?\d+", key):
        return of[int(key)]
    conditions = [pair.split("=") for pair in (key if "=" in key else f"name={key}").split(",")]
    fits = [entry for entry in of if all(str(entry[name]) == value for name, value in conditions)]
    if not fits:
        raise LookupError(f"Nothing has {key}.")
    return fits[0]


def figures(query: str) -> list[Any]:
    """The figures that a query without arithmetic names, or the number that it is."""
    if re.fullmatch(r"-?[\d.]+", query):
        return [float(query)]
    where, *keys = query.split(" > ")
    paths = [path for pattern in where.split(";") for path in sorted(RESULTS.glob(pattern))]
    if not paths:
        raise LookupError(f"results/ has no {where}.")
    if paths[0].is_dir():
        return [measured(path, keys[0]) for path in paths]
    values = [content(path) for path in paths]
    for key in keys:
        values = [entered(value, key) for value in values]
    return values


def calculated(query: str) -> list[Any]:
    """The figures of a query."""
    first, *rest = re.split(r" ([-+/]) ", query)
    if not rest:
        return figures(first)
    total = statistics.fmean(figures(first))
    for sign, other in zip(rest[::2], rest[1::2], strict=True):
        number = statistics.fmean(figures(other))
        total = {"+": total + number, "-": total - number, "/": total / number}[sign]
    return [total]


# How figures are written.


def broken(stages: Any, counts: Any = None) -> str:
    """``APGD-CE 8 of 493, …``, of the attacks of a suite that broke any example."""
    names = [stage["name"].rpartition("-")[0] for stage in stages]
    if counts is None:
        pairs = [(stage["num_broken"], stage["num_attacked"]) for stage in stages]
    else:
        pairs = list(zip(counts["broken"], counts["attacked"], strict=True))
    short = {"fab-t": "FAB-T", "square": "Square", "pgd-400-margin": "PGD-400"}
    broken_by_stage = zip(names, pairs, strict=True)
    return ", ".join(
        f"{short.get(name, name.upper())} {n} of {total}" for name, (n, total) in broken_by_stage if n
    )


def spread(numbers: Sequence[float], form: str) -> str:
    """In %, the mean and: half its 95 % interval by Student's t, or the largest deviation from it."""
    mean = 100 * statistics.fmean(numbers)
    if form == "deviation":
        return f"{mean:.1f} ± {max(abs(100 * number - mean) for number in numbers):.1f}"
    error = 100 * statistics.stdev(numbers) / len(numbers) ** 0.5
    return f"{mean:.2f} ± {student.ppf(0.975, len(numbers) - 1) * error:.2f}"


def written(values: list[Any], form: str) -> str:
    """Figures in a form: %1 in % with a digit, %1z likewise but 0 as such, or a format of Python's."""
    if form == "broken":
        return broken(values[0])
    if form.startswith("broken at "):
        return broken(values[0]["stages"], entered(values[0]["counts"], f"epsilon={form[10:]}"))
    if form == "failed":
        return str(sum(check["passed"] is False for check in values[0]) or "none")
    if form in ("interval", "deviation"):
        return spread(values, form)
    mean = statistics.fmean(values)
    if form == "ratio":
        return f"{mean:.{2 if mean < 1.3 else 1 if mean < 12 else 0}f}"
    if form.startswith("%"):
        return "0" if form.endswith("z") and not mean else f"{100 * mean:.{form[1]}f}"
    return f"{mean:{form}}"


def filled(text: str) -> str:
    """A text with its figures."""
    return re.sub(
        r"\[([^][:]+ > [^][:]+): ([^][]+)\]", lambda match: written(calculated(match[1]), match[2]), text
    )


# The pages.


@cache
def packaged(kind: str) -> list[dict[str, Any]]:
    """The values of the recipes or sweeps that come with the package."""
    files = packaged_recipes() if kind == "recipes" else packaged_sweeps()
    return [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files.values()]


def page(template: str) -> str:
    """A page, from the template of its name."""
    pages = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=False)
    pages.trim_blocks = pages.lstrip_blocks = True
    pages.globals["packaged"] = packaged
    text = filled(pages.get_template(template).render())
    text = re.sub(r"\n{3,}", "\n\n", text)
    return f"<!-- Made by `make results` from docs/templates/{template}: change that. -->\n\n{text}\n"


def main() -> None:
    """Writes every page that has a template."""
    for template in sorted(TEMPLATES.glob("*.md")):
        (ROOT / "docs" / template.name).write_text(page(template.name), encoding="utf-8")


if __name__ == "__main__":
    main()
