"""Run folders of every kind, made of results and measurements."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from withstand.core.run_folder import RunFolder
from withstand.reporting.read import Run, read_run
from withstand.reporting.section import Cell
from withstand.results.measurements import (
    ABSTENTION,
    ATTACKED,
    CALIBRATION_ERROR,
    CERTIFIED,
    CLEAN,
    CORRUPTED,
    LARGEST_RADIUS,
    MEAN_RADIUS,
    MEDIAN_RADIUS,
    SMOOTHED,
    SMOOTHED_CERTIFIED,
    Measurement,
    table_of,
)
from withstand.results.results import (
    AttackInfo,
    Bin,
    CertificateInfo,
    Check,
    ClassAccuracy,
    Classes,
    Confusion,
    CorruptionKind,
    Corruptions,
    Results,
    Smoothing,
    StageCounts,
    StageInfo,
    Target,
)
from withstand.results.results_file import write_results
from withstand.results.shares import Share

RECIPE = """\
name: tiny
title: A tiny run
description: What it shows.
seed: 3
data: {name: mnist}
model: {name: cnn-small}
training: {epochs: 2}
"""
TRAINING = """\
epoch,progress,seconds,learning_rate,loss,adversarial,adversarial_accuracy,epsilon,collapsed,note
1,1,4.5,0.1,2.25,2.25,0.2,0.1,0,
2,2,4.4,0.1,2.3,2.3,0.125,0.2,1,"back, step halved"
"""
EXAMPLES = "index,label,prediction,pgd@0.1\n0,7,7,1\n1,2,2,0\n2,1,1,1\n"


def plain(text: str) -> str:
    """A text with plain spaces."""
    return text.replace("\N{NO-BREAK SPACE}", " ")


def texts(cells: Iterable[Cell | str]) -> list[str]:
    """What stands in the cells of a row, with what is small after it."""
    whole = [cell if isinstance(cell, Cell) else Cell(cell) for cell in cells]
    return [plain(" ".join([cell.text, *cell.small])) for cell in whole]


def share(correct: int, total: int = 1000) -> Share:
    """So many of so many, with two points to each side."""
    value = correct / total
    return Share(value, max(0.0, value - 0.02), min(1.0, value + 0.02), correct, total)


def measured(
    measure: str, correct: int, by: str = "", norm: str = "", level: float = 0.0, total: int = 1000
) -> Measurement:
    """A row of the table with such a share."""
    of = share(correct, total)
    return Measurement(measure, by, norm, level, of.value, of.lower, of.upper, of.correct, of.total)


@dataclass(frozen=True)
class Evaluated:
    """What an evaluation leaves: results, and the rows of the table of measurements."""

    results: Results
    rows: tuple[Measurement, ...]

    def but(self, **fields: Any) -> Evaluated:
        """The same with other results."""
        return replace(self, results=replace(self.results, **fields))

    def plus(self, *rows: Measurement) -> Evaluated:
        """The same with more rows."""
        return replace(self, rows=(*self.rows, *rows))

    def without(self, *measures: str) -> Evaluated:
        """The same without the rows of some measures."""
        return replace(self, rows=tuple(row for row in self.rows if row.measure not in measures))

    def attacked(self, name: str, norm: str, corrects: Mapping[float, int], **fields: Any) -> Evaluated:
        """The same with one attack more, given how many examples are correct at each epsilon."""
        info = AttackInfo(name, norm, f"{name} in words", **fields)
        return self.but(attacks=[*self.results.attacks, info]).plus(
            *(measured(ATTACKED, correct, name, norm, epsilon) for epsilon, correct in corrects.items())
        )

    def certified(self, name: str, norm: str, method: str, corrects: Mapping[float, int]) -> Evaluated:
        """The same with one certificate more."""
        info = CertificateInfo(name, norm, method, f"{name} in words")
        return self.but(certificates=[*self.results.certificates, info]).plus(
            *(measured(CERTIFIED, correct, name, norm, epsilon) for epsilon, correct in corrects.items())
        )

    def run(self, **fields: Any) -> Run:
        """A run with this evaluation and nothing else, but for what is named."""
        empty = Run(Path("run"), None, None, None, None, None, {}, self.results, table_of(self.rows))
        return replace(empty, **fields)


@pytest.fixture
def build() -> SimpleNamespace:
    """The builders above and below, for tests, which cannot import this file."""
    return SimpleNamespace(**globals())


@pytest.fixture
def evaluated() -> Evaluated:
    """Two attacks in linf on a thousand test examples of MNIST."""
    return (
        Evaluated(Results("mnist", 1000, 10, weights="last"), (measured(CLEAN, 981),))
        .attacked("pgd-200", "inf", {0.3: 402, 0.1: 907})
        .attacked("fgsm", "inf", {0.1: 905, 0.3: 655})
    )


@pytest.fixture
def certified(evaluated: Evaluated) -> Evaluated:
    """The same with an attack in l2 and three certificates, one of them with radii."""
    radii = {MEAN_RADIUS: 0.7125, MEDIAN_RADIUS: 0.65, LARGEST_RADIUS: 1.75}
    return (
        evaluated.attacked("pgd-20-l2", "2", {0.5: 800, 1.0: 600, 1.5: 300})
        .certified("certified-l2", "2", "best", {0.5: 700, 1.0: 400, 1.5: 90})
        .certified("certified-box-l2", "2", "box", {0.5: 710, 1.0: 100})
        .certified("certified-box-ball-linf", "inf", "box_ball", {0.1: 350})
        .plus(*(Measurement(name, "certified-l2", "2", value=value) for name, value in radii.items()))
    )


def with_suite(evaluated: Evaluated) -> Evaluated:
    """The same with a suite of three attacks before the others."""
    kinds: dict[str, Any] = {"pgd-margin": "white-box", "apgd-dlr": "white-box", "square": "black-box"}
    broken = {0.1: [60, 14, 0], 0.3: [530, 48, 3]}
    counts = [
        StageCounts(epsilon, [981 - sum(numbers[:place]) for place in range(3)], numbers)
        for epsilon, numbers in broken.items()
    ]
    stages = [StageInfo(name, kind, f"{name} in words") for name, kind in kinds.items()]
    robust = {epsilon: 981 - sum(numbers) for epsilon, numbers in broken.items()}
    suite = Evaluated(replace(evaluated.results, attacks=[]), ())
    suite = suite.attacked("standard-linf", "inf", robust, stages=stages, counts=counts)
    attacks = [*suite.results.attacks, *evaluated.results.attacks]
    return replace(evaluated, rows=(evaluated.rows[0], *suite.rows, *evaluated.rows[1:])).but(attacks=attacks)


def with_corruptions(evaluated: Evaluated) -> Evaluated:
    """The same with two kinds of corruption at five severities."""
    titles = {
        "gaussian-blur": ("Gaussian blur", "standard deviation, pixels"),
        "rotation": ("Rotation", "degrees"),
    }
    severities = range(1, 6)
    kinds = [
        CorruptionKind(name, title, parameter, list(severities), [0.4 * severity for severity in severities])
        for name, (title, parameter) in titles.items()
    ]
    rows = [
        measured(CORRUPTED, 980 - slope * severity, name, level=severity)
        for slope, name in zip((60, 120), titles, strict=True)
        for severity in severities
    ]
    return evaluated.but(corruptions=Corruptions("How it was corrupted", kinds)).plus(*rows)


def with_smoothing(evaluated: Evaluated) -> Evaluated:
    """The same with a smoothed classifier."""
    certified = {0.5: 700, 0.25: 850, 1.0: 310}
    radii = {"mean": 0.61, "median": 0.66, "largest": 0.9471}
    return evaluated.but(smoothing=Smoothing("By sampling", 0.25, 0.001, 100, 10_000)).plus(
        measured(SMOOTHED, 940, "smoothed"),
        measured(ABSTENTION, 12, "smoothed"),
        *(measured(SMOOTHED_CERTIFIED, correct, "smoothed", "2", at) for at, correct in certified.items()),
        *(
            Measurement(f"{name} radius of the smoothed classifier", "smoothed", "2", value=value)
            for name, value in radii.items()
        ),
    )


def with_calibration(evaluated: Evaluated) -> Evaluated:
    """The same with fifteen bins of confidence, three of them filled."""
    filled: dict[int, Any] = {12: (100, 0.82, 0.7), 13: (300, 0.9, 0.85), 14: (600, 0.98, 0.97)}
    bins = [Bin(number / 15, (number + 1) / 15, *filled.get(number, (0, None, None))) for number in range(15)]
    return evaluated.but(calibration=bins).plus(Measurement(CALIBRATION_ERROR, "clean", value=0.033))


def with_classes(evaluated: Evaluated) -> Evaluated:
    """The same with the accuracies and mistakes of three classes."""
    clean, attacked = {"cat": 98, "dog": 97, "ship": 99}, {"cat": 40, "dog": 12, "ship": 77}
    accuracies = [
        ClassAccuracy(name, share(correct, 100), share(attacked[name], 100), None)
        for name, correct in clean.items()
    ]
    confusion = Confusion([[98, 2, 0], [3, 97, 0], [0, 1, 99]], [[40, 55, 5], [80, 12, 8], [3, 20, 77]])
    target = Target("standard-linf", "inf", 0.3)
    return evaluated.but(classes=Classes(list(clean), target, None, accuracies, confusion))


@pytest.fixture
def everything(evaluated: Evaluated) -> Evaluated:
    """An evaluation in which much beside the curves was measured too."""
    checks = [
        Check("vanishing-gradients", "Gradients do not vanish", True, "0 of 1,000 gradients are zero."),
        Check("transfer", "Transfer finds no more", None, "No other run was named."),
        Check("huge-epsilon", "A huge epsilon fells all", False, "At epsilon 1 accuracy is still 31.0 %."),
    ]
    for more in (with_suite, with_corruptions, with_smoothing, with_calibration, with_classes):
        evaluated = more(evaluated)
    return evaluated.but(checks=checks, warnings=["At epsilon 1 accuracy is still 31.0 %."])


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


WriteRun = Callable[..., Path]


@pytest.fixture
def write_run(
    tmp_path: Path, evaluated: Evaluated, environment: dict[str, Any], gallery: dict[str, Any]
) -> WriteRun:
    """Writes a run folder, whole unless parts are named; a part is its file's content.

    ``metrics.json`` stands for ``measurements.csv`` too; both are of ``evaluated=``.
    """

    def write(name: str = "run", *, only: Iterable[str] | None = None, **contents: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir(parents=True)
        texts = {
            "recipe.yaml": contents.get("recipe", RECIPE),
            "environment.json": json.dumps(contents.get("environment", environment)),
            "train.csv": contents.get("training", TRAINING),
            "examples.csv": contents.get("examples", EXAMPLES),
        }
        for file, text in texts.items():
            if only is None or file in only:
                (folder / file).write_text(text, encoding="utf-8")
        if only is None or "metrics.json" in only:
            of = contents.get("evaluated", evaluated)
            rows = max(1, len(texts["examples.csv"].splitlines()) - 1)  # as an evaluation has them
            write_results(RunFolder(folder), replace(of.results, num_examples=rows), table_of(of.rows))
        if only is None or "gallery.npz" in only:
            np.savez(folder / "gallery.npz", **contents.get("gallery", gallery))
        if "extremes" in contents:
            np.savez(folder / "extremes.npz", **contents["extremes"])
        return folder

    return write


@pytest.fixture
def make_run(write_run: WriteRun) -> Callable[..., Run]:
    """Writes a run folder as ``write_run`` does, and reads it."""
    return lambda *args, **contents: read_run(write_run(*args, **contents))
