"""Every figure that README and docs/ quote of a run in results/ stays equal to it, digit for digit.

``TABLES`` and ``SENTENCES`` say what is quoted where; both hold figures as ``[WHERE > WHAT: FORM]``.

WHERE is below results/, with ``*`` for all that fit and a comma between several, whose figures are
averaged. It is a run folder, and WHAT then a word of ``MEASURES`` and, as far as they are needed, the norm
(linf, l2), the level and by what it was measured; or a file, and WHAT then the keys to go down by, ``>``
between them. A key of a list is a place, a name, or ``key=value``. Figures may be joined by ``+``, ``-``,
``/``. FORM is as in ``written``.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from scipy.stats import t as student

from withstand.core.run_folder import RunFolder
from withstand.recipes.parsing import parse_recipe
from withstand.results import measurements
from withstand.results.results_file import read_results

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results"

MEASURES = {
    "clean": (measurements.CLEAN, "mean"),
    "attacked": (measurements.ATTACKED, "min"),
    "certified": (measurements.CERTIFIED, "max"),
    "noise": (measurements.NOISE_ACCURACY, "mean"),
    "agreement": (measurements.NOISE_AGREEMENT, "area"),
    "corrupted": (measurements.CORRUPTED, "mean"),
    "radius": (measurements.MEAN_SMOOTHED_RADIUS, "mean"),
    "largest-radius": (measurements.LARGEST_SMOOTHED_RADIUS, "mean"),
    "calibration": (measurements.CALIBRATION_ERROR, "mean"),
    "sebr": (measurements.protocol_measure("sebr"), "mean"),
    "lower": (measurements.CLEAN, "lower"),
    "upper": (measurements.CLEAN, "upper"),
}
"""Word -> measure, and what is taken of its rows: an end of an interval, or of the values the mean, the
smallest, the largest, or the area under their curve by the trapezoid rule."""


# What runs found.


@cache
def table_of(run: Path) -> pd.DataFrame:
    found = read_results(RunFolder(run))
    assert found is not None, run
    return found[1]


@cache
def content(file: Path) -> Any:
    if file.suffix == ".csv":
        return pd.read_csv(file).to_dict("records")
    return json.loads(file.read_text(encoding="utf-8"))


def measured(run: Path, what: str) -> float:
    word, *conditions = what.split()
    measure, taken = MEASURES[word]
    table = table_of(run)
    rows = table[table["measure"] == measure]
    for condition in conditions:
        if condition in ("linf", "l2"):
            rows = rows[rows["norm"] == condition[1:]]
        elif re.fullmatch(r"[\d.]+", condition):
            rows = rows[(rows["level"] - float(condition)).abs() < 1e-9]
        else:
            rows = rows[rows["by"] == condition]
    assert len(rows), f"{run} has no {what}"
    if taken == "area":
        return float(((rows["value"] + rows["value"].shift()) / 2).mean())
    return float(rows[taken].iloc[0] if taken in rows else rows["value"].agg(taken))


def entered(of: Any, key: str) -> Any:
    if isinstance(of, dict) or of is None:
        return of and of[key]
    if re.fullmatch(r"-?\d+", key):
        return of[int(key)]
    conditions = [pair.split("=") for pair in (key if "=" in key else f"name={key}").split(",")]
    return next(each for each in of if all(str(each[name]) == wanted for name, wanted in conditions))


def figures(query: str) -> list[Any]:
    """What a query without arithmetic finds, or the number that it is; nothing where there is no such run."""
    if re.fullmatch(r"-?[\d.]+", query):
        return [float(query)]
    where, *keys = query.split(" > ")
    paths = [path for pattern in where.split(",") for path in sorted(RESULTS.glob(pattern))]
    if not paths or paths[0].is_dir():
        return [measured(path, keys[0]) for path in paths]
    found = [content(path) for path in paths]
    for key in keys:
        found = [entered(each, key) for each in found]
    return found


def calculated(query: str) -> list[Any]:
    first, *rest = re.split(r" ([-+/]) ", query)
    if not rest:
        return figures(first)
    total = statistics.fmean(figures(first))
    for sign, other in zip(rest[::2], rest[1::2], strict=True):
        number = statistics.fmean(figures(other))
        total = {"+": total + number, "-": total - number, "/": total / number}[sign]
    return [total]


# How figures are written.


def broken(stages: Any, counts: Any = None) -> str:
    """``APGD-CE 8 of 493, …``, of the stages that broke any."""
    names = [each["name"].rpartition("-")[0] for each in stages]
    if counts is None:
        pairs = [(each["num_felled"], each["num_attacked"]) for each in stages]
    else:
        pairs = list(zip(counts["broken"], counts["attacked"], strict=True))
    short = {"fab-t": "FAB-T", "square": "Square", "pgd-400-margin": "PGD-400"}
    told = zip(names, pairs, strict=True)
    return ", ".join(f"{short.get(name, name.upper())} {n} of {total}" for name, (n, total) in told if n)


def spread(numbers: Sequence[float], form: str) -> str:
    """In %, the mean and: half its 95 % interval by Student's t, or the largest deviation from it."""
    mean = 100 * statistics.fmean(numbers)
    if form == "deviation":
        return f"{mean:.1f} ± {max(abs(100 * number - mean) for number in numbers):.1f}"
    error = 100 * statistics.stdev(numbers) / len(numbers) ** 0.5
    return f"{mean:.2f} ± {student.ppf(0.975, len(numbers) - 1) * error:.2f}"


