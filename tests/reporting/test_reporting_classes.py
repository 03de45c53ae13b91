"""The page's sections on each class, and on what is taken for what."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.classes import view_classes, view_confusion
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def words(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def of_classes(measures: dict[str, Any]) -> Any:
    return view_classes(measures["classes"])


def of_confusion(measures: dict[str, Any]) -> Any:
    return view_confusion(measures["confusion"])


def test_a_dot_a_class_and_measure(measures: dict[str, Any]) -> None:
    measures["classes"]["rows"][1]["attacked"] = None
    shown = of_classes(measures)
    assert list(map(words, shown.columns)) == ["Clean", "Attacked by standard-linf, ℓ∞ ε = 0.3"]
    clean, attacked = shown.figure.plot["data"]
    assert (clean["y"], clean["x"]) == (["cat", "dog", "ship"], [0.98, 0.97, 0.99])
    assert (attacked["y"], attacked["x"]) == (["cat", "ship"], [0.4, 0.77])
    assert clean["marker"]["symbol"] != attacked["marker"]["symbol"]
    assert attacked["error_x"]["array"] == pytest.approx([0.02, 0.02])


def test_certified_ones_have_a_column(measures: dict[str, Any]) -> None:
    measures["classes"]["certified"] = {"name": "certified-l2", "norm": "2", "epsilon": 1.0}
    measures["classes"]["rows"][0]["certified"] = measures["classes"]["rows"][0]["attacked"]
    shown = of_classes(measures)
    assert words(shown.columns[2]) == "Certified by certified-l2, ℓ2 ε = 1"
    assert shown.figure.plot["data"][2]["x"] == [0.4]


def test_the_weakest_class_is_named(measures: dict[str, Any]) -> None:
    assert words(of_classes(measures).verdict) == (
        "Weakest, attacked by standard-linf, ℓ∞ ε = 0.3, is class dog with 12.0 %; "
        "strongest is ship with 77.0 %."
    )
    measures["classes"]["attacked"] = None
    assert words(of_classes(measures).verdict).startswith("Weakest, clean, is class dog with 97.0 %")
    measures["classes"]["rows"] = []
    assert of_classes(measures) is None


def test_of_many_classes_the_weakest_are_drawn(measures: dict[str, Any]) -> None:
    row = measures["classes"]["rows"][0]
    measures["classes"]["rows"] = [
        row | {"class": f"c{number}", "attacked": row["attacked"] | {"accuracy": 1 - number / 100}}
        for number in range(40)
    ]
    shown = of_classes(measures)
    assert shown.figure.plot["data"][0]["y"] == [f"c{number}" for number in range(10, 40)]
    assert "the 30 weakest of 40 classes" in shown.figure.caption
    assert len(shown.rows) == 40


def test_a_matrix_holds_counts_and_shares_of_its_rows(measures: dict[str, Any]) -> None:
    clean, attacked = of_confusion(measures).matrices
    assert (clean.title, words(attacked.title)) == ("Clean images", "Under standard-linf, ℓ∞ ε = 0.3")
    name, cells = attacked.rows[1]
    assert (name, cells) == ("dog", [("80", 0.8), ("12", 0.12), ("8", 0.08)])
    assert [(each.true, each.predicted, each.number) for each in attacked.mistakes[:2]] == [
        ("dog", "cat", "80"),
        ("cat", "dog", "55"),
    ]
    assert len(clean.mistakes) == 3  # what never happened is no mistake


def test_too_many_classes_have_no_matrix(write_run: WriteRun, measures: dict[str, Any]) -> None:
    counts = [[5 if row == column else 0 for column in range(25)] for row in range(25)]
    counts[7][9] = 3
    names = [f"c{number}" for number in range(25)]
    measures["confusion"] = {"class_names": names, "clean": counts, "attacked": None}
    (clean,) = of_confusion(measures).matrices
    assert clean.rows == []
    assert [(each.true, each.predicted, each.share) for each in clean.mistakes] == [("c7", "c9", 3 / 8)]
    page = report(write_run(metrics=measures)).read_text(encoding="utf-8")
    assert "25 classes are too many for a matrix" in page


def test_an_empty_row_is_no_division_by_zero(measures: dict[str, Any]) -> None:
    measures["confusion"]["clean"][0] = [0, 0, 0]
    assert of_confusion(measures).matrices[0].rows[0] == ("cat", [("0", 0.0)] * 3)


def test_the_page_has_both_sections(write_run: WriteRun, measures: dict[str, Any]) -> None:
    page = words(report(write_run(metrics=measures)).read_text(encoding="utf-8"))
    assert ">Each class</h2>" in page
    assert ">What is taken for what</h2>" in page
    assert '<td class="heat-cell right-answer" style="--share: 0.120">12</td>' in page
    assert page.count("heat-cell right-answer") == 6
    assert "Most often: dog taken for cat (80), cat taken for dog (55)" in page
    assert ">Classes and confidence</button>" in page


@pytest.mark.parametrize("content", [{}, {"classes": None, "confusion": None}])
def test_without_them_there_is_no_tab(
    write_run: WriteRun, metrics: dict[str, Any], content: dict[str, Any]
) -> None:
    page = report(write_run(metrics=metrics | content)).read_text(encoding="utf-8")
    assert ">Classes and confidence<" not in page


@pytest.mark.parametrize(
    ("part", "matrix"),
    [("clean", [[1, 2], [3, 4]]), ("clean", [[1, 2, 3], [1, 2], [1, 2, 3]]), ("attacked", [])],
)
def test_damage_is_named(
    write_run: WriteRun, measures: dict[str, Any], part: str, matrix: list[list[int]]
) -> None:
    confusion = measures["confusion"]
    confusion[part] = confusion[part] | {"matrix": matrix} if part == "attacked" else matrix
    with pytest.raises(RunFolderError, match="confusion must hold a row and a column for each"):
        report(write_run(metrics=measures))
