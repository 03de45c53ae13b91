"""The figures of runs as tables for papers: Markdown, and LaTeX with booktabs."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from withstand.reporting.aspects import Aspect, Measured, aspects_of, measure, with_interval
from withstand.reporting.paired_view import view_pairs
from withstand.reporting.old_read import Run, read_run
from withstand.reporting.schema import Accuracy, CurvePoint, Metrics
from withstand.reporting.summary import cost_rows, run_labels, setting
from withstand.reporting.old_wording import (
    budget,
    count,
    dataset_title,
    interval,
    noise_scale,
    percent,
)
from withstand.run_folder import replaced
from withstand.types import RunFolderError

__all__ = ["Table", "comparison_tables", "export_tables", "latex", "markdown", "run_tables"]

_NOT_MEASURED = "not measured"
_DASH = "\N{EM DASH}"
_MARKDOWN = re.compile(r"([\\|`*_<>\[\]])")
# What LaTeX reads as commands, and signs that its fonts lack.
_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "ℓ": r"$\ell$",
    "∞": r"$\infty$",
    "ε": r"$\varepsilon$",
    "×": r"$\times$",
    "±": r"$\pm$",
    "…": r"\ldots{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{NO-BREAK SPACE}": "~",
    "\N{EN DASH}": "--",
    "\N{EM DASH}": "---",
}
_SUBSCRIPTS = {"∞": r"\infty"}
_NORM_OF = re.compile(r"ℓ(∞|\d)")


class Table(NamedTuple):
    """A table of texts; the first column names the rows.

    Attributes:
        title: What it shows.
        header: One a column.
        rows: Each as long as the header.
        note: What a reader must know of its figures.
    """

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
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
    folder, stem = Path(out_dir), "figures" if len(runs) == 1 else "comparison"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RunFolderError(f"Cannot make the folder {folder}: {error.strerror}.") from error
    texts = {f"{stem}.md": map(markdown, tables), f"{stem}.tex": map(latex, tables)}
    for name, parts in texts.items():
        with replaced(folder / name) as temporary:
            temporary.write_text("\n".join(parts), encoding="utf-8")
    return [folder / name for name in texts]


def comparison_tables(runs: Sequence[Run]) -> list[Table]:
    """One row a run with every figure and its interval, and the differences from the first run."""
    labelled = list(zip(run_labels(runs), runs, strict=True))
    measured = [(label, run, run.metrics) for label, run in labelled if run.metrics]
    if not measured:
        return []
    aspects = aspects_of([metrics for *_, metrics in measured])
    rows = []
    for label, run, metrics in measured:
        found = [measure(metrics, aspect) for aspect in aspects]
        cells = [_cell(aspect, each) for aspect, each in zip(aspects, found, strict=True)]
        rows.append([label, dataset_title(metrics["dataset"]), *cells, _training_time(run)])
    header = ["Run", "Data set", *(aspect.title for aspect in aspects), "Training time"]
    note = (
        "Accuracy with its 95 % Clopper-Pearson interval. Attacked is under the strongest attack run there, "
        "an upper bound of robust accuracy; certified is proven, a lower bound."
    )
    return [_upright(Table("Runs beside each other", header, rows, note)), *_paired_tables(runs)]


def _cell(aspect: Aspect, found: Measured | None) -> str:
    if found is None:
        return _NOT_MEASURED
    return f"{found.value:.3f}" if aspect.kind == "agreement" else with_interval(found)


def _upright(table: Table) -> Table:
    """The table, turned where it is wider than high, since paper is narrow."""
    if len(table.header) <= len(table.rows) + 1:
        return table
    header, *rows = [list(column) for column in zip(table.header, *table.rows, strict=True)]
    return table._replace(header=["", *header[1:]], rows=rows)


def _training_time(run: Run) -> str:
    return dict(cost_rows(run.environment or {})).get("Training time", _DASH)


def _paired_tables(runs: Sequence[Run]) -> list[Table]:
    view = view_pairs(runs)
    if view is None:
        return []
    against = view.against[0]
    rows = [
        [label, *(f"{cell.value} ({cell.detail}){'*' if cell.is_significant else ''}" for cell in cells)]
        for label, cells in against.rows.items()
    ]
    note = (
        "Percentage points above the baseline on the same test examples, with 95 % intervals. * is "
        f"significant at 0.05 after Holm's correction for {count(view.num_comparisons)} comparisons; exact "
        "McNemar test of right or wrong, Student's paired t of shares."
    )
    return [_upright(Table(f"Differences from {against.baseline}", ["Run", *view.titles], rows, note))]


def run_tables(run: Run) -> list[Table]:
    """All figures of one run: a row a figure; none where it has not been evaluated."""
    metrics = run.metrics
    if metrics is None:
        return []
    label = run_labels([run])[0]
    header = ["Measure", "By", "Accuracy", "95 % interval", "Right"]
    note = (
        f"{setting(run)}. Attacked accuracy is an upper bound of robust accuracy, certified accuracy a lower "
        "bound. Intervals are Clopper-Pearson."
    )
    return [Table(f"Figures of {label}", header, list(_rows(metrics)), note)]


def _rows(metrics: Metrics) -> Iterator[list[str]]:
    yield _row("Clean", "", metrics["clean"])
    for attack in metrics.get("attacks", []):
        for point in attack["curve"]:
            yield _at("Attacked", attack["norm"], attack["name"], point)
    for certificate in metrics.get("certificates", []):
        for point in certificate["curve"]:
            yield _at("Certified", certificate["norm"], certificate["name"], point)
    yield from _of_smoothing(metrics)
    yield from _under_noise(metrics)
    yield from _under_corruptions(metrics)
    calibration = metrics.get("calibration")
    if calibration:
        error = percent(calibration["error"], metrics["num_examples"])
        yield ["Calibration error", f"{calibration['num_bins']} bins", error, _DASH, _DASH]


def _of_smoothing(metrics: Metrics) -> Iterator[list[str]]:
    """Of another classifier, and with a probability, which the rows say."""
    smoothing = metrics.get("smoothing")
    if smoothing:
        holds = f"holds with probability {1 - smoothing['failure_probability']:.6g} an example"
        yield _row(
            "Smoothed classifier, clean", f"noise_std {smoothing['noise_std']:.4g}", smoothing["accuracy"]
        )
        for point in smoothing["curve"]:
            yield _at("Smoothed classifier, certified", "2", holds, point)


def _under_noise(metrics: Metrics) -> Iterator[list[str]]:
    noise = metrics.get("noise")
    if noise and noise["levels"]:
        for level in noise["levels"]:
            yield _row("Under noise", f"noise_std {level['noise_std']:.4g}", level["accuracy"])
        total = noise["levels"][0]["accuracy"]["total"]
        scale = noise_scale(noise)
        yield ["Under noise, mean", scale, percent(noise["mean"]["accuracy"], total), _DASH, _DASH]
        yield ["Agreement area", scale, f"{noise['area']['agreement']:.3f}", _DASH, _DASH]


def _under_corruptions(metrics: Metrics) -> Iterator[list[str]]:
    corruptions = metrics.get("corruptions")
    if corruptions:
        for kind in corruptions["kinds"]:
            for level in kind["levels"]:
                yield _row(kind["title"], f"severity {level['severity']}", level)
        mean = percent(corruptions["mean"], corruptions["num_examples"])
        yield ["Under corruptions, mean", "kinds and severities", mean, _DASH, _DASH]


def _at(measure_name: str, norm: str, by: str, point: CurvePoint) -> list[str]:
    return _row(f"{measure_name}, {budget(norm, point['epsilon'])}", by, point)


def _row(name: str, by: str, accuracy: Accuracy) -> list[str]:
    share = percent(accuracy["accuracy"], accuracy["total"])
    right = f"{count(accuracy['correct'])} of {count(accuracy['total'])}"
    return [name, by or _DASH, share, interval(accuracy), right]


def markdown(table: Table) -> str:
    """A table as GitHub and Pandoc read it."""
    rules = ["---", *["---:"] * (len(table.header) - 1)]
    rows = [_markdown_row(table.header), f"| {' | '.join(rules)} |", *map(_markdown_row, table.rows)]
    return "\n".join([f"### {_in_markdown(table.title)}", "", *rows, "", _in_markdown(table.note), ""])


def _markdown_row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(map(_in_markdown, cells))} |"


def _in_markdown(text: str) -> str:
    return _MARKDOWN.sub(r"\\\1", " ".join(text.splitlines()))


def latex(table: Table) -> str:
    r"""A table for LaTeX; it needs ``\usepackage{booktabs}``."""
    columns = "l" + "r" * (len(table.header) - 1)
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_in_latex(table.title)}. {_in_latex(table.note)}}}",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        _latex_row(table.header),
        r"\midrule",
        *map(_latex_row, table.rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join([*lines, ""])


def _latex_row(cells: Sequence[str]) -> str:
    return rf"{' & '.join(map(_in_latex, cells))} \\"


def _in_latex(text: str) -> str:
    """A text with its special characters escaped, and norms and signs as mathematics."""
    parts = _NORM_OF.split(" ".join(text.splitlines()))
    shown = ["".join(_LATEX.get(letter, letter) for letter in part) for part in parts[::2]]
    norms = [rf"$\ell_{_SUBSCRIPTS.get(sign, sign)}$" for sign in parts[1::2]]
    return "".join(part + norm for part, norm in zip(shown, [*norms, ""], strict=True))
