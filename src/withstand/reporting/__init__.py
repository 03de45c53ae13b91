"""From run folders to one HTML page that opens offline; imports no torch."""

from __future__ import annotations

from withstand.reporting.page import report
from withstand.reporting.seeds import summarize_seeds

__all__ = ["report", "summarize_seeds"]
