"""What the terminal says of an evaluation."""

from __future__ import annotations

from typing import Any

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


def _share(correct: int, total: int) -> dict[str, Any]:
    return {"accuracy": correct / total, "lower": 0.25, "upper": 0.75, "correct": correct, "total": total}


def test_random_answers_and_protocols_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    typical = {"mean": 0.5, "median": 0.4}
    metrics: dict[str, Any] = {
        "dataset": "digits",
        "clean": _share(90, 180),
        "attacks": [],
        "warnings": [],
        "sampling": {"num_samples": 20, "num_repeats": 3, "attack_samples": 16},
        "uncertainty": {
            "sets": [{"name": "mnist", "entropy": typical, "mutual_information": typical, "auroc": 0.75}]
        },
        "protocols": [
            {
                "name": "sebr",
                "clean": _share(30, 60),
                "attacks": [{"name": "fgsm", "curve": [{"epsilon": 0.16, **_share(15, 60)}]}],
            }
        ],
    }
    print_metrics(metrics)
    said = " ".join(capsys.readouterr().out.split())
    assert said.startswith("digits, 3 predictions an example")
    assert "25.00% to 75.00% of 60 examples" in said
    assert "random weights: 3 predictions an image, each the mean of 20 draws; gradients of 16 draws" in said
    assert "uncertainty, mnist: mean entropy 0.500 nats" in said
    assert "AUROC 0.750" in said
    assert "protocol sebr" in said
    assert "fgsm │ 0.16 │ 25.00% │ 25.00% to 75.00% of 60 " in said
    metrics["sampling"] = {"num_samples": 1, "num_repeats": 1, "attack_samples": None}
    print_metrics(metrics)
    said = " ".join(capsys.readouterr().out.split())
    assert "random weights: 1 prediction an image, the mean of 1 draw uncertainty" in said
    assert "of 180" in said
