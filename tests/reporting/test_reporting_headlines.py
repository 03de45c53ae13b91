from __future__ import annotations

from typing import Any, cast

import pytest

from withstand.reporting.headlines import cards, published_rows, telling_attacks
from withstand.reporting.schema import Metrics


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def measured(metrics: dict[str, Any]) -> Metrics:
    return cast("Metrics", metrics)


def test_cards(measured: Metrics) -> None:
    shown = [(plain(card.label), plain(card.value)) for card in cards(measured)]
    assert shown == [
        ("Clean accuracy", "98.1 %"),
        ("Attacked, ℓ∞ ε = 0.1", "90.5 %"),
        ("Attacked, ℓ∞ ε = 0.3", "40.2 %"),
        ("Data set", "MNIST"),
    ]
    strongest_card = cards(measured)[2]
    assert [plain(detail) for detail in strongest_card.details] == [
        "95 % interval 38.2\N{EN DASH}42.2 %",
        "under pgd-200",
        "402 of 1,000 right",
    ]


def test_published_rows(metrics: dict[str, Any], measured: Metrics) -> None:
    attacked = {"measure": "attacked", "accuracy": 0.94, "source": "s"}
    metrics["published"] = [
        {"measure": "clean", "accuracy": 0.99, "source": "s"},
        attacked | {"norm": "inf", "epsilon": 0.3},
        attacked | {"norm": "2", "epsilon": 0.3},
        attacked,
        {"measure": "certified", "accuracy": 0.5, "source": "s", "norm": "inf", "epsilon": 0.1},
    ]
    found = [
        (plain(row.measure), row.ours and row.ours["correct"], row.by) for row in published_rows(measured)
    ]
    assert found == [
        ("clean", 981, None),
        ("attacked, ℓ∞ ε = 0.3", 402, "pgd-200"),
        ("attacked, ℓ2 ε = 0.3", None, None),
        ("attacked", None, None),
        ("certified, ℓ∞ ε = 0.1", None, None),
    ]


def test_certified_cards_stand_beside_the_attacked_ones(certified_metrics: dict[str, Any]) -> None:
    shown = cards(cast("Metrics", certified_metrics))
    assert [plain(card.label) for card in shown] == [
        "Clean accuracy",
        "Attacked, ℓ∞ ε = 0.1",
        "Certified, ℓ∞ ε = 0.1",
        "Attacked, ℓ∞ ε = 0.3",
        "Attacked, ℓ2 ε = 0.5",
        "Attacked, ℓ2 ε = 1",
        "Certified, ℓ2 ε = 1",  # at 1.5 guessing does better
        "Attacked, ℓ2 ε = 1.5",
        "Data set",
    ]
    assert [plain(detail) for detail in shown[6].details] == [
        "95 % interval 38.0\N{EN DASH}42.0 %",
        "proven, method best",
        "400 of 1,000 certified",
    ]
    assert "method box and ball" in shown[2].details[1]


def test_no_card_calls_certified_robust(certified_metrics: dict[str, Any]) -> None:
    shown = cards(cast("Metrics", certified_metrics))
    words = " ".join(" ".join([card.label, *card.details]) for card in shown if "ertified" in card.label)
    assert "robust" not in words


def test_published_certified_figures_stand_beside_ours(certified_metrics: dict[str, Any]) -> None:
    figure = {"measure": "certified", "accuracy": 0.482, "source": "s", "norm": "2"}
    certified_metrics["published"] = [figure | {"epsilon": 0.5}, figure | {"epsilon": 0.7}]
    rows = published_rows(cast("Metrics", certified_metrics))
    assert [(plain(row.measure), row.ours and row.ours["correct"], row.by) for row in rows] == [
        ("certified, ℓ2 ε = 0.5", 710, "certified (box)"),
        ("certified, ℓ2 ε = 0.7", None, None),
    ]
    labels = [plain(card.label) for card in cards(cast("Metrics", certified_metrics))]
    assert "Certified, ℓ2 ε = 0.5" in labels  # what was published, not the largest
    assert "Certified, ℓ2 ε = 1" not in labels


def test_of_many_epsilons_only_some_are_shown(certified_metrics: dict[str, Any]) -> None:
    curve = certified_metrics["attacks"][2]["curve"]
    certified_metrics["attacks"][2]["curve"] = [curve[1] | {"epsilon": n / 20} for n in range(1, 31)]
    shown = [each for each in telling_attacks(cast("Metrics", certified_metrics)) if each.norm == "2"]
    epsilons = [each.point["epsilon"] for each in shown]
    assert len(epsilons) == 7
    assert epsilons[0] == 0.05
    assert epsilons[-1] == 1.5
    assert 1.0 in epsilons  # beside the certified figure
