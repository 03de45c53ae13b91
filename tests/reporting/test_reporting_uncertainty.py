"""The page's section on uncertainty."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from withstand.reporting import report
from withstand.reporting.sections import confidence
from withstand.results.random_answers import Uncertainty, UncertaintySet

HISTOGRAMS = {
    "entropy": [90, 10, 0],
    "expected_entropy": [98, 1, 1],
    "mutual_information": [100, 0, 0],
}
MEANS = {"entropy": 0.5, "expected_entropy": 0.375, "mutual_information": 0.125}


def one_set(name: str, kind: Any, auroc: float | None = 0.75) -> UncertaintySet:
    accuracy, error = (None, None) if kind == "out-of-distribution" else (0.9, 0.0314)
    return UncertaintySet(name, kind, 100, accuracy, error, auroc, MEANS, MEANS, HISTOGRAMS)


def uncertainty(*sets: UncertaintySet) -> Uncertainty:
    return Uncertainty("How.", 50, 10, [0.0, 0.5, 1.0, 1.5], [*sets])


def view(evaluated: Any, *sets: UncertaintySet) -> Any:
    return confidence.uncertainty(evaluated.but(uncertainty=uncertainty(*sets)).run())


CLEAN = one_set("clean", "clean", None)
OTHER = one_set("<other>", "out-of-distribution")


def drawn(shown: Any) -> list[str]:
    return [trace["name"] for trace in shown.figures[0].plot["data"]]


def test_uncertainty_rows_hold_the_numbers_and_dashes(evaluated: Any, build: Any) -> None:
    shown = view(evaluated, CLEAN, OTHER)
    assert [build.texts(row) for row in shown.tables[0].rows] == [
        ["clean", "clean", "100", "90.0 %", "0.031", "0.500", "0.375", "0.125", "—"],
        ["<other>", "out-of-distribution", "100", "—", "—", "0.500", "0.375", "0.125", "0.750"],
    ]
    assert "2.303 for knowing nothing, over 50 draws" in shown.prose[0].text
    assert shown.across == 3


def test_uncertainty_has_a_histogram_a_measure(evaluated: Any) -> None:
    figures = {figure.title: figure for figure in view(evaluated, CLEAN, OTHER).figures}
    assert [*figures] == ["Predictive entropy", "Expected entropy", "Mutual information"]
    clean, other = figures["Predictive entropy"].plot["data"]
    assert clean["x"] == [0.0, 0.5, 1.0, 1.5]
    assert clean["y"][:2] == [0.9, 0.1]
    assert clean["fill"] == "tozeroy"
    assert "fill" not in other
    assert other["name"] == "&lt;other&gt;"
    looks = {(trace["line"]["dash"], trace["marker"]["symbol"]) for trace in (clean, other)}
    assert len(looks) == 2
    ranges = [figure.plot["layout"]["xaxis"]["range"] for figure in figures.values()]
    assert ranges == [[0, 1.0], [0, 1.5], [0, 0.5]]  # as far as there is any image
    assert "(nats)" in figures["Mutual information"].plot["layout"]["xaxis"]["title"]["text"]


def test_uncertainty_draws_an_empty_bin_of_a_small_set_below_the_floor(evaluated: Any) -> None:
    predictive, _, information = view(evaluated, replace(CLEAN, num_examples=10_000), OTHER).figures
    for figure, place in ((predictive, 2), (information, 1)):
        floor = 10 ** figure.plot["layout"]["yaxis"]["range"][0]
        assert all(0 < trace["y"][place] < floor < 1 / 10_000 for trace in figure.plot["data"])


def test_uncertainty_draws_some_of_many_sets_and_lists_all(evaluated: Any) -> None:
    attacked = [one_set(f"{name}@{eps}", "attacked") for name in ("pgd", "fgsm") for eps in (1, 2, 3, 4, 5)]
    shown = view(evaluated, CLEAN, *attacked, OTHER)
    assert len(shown.tables[0].rows) == 12
    assert drawn(shown) == ["clean", "pgd@1", "pgd@3", "pgd@5", "&lt;other&gt;"]
    assert "Drawn are 5 of 12 sets" in shown.figures[0].caption
    assert drawn(view(evaluated, CLEAN, attacked[0])) == ["clean", "pgd@1"]


def test_uncertainty_leaves_room_for_an_attack_beside_other_data(evaluated: Any) -> None:
    others = [one_set(f"other{number}", "out-of-distribution") for number in range(6)]
    attacked = [one_set(f"pgd@{number}", "attacked") for number in range(3)]
    names = drawn(view(evaluated, CLEAN, *attacked, *others))
    assert names == ["clean", "pgd@2", "other0", "other1", "other2"]


def test_uncertainty_is_on_the_page_where_there_are_sets(write_run: Any, evaluated: Any) -> None:
    folder = write_run(evaluated=evaluated.but(uncertainty=uncertainty(CLEAN, OTHER)))
    text = report(folder).read_text(encoding="utf-8")
    assert ">Uncertainty</h2>" in text
    assert "&lt;other&gt;" in text
    assert view(evaluated) is None
