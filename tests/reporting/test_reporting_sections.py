"""The sections that every run has, and how sections are found."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any

import pytest

from withstand.core.trust import trusting
from withstand.reporting.read import Run
from withstand.reporting.section import Cell, Section
from withstand.reporting.sections import accuracy, origin, published, sections_of
from withstand.reporting.sections import headlines as results
from withstand.results.measurements import CERTIFIED, ROUNDING, Measurement
from withstand.results.results import Published
from withstand.types import RunFolderError


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def texts(cells: Any) -> list[str]:
    """What stands in a row, with what is small after it."""
    return [
        plain(" ".join([cell.text, *cell.small])) if isinstance(cell, Cell) else plain(cell) for cell in cells
    ]


def test_cards_say_how_many_are_correct_and_under_what(evaluated: Any) -> None:
    cards = results.headline(evaluated.run()).cards
    assert [(plain(card.label), plain(card.value)) for card in cards] == [
        ("Clean accuracy", "98.1 %"),
        ("Attacked, ℓ∞ ε = 0.1", "90.5 %"),
        ("Attacked, ℓ∞ ε = 0.3", "40.2 %"),
        ("Data set", "MNIST"),
    ]
    assert [plain(detail) for detail in cards[2].details] == [
        "95 % interval 38.2\N{EN DASH}42.2 %",
        "under pgd-200",
        "402 of 1,000 correct",
    ]


def test_nothing_left_is_a_line_and_no_card(certified: Any) -> None:
    nothing = certified.attacked("fab", "inf", {0.3: 0, 0.5: 0}).certified(
        "certified-linf", "inf", "box", {0.1: 0}
    )
    nothing = nothing.without(CERTIFIED).plus(*nothing.rows[-1:])
    shown = results.headline(nothing.run())
    assert [plain(card.value) for card in shown.cards].count("0.0 %") == 0
    assert [plain(note.text) for note in shown.notes] == [
        "Under attack nothing is left from ℓ∞ ε = 0.3 on: 0 of 1,000.",
        "Nothing is certified from ℓ∞ ε = 0.1 on: 0 of 1,000.",
    ]


def test_cards_of_certified_accuracy_are_beside_the_attacked_ones(certified: Any) -> None:
    cards = results.headline(certified.run()).cards
    assert [plain(card.label) for card in cards] == [
        "Clean accuracy",
        "Attacked, ℓ∞ ε = 0.1",
        "Certified, ℓ∞ ε = 0.1",
        "Attacked, ℓ∞ ε = 0.3",
        "Attacked, ℓ₂ ε = 0.5",
        "Attacked, ℓ₂ ε = 1",
        "Certified, ℓ₂ ε = 1",  # at 1.5 guessing does better
        "Attacked, ℓ₂ ε = 1.5",
        "Data set",
    ]
    assert [plain(detail) for detail in cards[6].details] == [
        "95 % interval 38.0\N{EN DASH}42.0 %",
        "proven, method best",
        "400 of 1,000 certified",
    ]
    assert "method box and ball" in cards[2].details[1]
    words = " ".join(" ".join([card.label, *card.details]) for card in cards if "ertified" in card.label)
    assert "robust" not in words


def test_published_figures_are_beside_ours(certified: Any) -> None:
    figures = [
        Published("clean", 0.99, "s"),
        Published("attacked", 0.94, "s", "inf", 0.3),
        Published("attacked", 0.94, "s", "2", 0.3),
        Published("attacked", 0.94, "s"),
        Published("certified", 0.482, "s", "2", 0.5, note="n"),
        Published("certified", 0.5, "s", "2", 0.7),
    ]
    shown = published.published(certified.but(published=figures).run())
    assert shown is not None
    dash, ends = "\N{EM DASH}", "96.1\N{EN DASH}100.0 %"
    assert [texts(row) for row in shown.tables[0].rows] == [
        ["clean", "98.1 %", ends, "99 % as published", "s"],
        ["attacked, ℓ∞ ε = 0.3", "40.2 % pgd-200", "38.2\N{EN DASH}42.2 %", "94 % as published", "s"],
        ["attacked, ℓ₂ ε = 0.3", "not measured", dash, "94 % as published", "s"],
        ["attacked", "not measured", dash, "94 % as published", "s"],
        [
            *("certified, ℓ₂ ε = 0.5", "71.0 % certified (box)", "69.0\N{EN DASH}73.0 %"),
            *("48.2 % as published", "s n"),
        ],
        ["certified, ℓ₂ ε = 0.7", "not measured", dash, "50 % as published", "s"],
    ]
    assert published.published(certified.run()) is None


def test_certificates_are_described_with_their_radii(certified: Any) -> None:
    shown = accuracy.section(certified.run())
    assert shown is not None
    described = dict(shown.descriptions)
    assert described["certified-l2"] == (
        "certified-l2 in words. Certified radius: mean 0.7125, median 0.65, largest 1.75."
    )
    assert described["certified-box-l2"] == "certified-box-l2 in words."
    assert described["fgsm"] == "fgsm in words."


def test_certificates_are_described_with_their_arithmetic(certified: Any) -> None:
    """It stands on the page once, and the figure itself nowhere else."""
    infos = [replace(info, arithmetic="It runs in float32.") for info in certified.results.certificates]
    figure = Measurement(ROUNDING, "certified-l2", "2", value=2.6e-7)
    page = sections_of(certified.but(certificates=infos).plus(figure).run())
    described = dict(next(shown for shown in page if shown.key == "accuracy").descriptions)
    assert described["certified-l2"].endswith(" largest 1.75. It runs in float32.")
    assert described["certified-box-l2"] == "certified-box-l2 in words. It runs in float32."
    assert all(shown.key != "other" for shown in page)


def test_costs_are_shown_where_they_are_known(make_run: Any) -> None:
    def costs(name: str, environment: Any) -> dict[str, str]:
        run = make_run(name, environment=environment)
        return {name: plain(value) for name, value in origin.cost_rows(run.environment)}

    cost = {"train_seconds": 100.0, "train_steps": 400, "peak_memory_bytes": 3 * 2**20}
    assert costs("one", {"cost": cost}) == {
        "Training time": "1 min 40 s",
        "Training steps": "400",
        "Time a step": "250 ms",
        "Peak memory": "3.0 MiB",
    }
    assert costs("two", {"cost": {"certify_seconds": 12.0}}) == {"Certification time": "12.0 s"}
    no_steps = {"cost": {"train_seconds": 1.5, "train_steps": 0}}
    assert costs("three", no_steps) == {"Training time": "1.5 s", "Training steps": "0"}
    assert costs("four", {}) == {}
    assert origin.cost_rows(None) == []


def test_environment_leaves_out_what_is_not_known(make_run: Any, environment: dict[str, Any]) -> None:
    parts = origin.section(make_run(environment=environment | {"seed": 0}))
    assert dict(parts[1].facts) == {
        "python version": "3.11.2",
        "torch version": "2.13.0",
        "Device": "cpu (2 threads)",
        "Seed": "0",
    }


@pytest.fixture
def own_module(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A module of a user with a section and what is none."""

    def section(run: Run) -> Section:
        return Section("mine", "Mine", "noise", measures=["mine"])

    module: Any = ModuleType("of_a_user")
    module.section, module.number, module.fails = section, lambda run: [1], lambda run: 1 / 0
    monkeypatch.setitem(sys.modules, "of_a_user", module)
    with trusting():
        yield


