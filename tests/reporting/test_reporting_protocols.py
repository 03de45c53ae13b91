"""Published protocols on the page: like beside like, and ours under an adaptive attack beside both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from withstand.reporting import report
from withstand.reporting.sections.published import is_of_protocol, protocols, published
from withstand.results.measurements import protocol_measure
from withstand.results.random_answers import ProtocolInfo, Sampling
from withstand.results.results import Published

FIGURE = Published("attacked", 0.857, "Somebody", "inf", 0.1, attack="fgsm")


def under_sebr(build: Any, evaluated: Any, **corrects: Mapping[float, int]) -> Any:
    """With SEBR's protocol, of whose attacks so many of a thousand are correct at each epsilon."""
    measure = protocol_measure("sebr")
    rows = [
        build.measured(measure, correct, attack, "inf", epsilon)
        for attack, of_attack in corrects.items()
        for epsilon, correct in of_attack.items()
    ]
    attacks = {attack: f"{attack} <as published>" for attack in corrects}
    whole = evaluated.but(protocols=[ProtocolInfo("sebr", "As published.", attacks)])
    return whole.plus(build.measured(measure, 970, "clean"), *rows)


@pytest.fixture
def under_protocol(build: Any, evaluated: Any) -> Any:
    """Our own attacks leave .907 (fgsm: .905) at 0.1 and .402 at 0.3."""
    figures = [
        Published("clean", 0.975, "Somebody"),
        FIGURE,
        Published("attacked", 0.5, "Somebody", "inf", 0.7, attack="fgsm"),
        Published("attacked", 0.6, "Somebody", "inf", 0.1),
    ]
    whole = evaluated.attacked("pgd-1-linf", "inf", {0.1: 920, 0.3: 450})
    whole = whole.attacked("pgd-1-linf-2", "inf", {0.1: 930, 0.3: 440}).attacked(
        "pgd-10-linf", "inf", {0.1: 910}
    )
    whole = under_sebr(build, whole, fgsm={0.1: 950, 0.2: 800, 0.3: 655}, pgd={0.3: 500})
    return whole.but(published=figures)


def verdicts(evaluated: Any) -> list[str]:
    (shown,) = protocols(evaluated.run())
    return [prose.text.replace("\N{NO-BREAK SPACE}", " ") for prose in shown.prose[1:]]


def test_protocol_has_published_ours_and_adaptive(under_protocol: Any, build: Any) -> None:
    (shown,) = protocols(under_protocol.run())
    assert shown.title == "Published protocol of SEBR"
    assert shown.notes[0].text == "As published."
    assert dict(shown.descriptions) == {"FGSM": "fgsm <as published>.", "PGD": "pgd <as published>."}
    assert build.texts(shown.tables[0].header) == [
        *("Accuracy", "Published", "Ours, same protocol", "Ours, adaptive", "Difference"),
        *("Worst of all attacks", "Source"),
    ]
    assert [build.texts(row) for row in shown.tables[0].rows] == [
        [
            *("Clean", "97.5 %", "97.0 % 95.0–99.0 %", "98.1 % 96.1–100.0 % as scored here", "−1.1"),
            *("—", "Somebody"),
        ],
        [
            *("FGSM, ℓ∞ ε = 0.1", "85.7 %", "95.0 % 93.0–97.0 %", "92.0 % 90.0–94.0 % pgd-1-linf", "+3.0"),
            *("90.5 % 88.5–92.5 % fgsm", "Somebody"),
        ],
        [
            *("FGSM, ℓ∞ ε = 0.2", "—", "80.0 % 78.0–82.0 %", "not measured", "—"),
            *("not measured", "—"),
        ],
        [
            *("FGSM, ℓ∞ ε = 0.3", "—", "65.5 % 63.5–67.5 %", "44.0 % 42.0–46.0 % pgd-1-linf-2", "+21.5"),
            *("40.2 % 38.2–42.2 % pgd-200", "—"),
        ],
        [
            *("PGD, ℓ∞ ε = 0.3", "—", "50.0 % 48.0–52.0 %", "40.2 % 38.2–42.2 % pgd-200", "+9.8"),
            *("40.2 % 38.2–42.2 % pgd-200", "—"),
        ],
    ]


