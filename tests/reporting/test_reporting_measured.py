"""What holds of every section on a measure: absent, damaged, or of the user's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.sections import other, sections_of
from withstand.results.analytic import (
    KernelNorms,
    KernelNormsOf,
    Moments,
    MomentsLevel,
    MomentsMethod,
)
from withstand.results.measurements import ATTACKED, CERTIFIED, CLEAN, Measurement
from withstand.results.random_answers import Sampling, Uncertainty, UncertaintySet
from withstand.results.results import Noise
from withstand.types import RunFolderError

KEYS = (
    *("calibration", "checks", "classes", "corruptions", "kernel-norms", "moments", "noise", "protocol"),
    *("random", "smoothing", "spectral", "suite", "uncertainty"),
)
HEADINGS = (
    *("Calibration", "Checks for false robustness", "Each class", "What is taken for what", "Corruptions"),
    *("Kernel norms", "Analytic moments under noise", "Under Gaussian noise", "Published protocol"),
    *("Random answers", "Randomised smoothing", "Spectral norms over training", "Suite ", "Uncertainty"),
)


def test_measure_that_is_absent_has_no_section(evaluated: Any, make_run: Any) -> None:
    for run in (evaluated.run(), make_run(only={"train.csv"})):  # which was not evaluated
        assert not {section.key for section in sections_of(run)} & set(KEYS)


def test_measure_that_is_present_has_its_section(everything: Any) -> None:
    shown = {section.key for section in sections_of(everything_else(everything).run())}
    assert shown >= set(KEYS) - {"noise", "protocol", "spectral"}


def test_page_without_measures_has_none_of_their_headings(write_run: Any) -> None:
    page = report(write_run()).read_text(encoding="utf-8")
    assert not [heading for heading in HEADINGS if f">{heading}" in page]
    assert ">Classes and confidence<" not in page
    assert ">Other measurements<" not in page


def everything_else(everything: Any) -> Any:
    """With what the fixture lacks, to damage."""
    bounds = KernelNormsOf("cat", 1.0, 1.0, None, None, None)
    three = dict.fromkeys(("entropy", "expected_entropy", "mutual_information"), 0.5)
    clean = UncertaintySet(
        "clean", "clean", 100, 0.9, 0.1, 0.5, three, three, {name: [100] for name in three}
    )
    return everything.but(
        kernel_norms=KernelNorms(9, "How", [bounds], [], bounds),
        moments=Moments(3, 9, 0.1, "How", [MomentsLevel(0.1, 1.0, [MomentsMethod("full", None, 0.5)], [])]),
        noise=Noise("How", 1),
        sampling=Sampling("How", 20, 5, 4),
        uncertainty=Uncertainty("How", 50, 10, [0.0, 1.0], [clean]),
    )


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda results: results["calibration"][3].update(confidence=1.2), r"calibration\[3\]\.confidence: "),
        (lambda results: results["checks"][1].update(passed="yes"), r"checks\[1\]\.passed: "),
        (
            lambda results: results["classes"]["confusion"].update(clean=[[1, 2], [3, 4]]),
            "confusion must hold a row",
        ),
        (
            lambda results: results["classes"]["confusion"].update(clean=[[1, 2, 3], [1, 2], [1, 2, 3]]),
            "confusion must hold a row and a column for each",
        ),
        (lambda results: results["classes"]["confusion"].update(attacked=[]), "confusion must hold a row"),
        (
            lambda results: results["corruptions"]["kinds"][0].update(severities=[6]),
            r"severities\[0\]: Input should be less",
        ),
        (lambda results: results["corruptions"]["kinds"][0]["values"].pop(), "values must hold one for each"),
        (
            lambda results: results["kernel_norms"]["classes"][0].update(gradient="steep"),
            r"kernel_norms\.classes\[0\]\.gradient: Input should be a valid number",
        ),
        (
            lambda results: results["moments"]["levels"][0]["methods"][0].update(mean_error="small"),
            r"moments\.levels\[0\]\.methods\[0\]\.mean_error: ",
        ),
        (
            lambda results: results["noise"].update(shell="yes"),
            r"noise\.shell: Input should be a valid boolean",
        ),
        (lambda results: results["noise"].pop("num_draws"), r"noise\.num_draws: Field required"),
        (lambda results: results["sampling"].update(num_repeats=0.5), r"sampling\.num_repeats: "),
        (
            lambda results: results["smoothing"].update(failure_probability=2),
            r"smoothing\.failure_probability: ",
        ),
        (
            lambda results: results["attacks"][0]["counts"][0].pop("broken"),
            r"attacks\[0\]\.counts\[0\]\.broken: Field required",
        ),
        (
            lambda results: results["attacks"][0]["counts"][0]["broken"].pop(),
            "a number for each of the stages",
        ),
        (
            lambda results: results["uncertainty"]["sets"][0].update(auroc=2.0),
            r"uncertainty\.sets\[0\]\.auroc: ",
        ),
        (lambda results: results["uncertainty"]["sets"][0]["means"].pop("entropy"), "must hold entropy"),
        (
            lambda results: results["uncertainty"]["sets"][0]["histograms"]["entropy"].pop(),
            "a count between each two edges",
        ),
    ],
)
def test_damaged_measure_is_named(
    damage: Callable[[Any], object], fault: str, write_run: Any, everything: Any
) -> None:
    file = write_run(evaluated=everything_else(everything)) / "metrics.json"
    content = json.loads(file.read_text(encoding="utf-8"))
    damage(content)
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(RunFolderError, match=fault):
        report(file.parent)


def test_damaged_accuracy_under_a_protocol_is_named(write_run: Any, evaluated: Any) -> None:
    folder = write_run(
        evaluated=evaluated.plus(Measurement("accuracy under protocol sebr", "fgsm", value=90.0))
    )
    with pytest.raises(RunFolderError, match="accuracy outside 0 to 1"):
        report(folder)


def test_measures_that_no_section_shows_are_a_section(evaluated: Any, build: Any) -> None:
    whole = evaluated.plus(
        build.measured("hue accuracy", 700, "red", "2", 0.5),
        build.measured("hue accuracy", 900, "red", "2", 0.25),
        build.measured("hue accuracy", 800, "blue", "2", 0.25),
        Measurement("sharpness", value=3.25),
    )
    shown = other.section(whole.run(), {CLEAN, ATTACKED, CERTIFIED})
    assert shown is not None
    assert [build.texts(row) for row in shown.tables[0].rows] == [
        ["hue accuracy", "red", "ℓ₂", "0.25", "90.0 %", "88.0–92.0 %", "900 of 1,000"],
        ["hue accuracy", "blue", "ℓ₂", "0.25", "80.0 %", "78.0–82.0 %", "800 of 1,000"],
        ["hue accuracy", "red", "ℓ₂", "0.5", "70.0 %", "68.0–72.0 %", "700 of 1,000"],
        ["sharpness", "", "", "0", "3.25", "", ""],
    ]
    (figure,) = shown.figures  # of what has several levels
    assert figure.title == "Hue accuracy"
    assert {trace["name"]: trace["x"] for trace in figure.plot["data"]} == {
        "red ℓ₂": [0.25, 0.5],
        "blue ℓ₂": [0.25],
    }
    assert other.section(evaluated.run(), {CLEAN, ATTACKED}) is None


def test_measures_that_a_section_shows_are_not_shown_again(everything: Any) -> None:
    keys = [section.key for section in sections_of(everything.run())]
    assert "other" not in keys
    whole = everything.plus(Measurement("sharpness", value=3.25))
    assert "other" in [section.key for section in sections_of(whole.run())]
