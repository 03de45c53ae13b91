"""What runs are held against each other in, and their figures in it."""

from __future__ import annotations

from typing import Any

import pytest

from withstand.reporting.aspects import Aspect, aspects_of, measure, with_interval


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def noise() -> Any:
    shares = {"agreement": 0.9, "accuracy": 0.8, "clipped_agreement": 0.9, "clipped_accuracy": 0.8}
    count = {"accuracy": 0.8, "lower": 0.7, "upper": 0.9, "correct": 800, "total": 1000}
    level: Any = dict.fromkeys(shares, count) | {"noise_std": 0.5}
    return {"description": "", "num_draws": 1, "levels": [level], "area": shares, "mean": shares}


def test_every_aspect(metrics: Any, certified_metrics: Any, noise: Any) -> None:
    certified_metrics["noise"] = noise
    certified_metrics["corruptions"] = {"description": "", "num_examples": 10, "kinds": [], "mean": 0.5}
    assert [plain(each.title) for each in aspects_of([metrics, certified_metrics])] == [
        "Clean",
        "Attacked, ℓ2 ε = 0.5",
        "Attacked, ℓ2 ε = 1",
        "Attacked, ℓ2 ε = 1.5",
        "Attacked, ℓ∞ ε = 0.1",
        "Attacked, ℓ∞ ε = 0.3",
        "Certified, ℓ2 ε = 1",
        "Certified, ℓ∞ ε = 0.1",
        "Accuracy under noise, 1 levels of noise_std to 0.5",
        "Agreement area, 1 levels of noise_std to 0.5",
        "Accuracy under corruptions",
    ]
    assert aspects_of([]) == []


def test_figures_and_their_columns(certified_metrics: Any, noise: Any) -> None:
    certified_metrics["noise"] = noise
    scale = "1 levels of noise_std to 0.5"
    expected = {
        Aspect("clean", ""): (0.981, "", "clean"),
        Aspect("attacked", "", "inf", 0.1): (0.905, "fgsm", "fgsm@0.1"),
        Aspect("attacked", "", "linf", 0.3): (0.402, "pgd-200", "pgd-200@0.3"),
        Aspect("certified", "", "2", 0.5): (0.71, "certified (box)", "certified-box-l2@0.5"),
        Aspect("certified", "", "2", 1.0): (0.4, "certified (best)", "certified-l2@1"),
        Aspect("noise", "", scale): (0.8, "", "noise-accuracy"),
        Aspect("agreement", "", scale): (0.9, "", ""),
    }
    for aspect, figure in expected.items():
        found = measure(certified_metrics, aspect)
        assert found is not None
        assert (found.value, found.by, found.column) == figure
    for aspect in (
        Aspect("attacked", "", "inf", 0.2),
        Aspect("certified", "", "inf", 1.0),
        Aspect("noise", "", "other"),
        Aspect("corruptions", ""),
    ):
        assert measure(certified_metrics, aspect) is None


def test_texts(metrics: Any, noise: Any) -> None:
    clean = measure(metrics, Aspect("clean", ""))
    mean = measure(metrics | {"noise": noise}, Aspect("noise", "", "1 levels of noise_std to 0.5"))
    assert clean is not None
    assert mean is not None
    assert plain(with_interval(clean)) == "98.1 % (96.1\N{EN DASH}100.0 %)"
    assert plain(with_interval(mean)) == "80.0 %"