def test_protocol_verdicts_compare_like_with_like(under_protocol: Any) -> None:
    of_one_step, of_many = verdicts(under_protocol)
    assert of_one_step.startswith("The protocol's FGSM flatters, by up to 21.5 points. At FGSM")
    assert "an adaptive attack of one step (pgd-1-linf-2) 44.0" in of_one_step
    assert of_one_step.endswith("What differs: the protocol lets images leave [0, 1].")
    assert of_many.startswith("The protocol's PGD flatters, by up to 9.8 points. At PGD")
    assert "the strongest attack run here (pgd-200)" in of_many
    assert "corner to corner" in of_many


def test_protocol_verdicts_say_what_differs_of_random_answers(under_protocol: Any) -> None:
    words = verdicts(under_protocol.but(sampling=Sampling("", 2, 1, None)))
    for verdict in words:
        assert "gradient of the mean network instead of the predictor that is scored" in verdict
        assert "averages over no draws" in verdict
    assert ["corner to corner" in verdict for verdict in words] == [False, True]


def test_protocol_of_one_step_is_not_compared_with_many(build: Any, evaluated: Any) -> None:
    whole = under_sebr(build, evaluated, fgsm={0.1: 950}, pgd={0.1: 950})
    (shown,) = protocols(whole.run())
    _, fgsm, pgd = map(build.texts, shown.tables[0].rows)
    assert fgsm[2:] == ["not measured", "—", "90.5 % 88.5–92.5 % fgsm"]
    assert pgd[2] == "90.5 % 88.5–92.5 % fgsm"
    (verdict,) = verdicts(whole)
    assert verdict.startswith("The protocol's PGD flatters")


def test_published_figure_of_a_protocol_is_not_beside_another_attack(under_protocol: Any, build: Any) -> None:
    shown = published(under_protocol.run())
    assert shown is not None
    words = [build.texts(row) for row in shown.tables[0].rows]
    assert [row[3] for row in words] == ["50 % as published", "60 % as published"]
    assert words[0][0].startswith("attacked by fgsm")
    without = under_protocol.but(protocols=[]).run()
    beside = published(without)
    assert beside is not None
    assert len(beside.tables[0].rows) == 4
    assert not is_of_protocol(without, FIGURE)


@pytest.mark.parametrize("change", [{"attack": "pgd"}, {"attack": None}, {"epsilon": 0.11}, {"norm": "2"}])
def test_published_figure_of_another_attack_or_epsilon_is_not_taken(
    build: Any, evaluated: Any, change: dict[str, Any]
) -> None:
    figures = [Published("clean", 0.9, "Somebody"), replace(FIGURE, **change)]
    (shown,) = protocols(under_sebr(build, evaluated, fgsm={0.1: 900}).but(published=figures).run())
    assert "Published" not in build.texts(shown.tables[0].header)
    assert not [row for row in shown.tables[0].rows if "Somebody" in build.texts(row)]


@pytest.mark.parametrize(
    ("ours", "words"), [(905, "agree at best"), (800, "harder than the strongest attack run here at every")]
)
def test_protocol_verdict_says_where_nothing_is_flattered(
    build: Any, evaluated: Any, ours: int, words: str
) -> None:
    (verdict,) = verdicts(under_sebr(build, evaluated, pgd={0.1: ours}))
    assert words in verdict


def test_protocol_without_attacks_of_our_own_has_no_verdict(build: Any, evaluated: Any) -> None:
    bare = replace(evaluated, rows=evaluated.rows[:1]).but(attacks=[])
    whole = under_sebr(build, bare, fgsm={0.1: 500})
    assert verdicts(whole) == []
    (shown,) = protocols(whole.run())
    assert build.texts(shown.tables[0].rows[1])[3] == "—"


def test_protocol_is_on_the_page_and_escaped(write_run: Any, under_protocol: Any) -> None:
    text = report(write_run(evaluated=under_protocol)).read_text(encoding="utf-8")
    assert ">Published protocol of SEBR</h2>" in text
    assert "fgsm &lt;as published&gt;" in text
    assert "not measured" in text


def test_protocols_have_sections_of_their_own(under_protocol: Any) -> None:
    infos = [*under_protocol.results.protocols, ProtocolInfo("other", "Otherwise.", {})]
    shown = protocols(under_protocol.but(protocols=infos).run())
    assert [(section.key, section.title) for section in shown] == [
        ("protocol", "Published protocol of SEBR"),
        ("protocol-2", "Published protocol of other"),
    ]
