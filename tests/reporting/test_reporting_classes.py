"""The page's sections on each class, and on what is taken for what."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.sections.accuracy_by_class import section
from withstand.results.results import Classes, Confusion, Target


def named(key: str, everything: Any) -> Any:
    """The section of a key; None where there is none."""
    return next((shown for shown in section(everything.run()) if shown.key == key), None)


def with_accuracies(everything: Any, accuracies: list[Any], **fields: Any) -> Any:
    whole = replace(everything.results.classes, accuracies=accuracies, **fields)
    return named("classes", everything.but(classes=whole))


def confused(everything: Any, whole: Classes) -> Any:
    return named("confusion", everything.but(classes=whole))


def test_classes_have_a_dot_each_and_measure(everything: Any, build: Any) -> None:
    cat, dog, ship = everything.results.classes.accuracies
    shown = with_accuracies(everything, [cat, replace(dog, attacked=None), ship])
    (table,) = shown.tables
    assert build.texts(table.header) == ["Class", "Clean", "Attacked by standard-linf, ℓ∞ ε = 0.3"]
    assert build.texts(table.rows[1]) == [
        "dog",
        "97.0 % 95.0\N{EN DASH}99.0 %, 97 of 100",
        "not measured",
    ]
    clean, attacked = shown.figures[0].plot["data"]
    assert (clean["y"], clean["x"]) == (["cat", "dog", "ship"], [0.98, 0.97, 0.99])
    assert (attacked["y"], attacked["x"]) == (["cat", "ship"], [0.4, 0.77])
    assert clean["marker"]["symbol"] != attacked["marker"]["symbol"]
    assert attacked["error_x"]["array"] == pytest.approx([0.02, 0.02])
    assert build.plain(attacked["hovertext"][0]) == (
        "<b>cat</b><br>Attacked by standard-linf, ℓ∞ ε = 0.3: 40.0 %<br>95 % interval 38.0\N{EN DASH}42.0 %"
    )


def test_certified_classes_have_a_column(everything: Any, build: Any) -> None:
    cat, *others = everything.results.classes.accuracies
    target = Target("certified-l2", "2", 1.0)
    shown = with_accuracies(everything, [replace(cat, certified=cat.attacked), *others], certified=target)
    assert build.texts(shown.tables[0].header)[3] == "Certified by certified-l2, ℓ₂ ε = 1"
    assert shown.figures[0].plot["data"][2]["x"] == [0.4]


def test_weakest_class_is_named(everything: Any, build: Any) -> None:
    shown = with_accuracies(everything, everything.results.classes.accuracies)
    assert build.plain(shown.prose[0].text) == (
        "Weakest, attacked by standard-linf, ℓ∞ ε = 0.3, is class dog with 12.0 %; "
        "strongest is ship with 77.0 %."
    )
    clean = with_accuracies(everything, everything.results.classes.accuracies, attacked=None)
    assert build.plain(clean.prose[0].text).startswith("Weakest, clean, is class dog with 97.0 %")
    assert with_accuracies(everything, []) is None


def test_many_classes_are_drawn_by_their_weakest(everything: Any) -> None:
    first = everything.results.classes.accuracies[0]
    many = [
        replace(first, name=f"c{number}", attacked=replace(first.attacked, value=1 - number / 100))
        for number in range(40)
    ]
    shown = with_accuracies(everything, many)
    assert shown.figures[0].plot["data"][0]["y"] == [f"c{number}" for number in range(10, 40)]
    assert "the 30 weakest of 40 classes" in shown.figures[0].caption
    assert len(shown.tables[0].rows) == 40


def test_confusion_holds_counts_and_shares_of_its_rows(everything: Any, build: Any) -> None:
    clean, attacked = confused(everything, everything.results.classes).tables
    assert (clean.title, build.plain(attacked.title)) == (
        "Clean images",
        "Under standard-linf, ℓ∞ ε = 0.3",
    )
    assert build.texts(attacked.rows[1]) == ["dog", "80", "12", "8"]
    assert [cell.shade for cell in attacked.rows[1][1:]] == [0.8, 0.12, 0.08]
    assert [cell.kind for cell in attacked.rows[1][1:]] == ["", "correct-answer", ""]
    assert "Most often: dog taken for cat (80), cat taken for dog (55)" in attacked.caption
    assert clean.caption.count("taken for") == 3  # what never happened is no mistake


def test_confusion_of_too_many_classes_has_no_matrix(everything: Any, build: Any) -> None:
    counts = [[5 if row == column else 0 for column in range(25)] for row in range(25)]
    perfect = [list(row) for row in counts]
    counts[7][9] = 3
    names = [f"c{number}" for number in range(25)]
    target = Target("pgd", "inf", 0.3)
    whole = Classes(names, target, None, [], Confusion(counts, perfect))
    shown = confused(everything, whole)
    (clean,) = shown.tables
    assert [build.texts(row) for row in clean.rows] == [["c7", "c9", "3", "37.5 %"]]
    assert "25 classes are too many for a matrix" in clean.caption
    assert clean.kind == "mistakes"
    (note,) = shown.notes
    assert build.plain(note.text) == "Under pgd, ℓ∞ ε = 0.3: no image was taken for another class."


def test_empty_row_of_confusion_is_no_division_by_zero(everything: Any, build: Any) -> None:
    whole = everything.results.classes
    counts = [[0, 0, 0], *whole.confusion.clean[1:]]
    shown = confused(everything, replace(whole, confusion=Confusion(counts, None)))
    assert build.texts(shown.tables[0].rows[0]) == ["cat", "0", "0", "0"]
    assert len(shown.tables) == 1


def test_classes_and_confusion_are_on_the_page(write_run: Any, everything: Any, build: Any) -> None:
    page = build.plain(report(write_run(evaluated=everything)).read_text(encoding="utf-8"))
    assert ">Each class</h2>" in page
    assert ">What is taken for what</h2>" in page
    assert page.count("correct-answer") - page.count(".correct-answer") == 6
    assert "Most often: dog taken for cat (80), cat taken for dog (55)" in page
    assert ">Classes and confidence</button>" in page
