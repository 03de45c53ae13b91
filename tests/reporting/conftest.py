from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

WriteRun = Callable[..., Path]

_RECIPE = """\
name: tiny
title: A tiny run
description: What it shows.
seed: 3
data: {name: mnist}
model: {name: cnn-small}
training: {epochs: 2}
"""
_TRAINING = """\
epoch,progress,seconds,learning_rate,loss,adversarial,adversarial_accuracy,epsilon,collapsed,note
1,1,4.5,0.1,2.25,2.25,0.2,0.1,0,
2,2,4.4,0.1,2.3,2.3,0.125,0.2,1,"back, step halved"
"""
_EXAMPLES = "index,label,prediction,pgd@0.1\n0,7,7,1\n1,2,2,0\n2,1,1,1\n"


def _accuracy(correct: int, total: int = 1000) -> dict[str, float]:
    share = correct / total
    ends = {"lower": max(0.0, share - 0.02), "upper": min(1.0, share + 0.02)}
    return {"accuracy": share, **ends, "correct": correct, "total": total}


def _attack(name: str, norm: str, corrects: Mapping[float, int]) -> dict[str, Any]:
    curve = [{"epsilon": epsilon, **_accuracy(correct)} for epsilon, correct in corrects.items()]
    return {"name": name, "norm": norm, "description": f"{name} in words", "curve": curve}


@pytest.fixture
def metrics() -> dict[str, Any]:
    """A summary to change at will."""
    return {
        "schema": 1,
        "dataset": "mnist",
        "num_examples": 1000,
        "num_classes": 10,
        "weights": "last",
        "clean": _accuracy(981),
        "attacks": [
            _attack("pgd-200", "inf", {0.3: 402, 0.1: 907}),
            _attack("fgsm", "inf", {0.1: 905, 0.3: 655}),
        ],
        "warnings": [],
    }


@pytest.fixture
def certified_metrics(metrics: dict[str, Any]) -> dict[str, Any]:
    """The same with attacks in l2 and three certificates, one of them with radii."""
    metrics["attacks"].append(_attack("pgd-20-l2", "2", {0.5: 800, 1.0: 600, 1.5: 300}))
    best = {"method": "best"} | _attack("certified-l2", "2", {0.5: 700, 1.0: 400, 1.5: 90})
    box = {"method": "box"} | _attack("certified-box-l2", "2", {0.5: 710, 1.0: 100})
    linf = {"method": "box_ball"} | _attack("certified-box-ball-linf", "inf", {0.1: 350})
    best["radius"] = {"mean": 0.7125, "median": 0.65, "largest": 1.75}
    return metrics | {"certificates": [best, box, linf]}


@pytest.fixture
def environment() -> dict[str, Any]:
    """An environment to change at will."""
    return {
        "versions": {"python": "3.11.2", "torch": "2.13.0"},
        "device": "cpu (2 threads)",
        "seed": 3,
        "git_commit": None,
        "command": "withstand run tiny --out runs/tiny",
        "cost": {"train_seconds": 100.0, "train_steps": 400, "peak_memory_bytes": 3 * 2**20},
    }


@pytest.fixture
def gallery() -> dict[str, Any]:
    """Two grey images, the second fooled, to change at will."""
    clean = np.full((2, 4, 4, 1), 100, dtype=np.uint8)
    return {
        "clean": clean,
        "adversarial": clean + np.uint8(20),
        "label": np.array([0, 1]),
        "clean_prediction": np.array([0, 1]),
        "adversarial_prediction": np.array([0, 2]),
        "epsilon": np.float64(20 / 255),
        "attack": np.array("pgd-200"),
        "class_names": np.array(["cat", "dog", "ship"]),
    }


@pytest.fixture
def write_run(
    tmp_path: Path, metrics: dict[str, Any], environment: dict[str, Any], gallery: dict[str, Any]
) -> WriteRun:
    """Writes a run folder, whole unless parts are named; a part is its file's content."""

    def write(name: str = "run", *, only: set[str] | None = None, **contents: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        texts = {
            "recipe.yaml": contents.get("recipe", _RECIPE),
            "environment.json": json.dumps(contents.get("environment", environment)),
            "train.csv": contents.get("training", _TRAINING),
            "examples.csv": contents.get("examples", _EXAMPLES),
            "metrics.json": json.dumps(contents.get("metrics", metrics)),
        }
        for file, text in texts.items():
            if only is None or file in only:
                (folder / file).write_text(text, encoding="utf-8")
        if only is None or "gallery.npz" in only:
            np.savez(folder / "gallery.npz", **contents.get("gallery", gallery))
        return folder

    return write
