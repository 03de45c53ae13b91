"""What the terminal says of an evaluation."""

from __future__ import annotations

from dataclasses import replace

import pytest

from withstand.cli.console import print_results
from withstand.cli.terminal import OUTPUT, say
from withstand.core.writing import percent
from withstand.results.analytic import KernelNorms, KernelNormsOf
from withstand.results.measurements import (
    ABSTENTION,
    ATTACKED,
    CERTIFIED,
    CLEAN,
    CORRUPTED,
    LARGEST_RADIUS,
    MEAN_RADIUS,
    MEAN_SMOOTHED_RADIUS,
    MEDIAN_RADIUS,
    NOISE_ACCURACY,
    NOISE_AGREEMENT,
    SMOOTHED,
    Measurement,
    protocol_measure,
    table_of,
)
from withstand.results.random_answers import ProtocolInfo, Sampling, Uncertainty, UncertaintySet
from withstand.results.results import (
    AttackInfo,
    CertificateInfo,
    Check,
    CorruptionKind,
    Corruptions,
    Noise,
    Results,
    Smoothing,
    StageCounts,
    StageInfo,
)

RESULTS = Results("digits", 60, 10)


def share(
    measure: str, correct: int, total: int, by: str = "", norm: str = "", level: float = 0.0
) -> Measurement:
    return Measurement(measure, by, norm, level, correct / total, 0.25, 0.75, correct, total)


def printed(capsys: pytest.CaptureFixture[str], results: Results, *rows: Measurement) -> str:
    print_results(results, table_of([share(CLEAN, 90, 180), *rows]))
    captured = capsys.readouterr()
    return " ".join((captured.out + captured.err).split())


def test_console_prints_noise_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        Measurement(measure, "unclipped", "", level, value)
        for measure, values in (
            (NOISE_ACCURACY, (0.99, 0.95, 0.85447)),
            (NOISE_AGREEMENT, (1.0, 0.95, 0.86596)),
        )
        for level, value in zip((0.0, 0.25, 0.5), values, strict=True)
    ]
    text = printed(capsys, replace(RESULTS, noise=Noise("", 1)), *rows)
    assert "noise: mean accuracy 93.1 % over noise_std 0 … 0.5; agreement area 0.941" in text
    assert "noise" not in printed(capsys, RESULTS)


def test_console_prints_attacks_and_certificates_as_sections(capsys: pytest.CaptureFixture[str]) -> None:
    stages = [StageInfo("apgd", "white-box"), StageInfo("square", "black-box")]
    attack = AttackInfo(
        "standard",
        "inf",
        "four attacks",
        stages,
        [StageCounts(0.1, [90, 50], [40, 2]), StageCounts(0.2, [0, 0], [0, 0])],
    )
    results = replace(
        RESULTS,
        attacks=[attack],
        certificates=[CertificateInfo("certified-l2", "2", "best", "bounds", arithmetic="Runs in float32.")],
    )
    text = printed(
        capsys,
        results,
        share(ATTACKED, 48, 180, "standard", "inf", 0.1),
        share(ATTACKED, 40, 180, "standard", "inf", 0.2),
        share(CERTIFIED, 30, 180, "certified-l2", "2", 0.5),
        Measurement(MEAN_RADIUS, "certified-l2", "2", value=0.25),
        Measurement(MEDIAN_RADIUS, "certified-l2", "2", value=0.2),
        Measurement(LARGEST_RADIUS, "certified-l2", "2", value=0.75),
    )
    assert text.startswith("digits ")
    assert "│ clean │ │ 50.0 % │ 25.0–75.0 % of 180 │" in text
    assert "│ standard │ 0.1 │ 26.7 % │" in text
    assert "│ │ 0.2 │ 22.2 % │" in text
    assert "│ certified-ℓ₂ │ 0.5 │ 16.7 % │" in text
    assert "standard: four attacks ε = 0.1: apgd broke 40 of 90, square broke 2 of 50" in text
    assert "of 0" not in text
    assert "certified-ℓ₂: bounds certified-ℓ₂: Runs in float32." in text
    assert "certified-ℓ₂: certified radius mean 0.25, median 0.2, largest 0.75" in text