def written(found: list[Any], form: str) -> str:
    """Figures in a form: %1 in % with a digit, %1z likewise but 0 as such, or a format of Python's."""
    if not found or found[0] is None:
        return ""
    if form == "broken":
        return broken(found[0])
    if form.startswith("broken at "):
        return broken(found[0]["stages"], entered(found[0]["counts"], f"epsilon={form[10:]}"))
    if form == "failed":
        return str(sum(check["passed"] is False for check in found[0]) or "")
    if form in ("interval", "deviation"):
        return spread(found, form)
    mean = statistics.fmean(found)
    if form == "ratio":
        return f"{mean:.{2 if mean < 1.3 else 1 if mean < 12 else 0}f}"
    if form.startswith("%"):
        return "0" if form.endswith("z") and not mean else f"{100 * mean:.{form[1]}f}"
    return f"{mean:{form}}"


def filled(text: str) -> str:
    """A text with its figures; empty where one of them is not there."""
    parts = re.split(r"\[([^]:]+): ([^]]+)\]", text)
    told = [written(calculated(query), form) for query, form in zip(parts[1::3], parts[2::3], strict=True)]
    if not all(told):
        return ""
    return "".join(part for pair in zip(parts[::3], [*told, ""], strict=True) for part in pair)


# Where they stand.


@dataclass(frozen=True)
class Table:
    """Cells of a table of a page.

    Attributes:
        page: Where it stands.
        after: A text before it; it is the first table after the line of that text.
        cells: Those behind the name of a row, or the first of them; an empty one of the page quotes nothing.
        rows: A line each: its name, on the page up to a colon, semicolon or bracket, = and words: $1, $2 … of
            the cells, with _ for a space.
        keys: How many cells are a row's name, with | between; an empty first one is that of the row above.
    """

    page: str
    after: str
    cells: str
    rows: str
    keys: int = 1

    def quoted(self) -> dict[str, list[str]]:
        """Name of a row -> its other cells, as the page has them."""
        text = text_of(self.page)
        assert self.after in text, f"{self.page} no longer has {self.after!r}"
        lines = iter(text[text.index(self.after) :].split("\n")[1:])
        first = next(line for line in lines if line.startswith("|"))
        found: dict[str, list[str]] = {}
        above = ""
        for line in (first, *lines):
            if not line.startswith("|"):
                break
            cells = [cell.strip().replace("**", "") for cell in line.split("|")[1:-1]]
            above = re.split(r": |; | \(", cells[0])[0] if cells[0] or self.keys == 1 else above
            found[" | ".join([above, *cells[1 : self.keys]])] = cells[self.keys :]
        return found

    def expected(self) -> dict[str, list[str]]:
        """Likewise, as runs have them."""
        found = {}
        for line in filter(None, map(str.strip, self.rows.split("\n"))):
            name, words = line.split(" = ", 1)
            cells = self.cells
            for number, word in enumerate(words.split(), 1):
                cells = cells.replace(f"${number}", word.replace("_", " "))
            found[name] = [filled(cell.strip()) for cell in cells.split("|")]
        return found


@cache
def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


# What is quoted.


def both(cell: str, between: str = " | ") -> str:
    """A cell without and with the term of SEBR."""
    return between.join(cell.replace("TERM", term) for term in ("without", "with"))


def sebr(form: str, between: str = " | ", *, clean: bool = False) -> str:
    """Published, by the published protocol, and by the attacks on the predictor that is scored."""
    cells = [
        f"[$1/TERM/seed=0/metrics.json > published > attack={'None' if clean else '$2,epsilon=$3'} > "
        f"accuracy: %1]",
        f"[$1/TERM/seed=* > sebr {'clean' if clean else '$2 $3'}: {form}]",
        f"[$1/TERM/seed=* > {'clean' if clean else 'attacked linf $3 $4'}: {form}]",
    ]
    return " | ".join(both(cell, between) for cell in cells)


SUITE = "[mnist-suite/$1 > clean: %1] | [mnist-suite/$1 > attacked linf 0.1: %1]"
SUITE_REST = (
    "[mnist-suite/$1 > noise unclipped: %1] | [mnist-suite/$1 > corrupted: %1] | "
    "[mnist-suite/$1/metrics.json > checks: failed]"
)
LARGE_EPSILON = (
    f"[$1 > clean: %2] | {' | '.join(f'[$1 > attacked linf 0.{n}: %2]' for n in range(1, 6))} | "
    "[$1/environment.json > cost > train_seconds / 60: .0f] min"
)
LARGE_EPSILON_RUNS = """
    `mnist-plain-small` = mnist-plain-small
    `mnist-iat-small` = mnist-iat-small
    `mnist-extended-small` = mnist-extended-small
"""
CERTIFIED = "[$1 > clean: %2] | [$1 > attacked l2 $2: %2] | [$1 > certified l2 $2: %2]"
DEFENCE = "benchmarks/false_robustness.json > defences > defence=$1"
PENALTIES = (
    "[mnist-300-penalties/$1/seed=* > clean: interval] | [mnist-1000-penalties/$1/seed=* > clean: interval]"
)
BOUNDS = "mnist-300-penalties/$1/seed=0/metrics.json > kernel_norms > largest"
KERNEL_COST = "benchmarks/kernel_cost.json > $1 > times_plain"
FASHION = "fashion-tradeoff/$1"
MOMENTS = "mnist-moments-tradeoff/plain/metrics.json > moments > levels > noise_std=STD > methods > $1"
NOISE_COST = "[benchmarks/gaussian_cost.json > cnn-small, mnist, batch 128 > times_plain > $2: $3]"
NOISE = (
    "[SWEEP/$1 > clean: %2] | [SWEEP/$1 > noise unclipped: %2] | [SWEEP/$1 > noise unclipped 0.5: %2] | "
    "[SWEEP/$1 > noise clipped: %2] | [SWEEP/$1 > agreement unclipped: .3f]"
)
NOISE_RUNS = """
    no noise = plain
    published form, 0.5, weight 1 = expectation-0.5-weight-1
    every layer, 0.5 = every-layer-0.5
    fresh noise in place of the images, 0.25 = noise-0.25
    fresh noise in place of the images, 0.5 = noise-0.5
    1 fold beside the images, 0.25 = copies-1
    5 folds beside the images, 0.25 = copies-5
    20 folds beside the images, 0.25 = copies-20
"""
MORE_NOISE_RUNS = f"""{NOISE_RUNS}
    published form, 0.25, weight 1 = expectation-0.25-weight-1
    published form, 1.0, weight 1 = expectation-1.0-weight-1
    every layer, 0.25 = every-layer-0.25
    10 folds beside the images, 0.25 = copies-10
"""
ONE_LAYER = "every layer, 1.0 = every-layer-1.0"
ALONE = "every layer, 0.5, without the clean loss = every-layer-alone-0.5"
FACTORS = "every layer with 4 factors, 0.5, without the clean loss = every-layer-4-factors-alone-0.5"
COSINES = " | ".join(
    f"[benchmarks/noise_gradients.json > {trained} > $1: .3f]".replace("$1", f"$1 > {key}")
    for trained in ("trained plainly", "trained on fresh noise")
    for key in ("cosine", "cosine_of_average")
)
SPECTRAL = " | ".join(
    f"[mnist-sebr-mlp-seeds/{term}/seed=0/train.csv > -1 > spectral/$1/{kind}: $2]"
    for term in ("without", "with")
    for kind in ("sampled", "surrogate", "confidence", "proven")
)
UNCERTAINTY = " | ".join(
    both(f"[$1/TERM/seed=*/metrics.json > uncertainty > sets > $2 > {key}: .3f]")
    for key in ("means > entropy", "means > mutual_information", "calibration_error", "auroc")
)
ONE_PASS = "[benchmarks/bayes_cost.json > 15 samples in one pass > times_as_fast > $1: .2f] times as fast"

