"""The interface of what looks at test images beside attacks and proofs: noise, corruptions and the like."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from withstand.evaluation.judge import Judge
from withstand.evaluation.rows import Columns
from withstand.types import Batch

__all__ = ["Counts", "Found", "Meter"]

Counts = dict[str, NDArray[np.int64]]
"""Whole numbers that add up over batches, by name."""


class Found(NamedTuple):
    """What a meter found of one batch.

    Attributes:
        columns: Column name -> array (batch,), for ``examples.csv``.
        counts: Name -> array of the same shape at every batch.
    """

    columns: Columns
    counts: Counts


class Meter(ABC):
    """Looks at batches one by one and keeps nothing, so that what it found can be put away and taken up."""

    @property
    @abstractmethod
    def entry(self) -> str:
        """The key of its summary in ``metrics.json``."""

    @property
    @abstractmethod
    def settings(self) -> Any:
        """All that its results depend on beside model, images and seed: a frozen dataclass."""

    @abstractmethod
    def score(self, judge: Judge, batch: Batch, prediction: Tensor, *, seed: int) -> Found:
        """Looks at one batch.

        Args:
            judge: Of a model in eval mode; its ``predictor`` maps images in [0, 1] to logits.
            batch: Images (batch, channels, height, width) in [0, 1] and labels (batch,).
            prediction: int64 tensor (batch,): the classes of the clean images.
            seed: Of whatever is drawn, which leaves torch's own random state alone.
        """

    @abstractmethod
    def summary(self, rows: pd.DataFrame, counts: Counts) -> dict[str, Any]:
        """Its entry of ``metrics.json``.

        Args:
            rows: All examples, with ``label``, ``prediction``, ``clean`` and its own columns.
            counts: The sums over all batches.
        """
