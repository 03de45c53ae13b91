"""From run folders to one HTML page that opens offline; imports no torch."""

from __future__ import annotations

from withstand.reporting.card import model_card
from withstand.reporting.compare.seeds import summarize_seeds
from withstand.reporting.find import find_runs
from withstand.reporting.image_files import export_figures
from withstand.reporting.page import report
from withstand.reporting.tables import export_tables

__all__ = ["export_figures", "export_tables", "find_runs", "model_card", "report", "summarize_seeds"]
