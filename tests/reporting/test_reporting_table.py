"""Selections of the table of measurements."""

from __future__ import annotations

from typing import Any

import pytest

from withstand.reporting import table
from withstand.results.measurements import ATTACKED, CERTIFIED, CORRUPTED, NOISE_ACCURACY
from withstand.results.results import Noise, Published


def places(rows: list[Any]) -> list[tuple[str, float, str, int]]:
    return [(row.norm, row.level, row.by, row.correct) for row in rows]


def test_strongest_takes_the_lowest_at_each_norm_and_epsilon(evaluated: Any) -> None:
    other = evaluated.attacked("pgd-l2", "2", {0.1: 900, 0.0: 981})
    assert places(table.strongest(other.run())) == [
        ("inf", 0.1, "fgsm", 905),
        ("inf", 0.3, "pgd-200", 402),
        ("2", 0.1, "pgd-l2", 900),
    ]
    assert table.norms(other.run()) == ["inf", "2"]
    assert table.strongest(evaluated.without(ATTACKED).run()) == []


def test_rows_at_an_epsilon_allow_for_rounding(certified: Any) -> None:
    run = certified.run()
    attacked = table.at(table.strongest(run), "linf", 0.3000000001)
    assert attacked is not None
    assert attacked.by == "pgd-200"
    assert table.at(table.strongest(run), "inf", 0.2) is None
    assert table.at(table.strongest(run), "2", 0.3) is None
    proven = table.at(table.most_certified(run), "2", 0.5000000001)
    assert proven is not None
    assert (proven.by, proven.correct) == ("certified-box-l2", 710)
    assert table.method_name(run.results, "certified-box-ball-linf") == "box and ball"
    assert table.at(table.most_certified(run), "2", 0.6) is None
    assert table.at(table.most_certified(run), "inf", 0.5) is None


def test_headline_certificate_is_the_largest_better_than_chance(certified: Any, build: Any) -> None:
    def levels(of: Any) -> list[tuple[str, float]]:
        return [(row.norm, row.level) for row in table.headline_certificates(of.run())]

    assert levels(certified) == [("2", 1.0), ("inf", 0.1)]
    none = certified.without(CERTIFIED)
    assert levels(none) == []
    below = [build.measured(CERTIFIED, 0, "certified-l2", "2", epsilon) for epsilon in (0.5, 1.0)]
    assert levels(none.plus(*below)) == [("2", 0.5)]  # the smallest, where all is below chance
    figures = [Published("certified", 0.482, "s", "2", epsilon) for epsilon in (0.5, 0.7)]
    assert levels(certified.but(published=figures)) == [("2", 0.5), ("inf", 0.1)]  # what was published


def test_headline_attacks_are_some_of_many_epsilons(certified: Any) -> None:
    many = certified.attacked("pgd-l2", "2", {number / 20: 200 for number in range(1, 31)})
    levels = [row.level for row in table.headline_attacks(many.run()) if row.norm == "2"]
    assert len(levels) == 7
    assert (levels[0], levels[-1]) == (0.05, 1.5)
    assert 1.0 in levels  # beside the certified figure


def test_chance_is_that_of_all_runs_or_none(evaluated: Any) -> None:
    run, other = evaluated.run(), evaluated.but(num_classes=4).run()
    assert table.chance_of([run, run]) == 0.1
    assert table.chance_of([run, other]) is None
    assert table.chance_of([run, evaluated.run(results=None)]) == 0.1


def test_means_and_areas_over_levels(evaluated: Any, build: Any) -> None:
    shares = {0.5: 200, 0.0: 900, 0.25: 400}
    rows = [
        build.measured(NOISE_ACCURACY, correct, "unclipped", level=std) for std, correct in shares.items()
    ]
    run = evaluated.but(noise=Noise("", 1, shell=True)).plus(*rows).run()
    assert table.mean_over_levels(run.table, NOISE_ACCURACY, "unclipped") == pytest.approx(0.5)
    assert table.area_over_levels(run.table, NOISE_ACCURACY, "unclipped") == pytest.approx(0.475)
    assert table.mean_over_levels(run.table, NOISE_ACCURACY, "clipped") is None
    assert table.area_over_levels(run.table, NOISE_ACCURACY, "clipped") is None
    assert table.noise_scale(run) == "3 levels of noise_std to 0.5, on the shell"
    assert table.noise_scale(evaluated.run()) is None


def test_corruption_mean_is_of_all_kinds_and_severities(evaluated: Any, build: Any) -> None:
    rows = [build.measured(CORRUPTED, correct, kind, level=1) for kind, correct in (("a", 800), ("b", 400))]
    assert table.corruption_mean(evaluated.plus(*rows).run().table) == pytest.approx(0.6)
    assert table.corruption_mean(evaluated.run().table) is None