TABLES = [
    Table(
        "README.md",
        "### One page of five families",
        f"{SUITE} / [mnist-suite/$1 > certified linf 0.1: %1z] | [mnist-suite/$1 > attacked l2 1.58: %1] / "
        f"[mnist-suite/$1 > certified l2 1.58: %1z] | {SUITE_REST}",
        """
        `plain` = plain
        `iat` = iat
        `kernel` = kernel
        `moments` = moments
        `bcp` = bcp
        """,
    ),
    Table("README.md", "### One page of five families", f"{SUITE} | | {SUITE_REST}", "`sebr` = sebr"),
    Table(
        "README.md",
        "### Proven: certified training",
        CERTIFIED,
        """
        `mnist-certified-mlp` | 1.58 = mnist-certified-mlp 1.58
        `mnist-certified-small` | 1.58 = mnist-certified-small 1.58
        `fashion-certified-mlp` | 0.5 = fashion-certified-mlp 0.5
        """,
        keys=2,
    ),
    Table("README.md", "### Attacked: large epsilon", LARGE_EPSILON, LARGE_EPSILON_RUNS),
    Table(
        "README.md",
        "### Few examples: kernel norms",
        PENALTIES,
        """
        no regularisation = plain
        weight decay 0.01 = weight-decay-0.01
        `InputGradient`, 0.01 = input-gradient-0.01
        `VirtualAdversarial`, epsilon 2 = virtual-adversarial-2.0
        `DeformationStability`, 0.01 = deformation-stability-0.01
        deformed training digits = augmentation
        both = deformation-stability-0.01-augmentation
        """,
    ),
    Table(
        "README.md",
        "### Under noise: analytic moments",
        f"[mnist-moments-tradeoff/$1 > clean: %2] | [mnist-moments-tradeoff/$1 > noise unclipped: %2] | "
        f"{NOISE_COST}",
        """
        no noise = plain plain .0f
        published expectation loss, best of four settings = expectation-1.0-weight-1 published .1f
        moments through every layer, best of four = every-layer-1.0 every-layer-mean-field .1f
        the same with four random factors = every-layer-4-factors-alone-0.5 every-layer-4-factors .1f
        fresh noise in place of the images, noise_std 0.5 = noise-0.5 fresh-noise .1f
        one noisy copy beside each image, 0.25 = copies-1 copies-1 .1f
        20 noisy copies, 0.25 = copies-20 copies-20 .0f
        """,
    ),
    Table("README.md", "### Random weights", sebr("%1", " → ", clean=True), "clean = mnist-sebr-mlp-seeds"),
    Table(
        "README.md",
        "### Random weights",
        sebr("%1", " → "),
        """
        FGSM, linf 0.16 = mnist-sebr-mlp-seeds fgsm 0.16 pgd-1-linf
        FGSM, linf 0.3 = mnist-sebr-mlp-seeds fgsm 0.3 pgd-1-linf
        PGD, linf 0.16 = mnist-sebr-mlp-seeds pgd 0.16 worst-linf
        """,
    ),
    Table("docs/adversarial.md", "## What came out", LARGE_EPSILON, LARGE_EPSILON_RUNS),
    Table(
        "docs/certified.md",
        "## What came out",
        CERTIFIED,
        """
        `mnist-certified-mlp` | 0.5 = mnist-certified-mlp 0.5
        `mnist-certified-mlp` | 1.0 = mnist-certified-mlp 1.0
        `mnist-certified-mlp` | 1.58 = mnist-certified-mlp 1.58
        `mnist-certified-mlp` | 2.0 = mnist-certified-mlp 2.0
        `mnist-certified-small` | 1.58 = mnist-certified-small 1.58
        `fashion-certified-mlp` | 0.25 = fashion-certified-mlp 0.25
        `fashion-certified-mlp` | 0.5 = fashion-certified-mlp 0.5
        `fashion-certified-mlp` | 1.0 = fashion-certified-mlp 1.0
        `digits-certified` | 0.25 = digits-certified 0.25
        `digits-certified` | 0.5 = digits-certified 0.5
        `digits-certified` | 1.0 = digits-certified 1.0
        """,
        keys=2,
    ),
    Table(
        "docs/evaluation.md",
        "## Figures: five families under one suite",
        "[mnist-suite/$1/metrics.json > attacks > standard-$2: broken at $3] | [mnist-suite/$1 > attacked "
        "$2 $3: %1]",
        """
        `plain` | linf 0.1 = plain linf 0.1
        `plain` | l2 1.58 = plain l2 1.58
        `iat` | linf 0.1 = iat linf 0.1
        `iat` | linf 0.3 = iat linf 0.3
        `iat` | l2 1.58 = iat l2 1.58
        `kernel` | linf 0.1 = kernel linf 0.1
        `kernel` | l2 1.58 = kernel l2 1.58
        `moments` | linf 0.1 = moments linf 0.1
        `moments` | l2 1.58 = moments l2 1.58
        `bcp` | linf 0.1 = bcp linf 0.1
        `bcp` | l2 1.58 = bcp l2 1.58
        """,
        keys=2,
    ),
    Table(
        "docs/evaluation.md",
        "## Figures: five families under one suite",
        "shares of two predictions: APGD-CE [$1 > broken > 0: .0f] of [$1 > attacked > 0: .0f], PGD margin "
        "[$1 > broken > 3: .0f], PGD-400 [$1 > broken > 5: .0f] | [mnist-suite/sebr > attacked linf 0.1: "
        "%1]".replace("$1", "mnist-suite/sebr/metrics.json > attacks > standard-linf > counts > epsilon=0.1"),
        "`sebr` | linf 0.1 = sebr",
        keys=2,
    ),
    Table(
        "docs/evaluation.md",
        "## Figures: broken on purpose",
        f"[{DEFENCE} > clean: %0] | [{DEFENCE} > accuracy: %1] | [{DEFENCE} > stages: broken]",
        """
        none = none
        input rounded to 8 grey levels = input_rounded_to_8_grey_levels
        """,
    ),
    Table(
        "docs/evaluation.md",
        "## Figures: broken on purpose",
        f"[{DEFENCE} > clean: %0] | [{DEFENCE} > accuracy: %1] | [{DEFENCE} > stages: broken] (APGD-CE none)",
        "logits times 1,000 = logits_times_1000",
    ),
    Table(
        "docs/kernel.md",
        "### Cost",
        f"[{KERNEL_COST} > $2: ratio] | [{KERNEL_COST} > $3: ratio]",
        """
        `InputGradient` = penalties input-gradient textbook-input-gradient
        `AdversarialPerturbation` = penalties perturbation textbook-perturbation
        `SpectralBall` 0.8, exact after every step = constraints exact textbook-svd
        """,
    ),
    Table(
        "docs/kernel.md",
        "### Cost",
        f"[{KERNEL_COST} > $2: ratio], [{KERNEL_COST} > $3: ratio] | [{KERNEL_COST} > $4: ratio]",
        "`LossGradient` = penalties loss-gradient-l2 loss-gradient-l1 textbook-loss-gradient-l2",
    ),
    Table(
        "docs/kernel.md",
        "### Cost",
        f"[{KERNEL_COST} > $2: ratio]",
        """
        `VirtualAdversarial` = penalties virtual-adversarial
        with 3 candidates = penalties perturbation-candidates
        `SpectralNorm`, 2 power iterations = penalties spectral-norm
        exact = penalties spectral-norm-exact
        warm subspace of 16 between exact projections = constraints subspace
        """,
    ),
    Table(
        "docs/kernel.md",
        "### Few examples: MNIST",
        PENALTIES,
        """
        no regularisation = plain
        weight decay 0.01 = weight-decay-0.01
        `SpectralNorm`, weight 0.01 = spectral-norm-0.01
        `SpectralBall`, radius 1 = spectral-ball-1.0
        `LossGradient(1)`, 0.01 = loss-gradient-l1-0.01
        `LossGradient(2)`, 0.1 = loss-gradient-l2-0.1
        adversarial training, l2 1 = adversarial-l2-1.0
        `InputGradient`, 0.01 = input-gradient-0.01
        `InputGradient`, 0.01, and `SpectralBall`, 2 = input-gradient-0.01-ball-2.0
        `AdversarialPerturbation`, epsilon 0.1, 3 candidates = perturbation-0.1
        `VirtualAdversarial`, epsilon 2 = virtual-adversarial-2.0
        `TangentGradient`, 0.001, 10 tangents = tangent-gradient-0.001
        `DeformationStability`, 0.01, 4 deformations = deformation-stability-0.01
        augmentation by `Deform` = augmentation
        augmentation and `DeformationStability`, 0.01 = deformation-stability-0.01-augmentation
        """,
    ),
    Table(
        "docs/kernel.md",
        "### Bounds of the same nets",
        f"[mnist-300-penalties/$1/seed=0 > clean: %2] | [{BOUNDS} > gradient: .2f] | [{BOUNDS} > "
        f"perturbation: .2f] | "
        f"[{BOUNDS} > deformation: .2f] | [{BOUNDS} > spectral: .4g]",
        """
        plain = plain
        weight decay 0.01 = weight-decay-0.01
        `SpectralBall`, 1 = spectral-ball-1.0
        `VirtualAdversarial`, 2 = virtual-adversarial-2.0
        `DeformationStability`, 0.01 = deformation-stability-0.01
        `AdversarialPerturbation`, 0.1 = perturbation-0.1
        `InputGradient`, 0.01 = input-gradient-0.01
        `InputGradient`, 0.01, and `SpectralBall`, 2 = input-gradient-0.01-ball-2.0
        """,
    ),
    Table(
        "docs/kernel.md",
        "### Clean against robust",
        f"[{FASHION} > clean: %2] | "
        + " | ".join(f"[{FASHION} > attacked l2 {level}: %2]" for level in (0.25, 0.5, 1.0, 1.5)),
        """
        plain = plain
        `SpectralBall`, 1 = spectral-ball-1.0
        `LossGradient(1)`, 0.01 = loss-gradient-l1-0.01
        `LossGradient(2)`, 0.1 = loss-gradient-l2-0.1
        `InputGradient`, 0.003 = input-gradient-0.003
        `InputGradient`, 0.01 = input-gradient-0.01
        `AdversarialPerturbation`, epsilon 0.1 = perturbation-0.1
        adversarial training, 0.25 = adversarial-l2-0.25
        adversarial training, 0.5 = adversarial-l2-0.5
        adversarial training, 0.5, and `SpectralBall`, 2 = adversarial-l2-0.5-ball-2.0
        adversarial training, 1 = adversarial-l2-1.0
        """,
    ),
    Table(
        "docs/kernel.md",
        "### CIFAR-10 as JPEG",
        "[$1-26-epochs > clean: %2] | [$1-26-epochs > lower: %2] to [$1-26-epochs > upper: %2]",
        """
        `cifar10-1000-vgg11` = cifar10-1000-vgg11
        `cifar10-1000-vgg11-loss-gradient-ball` = cifar10-1000-vgg11-loss-gradient-ball
        `cifar10-1000-vgg11-gradient` = cifar10-1000-vgg11-gradient
        `cifar10-1000-vgg11-perturbation` = cifar10-1000-vgg11-perturbation
        """,
    ),
    Table(
        "docs/gaussian.md",
        "### How good they are",
        " | ".join(
            f"[{MOMENTS.replace('STD', std)} > {key}: .3f]"
            for key in ("mean_error", "std_ratio > median")
            for std in ("0.05", "0.1", "0.2", "0.4")
        ),
        """
        published form = first-activation
        `Gaussian` = diagonal
        `FactoredGaussian`, one factor a pixel = factored
        `CorrelatedGaussian` = full
        """,
    ),
    Table(
        "docs/gaussian.md",
        "### Cost",
        " | ".join(
            f"[benchmarks/gaussian_cost.json > {net} > times_plain > $1: $2]"
            for net in ("lenet, mnist, batch 128", "cnn-small, mnist, batch 128", "vgg16, cifar10, batch 16")
        ),
        """
        fresh noise in place of the images = fresh-noise .2f
        published form = published .2f
        the same as a textbook writes it, two passes = textbook-published .2f
        every layer, `OfMean()` = every-layer-of-mean .2f
        every layer, `MeanField()` = every-layer-mean-field .2f
        every layer, `MeanField()`, 4 factors = every-layer-4-factors .1f
        one fold = copies-1 .2f
        20 folds = copies-20 .1f
        """,
    ),
    *(
        Table("docs/gaussian.md", f"withstand sweep {sweep}`", NOISE.replace("SWEEP", sweep), rows)
        for sweep, rows in {
            "mnist-moments-tradeoff": f"""{MORE_NOISE_RUNS}
                {ONE_LAYER}
                {ALONE}
                {FACTORS}
                published form, 0.5, weight 5 = expectation-0.5-weight-5
                fresh noise in place of the images, 0.125 = noise-0.125
                5 folds beside the images, 0.5 = copies-5-of-0.5
            """,
            "fashion-moments-tradeoff": f"{MORE_NOISE_RUNS}\n{ONE_LAYER}\n{FACTORS}",
            "mnist-moments-lenet-2000": f"{MORE_NOISE_RUNS}\n{ALONE}",
            "fashion-moments-lenet-2000": NOISE_RUNS,
        }.items()
    ),
    Table(
        "docs/gaussian.md",
        "Five of these over three seeds",
        "[mnist-moments-tradeoff/$1,mnist-moments-seeds/$2/seed=* > clean: interval] | "
        "[mnist-moments-tradeoff/$1,mnist-moments-seeds/$2/seed=* > noise unclipped: interval]",
        """
        no noise = plain plain
        published form, 1.0 = expectation-1.0-weight-1 expectation-1.0
        every layer, 1.0 = every-layer-1.0 every-layer-1.0
        1 fold beside the images, 0.25 = copies-1 copies-1
        fresh noise in place of the images, 0.5 = noise-0.5 noise-0.5
        """,
    ),
    Table(
        "docs/gaussian.md",
        "### Why sampling wins",
        COSINES,
        """
        without noise = plain
        one draw = one_draw
        5 draws = 5_draws
        20 draws = 20_draws
        published form = first_activation
        every layer, `OfMean()` = every_layer,_of_mean
        every layer, `MeanField()` = every_layer,_mean_field
        every layer, 4 factors = every_layer,_4_factors
        """,
    ),
    Table(
        "docs/bayes.md",
        "On the MLP 784-1200-1200-10",
        "[benchmarks/bayes_cost.json > $1 > times_without > with: .2f] | "
        "[benchmarks/bayes_cost.json > $1 > times_without > textbook: .2f]",
        """
        a step with the term over the same without, 1 draw a step = term,_1_sample
        the same, 15 draws a step = term,_15_samples
        """,
    ),
    Table(
        "docs/bayes.md",
        "On the MLP 784-1200-1200-10",
        ONE_PASS,
        """
        15 draws in one pass against 15 passes = step
        the same without the divergence = step,_no_divergence
        a prediction = prediction
        an attack's gradient = attack
        """,
    ),
    Table(
        "docs/bayes.md",
        "beside the same network without the term",
        SPECTRAL,
        """
        784 → 1200 = network.1 .1f
        1200 → 1200 = network.3 .1f
        1200 → 10 = network.5 .1f
        the whole network = network ,.0f
        """,
    ),
    *(
        Table("docs/bayes.md", f"\n{title}:\n", cells, rows)
        for title, group, epsilons in (
            ("MNIST", "mnist-sebr-mlp-seeds", {"fgsm": "0.04 0.16 0.3", "pgd": "0.04 0.16 0.22"}),
            ("Fashion-MNIST", "fashion-sebr-mlp-seeds", {"fgsm": "0.04 0.1 0.2", "pgd": "0.04 0.1 0.2"}),
        )
        for cells, rows in (
            (sebr("deviation", clean=True), f"clean = {group}"),
            *(
                (sebr("deviation"), f"{attack.upper()} {level} = {group} {attack} {level} {ours}")
                for attack, ours in (("fgsm", "pgd-1-linf"), ("pgd", "worst-linf"))
                for level in epsilons[attack].split()
            ),
        )
    ),
    Table(
        "docs/bayes.md",
        "Uncertainty, in nats",
        UNCERTAINTY,
        """
        clean = mnist-sebr-mlp-seeds clean
        pgd-20-linf@0.16 = mnist-sebr-mlp-seeds pgd-20-linf@0.16
        fashion-mnist = mnist-sebr-mlp-seeds fashion-mnist
        """,
    ),
    Table(
        "docs/bayes.md",
        "| fashion-mnist |",
        UNCERTAINTY,
        """
        clean = fashion-sebr-mlp-seeds clean
        pgd-20-linf@0.1 = fashion-sebr-mlp-seeds pgd-20-linf@0.1
        mnist = fashion-sebr-mlp-seeds mnist
        """,
    ),
]


