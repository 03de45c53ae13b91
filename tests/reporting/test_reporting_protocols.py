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
    single = [attack("pgd-1-linf", {0.1: 0.92, 0.3: 0.45}), attack("pgd-1-linf-2", {0.1: 0.93, 0.3: 0.44})]
    figures = [
        published("clean", 0.975),
        FIGURE,
        published("attacked", 0.5, attack="fgsm", norm="inf", epsilon=0.7),
        published("attacked", 0.6, norm="inf", epsilon=0.1),
    ]
    attacks = [*metrics["attacks"], *single, attack("pgd-10-linf", {0.1: 0.91})]
    return metrics | {"attacks": attacks, "protocols": [entry], "published": figures}


def test_each_measure_has_published_ours_and_honest(under_protocol: dict[str, Any]) -> None:
    (view,) = view_protocols(cast("Metrics", under_protocol))
    assert view.title == "SEBR"
    assert view.has_published
    assert view.description == "As published"
    rows = [(row.measure.replace("\xa0", " "), row.ours["accuracy"], row.difference) for row in view.rows]
    assert rows == [
        ("Clean", 0.97, "−1.1"),
        ("FGSM, ℓ∞ ε = 0.1", 0.95, "+3.0"),
        ("FGSM, ℓ∞ ε = 0.2", 0.8, "—"),
        ("FGSM, ℓ∞ ε = 0.3", 0.655, "+21.5"),
        ("PGD, ℓ∞ ε = 0.3", 0.5, "+9.8"),
    ]
    assert [row.published and row.published["accuracy"] for row in view.rows] == [
        *(0.975, 0.857, None),
        *(None, None),
    ]
    first, last = view.rows[1], view.rows[4]
    assert first.honest is not None
    assert first.worst is not None
    assert (first.by, first.honest["accuracy"], last.by) == ("pgd-1-linf", 0.92, "pgd-200")
    assert (first.worst[0]["accuracy"], first.worst[1], view.rows[2].worst) == (0.905, "fgsm", None)
    assert last.worst is not None
    assert last.worst[0] is last.honest
    of_one_step, of_many = view.verdicts
    assert of_one_step.startswith("The protocol's FGSM flatters, by up to 21.5 points. At FGSM")
    assert "an honest attack of one step (pgd-1-linf-2) 44.0" in of_one_step
    assert of_one_step.endswith("What differs: the protocol lets images leave [0, 1].")
    assert of_many.startswith("The protocol's PGD flatters, by up to 9.8 points. At PGD")
    assert "the strongest attack run here (pgd-200)" in of_many
    assert "corner to corner" in of_many


def test_what_differs_of_random_answers_is_said(under_protocol: dict[str, Any]) -> None:
    (view,) = view_protocols(cast("Metrics", under_protocol | {"sampling": {"num_samples": 2}}))
    for verdict in view.verdicts:
        assert "gradient of the mean network instead of the predictor that is scored" in verdict
        assert "averages over no draws" in verdict
    assert ["corner to corner" in verdict for verdict in view.verdicts] == [False, True]


def test_one_step_does_not_stand_beside_many(metrics: dict[str, Any]) -> None:
    (view,) = view_protocols(cast("Metrics", metrics | {"protocols": [protocol({0.1: 0.95}, {0.1: 0.95})]}))
    _, fgsm, pgd = view.rows
    assert (fgsm.honest, fgsm.difference) == (None, "—")
    assert fgsm.worst is not None
    assert pgd.honest is not None
    (verdict,) = view.verdicts
    assert verdict.startswith("The protocol's PGD flatters")


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
    ("ours", "said"), [(0.9049, "agree at best"), (0.8, "harder than the strongest attack run here at every")]
)
def test_the_verdict_says_so_where_nothing_is_flattered(
    metrics: dict[str, Any], ours: float, said: str
) -> None:
    (view,) = view_protocols(cast("Metrics", metrics | {"protocols": [protocol({}, {0.1: ours})]}))
    (verdict,) = view.verdicts
    assert said in verdict


def test_without_honest_attacks_there_is_no_verdict(metrics: dict[str, Any]) -> None:
    (view,) = view_protocols(cast("Metrics", metrics | {"attacks": [], "protocols": [protocol({0.1: 0.5})]}))
    assert [*view.verdicts] == []
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


def test_each_run_stands_beside_what_was_published_of_its_like(
    write_run: WriteRun, metrics: dict[str, Any]
) -> None:
    def run(name: str, model: str, seed: int, figures: list[dict[str, Any]]) -> Path:
        recipe = f"name: {name}\nseed: {seed}\nmodel: {{name: {model}}}\n"
        content = {"protocols": [protocol({0.1: 0.9, 0.2: 0.8})], "published": figures}
        return write_run(name, recipe=recipe, metrics=metrics | content)

    clean = published("clean", 0.975)
    folders = [
        run("one", "cnn-small", 0, [FIGURE | {"note": "<with> the term"}, clean]),
        run("two", "cnn-small", 1, [FIGURE | {"note": "<with> the term"}, clean]),
        run("other", "mlp", 0, [FIGURE | {"accuracy": 0.5, "note": "without"}, published("attacked", 0.1)]),
        run("none", "lenet", 0, [clean, FIGURE | {"attack": "pgd"}]),
    ]
    compared = compare_protocols([read_run(folder) for folder in folders])
    assert compared is not None
    texts = [[[*cell.published] for cell in cells] for _, cells in compared.rows]
    assert texts == [
        [["published 97.5\xa0%"], ["published 85.7\xa0%, <with> the term"], []],
        [[], ["published 50\xa0%, without"], []],
        [[], [], []],
    ]
    text = report(folders, folders[0] / "all.html").read_text(encoding="utf-8")
    assert "published 85.7\xa0%, &lt;with&gt; the term" in text


def test_damaged_protocols_are_named(write_run: WriteRun, metrics: dict[str, Any]) -> None:
    broken = protocol({0.1: 0.9})
    broken["attacks"][0]["curve"][0]["accuracy"] = 90
    with pytest.raises(RunFolderError, match=r"protocols\[0\]\.attacks\[0\]\.curve\[0\]\.accuracy must be"):
        report(write_run(metrics=metrics | {"protocols": [broken]}))
