"""Run folders that hold all that a page can show, and the pages made of them."""

from __future__ import annotations

import csv
import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from withstand.reporting import report

Column = NDArray[Any]

_TOTAL = 200
_CLASSES = [*("plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship"), "lorry <wide>"]
_NEEDED = {0.1: 0.15, 0.3: 0.55}  # the luck with which an example still stands at each epsilon
LONG = "wide-resnet-28-10-with-a-name-that-fits-no-line-of-a-phone"
_BIN = ("confidence", "accuracy")


def _share(right: Column) -> dict[str, Any]:
    correct, total = round(float(right.sum())), len(right)
    share = correct / total
    ends = {"lower": max(0.0, share - 0.06), "upper": min(1.0, share + 0.06)}
    return {"accuracy": share, **ends, "correct": correct, "total": total}


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


def _attack(name: str, columns: Mapping[str, Column], **more: Any) -> dict[str, Any]:
    curve = [{"epsilon": epsilon, **_share(columns[f"{name}@{epsilon}"])} for epsilon in _NEEDED]
    return {"name": name, "norm": "inf", "description": f"{name} in words", "curve": curve, **more}


def _suite(columns: Mapping[str, Column]) -> dict[str, Any]:
    names = ("apgd-ce-linf", "apgd-targeted-linf", "fab-linf", "square-linf")
    stages = [
        {"name": name, "kind": "black-box" if "square" in name else "white-box", "description": "As known."}
        for name in names
    ]
    entry = _attack("standard-linf", columns, stages=stages)
    for point in entry["curve"]:
        felled = _TOTAL - point["correct"]
        parts = [felled - 3, 2, 1, 0]
        left = [_TOTAL - sum(parts[:number]) for number in range(len(parts))]
        point["stages"] = [
            {"name": name, "num_attacked": attacked, "num_felled": part}
            for name, attacked, part in zip(names, left, parts, strict=True)
        ]
    return entry


def _checks() -> list[dict[str, Any]]:
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
        {"name": name, "title": name.replace("-", " ").capitalize(), "passed": passed, "finding": "So it is."}
        for name, passed in outcomes.items()
    ]


def _certified(columns: Mapping[str, Column]) -> dict[str, Any]:
    """A certificate with radii, and the smoothed classifier's own guarantee."""
    radii, smoothed = columns["radius-l2"], columns["smoothed-radius-l2"]

    def curve(of: Column) -> list[dict[str, Any]]:
        return [{"epsilon": epsilon, **_share(of >= epsilon)} for epsilon in (0.25, 0.5)]

    def radius(of: Column) -> dict[str, float]:
        return {"mean": float(of.mean()), "median": float(np.median(of)), "largest": float(of.max())}

    certificate = {"name": "certified-l2", "norm": "2", "method": "best", "description": "By bounds."}
    smoothing = {
        **{"description": "By draws.", "noise_std": 0.25, "failure_probability": 0.001},
        **{"num_selection": 100, "num_estimation": 1000, "num_examples": _TOTAL},
        "accuracy": _share(columns["smoothed-prediction"] == columns["label"]),
        "abstained": _share(columns["smoothed-prediction"] < 0),
        "curve": curve(smoothed),
        "radius": radius(smoothed),
    }
    whole = certificate | {"curve": curve(radii), "radius": radius(radii)}
    return {"certificates": [whole], "smoothing": smoothing}


def _corruptions() -> dict[str, Any]:
    kinds: list[dict[str, Any]] = [
        {"name": name, "title": name.replace("-", " ").capitalize(), "parameter": "strength", "levels": []}
        for name in ("gaussian-blur", "brightness", "contrast", "jpeg", "shot-noise", "rotation")
    ]
    for number, kind in enumerate(kinds):
        kind["levels"] = [
            {"severity": level, "value": 0.1 * level}
            | _share(np.arange(_TOTAL) < _TOTAL - 15 * level - 5 * number)
            for level in range(1, 6)
        ]
    return {"description": "Done so.", "num_examples": _TOTAL, "kinds": kinds, "mean": 0.71}


def _calibration() -> dict[str, Any]:
    bins = [
        {"lower": low / 15, "upper": (low + 1) / 15, "count": 10 * (low > 3)}
        | ({"confidence": (low + 0.5) / 15, "accuracy": low / 15} if low > 3 else dict.fromkeys(_BIN))
        for low in range(15)
    ]
    return {"num_bins": 15, "error": 0.034, "bins": bins}


def _by_class(columns: Mapping[str, Column]) -> dict[str, Any]:
    label, name, epsilon = columns["label"], "standard-linf", 0.1
    of = {"attacked": {"name": name, "norm": "inf", "epsilon": epsilon}}
    of["certified"] = {"name": "certified-l2", "norm": "2", "epsilon": 0.5}
    parts = {
        "clean": columns["prediction"] == label,
        "attacked": columns[f"{name}@{epsilon}"],
        "certified": columns["certified-l2@0.5"],
    }

    def matrix(prediction: Column) -> list[list[int]]:
        counts = np.zeros((len(_CLASSES), len(_CLASSES)), dtype=int)
        np.add.at(counts, (label, prediction), 1)
        whole: list[list[int]] = counts.tolist()
        return whole

    rows = [
        {"class": text} | {part: _share(right[label == number]) for part, right in parts.items()}
        for number, text in enumerate(_CLASSES)
    ]
    attacked = of["attacked"] | {"matrix": matrix(columns[f"{name}@{epsilon}:prediction"])}
    confusion = {"class_names": _CLASSES, "clean": matrix(columns["prediction"]), "attacked": attacked}
    return {"classes": of | {"rows": rows}, "confusion": confusion}