def test_console_prints_random_answers_and_protocols(capsys: pytest.CaptureFixture[str]) -> None:
    typical = {"entropy": 0.5, "expected_entropy": 0.1, "mutual_information": 0.4}
    of_set = UncertaintySet(
        "mnist", "clean", 10, None, None, 0.75, typical, typical, {key: [] for key in typical}
    )
    results = replace(
        RESULTS,
        sampling=Sampling("", 20, 3, 16),
        uncertainty=Uncertainty("", 20, 10, [0.0], [of_set]),
        protocols=[ProtocolInfo("sebr", "", {"fgsm": ""})],
    )
    rows = [
        share(protocol_measure("sebr"), 30, 60, "clean"),
        share(protocol_measure("sebr"), 15, 60, "fgsm", "inf", 0.16),
    ]
    text = printed(capsys, results, *rows)
    assert text.startswith("digits, 3 predictions an example")
    assert "25.0–75.0 % of 60 examples" in text
    assert "random weights: 3 predictions an image, each the mean of 20 draws; gradients of 16 draws" in text
    assert "uncertainty, mnist: mean entropy 0.500 nats, of which 0.400 from draws" in text
    assert "AUROC 0.750" in text
    assert "protocol sebr" in text
    assert "fgsm │ 0.16 │ 25.0 % │ 25.0–75.0 % of 60 " in text
    text = printed(capsys, replace(results, sampling=Sampling("", 1, 1, None)), *rows)
    assert "random weights: 1 prediction an image, the mean of 1 draw uncertainty" in text
    assert "of 180" in text


def test_console_prints_one_number_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    bounds = KernelNormsOf("0", 1.5, 1.25, None, None, 2.5)
    kinds = [
        CorruptionKind("blur", "Gaussian blur", "", [1], [1.0]),
        CorruptionKind("jpeg", "JPEG", "", [1], [1.0]),
    ]
    results = replace(
        RESULTS,
        kernel_norms=KernelNorms(10, "", [bounds], [], bounds),
        corruptions=Corruptions("", kinds),
        smoothing=Smoothing("", 0.25, 0.001, 100, 1000),
    )
    text = printed(
        capsys,
        results,
        share(CORRUPTED, 90, 180, "blur", level=1),
        share(CORRUPTED, 45, 180, "jpeg", level=1),
        share(SMOOTHED, 80, 100, "smoothed"),
        share(ABSTENTION, 5, 100, "smoothed"),
        Measurement(MEAN_SMOOTHED_RADIUS, "smoothed", "2", value=0.5),
    )
    assert "kernel norms: at least gradient 1.5, perturbation 1.25; at most 2.5 (logits a unit" in text
    assert "corruptions: mean accuracy 37.5 %; worst jpeg, 25.0 %" in text
    assert (
        "noise_std 0.25, accuracy 80.0 %, abstains from 5.0 %, mean certified ℓ₂ radius 0.5, each with"
        in text
    )
    assert "probability 0.999" in text


def test_console_breaks_no_line_between_a_figure_and_its_unit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OUTPUT, "width", 20)
    say(f"  accuracy pgd-20-linf {percent(0.972)}, abstains")
    assert capsys.readouterr().out.splitlines() == [
        "  accuracy",
        "pgd-20-linf 97.2\N{NO-BREAK SPACE}%,",
        "abstains",
    ]


def test_console_prints_checks_and_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    checks = [
        Check("gradients", "", True, ""),
        Check("steps", "", False, ""),
        Check("transfer", "", None, ""),
    ]
    text = printed(capsys, replace(RESULTS, checks=checks, warnings=["Steps find more."]))
    assert "checks for false robustness: 1 passed; failed: steps; not run: transfer" in text
    assert "warning: Steps find more." in text