IAT = "mnist-suite/iat/metrics.json > attacks"
SQUARE = f"{IAT} > standard-linf > counts > epsilon=0.3"
SUITE_COST, KERNEL = "benchmarks/suite_cost.json", "benchmarks/kernel_cost.json"
TIMES, STEP = f"{KERNEL} > penalties > times_plain", "benchmarks/certified_cost.json > training_step"
ATTACKS, BAYES, REPORT = (f"benchmarks/{name}_cost.json" for name in ("attack", "bayes", "report"))
LENET_STEP = "benchmarks/gaussian_cost.json > lenet, mnist, batch 128 > times_plain"
SMALL_STEP = "benchmarks/gaussian_cost.json > cnn-small, mnist, batch 128 > times_plain"
VGG_STEP = "benchmarks/gaussian_cost.json > vgg16, cifar10, batch 16 > times_plain"
TRADEOFF, LENET, FASHION_LENET = (
    "mnist-moments-tradeoff",
    "mnist-moments-lenet-2000",
    "fashion-moments-lenet-2000",
)
MOMENTS_OF = f"{TRADEOFF}/plain/metrics.json > moments"
LAYERS, OWN = f"{MOMENTS_OF} > levels > noise_std=0.2 > layers", "forms > diagonal > own > std_ratio"
BOTH_BOUNDS = BOUNDS.replace("$1", "input-gradient-0.01-ball-2.0")
SEEDS, FASHION_SEEDS = "mnist-sebr-mlp-seeds", "fashion-sebr-mlp-seeds"


