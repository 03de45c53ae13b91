"""Measuring: one row a test example, one row a figure."""

from withstand.evaluation import meters
from withstand.evaluation.judge import Judge, random_judge
from withstand.evaluation.measurements import Measurement
from withstand.evaluation.meter import Meter
from withstand.evaluation.results import Results
from withstand.evaluation.results_file import read_results, write_results
from withstand.evaluation.run import Evaluation, evaluate, require_sizes
from withstand.evaluation.sampling import Sampling

__all__ = [
    "Evaluation",
    "Judge",
    "Measurement",
    "Meter",
    "Results",
    "Sampling",
    "evaluate",
    "meters",
    "random_judge",
    "read_results",
    "require_sizes",
    "write_results",
]
