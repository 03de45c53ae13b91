"""Measuring: one row a test example, one row a figure."""

from withstand.evaluation import meters
from withstand.evaluation.benchmarking import Benchmark, benchmark
from withstand.evaluation.measuring import Evaluation
from withstand.evaluation.meter import Meter
from withstand.evaluation.prediction_sampling import Sampling
from withstand.evaluation.predictor import Predictor, random_predictor
from withstand.evaluation.process_group import Processes
from withstand.evaluation.run import evaluate, require_sizes

__all__ = [
    "Benchmark",
    "Evaluation",
    "Meter",
    "Predictor",
    "Processes",
    "Sampling",
    "benchmark",
    "evaluate",
    "meters",
    "random_predictor",
    "require_sizes",
]
