"""Published protocols on the page: like beside like, and the honest figure beside both."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from withstand.reporting import report
from withstand.reporting.headlines import published_rows
from withstand.reporting.protocols import compare_protocols, is_of_protocol, view_protocols
from withstand.reporting.read import read_run
from withstand.reporting.schema import Metrics
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def share(accuracy: float, total: int = 1000) -> dict[str, Any]:
    ends = {"lower": max(0.0, accuracy - 0.02), "upper": min(1.0, accuracy + 0.02)}
    return {"accuracy": accuracy, **ends, "correct": round(accuracy * total), "total": total}


def attack(name: str, shares: dict[float, float]) -> dict[str, Any]:
    curve = [{"epsilon": epsilon, **share(accuracy)} for epsilon, accuracy in shares.items()]
    return {"name": name, "norm": "inf", "description": f"{name} <as published>", "curve": curve}


def protocol(fgsm: dict[float, float], pgd: dict[float, float] | None = None) -> dict[str, Any]:
    attacks = [attack("fgsm", fgsm), *([attack("pgd", pgd)] if pgd else [])]
    return {
        "name": "sebr",
        "description": "As published.",
        "num_examples": 1000,
        "clean": share(0.97),
        "attacks": attacks,
    }


def published(measure: str, accuracy: float, **more: Any) -> dict[str, Any]:
    return {"measure": measure, "accuracy": accuracy, "source": "Somebody", "note": "", **more}


FIGURE = published("attacked", 0.857, attack="fgsm", norm="inf", epsilon=0.1)


@pytest.fixture
def under_protocol(metrics: dict[str, Any]) -> dict[str, Any]:
    """Honest accuracies are .907 (fgsm: .905) at 0.1 and .402 at 0.3."""
    entry = protocol({0.1: 0.95, 0.2: 0.8, 0.3: 0.655}, {0.3: 0.5})
    figures = [
        published("clean", 0.975),
        FIGURE,
        published("attacked", 0.5, attack="fgsm", norm="inf", epsilon=0.7),
        published("attacked", 0.6, norm="inf", epsilon=0.1),
    ]
    return metrics | {"protocols": [entry], "published": figures}


def test_each_measure_has_published_ours_and_honest(under_protocol: dict[str, Any]) -> None:
    (view,) = view_protocols(cast("Metrics", under_protocol))
    assert view.title == "SEBR"
    assert view.has_published
    assert view.description == "As published"
    rows = [(row.measure.replace("\xa0", " "), row.ours["accuracy"], row.difference) for row in view.rows]
    assert rows == [
        ("Clean", 0.97, "−1.1"),
        ("FGSM, ℓ∞ ε = 0.1", 0.95, "+4.5"),
        ("FGSM, ℓ∞ ε = 0.2", 0.8, "—"),
        ("FGSM, ℓ∞ ε = 0.3", 0.655, "+25.3"),
        ("PGD, ℓ∞ ε = 0.3", 0.5, "+9.8"),
    ]
    assert [row.published and row.published["accuracy"] for row in view.rows] == [
        *(0.975, 0.857, None),
        *(None, None),
    ]
    first, last = view.rows[1], view.rows[4]
    assert first.honest is not None
    assert (first.by, first.honest["accuracy"], last.by) == ("fgsm", 0.905, "pgd-200")
    assert view.verdict is not None
    assert view.verdict.startswith("The protocol flatters, by up to 25.3 points. At FGSM")


def test_what_stands_beside_its_protocol_does_not_stand_beside_another_attack(
    under_protocol: dict[str, Any],
) -> None:
    rows = published_rows(cast("Metrics", under_protocol))
    assert [row.published["accuracy"] for row in rows] == [0.5, 0.6]
    assert rows[0].measure.startswith("attacked by fgsm")
    without = cast("Metrics", under_protocol | {"protocols": []})
    assert len(published_rows(without)) == 4
    assert not is_of_protocol(without, cast("Any", FIGURE))


def test_a_figure_of_another_attack_or_epsilon_is_not_taken(metrics: dict[str, Any]) -> None:
    others = [
        FIGURE | change for change in ({"attack": "pgd"}, {"attack": None}, {"epsilon": 0.11}, {"norm": "2"})
    ]
    content = metrics | {"protocols": [protocol({0.1: 0.9})], "published": [published("clean", 0.9), *others]}
    (view,) = view_protocols(cast("Metrics", content))
    assert not view.has_published


@pytest.mark.parametrize(
    ("ours", "said"), [(0.9049, "agree at best"), (0.8, "harder than the attacks run here at every epsilon")]
)
def test_the_verdict_says_so_where_nothing_is_flattered(
    metrics: dict[str, Any], ours: float, said: str
) -> None:
    (view,) = view_protocols(cast("Metrics", metrics | {"protocols": [protocol({0.1: ours})]}))
    assert view.verdict is not None
    assert said in view.verdict


def test_without_honest_attacks_there_is_no_verdict(metrics: dict[str, Any]) -> None:
    (view,) = view_protocols(cast("Metrics", metrics | {"attacks": [], "protocols": [protocol({0.1: 0.5})]}))
    assert view.verdict is None
    assert view.rows[1].difference == "—"


def test_the_page_has_the_section_and_escapes(write_run: WriteRun, under_protocol: dict[str, Any]) -> None:
    text = report(write_run(metrics=under_protocol)).read_text(encoding="utf-8")
    assert ">Published protocol of SEBR</h2>" in text
    assert "fgsm &lt;as published&gt;" in text
    assert "not measured" in text


@pytest.mark.parametrize("content", [{}, {"protocols": []}, {"protocols": None}])
def test_without_protocols_there_is_no_section(
    write_run: WriteRun, metrics: dict[str, Any], content: dict[str, Any]
) -> None:
    folders = [write_run(name, metrics=metrics | content) for name in ("a", "b")]
    for text in (report(folders[0]), report(folders, folders[0] / "both.html")):
        page = text.read_text(encoding="utf-8")
        assert "Published protocol" not in page
        assert "Under the published protocol" not in page


def test_seeds_are_one_row_of_the_comparison(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    def run(name: str, seed: int, of: list[dict[str, Any]], model: str = "cnn-small") -> Path:
        recipe = f"name: {name}\nseed: {seed}\nmodel: {{name: {model}}}\n"
        return write_run(name, recipe=recipe, metrics=metrics | {"protocols": of})

    folders = [
        run("one", 0, [protocol({0.1: 0.9})]),
        run("two", 1, [protocol({0.1: 0.8}, {0.25: 0.3})]),
        run("other", 0, [protocol({0.3: 0.5})], "mlp"),
        run("none", 0, [], "lenet"),
    ]
    compared = compare_protocols([read_run(folder) for folder in folders])
    assert compared is not None
    assert [*compared.header] == ["Clean", "FGSM 0.1", "FGSM 0.3"]  # PGD was not measured of both seeds
    (first, cells), (_, others) = compared.rows
    assert first.endswith("mean of 2")
    assert cells[1].ours is not None
    assert cells[1].ours[0] == "85.00\xa0%"
    assert cells[1].honest is not None
    assert cells[1].honest[0] == "90.50\xa0%"
    assert cells[2].ours is None
    assert others[1].ours is None
    assert others[2].ours == ("50.00\xa0%", "48.00–52.00\xa0%")
    text = report(folders, folders[0] / "all.html").read_text(encoding="utf-8")
    assert ">Under the published protocol</h2>" in text


def test_damaged_protocols_are_named(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    broken = protocol({0.1: 0.9})
    broken["attacks"][0]["curve"][0]["accuracy"] = 90
    with pytest.raises(RunFolderError, match=r"protocols\[0\]\.attacks\[0\]\.curve\[0\]\.accuracy must be"):
        report(write_run(metrics=metrics | {"protocols": [broken]}))