@pytest.mark.usefixtures("own_module")
def test_sections_of_a_users_own_are_in_their_tab(everything: Any) -> None:
    whole = everything.but(sections=["of_a_user:section"]).plus(Measurement("mine", value=0.5))
    keys = [section.key for section in sections_of(whole.run())]
    assert keys.index("mine") == keys.index("corruptions") + 1
    assert "other" not in keys


def test_other_measurements_are_shown_all_the_same(everything: Any) -> None:
    whole = everything.plus(Measurement("mine", value=0.5))
    other = next(section for section in sections_of(whole.run()) if section.key == "other")
    assert [texts(row)[0] for row in other.tables[0].rows] == ["mine"]


@pytest.mark.usefixtures("own_module")
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("not_there:section", "not_there:section.*cannot be made: ModuleNotFoundError"),
        ("of_a_user:other", "of_a_user:other.*AttributeError"),
        ("of_a_user:fails", "of_a_user:fails.*ZeroDivisionError"),
        ("of_a_user:number", "of_a_user:number made 1, but a section is"),
    ],
)
def test_sections_of_a_users_own_that_fail_are_named(evaluated: Any, name: str, message: str) -> None:
    with pytest.raises(RunFolderError, match=message):
        sections_of(evaluated.but(sections=[name]).run())
