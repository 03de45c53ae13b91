"""Training: one loop, checkpoints, logs, and what to do about a collapse."""

from withstand.training.checkpoint import TrainingResult
from withstand.training.collapse import Rollback, has_collapsed
from withstand.training.fit import fit
from withstand.training.observers import CsvLog, Observer, ProgressBar, TensorBoardLog
from withstand.training.settings import TrainingSettings
from withstand.training.validation import Plateau
from withstand.training.weight_average import WeightAverage

__all__ = [
    "CsvLog",
    "Observer",
    "Plateau",
    "ProgressBar",
    "Rollback",
    "TensorBoardLog",
    "TrainingResult",
    "TrainingSettings",
    "WeightAverage",
    "fit",
    "has_collapsed",
]
