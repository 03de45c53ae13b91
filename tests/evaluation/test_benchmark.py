"""One call, one row: what it holds is what ``evaluate`` measures."""

from __future__ import annotations

import math
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

import withstand as ws
from withstand.core.writing import percent
from withstand.reporting.table import one
from withstand.results.measurements import ATTACKED, CERTIFIED, CLEAN


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


class Unprovable(nn.Module):
    """An operation that has no rule."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net()

    def forward(self, images: Tensor) -> Tensor:
        return torch.cumsum(self.inner(images), 1)


@pytest.fixture(scope="module")
def digits() -> ws.data.Dataset:
    return ws.data.load("digits")


def test_benchmark_is_the_row_of_an_evaluation(digits: ws.data.Dataset, tmp_path: Path) -> None:
    model = net()
    out = tmp_path / "out"
    row = ws.benchmark(model, "digits", norm="linf", epsilon="8/255", num_examples=20, level="fast", out=out)
    meters = [ws.meters.Suite("fast", epsilons=[8 / 255]), ws.meters.Certificate(math.inf, [8 / 255])]
    table = ws.evaluate(model, digits, meters, num_examples=20).table
    clean, robust, proven = (one(table, measure) for measure in (CLEAN, ATTACKED, CERTIFIED))
    assert clean
    assert robust
    assert proven
    assert (row.clean, row.robust, row.robust_lower, row.robust_upper, row.proven) == (
        *(clean.value, robust.value, robust.lower, robust.upper),
        proven.value,
    )
    assert 0 < row.proven <= row.robust <= row.clean
    assert (row.model, row.data, row.norm, row.epsilon) == ("Sequential", "digits", "linf", 8 / 255)
    assert (row.suite, row.examples, row.proven_note, row.seconds > 0) == ("fast-linf", 20, "", True)
    assert row.sample.startswith("20 of 360 test examples, drawn")
    assert pd.DataFrame([row]).loc[0, "robust"] == row.robust
    assert f"robust {percent(row.robust)}" in str(row)
    page = ws.report(out).read_text()
    assert "Measured in Python, by <code>ws.evaluate</code>" in page
    assert "Missing:" not in page


@pytest.mark.parametrize(
    ("model", "options", "reason"),
    [
        (Unprovable(), {}, "no rule for aten.cumsum"),
        (net(), {"prove": False}, "it was not asked for"),
        (ws.bayes.convert(net(), ws.bayes.Posterior()), {}, "draws its weights anew"),
    ],
    ids=["no rule", "not asked", "random"],
)
def test_benchmark_says_why_nothing_is_proven(
    model: nn.Module, options: dict[str, object], reason: str, digits: ws.data.Dataset
) -> None:
    row = ws.benchmark(model, digits, epsilon=0.02, num_examples=10, level="fast", name="mine", **options)  # type: ignore[arg-type]
    assert math.isnan(row.proven)
    assert reason in row.proven_note
    assert row.model == "mine"
    assert "not proven (" in str(row)


def test_benchmark_refuses_a_budget_of_nothing_and_what_is_no_model(digits: ws.data.Dataset) -> None:
    with pytest.raises(ValueError, match="above 0"):
        ws.benchmark(net(), digits, epsilon=0)
    with pytest.raises(ws.ModelError, match="Expected a model"):
        ws.benchmark("lenet", digits, epsilon=0.1)  # type: ignore[arg-type]
