"""Accuracy under attack and certified, at every epsilon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from withstand.core.writing import epsilon_text, norm_text
from withstand.reporting.curves import Curve, accuracy_figure, attacked_curves, certified_curves
from withstand.reporting.formatting import cell, count, measured, sentence
from withstand.reporting.naming import missing
from withstand.reporting.read import Run
from withstand.reporting.section import PROSE, Cell, Prose, Section, Table
from withstand.reporting.table import chance_of, norms, one
from withstand.results import measurements
from withstand.results.results import CertificateInfo, Results

PLACE = 30
_TEXTS = PROSE["accuracy"]
_RADII = {
    "mean": measurements.MEAN_RADIUS,
    "median": measurements.MEDIAN_RADIUS,
    "largest": measurements.LARGEST_RADIUS,
}


def section(run: Run) -> Section | None:
    """A figure a norm, the same numbers as a table, and what was measured by what."""
    if run.results is None:
        return None
    curves = {norm: [*attacked_curves(run, norm), *certified_curves(run, norm)] for norm in norms(run)}
    is_certified = bool(run.results.certificates)
    lead = [] if curves else [Prose(_TEXTS["no_attack"], "note")]
    return Section(
        key="accuracy",
        title=title(is_certified=is_certified),
        tab="summary",
        prose=[meaning(is_certified=is_certified), *lead],
        figures=[accuracy_figure(of_norm, norm, chance_of([run])) for norm, of_norm in curves.items()],
        tables=[_table(curves, run.results)] if curves else [],
        descriptions=_descriptions(run, run.results),
        notes=[_examples(run)],
        is_brief=True,
        measures=[measurements.ATTACKED, measurements.CERTIFIED, *_RADII.values(), measurements.ROUNDING],
    )


def title(*, is_certified: bool) -> str:
    """The heading over curves of accuracy."""
    return "Accuracy under attack, and certified" if is_certified else "Accuracy under attack"


def meaning(*, is_certified: bool) -> Prose:
    """What the numbers mean, which a page of several runs says once."""
    paragraphs = ("attacked", "certified", "intervals") if is_certified else ("attacked", "intervals")
    text = " ".join(_TEXTS[name] for name in paragraphs)
    return Prose(text, "meaning", "What the numbers mean.", is_once=True)


def _table(curves: Mapping[str, Sequence[Curve]], results: Results) -> Table:
    what, counted = "Attack", "Correct"
    if results.certificates:
        what, counted = "Attack or certificate", "Correct, or certified"
    caption, repeats = "Accuracy at each ε; ε = 0 is clean accuracy.", results.num_repeats
    caption += f" Correct counts {repeats} predictions of each example." if repeats > 1 else ""
    header = [what, "Norm", "ε", "Accuracy", "95 % interval", counted]
    rows: list[list[Cell | str]] = [
        [curve.name, Cell(norm_text(norm), is_words=True), epsilon_text(row.level), *measured(row)]
        for norm, of_norm in curves.items()
        for curve in of_norm
        for row in curve.points
    ]
    return Table("The same numbers as a table", header, rows, caption, is_folded=True)


def _descriptions(run: Run, results: Results) -> list[tuple[str, str]]:
    """What was measured by what, in words, without repetition."""
    attacks = [(info.name, info.description) for info in results.attacks]
    certificates = [(info.name, _described(run, info)) for info in results.certificates]
    return [(name, sentence(text)) for name, text in dict.fromkeys([*attacks, *certificates]) if text]


def _described(run: Run, info: CertificateInfo) -> str:
    """A certificate in words, with a summary of its radii, and its arithmetic, where they are known."""
    radii = {name: one(run.table, measure, by=info.name, norm=info.norm) for name, measure in _RADII.items()}
    known = [f"{name} {cell(row.value)}" for name, row in radii.items() if row]
    summary = f"Certified radius: {', '.join(known)}." if known else ""
    parts = [info.described, summary, info.arithmetic]
    return " ".join(sentence(part) for part in parts if part)


def _examples(run: Run) -> Prose:
    if run.num_rows is None:
        return missing(run, "examples.csv", "Each example's own result is not stored here.", "evaluate")
    text = "Every example's own result is in <code>examples.csv</code> of the run folder, {} rows."
    return Prose(Markup(text).format(count(run.num_rows)), "small")