def _noise() -> dict[str, Any]:
    measures = ("agreement", "accuracy", "clipped_agreement", "clipped_accuracy")
    levels = [
        {"noise_std": std} | {name: _share(np.arange(_TOTAL) < _TOTAL * (0.95 - std)) for name in measures}
        for std in (0.0, 0.25, 0.5)
    ]
    means = dict.fromkeys(measures, 0.7)
    return {"description": "Drawn so.", "num_draws": 1, "levels": levels, "area": means, "mean": means}


def _kernel_norms() -> dict[str, Any]:
    keys = ("gradient", "perturbation", "deformation", "deformation_change", "spectral")
    summary = dict(zip(keys, (1.5, 2.0, 0.25, 0.75, 6.0), strict=True))
    return {
        "num_examples": _TOTAL,
        "description": "Found so.",
        "classes": [{"class": name} | summary for name in _CLASSES],
        "layers": [{"name": "layers.0", "kernel_norm": 2.0, "operator_norm": 5.0}],
        "summary": summary,
    }


def _metrics(columns: Mapping[str, Column]) -> dict[str, Any]:
    return {
        "schema": 1,
        "dataset": "mnist",
        "num_examples": _TOTAL,
        "num_classes": len(_CLASSES),
        "clean": _share(columns["prediction"] == columns["label"]),
        "attacks": [_attack("pgd-200", columns), _suite(columns)],
        "checks": _checks(),
        "corruptions": _corruptions(),
        "calibration": _calibration(),
        "noise": _noise(),
        "kernel_norms": _kernel_norms(),
        "warnings": ["More steps found more: the accuracy is not yet that of the strongest attack."],
        "published": [
            {"measure": "attacked", "norm": "inf", "epsilon": 0.3, "accuracy": 0.5, "source": "A paper"}
        ],
        **_certified(columns),
        **_by_class(columns),
    }


def _random_answers(columns: Mapping[str, Column]) -> dict[str, Any]:
    """What only networks of random answers have, and what a published protocol and analytic moments add."""
    right = columns["prediction"] == columns["label"]
    clean = _share(right)
    levels = [{"num_samples": draws} | clean for draws in (1, 2, 4)]
    sweep = {"attack": "standard-linf", "epsilon": 0.1, "num_examples": _TOTAL, "tolerance": 0.02}
    sampling = {"description": "Drawn anew.", "num_samples": 20, "num_repeats": 1, "attack_samples": 4}
    typical = {"mean": 0.4, "median": 0.2}
    kinds = ("entropy", "expected_entropy", "mutual_information")
    unsure: dict[str, Any] = {
        "num_examples": _TOTAL,
        "accuracy": 0.9,
        "calibration_error": 0.03,
        "auroc": 0.8,
    }
    unsure |= dict.fromkeys(kinds, typical)
    unsure["histogram"] = {"edges": [0.0, 1.0, 2.3]} | {kind: [150, 50] for kind in kinds}
    sets = [{"name": name, "kind": name} | unsure for name in ("clean", "attacked", "out-of-distribution")]
    attack = _attack("pgd", {f"pgd@{epsilon}": right for epsilon in _NEEDED})
    published = [{"measure": "attacked", "norm": "inf", "epsilon": 0.1, "attack": "pgd", "accuracy": 0.9}]
    return {
        "sampling": sampling | {"sweep": sweep | {"levels": levels, "has_settled": True}},
        "uncertainty": {"description": "Drawn.", "num_samples": 20, "num_classes": 10, "sets": sets},
        "protocols": [
            {"name": "sebr", "description": "As published.", "num_examples": _TOTAL, "clean": clean}
            | {"attacks": [attack]}
        ],
        "published": [each | {"source": "A paper", "note": "twice"} for each in published],
        "moments": _moments(),
    }


def _moments() -> dict[str, Any]:
    apart = {"mean_error": 0.1, "std_error": 0.2, "std_ratio": 0.9}
    form = {"accumulated": apart, "own": apart, "samples": 3.0}
    method: dict[str, Any] = {
        "reason": None,
        "mean_error": 0.1,
        "seconds": 0.001,
        "matching_samples": 90.0,
        "speed_up": 2.0,
    }
    method |= {"std_ratio": {"low": 0.8, "median": 1.0, "high": 1.2}, "full_speed_up": 9.0}
    method["points"] = [[0.1, 0.12], [0.4, 0.38]]
    layer = {"operation": "Conv2d", "count": 2, "forms": {"diagonal": form, "full": form}}
    methods = [{"name": name} | method for name in ("diagonal", "full")]
    levels = [
        {"noise_std": std, "sample_seconds": 0.001, "methods": methods, "layers": [layer]}
        for std in (0.1, 0.3)
    ]
    told = {"num_examples": 50, "num_samples": 1000, "standard_error": 0.03, "description": "By draws."}
    return told | {"levels": levels}


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
    for file_name, content in (
        ("metrics.json", _metrics(columns) | (_random_answers(columns) if is_random else {})),
        ("environment.json", environment),
        ("recipe.yaml", recipe),
    ):
        (folder / file_name).write_text(json.dumps(content), encoding="utf-8")
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
                if file.name != "metrics.json":
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