def pair(what: str, group: str = SEEDS, between: str = " to ") -> str:
    """A measure without and with the term, over the seeds."""
    return both(f"[{group}/TERM/seed=* > {what}: %1]", between)


def published(of: str) -> str:
    return both(f"[{SEEDS}/TERM/seed=0/metrics.json > published > {of} > accuracy: %1]", " to ")


def draws(what: str) -> str:
    first, *others = (f"[mnist-sebr-samples/num_samples={n} > {what}: %1]" for n in (1, 5, 15))
    return f"{first}, {' and '.join(others)}"


SENTENCES = {
    "README.md": [
        f"[{SQUARE} > broken > 3: .0f] of the [{SQUARE} > attacked > 3: .0f] images",
        f"FAB fells [{IAT} > standard-l2 > counts > epsilon=1.58 > broken > 2: .0f]",
        "PGD-200 leaves [mnist-iat-small > attacked linf 0.3: %0] %",
        "to [mnist-suite/iat > attacked linf 0.3: %1] %",
        "the IAT net has [mnist-suite/iat > attacked linf 0.3: %1]",
        f"takes [{ATTACKS} > training_step > cnn-small > ratio_to_ideal: .2f] times the sum",
        f"[{ATTACKS} > training_step > cnn-4c3f > ratio_to_ideal: .2f] for 4C3F",
        f"[{ATTACKS} > undefended > speed_up: .1f] times as fast as foolbox",
        f"[{ATTACKS} > robust > speed_up: .1f] times on a robust one",
        f"[{STEP} > times_plain > bcp-l2: .1f] times a plain step in l2 and "
        f"[{STEP} > times_plain > bcp-linf: .1f] in linf",
        f"[{STEP} > textbook_over_bcp > l2: .1f] and [{STEP} > textbook_over_bcp > linf: .1f] times as fast",
        f"IBP takes [{STEP} > times_plain > ibp-linf: .1f], Lipschitz-margin training "
        f"[{STEP} > times_plain > lipschitz-l2: .1f]",
        f"[{TIMES} > input-gradient: .1f] times a plain step, the loss-gradient penalty "
        f"[{TIMES} > loss-gradient-l2: .1f], the perturbation penalty [{TIMES} > perturbation: .0f], or "
        f"[{TIMES} > perturbation-candidates: .1f] with candidates that keep "
        f"[{KERNEL} > candidates_share_of_exact > trained: %0] % of its value, an exact spectral projection "
        f"after "
        f"every step [{KERNEL} > constraints > times_plain > exact: .1f]; the textbook formulations take "
        f"[{TIMES} > textbook-input-gradient: .1f], [{TIMES} > textbook-loss-gradient-l2: .1f], "
        f"[{TIMES} > textbook-perturbation: .0f] and [{KERNEL} > constraints > times_plain > textbook-svd: "
        f".1f]",
        f"[{LENET_STEP} > published: .1f] times a plain step of LeNet (textbook: "
        f"[{LENET_STEP} > textbook-published: .1f]), [{VGG_STEP} > published: .1f] of VGG-16 and "
        f"[{SMALL_STEP} > published: .1f] of the small net",
        f"every layer [{LENET_STEP} > every-layer-mean-field: .1f], [{VGG_STEP} > every-layer-mean-field: "
        f".1f] and "
        f"[{SMALL_STEP} > every-layer-mean-field: .1f]; 20 noisy copies [{LENET_STEP} > copies-20: .0f], "
        f"[{VGG_STEP} > copies-20: .0f] and [{SMALL_STEP} > copies-20: .0f]",
        f"[{BAYES} > term, 1 sample > times_without > with: .2f] times the same step without it (textbook: "
        f"[{BAYES} > term, 1 sample > times_without > textbook: .1f])",
        f"[{BAYES} > 15 samples in one pass > times_as_fast > step: .1f] times as fast as fifteen textbook "
        f"steps, "
        f"[{BAYES} > 15 samples in one pass > times_as_fast > step, no divergence: .1f] times",
        f"[{SUITE_COST} > suite_seconds: .0f] s, "
        f"[{SUITE_COST} > suite_seconds / {SUITE_COST} > pyautoattack_seconds: .2f] times what",
        f"at the same accuracy, [{SUITE_COST} > suite_accuracy: %1] %",
        f"[{SUITE_COST} > share_outside: %3] % of the time",
        f"[{REPORT} > seconds: .1f] s ([{REPORT} > seconds_first: .1f] s the first time) and has "
        f"[{REPORT} > bytes / 1000000: .1f] MB",
    ],
    "docs/adversarial.md": [
        "[mnist-suite/iat > attacked linf 0.1: %1] % at 0.1 and [mnist-suite/iat > attacked linf 0.3: %1] % "
        "at 0.3",
        f"[{SQUARE} > broken > 3: .0f] images that AutoAttack's gradients left",
        "[mnist-iat-small > attacked linf 0.4 pgd-200-linf: %2] % for IAT at 0.4; together with the margin "
        "attack it is "
        "[mnist-iat-small > attacked linf 0.4 worst-linf: %2] %",
        "[mnist-plain-small > clean: %2] % at every epsilon",
        "[mnist-iat-small/train.csv > epoch=18 > validation_robust_accuracy: %0] % (PGD-20, validation "
        "data) after the "
        "epoch at 0.36, [mnist-iat-small/train.csv > epoch=19 > validation_robust_accuracy: %0] % after "
        "0.38, "
        "[mnist-iat-small/train.csv > epoch=20 > validation_robust_accuracy: %0] % after 0.40",
    ],
    "docs/evaluation.md": [
        f"[{IAT} > standard-l2 > counts > epsilon=1.58 > broken > 3: .0f] images each",
        f"at linf 0.3 Square fells [{SQUARE} > broken > 3: .0f]",
        "`bcp` [mnist-suite/bcp > certified l2: %1] of [mnist-suite/bcp > attacked l2: %1] (l2 1.58",
        "[mnist-suite/bcp > certified linf: %1] of [mnist-suite/bcp > attacked linf: %1] (linf 0.1)",
        "[mnist-suite/plain > radius: .2f] (`plain`), [mnist-suite/iat > radius: .2f] (`iat`), "
        "[mnist-suite/kernel > radius: .2f] (`kernel`), [mnist-suite/moments > radius: .2f] (`moments`) and "
        "[mnist-suite/bcp > radius: .2f] (`bcp`); a largest of [mnist-suite/plain > largest-radius: .2f]",
        "[mnist-suite/plain > calibration: %1], [mnist-suite/iat > calibration: %1], "
        "[mnist-suite/kernel > calibration: %1], [mnist-suite/moments > calibration: %1], "
        "[mnist-suite/bcp > calibration: %1] and [mnist-suite/sebr > calibration: %1] %",
        f"alone [{SUITE_COST} > pyautoattack_seconds: .0f] s, the suite `standard` "
        f"[{SUITE_COST} > suite_seconds: .0f] s, both [{SUITE_COST} > pyautoattack_accuracy: %1] %",
        "APGD-CE takes [COST > apgd-ce-linf: .0f] s, APGD-T [COST > apgd-t-linf: .0f], FAB-T [COST > "
        "fab-t-linf: .0f], "
        "Square [COST > square-linf: .0f], the three PGD-100 [COST > pgd-100-linf + COST > "
        "pgd-100-margin-linf + COST "
        "> pgd-100-dlr-linf: .0f], PGD-400 [COST > pgd-400-margin-linf: .0f]".replace(
            "COST", f"{SUITE_COST} > seconds"
        ),
        f"[{SUITE_COST} > share_outside: %3] % is spent",
        f"[{REPORT} > seconds: .1f] s, the first time [{REPORT} > seconds_first: .1f] s, and "
        f"[{REPORT} > bytes / 1000000: .1f] MB, of which "
        f"[{REPORT} > bytes - {REPORT} > bytes_without_plotly / 1000000: .1f] are plotly",
    ],
    "docs/kernel.md": [
        f"[{KERNEL} > candidates_share_of_exact > trained: %1] % of the exact value on average, "
        f"[{KERNEL} > candidates_share_of_exact > lowest: %1] % at worst",
        f"a factor of [{BOTH_BOUNDS} > spectral / {BOTH_BOUNDS} > perturbation: .0f] apart",
        f"came to [{KERNEL} > constraints > excess > largest_singular_value: .3f] at a radius",
    ],
    "docs/gaussian.md": [
        f"of which [{MOMENTS_OF} > standard_error: .2f] is the draws' own",
        f"std ratio of [{LAYERS} > operation=Linear > {OWN}: .2f], ReLU's "
        f"[{LAYERS} > operation=ReLU > {OWN}: .2f]",
        f"[{TRADEOFF}/noise-0.5 > noise unclipped: %1] % mean accuracy",
        f"at best [{TRADEOFF}/expectation-1.0-weight-1 > noise unclipped: %1] % at "
        f"[{SMALL_STEP} > published: .1f] times the cost",
        f"independent coordinates [{TRADEOFF}/every-layer-1.0 > noise unclipped: %1] % at "
        f"[{SMALL_STEP} > every-layer-mean-field: .0f] times",
        f"random factors [{TRADEOFF}/every-layer-4-factors-alone-0.5 > noise unclipped: %1] % at "
        f"[{SMALL_STEP} > every-layer-4-factors: .1f] times",
        f"one copy beside each image [{TRADEOFF}/copies-1 > noise unclipped: %1] %, twenty "
        f"[{TRADEOFF}/copies-20 > noise unclipped: %1] %",
        f"2,000 digits: [{LENET}/expectation-0.5-weight-1 > noise unclipped: %1] % under noise at "
        f"[{LENET}/expectation-0.5-weight-1 > clean: %1] % clean",
        f"folds have [{LENET}/copies-5 > noise unclipped: %1] to [{LENET}/copies-1 > noise unclipped: %1] % "
        f"at "
        f"[{LENET}/copies-1 > clean: %1] to [{LENET}/copies-20 > clean: %1] % clean",
        f"MNIST [{LENET}/expectation-0.5-weight-1 > noise unclipped: %1] under noise and "
        f"[{LENET}/expectation-0.5-weight-1 > clean: %1] clean against [{LENET}/copies-1 > noise unclipped: "
        f"%1] and "
        f"[{LENET}/copies-1 > clean: %1]; Fashion-MNIST "
        f"[{FASHION_LENET}/expectation-0.5-weight-1 > noise unclipped: %1] and "
        f"[{FASHION_LENET}/expectation-0.5-weight-1 > clean: %1] against "
        f"[{FASHION_LENET}/copies-1 > noise unclipped: %1] and [{FASHION_LENET}/copies-1 > clean: %1]",
    ],
    "docs/bayes.md": [
        f"[{BAYES} > value > relative_error_after_100_steps / -1: %2]%",
        f"[{BAYES} > value > relative_error_first_step / -1: %2]%",
        f"FGSM 0.16 goes from {pair('sebr fgsm 0.16')} (published: "
        f"{published('attack=fgsm,epsilon=0.16')}), FGSM 0.3 "
        f"from {pair('sebr fgsm 0.3')} ({published('attack=fgsm,epsilon=0.3')}), PGD 0.16 from "
        f"{pair('sebr pgd 0.16')} "
        f"({published('attack=pgd,epsilon=0.16')})",
        f"{pair('attacked 0.16 pgd-1-linf', between=' without and ')} with the term at 0.16, "
        f"{pair('attacked 0.3 pgd-1-linf', between=' and ')} at 0.3",
        f"all attacks {pair('attacked 0.16 worst-linf', between=' and ')} at 0.16, "
        f"{pair('attacked 0.22 worst-linf', between=' and ')} at 0.22, "
        f"{pair('attacked 0.3 worst-linf', between=' and ')} at 0.3",
        both(
            f"[{SEEDS}/TERM/seed=0 > attacked 0.16 means-pgd-40-linf: %1] against "
            f"[{SEEDS}/TERM/seed=0 > attacked 0.16 pgd-20-linf: %1]",
            "), but far more with it (",
        ),
        f"PGD 0.1 rises from {pair('sebr pgd 0.1', FASHION_SEEDS)}",
        f"clean accuracy is {draws('clean')}",
        f"leaves {draws('attacked 0.04 worst-linf')} at 0.04 and {draws('attacked 0.16 worst-linf')} at 0.16",
        f"published protocol {draws('sebr fgsm 0.16')}",
    ],
}
"""Page -> words with figures that stand in it, over line ends."""


