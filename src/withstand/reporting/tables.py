"""The figures of runs as tables for papers: Markdown, and LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from withstand.core.writing import percent
from withstand.reporting import table as of_run
from withstand.reporting.compare.comparison import Comparison, aspects_of, records, with_interval
from withstand.reporting.compare.pairs import differences_of
from withstand.reporting.find import write_text
from withstand.reporting.formatting import budget, count, counted, dataset_title, interval
from withstand.reporting.naming import run_labels, setting
from withstand.reporting.read import Run, read_run
from withstand.reporting.section import PROSE
from withstand.reporting.sections.origin import cost_rows
from withstand.reporting.signs import signs_of
from withstand.results import measurements
from withstand.results.results import Results
from withstand.types import RunFolderError

_TEXTS = PROSE["tables"]
_DASH = "\N{EM DASH}"
_MARKDOWN = re.compile(r"([\\|`*_<>\[\]])")
# What LaTeX reads as commands, and signs that its fonts lack.
_NAMED = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater", "|": "bar"}
_SIGNS = {"ℓ": r"\ell", "∞": r"\infty", "ε": r"\varepsilon", "×": r"\times", "±": r"\pm", "\u2212": "-"}
_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "{}&%$#_"}
    | {sign: rf"\text{name}{{}}" for sign, name in _NAMED.items()}
    | {sign: f"${name}$" for sign, name in _SIGNS.items()}
    | {'"': r"\textquotedbl{}", "…": r"\ldots{}", "\N{NO-BREAK SPACE}": "~"}
    | {"\N{EN DASH}": "--", "\N{EM DASH}": "---"}
)
_NORM = re.compile(r"\$\\ell\$(?:\$(\\infty)\$|([₁₂]))")
_DIGITS = str.maketrans("₁₂", "12")
# Measure -> what a row is called, and by what it was measured.
_MEASURES = {
    measurements.CLEAN: ("Clean", ""),
    measurements.ATTACKED: ("Attacked, {at}", "{row.by}"),
    measurements.CERTIFIED: ("Certified, {at}", "{row.by}"),
    measurements.SMOOTHED: ("Smoothed classifier, clean", "noise_std {noise_std:.4g}"),
    measurements.SMOOTHED_CERTIFIED: (
        "Smoothed classifier, certified, {at}",
        "holds with probability {probability:.6g} an example",
    ),
    measurements.NOISE_ACCURACY: ("Under noise", "noise_std {row.level:.4g}"),
    measurements.CORRUPTED: ("{kind}", "severity {row.level:.0f}"),
    measurements.CALIBRATION_ERROR: ("Calibration error", "{bins} bins"),
}


class PaperTable(NamedTuple):
    """A table of texts, of which the first column names the rows.

    Attributes:
        title: What it shows.
        texts: Its columns.
        note: What a reader must know of its figures.
    """

    title: str
    texts: pd.DataFrame
    note: str


def export_tables(run_dirs: Sequence[Path | str], out_dir: Path | str) -> list[Path]:
    """Writes the tables of one run, or of several beside each other.

    Args:
        run_dirs: The run folders, at least one.
        out_dir: The folder for ``figures.md`` and ``figures.tex`` of one run, ``comparison.md`` and
            ``comparison.tex`` of several.

    Returns:
        The paths written.

    Raises:
        RunFolderError: there is no run folder, one is missing, damaged or not evaluated, or the folder cannot
            be written.
    """
    runs = [read_run(folder) for folder in run_dirs]
    if not runs:
        raise RunFolderError("There is no run folder to write tables of. Name at least one.")
    tables = run_tables(runs[0]) if len(runs) == 1 else comparison_tables(runs)
    if not tables:
        raise RunFolderError(
            f"None of the runs has been evaluated, so there are no figures. Evaluate one: "
            f"withstand evaluate {runs[0].path}"
        )
    write = signs_of(runs)
    tables = [table._replace(texts=table.texts.map(write), note=write(table.note)) for table in tables]
    folder, stem = Path(out_dir), "figures" if len(runs) == 1 else "comparison"
    texts = {folder / f"{stem}.md": map(markdown, tables), folder / f"{stem}.tex": map(latex, tables)}
    for file, parts in texts.items():
        write_text(file, "\n".join(parts))
    return list(texts)


def comparison_tables(runs: Sequence[Run]) -> list[PaperTable]:
    """One row a run with every figure and its interval, and the differences from the first run."""
    compared = Comparison(runs)
    points = compared.points.assign(text=[with_interval(point) for point in records(compared.points)])
    if points.empty:
        return []
    table = points.pivot(index="run", columns="aspect", values="text")
    table = table.reindex(columns=aspects_of(points).index).fillna("not measured")
    table.insert(0, "Run", [compared.labels[place] for place in table.index])
    evaluated = [runs[place] for place in table.index]
    table.insert(1, "Data set", [dataset_title(run.results.dataset) for run in evaluated if run.results])
    table["Training time"] = [
        dict(cost_rows(run.environment)).get("Training time", _DASH) for run in evaluated
    ]
    shown = PaperTable("Runs beside each other", _upright(table), _TEXTS["comparison"])
    return [shown, *_differences(compared)]


def _upright(table: pd.DataFrame) -> pd.DataFrame:
    """The table, turned where it is wider than high, since paper is narrow."""
    if len(table.columns) <= len(table) + 1:
        return table
    return table.set_index("Run").T.rename_axis(columns=None).rename_axis("").reset_index()


def _differences(compared: Comparison) -> list[PaperTable]:
    differences = differences_of(compared)
    if differences.empty:
        return []
    number = differences.comparison[differences.reason == ""].nunique()
    from_first = differences[differences.baseline == differences.baseline.iloc[0]]
    stars = from_first.is_significant.map({True: "*", False: ""})
    texts = from_first.assign(text=from_first.points + " (" + from_first.ends + ")" + stars)
    table = texts.pivot(index="run", columns="aspect", values="text")[from_first.aspect.unique()]
    table.insert(0, "Run", [compared.labels[place] for place in table.index])
    note = _TEXTS["differences"].format(number=count(number))
    baseline = compared.labels[from_first.baseline.iloc[0]]
    return [PaperTable(f"Differences from {baseline}", _upright(table), note)]


def run_tables(run: Run) -> list[PaperTable]:
    """All figures of one run: a row a figure; none where it has not been evaluated."""
    if run.results is None:
        return []
    header = ["Measure", "By", "Accuracy", "95 % interval", "Correct"]
    table = pd.DataFrame(list(_rows(run, run.results)), columns=header).replace("", _DASH)
    note = _TEXTS["run"].format(setting=setting(run))
    return [PaperTable(f"Figures of {run_labels([run])[0]}", table, note)]


def _rows(run: Run, results: Results) -> Iterator[list[str]]:
    smoothing = results.smoothing
    words: dict[str, object] = {
        "bins": len(results.calibration),
        "noise_std": smoothing.noise_std if smoothing else 0.0,
        "probability": 1 - (smoothing.failure_probability if smoothing else 0.0),
    }
    titles = {kind.name: kind.title for kind in results.corruptions.kinds} if results.corruptions else {}
    for measure, (name, by) in _MEASURES.items():
        measured = of_run.rows(of_run.select(run.table, measure))
        for row in measured:
            if row.by != "clipped":
                words |= {"row": row, "at": budget(row.norm, row.level), "kind": titles.get(row.by, row.by)}
                share = percent(row.value)
                yield [name.format(**words), by.format(**words), share, interval(row), counted(row)]
        if measured:
            yield from _means(run, measure)


def _means(run: Run, measure: str) -> Iterator[list[str]]:
    """Rows that sum a measure up."""
    if measure == measurements.NOISE_ACCURACY:
        scale = of_run.noise_scale(run) or ""
        mean = of_run.mean_over_levels(run.table, measure, "unclipped") or 0.0
        area = of_run.area_over_levels(run.table, measurements.NOISE_AGREEMENT, "unclipped") or 0.0
        yield ["Under noise, mean", scale, percent(mean), "", ""]
        yield ["Agreement area", scale, f"{area:.3f}", "", ""]
    if measure == measurements.CORRUPTED:
        mean = of_run.corruption_mean(run.table) or 0.0
        yield ["Under corruptions, mean", "kinds and severities", percent(mean), "", ""]


def markdown(table: PaperTable) -> str:
    """A table as GitHub and Pandoc read it."""
    sides = ["left", *["right"] * (len(table.texts.columns) - 1)]
    texts = table.texts.map(_in_markdown).rename(columns=_in_markdown)
    body = texts.to_markdown(index=False, tablefmt="pipe", disable_numparse=True, colalign=sides)
    return "\n".join([f"### {_in_markdown(table.title)}", "", str(body), "", _in_markdown(table.note), ""])


def _in_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.splitlines()))


def latex(table: PaperTable) -> str:
    r"""A table for LaTeX; it needs ``\usepackage{booktabs}``."""
    texts = table.texts.map(_in_latex).rename(columns=_in_latex)
    body = texts.style.hide(axis="index").to_latex(
        hrules=True,
        position_float="centering",
        column_format="l" + "r" * (len(texts.columns) - 1),
        caption=f"{_in_latex(table.title)}. {_in_latex(table.note)}",
    )
    return f"% needs \\usepackage{{booktabs}}\n{body}"


def _in_latex(text: str) -> str:
    """A text with its special characters escaped, and norms and signs as mathematics."""
    escaped = " ".join(text.splitlines()).translate(_LATEX)
    return _NORM.sub(lambda norm: rf"$\ell_{norm[1] or norm[2].translate(_DIGITS)}$", escaped)
