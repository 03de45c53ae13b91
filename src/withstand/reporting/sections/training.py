"""The training, epoch by epoch."""

from __future__ import annotations

from dataclasses import replace

from withstand.reporting.history import events, history_table, panels_of_run, training_figure
from withstand.reporting.naming import missing
from withstand.reporting.read import History, Run
from withstand.reporting.section import Notice, Prose, Section, Table

PLACE = 10


def section(run: Run) -> Section:
    """Figures, collapses and notes, and a table of the newest epochs."""
    parts = Section("training", "Training", "training", across=2)
    if run.history is None:
        lacking = missing(run, "train.csv", "The training left no record here.", "train RECIPE --out")
        return replace(parts, prose=[lacking])
    happenings = list(events(run.history).values())
    marked = "Circled crosses in the figures mark these epochs."
    return replace(
        parts,
        prose=[] if run.history.notes else [Prose("No epoch is finished yet.", "note")],
        figures=[training_figure(panel) for panel in panels_of_run(run.history)],
        notices=[Notice("Collapses and notes", happenings, "happenings", marked)] if happenings else [],
        tables=_tables(run.history),
    )


def _tables(history: History) -> list[Table]:
    header, rows = history_table(history)
    number = len(history.notes)
    caption = "All epochs."
    if len(rows) < number:
        caption = f"The newest {len(rows)} of {number} epochs; train.csv holds all."
    table = Table("The same numbers as a table", header, rows, caption, is_folded=True, is_tall=True)
    return [table] if rows else []
