"""What an evaluation leaves is read back as it was, or refused in one clear line."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from withstand.core.run_folder import RunFolder
from withstand.results import random_answers as drawn
from withstand.results import read_results, write_results
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
from withstand.results.measurements import Measurement, table_of
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
from withstand.results.shares import share_of
from withstand.types import RunFolderError

TARGET = Target("fast-linf", "inf", 8 / 255)
NORMS = KernelNormsOf("cat", 0.1, 0.2, None, None, 1e300)
ENTROPIES = ("entropy", "expected_entropy", "mutual_information")
UNMOVED = MomentsError(None, None, None)
RICH = Results(
    dataset="tiny",
    num_examples=45,
    num_classes=2,
    weights="best",
    attacks=[
        AttackInfo(
            "fast-linf",
            "inf",
            "“worst” of all",
            [StageInfo("pgd", "white-box", "PGD"), StageInfo("square", "black-box")],
            [StageCounts(8 / 255, [45, 30], [15, 1])],
        ),
        AttackInfo("free", "none"),
    ],
    certificates=[CertificateInfo("certified-l2", "2", "best", "Proven", "float32", 1e-7, "In …")],
    checks=[Check("more-steps", "More", None, "Not run"), Check("transfer", "T", False, "broke 3 of 9")],
    warnings=["Masked gradients: …"],
    published=[
        Published("attacked", 0.5, "A paper", "inf", 0.3, attack="pgd"),
        Published("clean", 1.0, "Another", note="of 2020"),
    ],
    sampling=drawn.Sampling(
        "mean",
        20,
        5,
        4,
        drawn.Sweep("pgd", 0.1, 9, 0.01, [drawn.SweepLevel(0.5, 0.1, 0.9, 9, 18, 4)], True, 4),
    ),
    noise=Noise("Gaussian", 2, shell=True),
    corruptions=Corruptions("all", [CorruptionKind("jpeg", "JPEG", "quality, of 100", [1, 5], [80.0, 10.0])]),
    smoothing=Smoothing("smoothed", 0.25, 0.001, 100, 1000),
    calibration=[Bin(0.0, 0.5, 0, None, None), Bin(0.5, 1.0, 45, 0.75, 1 / 3)],
    classes=Classes(
        ["cat", "dog"],
        TARGET,
        None,
        [ClassAccuracy("cat", share_of(3, 9), share_of(1, 9), None)],
        Confusion([[3, 6], [0, 0]], [[1, 8], [0, 0]]),
    ),
    uncertainty=drawn.Uncertainty(
        "entropies",
        50,
        2,
        [0.0, 0.3, math.log(2)],
        [
            drawn.UncertaintySet(
                "mnist",
                "out-of-distribution",
                9,
                accuracy=None,
                calibration_error=None,
                auroc=0.7,
                means=dict.fromkeys(ENTROPIES, 0.1),
                medians=dict.fromkeys(ENTROPIES, 0.2),
                histograms={key: [4, 5] for key in ENTROPIES},
            )
        ],
    ),
    protocols=[drawn.ProtocolInfo("sebr", "as published", {"fgsm": "one step"})],
    kernel_norms=KernelNorms(9, "bounds", [NORMS], [KernelNormsOfLayer("0", None, 2.0)], NORMS, "no rule"),
    moments=Moments(
        9,
        100,
        0.1,
        "analytic",
        [
            MomentsLevel(
                0.1,
                1e-3,
                [
                    MomentsMethod("full", "too large"),
                    MomentsMethod("diagonal", None, 0.1, StdRatio(0.9, 1.0, 1.1), points=[(1.0, 1.1)]),
                ],
                [MomentsLayer("Linear", 2, {"full": MomentsForm(UNMOVED, MomentsError(0.1, 0.2, 1), None)})],
            )
        ],
    ),
    sections=["mine.sections:own"],
    settings={"meters": [{"class_path": "Suite", "init_args": {"norms": [math.inf, 2.0]}}], "seed": None},
)  # fmt: skip
ROWS = [Measurement("clean accuracy", value=0.1 + 0.2, lower=0.1, upper=0.9, correct=3, total=9)]


def read_back(folder: Path, results: Results, table: pd.DataFrame) -> tuple[Results, pd.DataFrame]:
    run = RunFolder(folder)
    write_results(run, results, table)
    contents = read_results(run)
    assert contents is not None
    return contents


def test_results_with_all_that_there_may_be_are_read_back_equal(tmp_path: Path) -> None:
    results, table = read_back(tmp_path, RICH, table_of(ROWS))
    assert results == RICH
    pd.testing.assert_frame_equal(table, table_of(ROWS), check_exact=True)
    content = json.loads(RunFolder(tmp_path).metrics.read_text(encoding="utf-8"))
    assert (content["schema"], content["dataset"]) == (2, "tiny")


def test_results_of_a_clean_evaluation_are_read_back_equal(tmp_path: Path) -> None:
    few = Results("tiny", 45, 3)
    results, table = read_back(tmp_path, few, table_of([]))
    assert (results, len(table)) == (few, 0)


often = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
numbers = st.floats(allow_nan=False)
optional = st.none() | numbers
counts = st.none() | st.integers(0, 2**53)
words = st.text(st.characters(exclude_categories=["C", "Z"], include_characters=' ,"'), max_size=12)
measurements = st.builds(
    Measurement,
    words,
    words | st.sampled_from(["NA", "nan", "null", "1e5", "007"]),
    st.sampled_from(["", "1", "2", "inf"]),
    numbers,
    st.floats(),
    optional,
    optional,
    counts,
    counts,
)


@often
@given(st.lists(measurements, max_size=5))
def test_table_is_read_back_equal_to_the_last_bit(tmp_path: Path, rows: list[Measurement]) -> None:
    _, table = read_back(tmp_path, RICH, table_of(rows))
    pd.testing.assert_frame_equal(table, table_of(rows), check_exact=True)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | numbers | st.text(max_size=8),
    lambda parts: st.lists(parts, max_size=3) | st.dictionaries(st.text(max_size=8), parts, max_size=3),
    max_leaves=8,
)


@often
@given(st.dictionaries(st.text(max_size=8), plain, max_size=4))
def test_settings_are_read_back_equal_infinity_included(tmp_path: Path, chosen: dict[str, Any]) -> None:
    asked = Results("tiny", 45, 3, settings=chosen)
    results, _ = read_back(tmp_path, asked, table_of(ROWS))
    assert results == asked


def test_read_results_of_a_folder_without_results_is_none(tmp_path: Path) -> None:
    assert read_results(RunFolder(tmp_path)) is None


def _without(key: str) -> Callable[[dict[str, Any]], object]:
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda content: content.update(schema=1), r"schema 1, .* reads schema 2.*withstand evaluate"),
        (_without("schema"), "has schema None"),
        (_without("dataset"), "is damaged: dataset: Field required"),
        (lambda content: content.update(num_examples="45"), "is damaged: num_examples: .*integer"),
        (lambda content: content["checks"][1].update(passed="no"), r"checks\[1\]\.passed"),
        (lambda content: content["calibration"][1].update(accuracy=1.5), r"calibration\[1\]\.accuracy: .*1"),
        (lambda content: content["noise"].update(num_draws=None), "noise.num_draws"),
        (lambda content: content["classes"].update(class_names=["cat"]), "row and a column for each"),
    ],
)
def test_results_that_do_not_fit_are_refused_by_the_key(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], text: str
) -> None:
    run = RunFolder(tmp_path)
    write_results(run, RICH, table_of(ROWS))
    content = json.loads(run.metrics.read_text())
    change(content)
    run.metrics.write_text(json.dumps(content))
    with pytest.raises(RunFolderError, match=text):
        read_results(run)


@pytest.mark.parametrize("text", ["", "{", "[1]", "3", "\x00", "[" * 100_000])
def test_read_results_refuses_a_file_that_is_no_object(tmp_path: Path, text: str) -> None:
    run = RunFolder(tmp_path)
    run.metrics.write_text(text)
    with pytest.raises(RunFolderError, match=r"metrics\.json"):
        read_results(run)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, r"measurements\.csv does not exist.*withstand evaluate"),
        ("", r"measurements\.csv is damaged"),
        ("measure,by\nclean accuracy,\n", r"measurements\.csv is damaged"),
        ("measure,by,norm,level,value,lower,upper,correct,total\nclean,,,0,much,,,,\n", "is damaged"),
        ("measure,by,norm,level,value,lower,upper,correct,total\nclean,,,0,1,,,1.5,2\n", "is damaged"),
    ],
)
def test_read_results_reports_a_table_that_is_missing_or_damaged(
    tmp_path: Path, text: str | None, message: str
) -> None:
    run = RunFolder(tmp_path)
    write_results(run, RICH, table_of(ROWS))
    run.measurements.unlink()
    if text is not None:
        run.measurements.write_text(text)
    with pytest.raises(RunFolderError, match=message):
        read_results(run)
