"""What the terminal says of an evaluation."""

from __future__ import annotations

import pytest
from torch import nn

from withstand.console import print_metrics
from withstand.data import Dataset
from withstand.evaluation import NoiseCurve, evaluate


def test_noise_is_one_line(
    tiny_model: nn.Module, tiny_dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    metrics = evaluate(tiny_model, tiny_dataset, [], [], noise=NoiseCurve(num_levels=3)).metrics
    metrics["noise"]["mean"]["accuracy"], metrics["noise"]["area"]["agreement"] = 0.93149, 0.94149
    print_metrics(metrics)
    said = " ".join(capsys.readouterr().out.split())
    assert "noise: mean accuracy 93.1 % over noise_std 0 … 0.5; agreement area 0.941" in said
    del metrics["noise"]
    print_metrics(metrics)
    assert "noise" not in capsys.readouterr().out