@pytest.mark.parametrize("table", TABLES, ids=lambda table: f"{table.page}-{table.after.strip()}")
def test_table_quotes_what_runs_found(table: Table) -> None:
    quoted = table.quoted()
    for name, expected in table.expected().items():
        assert name in quoted, f"{table.page} has no row {name!r} after {table.after!r}, but {list(quoted)}"
        written = quoted[name][: len(expected)]
        assert any(written), name
        assert written == [cell if there else "" for cell, there in zip(expected, written, strict=True)], name


@pytest.mark.parametrize(
    ("page", "text"), [(page, text) for page, texts in SENTENCES.items() for text in texts]
)
def test_sentence_quotes_what_runs_found(page: str, text: str) -> None:
    expected = filled(text)
    assert expected, text
    whole = rf"(?<![\d.]){re.escape(expected)}(?!\d|\.\d)"
    assert re.search(whole, " ".join(text_of(page).split())), f"{page} no longer says {expected!r}"


@pytest.mark.parametrize(
    "folder",
    [folder for folder in sorted(RESULTS.iterdir()) if any(folder.rglob("recipe.yaml"))],
    ids=lambda folder: folder.name,
)
def test_recipes_beside_the_figures_can_be_run(folder: Path) -> None:
    parse_recipe(min(folder.rglob("recipe.yaml")))  # the others of a folder are its like
