"""What was measured: one table of figures, and all else beside it. No torch, so that any tool can read it."""

from withstand.results.measurements import Measurement, table_of
from withstand.results.results import SCHEMA, Results
from withstand.results.results_file import read_results, write_results

__all__ = ["SCHEMA", "Measurement", "Results", "read_results", "table_of", "write_results"]
