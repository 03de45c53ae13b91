"""Results of meters put together as an evaluation does, and the stripes that every model here knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import pandas as pd
import pytest
import torch
from torch import nn

from withstand.data import Dataset
from withstand.evaluation.meter import Gathered, Subject
from withstand.evaluation.predictor import Predictor

Gather: TypeAlias = Callable[..., Gathered]


@pytest.fixture
def gather(tiny_dataset: Dataset) -> Gather:
    """Rows, and all else by the names of ``Gathered``, as a meter's summary takes them."""

    def gathered(rows: pd.DataFrame, predictor: Predictor | None = None, **parts: Any) -> Gathered:
        asked = predictor or Predictor.of(nn.Identity())
        subject = Subject(asked.model, tiny_dataset.info, tiny_dataset.test, asked, 500, 0)
        return Gathered(subject, rows, **parts)

    return gathered


@pytest.fixture
def linear() -> nn.Module:
    """Knows the stripes: the brightest column wins, and how far it can be moved is known exactly."""
    layer = nn.Linear(16, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.eye(4).repeat(1, 4)[:3])
        layer.bias.zero_()
    return nn.Sequential(nn.Flatten(), layer)
