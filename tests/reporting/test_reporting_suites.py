"""The page's section on a suite of attacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from withstand.reporting import report
from withstand.reporting.schema import Metrics
from withstand.reporting.suites import view_suites
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def views(metrics: dict[str, Any]) -> Any:
    return view_suites(cast("Metrics", metrics))


def words(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def test_each_bar_is_all_examples(measures: dict[str, Any]) -> None:
    (shown,) = views(measures)
    bars = {bar["name"]: bar["y"] for bar in shown.figure.plot["data"]}
    assert list(bars) == ["still standing", "square", "apgd-dlr", "pgd-margin", "wrong before"]
    assert bars["pgd-margin"] == [0.06, 0.53]
    assert bars["square"] == [0.0, 0.003]
    assert bars["still standing"] == [0.907, 0.4]
    assert bars["wrong before"] == [0.019, 0.019]
    assert [sum(parts) for parts in zip(*bars.values(), strict=True)] == pytest.approx([1.0, 1.0])


def test_no_bar_is_told_by_its_colour_alone(measures: dict[str, Any]) -> None:
    (shown,) = views(measures)
    patterns = [bar["marker"]["pattern"]["shape"] for bar in shown.figure.plot["data"]]
    assert patterns == ["", "-", "x", "/", ""]
    assert words(shown.figure.plot["data"][3]["hovertext"][1]) == (
        "<b>pgd-margin</b><br>epsilon 0.3: 530 of 1,000, 53.0 %"
    )


def test_the_table_says_of_how_many(measures: dict[str, Any]) -> None:
    (shown,) = views(measures)
    row = shown.rows[1]
    assert (row.epsilon, row.before, row.standing) == ("0.3", "19", "400 of 1,000")
    assert row.felled == [("530", "of 981"), ("48", "of 451"), ("3", "of 403")]


@pytest.mark.parametrize(
    ("felled", "verdict"),
    [
        (
            (530, 48, 3),
            "pgd-margin felled the most, 530 of the 581 that fell there. What came after it found 51 more",
        ),
        ((530, 0, 0), "What came after it found none more."),
        ((3, 48, 530), "square felled the most, 530 of the 581 that fell there. It is the last of the suite"),
        ((0, 0, 0), "no attack of the suite felled any example."),
    ],
)
def test_the_verdict_names_the_strongest(
    measures: dict[str, Any], felled: tuple[int, ...], verdict: str
) -> None:
    stages = measures["attacks"][0]["curve"][1]["stages"]
    for stage, number in zip(stages, felled, strict=True):
        stage["num_felled"] = number
    assert words(views(measures)[0].verdict).startswith("At ℓ∞ ε = 0.3, ")
    assert verdict in words(views(measures)[0].verdict)


def test_the_verdict_is_of_an_epsilon_at_which_examples_stand(measures: dict[str, Any]) -> None:
    measures["attacks"][0]["curve"][1] |= {"correct": 0, "accuracy": 0.0}
    assert words(views(measures)[0].verdict).startswith("At ℓ∞ ε = 0.1, pgd-margin felled the most, 60")


def test_what_fell_at_a_smaller_epsilon_was_not_wrong_before(measures: dict[str, Any]) -> None:
    measures["attacks"][0]["curve"][1]["stages"][0] |= {"num_attacked": 907, "num_felled": 456}
    (shown,) = views(measures)
    assert [(row.before, row.earlier) for row in shown.rows] == [("19", "0"), ("19", "74")]
    bars = {bar["name"]: bar["y"] for bar in shown.figure.plot["data"]}
    assert bars["felled at a smaller epsilon"] == pytest.approx([0, 0.074])
    assert [sum(parts) for parts in zip(*bars.values(), strict=True)] == pytest.approx([1.0, 1.0])
    assert "or fell at a smaller epsilon" in shown.figure.caption


def test_drawn_answers_count_examples_not_predictions(measures: dict[str, Any]) -> None:
    measures["sampling"] = {"num_repeats": 2}
    measures["clean"] |= {"correct": 1961, "total": 2000}
    for point, right in zip(measures["attacks"][0]["curve"], (1813, 800), strict=True):
        point |= {"correct": right, "total": 2000}
    (shown,) = views(measures)
    assert [(row.before, row.standing) for row in shown.rows] == [
        ("19.5", "906.5 of 1,000"),
        ("19.5", "400 of 1,000"),
    ]
    assert "of its 2 predictions" in shown.note
    assert [sum(parts) for parts in zip(*(bar["y"] for bar in shown.figure.plot["data"]), strict=True)] == (
        pytest.approx([1.0, 1.0], abs=0.002)
    )


def test_the_page_has_the_section(write_run: WriteRun, measures: dict[str, Any]) -> None:
    measures["attacks"][0]["stages"][0]["description"] = "<i>evil</i>"
    page = report(write_run(metrics=measures)).read_text(encoding="utf-8")
    assert ">Suite standard-linf, ℓ∞</h2>" in page
    assert '<th scope="col">square <small>black-box</small></th>' in page
    assert "&lt;i&gt;evil&lt;/i&gt;" in page


@pytest.mark.parametrize("stages", [None, []])
def test_without_stages_there_is_no_section(
    write_run: WriteRun, measures: dict[str, Any], stages: list[str] | None
) -> None:
    measures["attacks"][0]["stages"] = stages
    assert views(measures) == []
    assert ">Suite " not in report(write_run(metrics=measures)).read_text(encoding="utf-8")


def test_damage_is_named(write_run: WriteRun, measures: dict[str, Any]) -> None:
    del measures["attacks"][0]["curve"][0]["stages"][1]["num_felled"]
    fault = r"attacks\[0\]\.curve\[0\]\.stages\[1\]\.num_felled is missing"
    with pytest.raises(RunFolderError, match=fault):
        report(write_run(metrics=measures))
