"""Run folders that hold all that a page can show, and the pages made of them."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from withstand.core.run_folder import RunFolder
from withstand.reporting import report
from withstand.results.analytic import (
    KernelNorms,
    KernelNormsOf,
    KernelNormsOfLayer,
    Moments,
    MomentsError,
    MomentsForm,
    MomentsLayer,
    MomentsLevel,
    MomentsMethod,
    StdRatio,
)
from withstand.results.measurements import (
    ABSTENTION,
    ATTACKED,
    CALIBRATION_ERROR,
    CERTIFIED,
    CLEAN,
    CORRUPTED,
    LARGEST_RADIUS,
    LARGEST_SMOOTHED_RADIUS,
    MEAN_RADIUS,
    MEAN_SMOOTHED_RADIUS,
    MEDIAN_RADIUS,
    MEDIAN_SMOOTHED_RADIUS,
    NOISE_ACCURACY,
    NOISE_AGREEMENT,
    SMOOTHED,
    SMOOTHED_CERTIFIED,
    Measurement,
    protocol_measure,
    table_of,
)
from withstand.results.random_answers import (
    ProtocolInfo,
    Sampling,
    Sweep,
    SweepLevel,
    Uncertainty,
    UncertaintySet,
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
    Noise,
    Published,
    Results,
    Smoothing,
    StageCounts,
    StageInfo,
    Target,
)
from withstand.results.results_file import write_results
from withstand.results.shares import Share

Column = NDArray[Any]

_TOTAL = 200
_CLASSES = [*("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship"), "lorry <wide>"]
_NEEDED = {0.1: 0.15, 0.3: 0.55}  # the luck with which an example is still robust at each epsilon
LONG = "wide-resnet-28-10-with-a-name-that-fits-no-line-of-a-phone"
_KINDS = ("gaussian-blur", "brightness", "contrast", "jpeg", "shot-noise", "rotation")
_SETS: tuple[Any, ...] = ("clean", "attacked", "out-of-distribution")
_RADII = {
    "certified": (MEAN_RADIUS, MEDIAN_RADIUS, LARGEST_RADIUS),
    "smoothed": (MEAN_SMOOTHED_RADIUS, MEDIAN_SMOOTHED_RADIUS, LARGEST_SMOOTHED_RADIUS),
}


def _share(is_correct: Column) -> Share:
    correct, total = round(float(is_correct.sum())), len(is_correct)
    share = correct / total
    return Share(share, max(0.0, share - 0.06), min(1.0, share + 0.06), correct, total)


def _row(measure: str, is_correct: Column, by: str = "", norm: str = "", level: float = 0.0) -> Measurement:
    share = _share(is_correct)
    ends = (share.lower, share.upper, share.correct, share.total)
    return Measurement(measure, by, norm, level, share.value, *ends)


def _examples(seed: int) -> dict[str, Column]:
    """The columns of examples.csv; a later seed stands a little better."""
    random = np.random.default_rng(seed)
    label = np.arange(_TOTAL) % len(_CLASSES)
    luck = random.random(_TOTAL) + 0.02 * seed
    clean = luck > 0.05
    wrong = (label + 1) % len(_CLASSES)
    columns = {"index": np.arange(_TOTAL), "label": label, "prediction": np.where(clean, label, wrong)}
    for epsilon, needed in _NEEDED.items():
        for name, gap in (("pgd-200", 0.05), ("standard-linf", 0.1), ("worst-inf", 0.1)):
            stands = luck > needed + gap
            columns[f"{name}@{epsilon}"] = stands.astype(int)
            if name != "worst-inf":
                columns[f"{name}@{epsilon}:prediction"] = np.where(stands, label, wrong)
    columns["radius-l2"] = np.where(clean, np.round(luck, 3), 0.0)
    columns["certified-l2@0.5"] = (columns["radius-l2"] >= 0.5).astype(int)
    columns["corruption-accuracy"] = np.round(luck / luck.max() * 30) / 30
    columns["smoothed-prediction"] = np.where(luck > 0.1, columns["prediction"], -1)
    columns["smoothed-radius-l2"] = np.where(luck > 0.1, columns["radius-l2"], 0.0)
    return columns


def _attacked(name: str, columns: Mapping[str, Column]) -> list[Measurement]:
    return [_row(ATTACKED, columns[f"{name}@{epsilon}"], name, "inf", epsilon) for epsilon in _NEEDED]


def _suite(columns: Mapping[str, Column]) -> AttackInfo:
    names = ("apgd-ce-linf", "apgd-targeted-linf", "fab-linf", "square-linf")
    counts = []
    for row in _attacked("standard-linf", columns):
        parts = [_TOTAL - (row.correct or 0) - 3, 2, 1, 0]
        left = [_TOTAL - sum(parts[:number]) for number in range(len(parts))]
        counts.append(StageCounts(row.level, left, parts))
    stages = [
        StageInfo(name, "black-box" if "square" in name else "white-box", "As known.") for name in names
    ]
    return AttackInfo("standard-linf", "inf", "standard-linf in words", stages, counts)


def _checks() -> list[Check]:
    outcomes: dict[str, bool | None] = {
        "vanishing-gradients": True,
        "more-steps": False,
        "black-box": True,
        "transfer": None,
        "huge-epsilon": True,
        "above-clean": True,
        "random-answers": None,
    }
    return [
        Check(name, name.replace("-", " ").capitalize(), passed, "So it is.")
        for name, passed in outcomes.items()
    ]


def _classes(columns: Mapping[str, Column]) -> Classes:
    label, name, epsilon = columns["label"], "standard-linf", 0.1
    parts = (columns["prediction"] == label, columns[f"{name}@{epsilon}"], columns["certified-l2@0.5"])

    def matrix(prediction: Column) -> list[list[int]]:
        counts = np.zeros((len(_CLASSES), len(_CLASSES)), dtype=int)
        np.add.at(counts, (label, prediction), 1)
        whole: list[list[int]] = counts.tolist()
        return whole

    accuracies = [
        ClassAccuracy(text, *(_share(is_correct[label == number]) for is_correct in parts))
        for number, text in enumerate(_CLASSES)
    ]
    confusion = Confusion(matrix(columns["prediction"]), matrix(columns[f"{name}@{epsilon}:prediction"]))
    targets = Target(name, "inf", epsilon), Target("certified-l2", "2", 0.5)
    return Classes(_CLASSES, *targets, accuracies, confusion)


def _kernel_norms() -> KernelNorms:
    classes = [KernelNormsOf(name, 1.5, 2.0, 0.25, 0.75, 6.0) for name in _CLASSES]
    layers = [KernelNormsOfLayer("layers.0", 2.0, 5.0)]
    return KernelNorms(_TOTAL, "Found so.", classes, layers, replace(classes[0], name="largest"))


def _rows(columns: Mapping[str, Column]) -> list[Measurement]:
    """The table of an evaluation of all that any network has."""
    is_correct, radii = columns["prediction"] == columns["label"], columns["radius-l2"]
    smoothed = columns["smoothed-radius-l2"]
    lengths = {"certified": ("certified-l2", radii), "smoothed": ("smoothed", smoothed)}
    sizes = [
        Measurement(_RADII[of][number], by, "2", value=float(size))
        for of, (by, column) in lengths.items()
        for number, size in enumerate((column.mean(), np.median(column), column.max()))
    ]
    return [
        _row(CLEAN, is_correct),
        *_attacked("pgd-200", columns),
        *_attacked("standard-linf", columns),
        *(_row(CERTIFIED, radii >= epsilon, "certified-l2", "2", epsilon) for epsilon in (0.25, 0.5)),
        *(_row(SMOOTHED_CERTIFIED, smoothed >= epsilon, "smoothed", "2", epsilon) for epsilon in (0.25, 0.5)),
        _row(SMOOTHED, columns["smoothed-prediction"] == columns["label"], "smoothed"),
        _row(ABSTENTION, columns["smoothed-prediction"] < 0, "smoothed"),
        *sizes,
        *(
            _row(measure, np.arange(_TOTAL) < _TOTAL * (0.95 - std), by, level=std)
            for measure in (NOISE_ACCURACY, NOISE_AGREEMENT)
            for by in ("unclipped", "clipped")
            for std in (0.0, 0.25, 0.5)
        ),
        *(
            _row(CORRUPTED, np.arange(_TOTAL) < _TOTAL - 15 * level - 5 * number, kind, level=level)
            for number, kind in enumerate(_KINDS)
            for level in range(1, 6)
        ),
        Measurement(CALIBRATION_ERROR, "clean", value=0.034),
    ]


def _results(columns: Mapping[str, Column]) -> Results:
    """What an evaluation of all that any network has says beside its table."""
    bins = [
        Bin(
            low / 15,
            (low + 1) / 15,
            10 * (low > 3),
            *((low + 0.5) / 15, low / 15) if low > 3 else (None, None),
        )
        for low in range(15)
    ]
    steps = list(range(1, 6))
    kinds = [
        CorruptionKind(
            name, name.replace("-", " ").capitalize(), "strength", steps, [0.1 * step for step in steps]
        )
        for name in _KINDS
    ]
    return Results(
        dataset="mnist",
        num_examples=_TOTAL,
        num_classes=len(_CLASSES),
        attacks=[AttackInfo("pgd-200", "inf", "pgd-200 in words"), _suite(columns)],
        certificates=[CertificateInfo("certified-l2", "2", "best", "By bounds.")],
        checks=_checks(),
        warnings=["More steps found more: the accuracy is not yet that of the strongest attack."],
        published=[Published("attacked", 0.5, "A paper", "inf", 0.3)],
        noise=Noise("Drawn so.", 1),
        corruptions=Corruptions("Done so.", kinds),
        smoothing=Smoothing("By draws.", 0.25, 0.001, 100, 1000),
        calibration=bins,
        classes=_classes(columns),
        kernel_norms=_kernel_norms(),
    )


def _with_random_answers(results: Results, is_correct: Column) -> tuple[Results, list[Measurement]]:
    """What only networks of random answers have, and what a published protocol and analytic moments add."""
    levels = [SweepLevel(**asdict(_share(is_correct)), num_samples=draws) for draws in (1, 2, 4)]
    sweep = Sweep("standard-linf", 0.1, _TOTAL, 0.02, levels, has_settled=True, chosen=4)
    kinds = ("entropy", "expected_entropy", "mutual_information")
    sets = [
        UncertaintySet(
            *(name, name, _TOTAL, 0.9, 0.03, 0.8),
            means=dict.fromkeys(kinds, 0.4),
            medians=dict.fromkeys(kinds, 0.2),
            histograms={kind: [150, 50] for kind in kinds},
        )
        for name in _SETS
    ]
    protocol = protocol_measure("sebr")
    more = replace(
        results,
        sampling=Sampling("Drawn anew.", 20, 1, 4, sweep),
        uncertainty=Uncertainty("Drawn.", 20, 10, [0.0, 1.0, 2.3], sets),
        protocols=[ProtocolInfo("sebr", "As published.", {"pgd": "pgd in words"})],
        published=[Published("attacked", 0.9, "A paper", "inf", 0.1, "twice", "pgd")],
        moments=_moments(),
    )
    attacked = [_row(protocol, is_correct, "pgd", "inf", epsilon) for epsilon in _NEEDED]
    return more, [_row(protocol, is_correct, "clean"), *attacked]


def _moments() -> Moments:
    apart = MomentsError(0.1, 0.2, 0.9)
    form = MomentsForm(apart, apart, 3.0)
    points = [(0.1, 0.12), (0.4, 0.38)]
    methods = [
        MomentsMethod(name, None, 0.1, StdRatio(0.8, 1.0, 1.2), 0.001, 90.0, 2.0, 9.0, points)
        for name in ("diagonal", "full")
    ]
    layer = MomentsLayer("Conv2d", 2, {"diagonal": form, "full": form})
    return Moments(
        50, 1000, 0.03, "By draws.", [MomentsLevel(std, 0.001, methods, [layer]) for std in (0.1, 0.3)]
    )


def _images(seed: int) -> dict[str, dict[str, Any]]:
    clean = np.random.default_rng(seed).integers(0, 200, (4, 8, 8, 1), dtype=np.uint8)
    number = np.arange(4)
    names = {"class_names": np.array(_CLASSES)}
    gallery = {"clean": clean, "adversarial": clean + np.uint8(20), "label": number, "epsilon": 0.1}
    gallery |= {"clean_prediction": number, "adversarial_prediction": number[::-1], "attack": "pgd-200"}
    extremes: dict[str, Any] = {"certificate": "certified-l2"}
    for part in ("smallest", "largest"):
        radius = {f"{part}_radius": 0.1 + 0.1 * number, f"{part}_label": number, f"{part}_index": number}
        extremes |= {f"{part}_images": clean} | radius
    return {"gallery.npz": gallery | names, "extremes.npz": extremes | names}


def _write_run(folder: Path, name: str, seed: int, *, is_random: bool = False) -> Path:
    """A whole run folder: every file, every section."""
    folder.mkdir()
    columns = _examples(seed)
    with (folder / "examples.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    cost = {"train_seconds": 100.0 + 40 * seed, "train_steps": 400, "evaluate_seconds": 60.0}
    environment = {"versions": {"torch": "2.13.0"}, "device": "cpu", "seed": seed, "cost": cost}
    environment["command"] = f"withstand run {name} --out=runs/a-rather-long-folder-name/{name} --seed={seed}"
    recipe = {"name": f"{name}/seed={seed}", "title": f"{name} in full", "seed": seed}
    recipe |= {"model": {"name": name}, "data": {"name": "mnist"}, "training": {"epochs": 9}}
    header = "epoch,progress,seconds,learning_rate,loss,adversarial_accuracy,epsilon,collapsed,note,"
    header += "spectral/network.0/sampled,spectral/network.0/proven"
    rows = [f"{n},{n},4.5,0.1,{2 / n:.3f},{n / 10},{n / 30},{int(n == 4)},,{n},{n + 1}" for n in range(1, 10)]
    (folder / "train.csv").write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    for file_name, content in (("environment.json", environment), ("recipe.yaml", recipe)):
        (folder / file_name).write_text(json.dumps(content), encoding="utf-8")
    results, rows_of_all = _results(columns), _rows(columns)
    if is_random:
        results, more = _with_random_answers(results, columns["prediction"] == columns["label"])
        rows_of_all += more
    write_results(RunFolder(folder), results, table_of(rows_of_all))
    for file_name, arrays in _images(seed).items():
        np.savez(folder / file_name, **arrays)
    return folder


@pytest.fixture(scope="session")
def page_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The page of a kind, made once: "run", "random", "bare", "compare" of three runs, "many" of nine."""
    folder = tmp_path_factory.mktemp("pages")

    def run_folders(kind: str) -> list[Path]:
        if kind == "bare":
            bare = _write_run(folder / "bare", "bare", 0)
            for file in bare.iterdir():
                if file.name not in ("metrics.json", "measurements.csv"):
                    file.unlink()
            return [bare]
        if kind == "random":
            return [_write_run(folder / kind, kind, 0, is_random=True)]
        names = {"run": ["cnn"], "compare": ["cnn", "mlp", LONG], "many": ["cnn", "mlp", "vgg"] * 3}[kind]
        return [
            _write_run(folder / f"{kind}-{name}-{seed}", name, seed // 3 if kind == "many" else seed)
            for seed, name in enumerate(names)
        ]

    @functools.cache
    def page(kind: str) -> Path:
        return report(run_folders(kind), folder / f"{kind}.html")

    return page
