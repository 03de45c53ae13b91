"""Several runs beside each other: what their page shows above the runs' own sections."""

from __future__ import annotations

from collections.abc import Sequence

from withstand.reporting.compare import compared_curves as curves
from withstand.reporting.compare import compared_results as results
from withstand.reporting.compare import pairs, seeds, tradeoffs
from withstand.reporting.compare.comparison import Comparison
from withstand.reporting.read import Run
from withstand.reporting.section import Section

__all__ = ["compare_sections"]


def compare_sections(runs: Sequence[Run]) -> list[Section]:
    """The sections on several runs, in their order."""
    compared = Comparison(runs)
    over_seeds = seeds.section(compared)
    sections = [
        over_seeds,
        results.results(compared, title="Each run" if over_seeds else "Results"),
        curves.accuracy_section(compared),
        tradeoffs.section(compared),
        pairs.section(compared),
        results.protocols(compared),
        curves.noise_section(compared),
        curves.training_section(compared),
    ]
    return [section for section in sections if section]
