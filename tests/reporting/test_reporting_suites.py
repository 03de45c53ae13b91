"""The page's section on a suite of attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.sections import attack_suites as attacks
from withstand.results.measurements import ATTACKED, CLEAN
from withstand.results.random_answers import Sampling


def view(evaluated: Any) -> Any:
    (shown,) = attacks.suites(evaluated.run())
    return shown


def with_counts(everything: Any, place: int, **numbers: list[int]) -> Any:
    """With other counts of the suite at one of its epsilons."""
    suite, *others = everything.results.attacks
    counts = list(suite.counts)
    counts[place] = replace(counts[place], **numbers)
    return everything.but(attacks=[replace(suite, counts=counts), *others])


def with_correct(everything: Any, rights: Sequence[int], total: int = 1000, clean: int = 981) -> Any:
    """With so many correct after the suite at each epsilon, of so many predictions."""
    left = iter(rights)
    rows = []
    for row in everything.rows:
        if row.measure == CLEAN:
            row = replace(row, correct=clean, total=total)
        if row.measure == ATTACKED and row.by == "standard-linf":
            row = replace(row, correct=next(left), total=total)
        rows.append(row)
    return replace(everything, rows=tuple(rows))


def bars(shown: Any) -> dict[str, Any]:
    return {bar["name"]: bar["y"] for bar in shown.figures[0].plot["data"]}


def test_suite_bars_are_all_examples(everything: Any) -> None:
    parts = bars(view(everything))
    assert list(parts) == ["robust", "square", "apgd-dlr", "pgd-margin", "wrong before"]
    assert parts["pgd-margin"] == [0.06, 0.53]
    assert parts["square"] == [0.0, 0.003]
    assert parts["robust"] == [0.907, 0.4]
    assert parts["wrong before"] == [0.019, 0.019]
    assert [sum(shares) for shares in zip(*parts.values(), strict=True)] == pytest.approx([1.0, 1.0])


def test_suite_bars_differ_in_more_than_colour(everything: Any, build: Any) -> None:
    (figure,) = view(everything).figures
    assert figure.title == "Examples broken by each attack, standard-linf"
    assert [bar["marker"]["pattern"]["shape"] for bar in figure.plot["data"]] == ["", "-", "x", "/", ""]
    assert build.plain(figure.plot["data"][3]["hovertext"][1]) == (
        "<b>pgd-margin</b><br>ε = 0.3: 530 of 1,000, 53.0 %"
    )


def test_suite_table_says_of_how_many(everything: Any, build: Any) -> None:
    (table,) = view(everything).tables
    assert build.texts(table.header) == [
        *(
            "ε",
            "Wrong before",
            "pgd-margin white-box",
            "apgd-dlr white-box",
            "square black-box",
            "Robust",
        ),
    ]
    assert build.texts(table.rows[1]) == ["0.3", "19", "530 of 981", "48 of 451", "3 of 403", "400 of 1,000"]


@pytest.mark.parametrize(
    ("broken", "verdict"),
    [
        (
            [530, 48, 3],
            "pgd-margin broke the most, 530 of the 581 broken there. The attacks after it broke 51 more",
        ),
        ([530, 0, 0], "The attacks after it broke no more."),
        ([3, 48, 530], "square broke the most, 530 of the 581 broken there. It is the last of the suite"),
        ([0, 0, 0], "no attack of the suite broke any example."),
    ],
)
def test_suite_verdict_names_the_strongest(
    everything: Any, build: Any, broken: list[int], verdict: str
) -> None:
    text = build.plain(view(with_counts(everything, 1, broken=broken)).prose[0].text)
    assert text.startswith("At ℓ∞ ε = 0.3, ")
    assert verdict in text


def test_suite_verdict_is_of_an_epsilon_with_robust_examples(everything: Any, build: Any) -> None:
    verdict = build.plain(view(with_correct(everything, [0, 907])).prose[0].text)  # rows have 0.1 first
    assert verdict.startswith("At ℓ∞ ε = 0.3")
    verdict = build.plain(view(with_correct(everything, [907, 0])).prose[0].text)
    assert verdict.startswith("At ℓ∞ ε = 0.1, pgd-margin broke the most, 60")


def test_suite_separates_examples_broken_at_a_smaller_epsilon(everything: Any, build: Any) -> None:
    shown = view(with_counts(everything, 1, attacked=[907, 451, 403], broken=[456, 48, 3]))
    (table,) = shown.tables
    assert build.texts(table.header)[1:3] == ["Wrong before", "Broken at a smaller epsilon"]
    assert [build.texts(row)[1:3] for row in table.rows] == [["19", "0"], ["19", "74"]]
    parts = bars(shown)
    assert parts["broken at a smaller epsilon"] == pytest.approx([0, 0.074])
    assert [sum(shares) for shares in zip(*parts.values(), strict=True)] == pytest.approx([1.0, 1.0])
    assert "or broken at a smaller epsilon" in shown.figures[0].caption


def test_suite_of_drawn_answers_counts_examples_not_predictions(everything: Any, build: Any) -> None:
    drawn = with_correct(everything, [1813, 800], 2000, clean=1961).but(sampling=Sampling("", 1, 2, None))
    shown = view(drawn)
    assert [build.texts(row)[1::4] for row in shown.tables[0].rows] == [
        ["19.5", "906.5 of 1,000"],
        ["19.5", "400 of 1,000"],
    ]
    assert "of its 2 predictions" in shown.prose[0].text
    parts = bars(shown)
    assert [sum(shares) for shares in zip(*parts.values(), strict=True)] == pytest.approx(
        [1.0, 1.0], abs=0.002
    )


def test_suite_is_on_the_page(write_run: Any, everything: Any) -> None:
    suite, *others = everything.results.attacks
    stages = [replace(suite.stages[0], description="<i>evil</i>"), *suite.stages[1:]]
    whole = everything.but(attacks=[replace(suite, stages=stages), *others])
    page = report(write_run(evaluated=whole)).read_text(encoding="utf-8")
    assert ">Suite standard-ℓ∞, ℓ∞</h2>" in page
    assert '<th scope="col">square <small>black-box</small></th>' in page
    assert "&lt;i&gt;evil&lt;/i&gt;" in page


def test_attack_without_stages_is_no_suite(write_run: Any, everything: Any) -> None:
    suite, *others = everything.results.attacks
    plain = everything.but(attacks=[replace(suite, stages=[], counts=[]), *others])
    assert attacks.suites(plain.run()) == []
    assert ">Suite " not in report(write_run(evaluated=plain)).read_text(encoding="utf-8")
