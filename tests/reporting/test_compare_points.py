"""What runs are compared in, and their figures in it."""

from __future__ import annotations

from typing import Any

import pytest

from withstand.reporting.compare.comparison import aspects_of, points_of, records, with_interval
from withstand.results.measurements import CORRUPTED, NOISE_ACCURACY, NOISE_AGREEMENT
from withstand.results.results import Noise

SCALE = "1 levels of noise_std to 0.5"


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def noisy(certified: Any, build: Any) -> Any:
    """An evaluation with everything that runs are compared in."""
    return certified.but(noise=Noise("", 1)).plus(
        build.measured(NOISE_ACCURACY, 800, "unclipped", level=0.5),
        build.measured(NOISE_ACCURACY, 820, "clipped", level=0.5),
        build.measured(NOISE_AGREEMENT, 900, "unclipped", level=0.5),
        build.measured(NOISE_AGREEMENT, 910, "clipped", level=0.5),
        build.measured(CORRUPTED, 500, "blur", level=1),
    )


def test_aspects_have_their_place_in_the_order(evaluated: Any, noisy: Any) -> None:
    points = points_of([evaluated.run(), noisy.run()])
    assert [plain(title) for title in aspects_of(points).index] == [
        "Clean",
        "Attacked, ℓ₂ ε = 0.5",
        "Attacked, ℓ₂ ε = 1",
        "Attacked, ℓ₂ ε = 1.5",
        "Attacked, ℓ∞ ε = 0.1",
        "Attacked, ℓ∞ ε = 0.3",
        "Certified, ℓ₂ ε = 1",
        "Certified, ℓ∞ ε = 0.1",
        f"Accuracy under noise, {SCALE}",
        f"Agreement area, {SCALE}",
        "Accuracy under corruptions",
    ]
    assert aspects_of(points_of([])).empty


def test_points_have_their_columns(noisy: Any) -> None:
    points = points_of([noisy.run()])
    points.index = points.aspect.map(plain)
    expected = {
        "Clean": (0.981, "", "clean"),
        "Attacked, ℓ∞ ε = 0.1": (0.905, "fgsm", "fgsm@0.1"),
        "Attacked, ℓ∞ ε = 0.3": (0.402, "pgd-200", "pgd-200@0.3"),
        "Certified, ℓ₂ ε = 0.5": (0.71, "certified (box)", "certified-box-l2@0.5"),
        "Certified, ℓ₂ ε = 1": (0.4, "certified (best)", "certified-l2@1"),
        f"Accuracy under noise, {SCALE}": (0.8, "clipped 82.0 %", "noise-accuracy"),
        f"Agreement area, {SCALE}": (0.9, "clipped 0.910", ""),
        "Accuracy under corruptions": (0.5, "", "corruption-accuracy"),
    }
    for aspect, (value, by, column) in expected.items():
        point = points.loc[aspect]
        assert (point.value, plain(str(point.by)), point.column) == (pytest.approx(value), by, column)
    assert "Attacked, ℓ∞ ε = 0.2" not in points.index


def test_points_have_values_and_intervals_as_texts(noisy: Any) -> None:
    texts = {plain(point.aspect): plain(with_interval(point)) for point in records(points_of([noisy.run()]))}
    assert texts["Clean"] == "98.1 % (96.1\N{EN DASH}100.0 %)"
    assert texts[f"Accuracy under noise, {SCALE}"] == "80.0 %"
    assert texts[f"Agreement area, {SCALE}"] == "0.900"


def test_aspects_are_one_where_epsilons_are_written_alike(evaluated: Any, build: Any) -> None:
    nearly = evaluated.attacked("other", "linf", {0.1 + 1e-9: 100})
    points = points_of([evaluated.run(), nearly.run()])
    at = points[points.aspect.map(plain) == "Attacked, ℓ∞ ε = 0.1"]
    assert len(at) == 2
    assert at.run.tolist() == [0, 1]
