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


def _of_suite(point: dict[str, Any], felled: Mapping[str, int], right: int) -> dict[str, Any]:
    """A point at which each attack was given what stood before it, of so many right ones."""
    stages, standing = [], right
    for name, number in felled.items():
        stages.append({"name": name, "num_attacked": standing, "num_felled": number})
        standing -= number
    return point | _accuracy(standing) | {"stages": stages}


def _suite() -> dict[str, Any]:
    kinds = {"pgd-margin": "white-box", "apgd-dlr": "white-box", "square": "black-box"}
    felled = {0.1: (60, 14, 0), 0.3: (530, 48, 3)}
    curve = [
        _of_suite({"epsilon": epsilon}, dict(zip(kinds, numbers, strict=True)), 981)
        for epsilon, numbers in felled.items()
    ]
    stages = [{"name": name, "kind": kind, "description": f"{name} in words"} for name, kind in kinds.items()]
    return {
        "name": "standard-linf",
        "norm": "inf",
        "description": "A suite",
        "curve": curve,
        "stages": stages,
    }


def _corruptions() -> dict[str, Any]:
    titles = {
        "gaussian-blur": ("Gaussian blur", "standard deviation, pixels"),
        "rotation": ("Rotation", "degrees"),
    }
    kinds = [
        {
            "name": name,
            "title": title,
            "parameter": parameter,
            "levels": [
                {"severity": severity, "value": 0.4 * severity} | _accuracy(980 - slope * severity)
                for severity in range(1, 6)
            ],
        }
        for slope, (name, (title, parameter)) in zip((60, 120), titles.items(), strict=True)
    ]
    return {"description": "How it was corrupted", "num_examples": 1000, "kinds": kinds, "mean": 0.71}


def _smoothing() -> dict[str, Any]:
    curve = [{"epsilon": epsilon, **_accuracy(n)} for epsilon, n in {0.5: 700, 0.25: 850, 1.0: 310}.items()]
    return {
        "description": "By sampling",
        "noise_std": 0.25,
        "failure_probability": 0.001,
        "num_selection": 100,
        "num_estimation": 10_000,
        "num_examples": 1000,
        "accuracy": _accuracy(940),
        "abstained": _accuracy(12),
        "curve": curve,
        "radius": {"mean": 0.61, "median": 0.66, "largest": 0.9471},
    }


def _calibration() -> dict[str, Any]:
    held = {12: (100, 0.82, 0.7), 13: (300, 0.9, 0.85), 14: (600, 0.98, 0.97)}
    bins: list[dict[str, Any]] = [
        {"lower": number / 15, "upper": (number + 1) / 15, "count": 0, "confidence": None, "accuracy": None}
        for number in range(15)
    ]
    for number, (size, confidence, accuracy) in held.items():
        bins[number] |= {"count": size, "confidence": confidence, "accuracy": accuracy}
    return {"num_bins": 15, "error": 0.033, "bins": bins}


def _classes() -> dict[str, Any]:
    clean, attacked = {"cat": 98, "dog": 97, "ship": 99}, {"cat": 40, "dog": 12, "ship": 77}
    rows = [
        {
            "class": name,
            "clean": _accuracy(right, 100),
            "attacked": _accuracy(attacked[name], 100),
            "certified": None,
        }
        for name, right in clean.items()
    ]
    measure = {"name": "standard-linf", "norm": "inf", "epsilon": 0.3}
    return {"attacked": measure, "certified": None, "rows": rows}


def _confusion() -> dict[str, Any]:
    attacked = {"name": "standard-linf", "norm": "inf", "epsilon": 0.3}
    return {
        "class_names": ["cat", "dog", "ship"],
        "clean": [[98, 2, 0], [3, 97, 0], [0, 1, 99]],
        "attacked": attacked | {"matrix": [[40, 55, 5], [80, 12, 8], [3, 20, 77]]},
    }


@pytest.fixture
def measures(metrics: dict[str, Any]) -> dict[str, Any]:
    """A summary in which everything beside the curves was measured too, to change at will."""
    checks = [
        ("vanishing-gradients", "Gradients do not vanish", True, "0 of 1,000 gradients are zero."),
        ("transfer", "Transfer finds no more", None, "No other run was named."),
        ("huge-epsilon", "A huge epsilon fells all", False, "At epsilon 1 accuracy is still 31.0 %."),
    ]
    keys = ("name", "title", "passed", "finding")
    return metrics | {
        "attacks": [_suite(), *metrics["attacks"]],
        "checks": [dict(zip(keys, check, strict=True)) for check in checks],
        "corruptions": _corruptions(),
        "smoothing": _smoothing(),
        "calibration": _calibration(),
        "classes": _classes(),
        "confusion": _confusion(),
        "warnings": ["At epsilon 1 accuracy is still 31.0 %."],
    }


@pytest.fixture
def extremes() -> dict[str, Any]:
    """Two images with small radii and one with a large one, to change at will."""
    images = np.full((2, 4, 4, 1), 90, dtype=np.uint8)
    return {
        "certificate": np.array("certified-l2"),
        "class_names": np.array(["cat", "dog", "ship"]),
        "smallest_images": images,
        "smallest_index": np.array([4, 1203]),
        "smallest_label": np.array([1, 2]),
        "smallest_radius": np.array([0.00123, 0.004]),
        "largest_images": images[:1],
        "largest_index": np.array([17]),
        "largest_label": np.array([0]),
        "largest_radius": np.array([1.75]),
    }


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
        if "extremes" in contents:
            np.savez(folder / "extremes.npz", **contents["extremes"])
        return folder

    return write
