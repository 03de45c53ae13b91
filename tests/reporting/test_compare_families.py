"""Which groups a line joins, which levels a figure tells apart, and the figure of clean accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from withstand.reporting.compare.comparison import Comparison
from withstand.reporting.compare.families import by_train_size, families_of, levels_of, shared_name
from withstand.reporting.compare.groups import Group
from withstand.reporting.compare.seeds import seeds_figure
from withstand.reporting.section import Figure


def group(label: str, **values: object) -> Group:
    return Group(label, {key.replace("__", "."): value for key, value in values.items()})


@pytest.fixture
def figure_of(evaluated: Any) -> Callable[..., Figure]:
    """The figure of groups by their runs' accuracies, each with so much to the left and right."""

    def of(accuracies: Mapping[str, Sequence[float]], **recipes: Sequence[object]) -> Figure:
        clean, *others = evaluated.rows
        runs = [
            replace(
                evaluated,
                rows=(replace(clean, value=value, lower=value - 0.05, upper=value + 0.02), *others),
            ).run(
                recipe={"name": f"{name}/seed={seed}", "seed": seed, "model": name}
                | {key: value[place] for key, value in recipes.items()}
            )
            for place, (name, values) in enumerate(accuracies.items())
            for seed, value in enumerate(values)
        ]
        return seeds_figure(Comparison(runs))

    return of


def test_family_joins_what_differs_in_one_number() -> None:
    families = families_of(
        [
            group("plain", objective="CrossEntropy"),
            group("gradient-1", objective="Sum", objective__weight=1.0, objective__term="G"),
            group("gradient-0.1", objective="Sum", objective__weight=0.1, objective__term="G"),
            group("other-0.1", objective="Sum", objective__weight=0.1, objective__term="O"),
        ]
    )
    assert [(family.name, family.word) for family in families] == [
        ("plain", None),
        ("gradient", "weight"),
        ("other-0.1", None),
    ]
    assert [(name, member.label) for name, member in families[1].members] == [
        ("0.1", "gradient-0.1"),
        ("1", "gradient-1"),
    ]


def test_families_hold_every_group_once_and_join_sizes_last() -> None:
    groups = [
        group(f"w={weight}, size={size}", data__train_size=size, x__weight=weight)
        for weight in (1, 2)
        for size in (10, 20, 30)
    ]
    families = families_of(groups)
    assert [family.word for family in families] == ["weight"] * 3
    labels = [member.label for family in families for _, member in family.members]
    assert sorted(labels) == sorted(group.label for group in groups)


def test_family_is_named_after_what_is_scheduled() -> None:
    groups = [group("plain", radius__end=0), group("ball-1", radius__end=1), group("ball-2", radius__end=2)]
    (family,) = families_of(groups)
    assert (family.name, family.word, family.legend) == ("radius", "radius", "radius")


def test_families_are_not_joined_by_truth_values_and_texts() -> None:
    families = families_of([group("a", flag=True, x="1"), group("b", flag=False, x="1")])
    assert [family.word for family in families] == [None, None]


def test_levels_are_numbers_of_training_examples() -> None:
    levels = levels_of(
        [
            group(f"{name}, train_size={size}", model=name, data__train_size=size)
            for name in ("mlp", "cnn")
            for size in (1000, 300, None)
        ]
    )
    assert levels.word == "train_size"
    assert list(levels.names) == ["300", "1000", "all"]
    assert list(levels.rows) == ["mlp", "cnn"]
    assert levels.rows["cnn"]["all"].label == "cnn, train_size=None"


def test_levels_leave_out_a_number_that_is_not_shared() -> None:
    levels = levels_of([group("plain", objective="C"), group("a-1", weight=1), group("a-2", weight=2)])
    assert levels.word is None
    assert [row[""].label for row in levels.rows.values()] == ["plain", "a-1", "a-2"]


def test_parts_by_train_size_leave_it_out_of_labels() -> None:
    groups = [
        group(f"{name}, train_size={size}", data__train_size=size, w=w)
        for size in (30, 10)
        for name, w in (("a", 1), ("b", 2))
    ]
    parts = by_train_size(groups)
    assert list(parts) == ["train_size=10", "train_size=30"]
    assert [(group.label, group.values) for group in parts["train_size=10"]] == [
        ("a", {"w": 1}),
        ("b", {"w": 2}),
    ]
    assert list(by_train_size(groups[:1])) == [""]
    assert by_train_size(groups[:3]) == {"": groups[:3]}  # the last would stand alone


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["gradient-0.1", "gradient-0.15"], "gradient"),
        (["plain, train_size=3", "plain, train_size=9"], "plain"),
        (["train_size=3", "train_size=9"], ""),
        (["a", "b, c"], ""),
        (["one", "one"], "one"),
        (["l2_x-0.5, s=1", "l2_x-1, s=1"], "l2_x, s=1"),
        (["abc1", "abc2"], ""),
        (["pgd-0.5-ball-2", "pgd-1.5-ball-2"], "pgd-…-ball-2"),
        (["a-ball", "b-ball"], ""),
    ],
)
def test_shared_name_is_what_labels_have_in_common(labels: list[str], expected: str) -> None:
    assert shared_name(labels) == expected


def test_seeds_figure_has_the_best_group_on_top(figure_of: Callable[..., Figure]) -> None:
    figure = figure_of({"weak": [0.4, 0.6], "strong <b>": [0.85, 0.95], "single": [0.7]})
    runs, means = figure.plot["data"]
    assert means["x"] == pytest.approx([0.5, 0.7, 0.9])
    assert means["y"] == [0, 1, 2]
    assert figure.plot["layout"]["yaxis"]["ticktext"] == ["weak", "single", "strong &lt;b&gt;"]
    assert runs["x"] == [0.4, 0.6, 0.85, 0.95]  # a single run is its own mean
    assert means["error_x"]["array"][1] == pytest.approx(0.02)
    assert means["error_x"]["arrayminus"][1] == pytest.approx(0.05)
    assert "Student" in figure.caption
    assert "of a single run, the binomial" in figure.caption
    assert "nothing of other seeds" in figure_of({"single": [0.7]}).caption


def test_seeds_figure_draws_levels_in_colour_symbol_and_place(figure_of: Callable[..., Figure]) -> None:
    sizes = [{"train_size": size} for size in (10, 20)]
    named = {f"a/train_size={size['train_size']}": [0.9] for size in sizes}
    low, high = figure_of(named, data=sizes, model=["a", "a"]).plot["data"]
    assert low["marker"]["symbol"] != high["marker"]["symbol"]
    assert low["marker"]["color"] != high["marker"]["color"]
    assert low["y"] != high["y"]
    assert (low["name"], high["name"]) == ("10", "20")


def test_seeds_figure_has_room_for_many_groups(figure_of: Callable[..., Figure]) -> None:
    few, many = (figure_of({f"g{n}": [n / 50] for n in range(number)}) for number in (3, 40))
    assert many.height - few.height >= 37 * 30
