"""Measuring: one row a test example, one row a figure."""

from withstand.evaluation import meters
from withstand.evaluation.judge import Judge, random_judge
from withstand.evaluation.meter import Meter
from withstand.evaluation.prediction_sampling import Sampling
from withstand.evaluation.run import Evaluation, evaluate, require_sizes

__all__ = [
    "Evaluation",
    "Judge",
    "Meter",
    "Sampling",
    "evaluate",
    "meters",
    "random_judge",
    "require_sizes",
]
