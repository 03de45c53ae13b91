"""Which groups a line joins, which levels a figure tells apart, and the figures themselves."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from withstand.reporting.families import by_train_size, families_of, levels_of, shared_name
from withstand.reporting.group_figures import legend_of, seeds_figure
from withstand.reporting.seeds import Group, Mean

TARGET = ("ℓ∞", 0.1)


def group(label: str, clean: float = 0.9, runs: Sequence[float] = (), **values: object) -> Group:
    dotted = {key.replace("__", "."): value for key, value in values.items()}
    means = {TARGET: Mean(clean / 2, clean / 2 - 0.1, clean / 2 + 0.2, [clean / 2])}
    clean_mean = Mean(clean, clean - 0.05, clean + 0.02, runs or [clean])
    return Group(label, dotted, max(1, len(runs)), clean_mean, means, {}, None)


def test_a_line_joins_what_differs_in_one_number() -> None:
    groups = [
        group("plain", objective="CrossEntropy"),
        group("gradient-1", objective="Sum", objective__weight=1.0, objective__term="G"),
        group("gradient-0.1", objective="Sum", objective__weight=0.1, objective__term="G"),
        group("other-0.1", objective="Sum", objective__weight=0.1, objective__term="O"),
    ]
    found = families_of(groups)
    assert [(family.name, family.word) for family in found] == [
        ("plain", None),
        ("gradient", "weight"),
        ("other-0.1", None),
    ]
    assert [(name, member.label) for name, member in found[1].members] == [
        ("0.1", "gradient-0.1"),
        ("1", "gradient-1"),
    ]


def test_every_group_is_in_one_family_and_sizes_join_last() -> None:
    groups = [
        group(f"w={weight}, size={size}", data__train_size=size, x__weight=weight)
        for weight in (1, 2)
        for size in (10, 20, 30)
    ]
    found = families_of(groups)
    assert [family.word for family in found] == ["weight"] * 3
    labels = [member.label for family in found for _, member in family.members]
    assert sorted(labels) == sorted(each.label for each in groups)


def test_what_is_scheduled_names_a_family() -> None:
    groups = [group("plain", radius__end=0), group("ball-1", radius__end=1), group("ball-2", radius__end=2)]
    assert [(family.name, family.word) for family in families_of(groups)] == [("radius", "radius")]
    assert legend_of(families_of(groups)[0]) == "radius"


def test_truth_values_and_texts_join_nothing() -> None:
    assert all(
        family.word is None
        for family in families_of([group("a", flag=True, x="1"), group("b", flag=False, x="1")])
    )


def test_levels() -> None:
    groups = [
        group(f"{name}, train_size={size}", model=name, data__train_size=size)
        for name in ("mlp", "cnn")
        for size in (1000, 300, None)
    ]
    levels = levels_of(groups)
    assert levels.word == "train_size"
    assert list(levels.names) == ["300", "1000", "all"]
    assert list(levels.rows) == ["mlp", "cnn"]
    assert levels.rows["cnn"]["all"].label == "cnn, train_size=None"


def test_no_levels_where_a_number_is_not_shared() -> None:
    groups = [group("plain", objective="C"), group("a-1", weight=1), group("a-2", weight=2)]
    levels = levels_of(groups)
    assert levels.word is None
    assert [row[""].label for row in levels.rows.values()] == ["plain", "a-1", "a-2"]


def test_parts_by_train_size() -> None:
    groups = [
        group(f"{name}, train_size={size}", data__train_size=size, w=w)
        for size in (30, 10)
        for name, w in (("a", 1), ("b", 2))
    ]
    parts = by_train_size(groups)
    assert list(parts) == ["train_size=10", "train_size=30"]
    assert [(each.label, each.values) for each in parts["train_size=10"]] == [
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
def test_what_labels_share(labels: list[str], expected: str) -> None:
    assert shared_name(labels) == expected


def test_figure_over_seeds() -> None:
    groups = [group("weak", 0.5, [0.4, 0.6]), group("strong <b>", 0.9, [0.85, 0.95]), group("single", 0.7)]
    figure = seeds_figure(groups)
    runs, means = figure.plot["data"]
    assert means["x"] == [0.5, 0.7, 0.9]  # the best on top
    assert means["y"] == [0, 1, 2]
    assert figure.plot["layout"]["yaxis"]["ticktext"] == ["weak", "single", "strong &lt;b&gt;"]
    assert runs["x"] == [0.4, 0.6, 0.85, 0.95]  # a single run is its own mean
    assert means["error_x"]["array"] == pytest.approx([0.02] * 3)
    assert means["error_x"]["arrayminus"] == pytest.approx([0.05] * 3)
    assert "Student" in figure.caption
    assert "of a single run, the binomial" in figure.caption
    assert "nothing of other seeds" in seeds_figure(groups[2:]).caption


def test_levels_differ_in_colour_and_symbol_and_place() -> None:
    groups = [group(f"a, train_size={size}", data__train_size=size) for size in (10, 20)]
    _, low, _, high = seeds_figure(groups).plot["data"]
    assert low["marker"]["symbol"] != high["marker"]["symbol"]
    assert low["marker"]["color"] != high["marker"]["color"]
    assert low["y"] != high["y"]
    assert (low["name"], high["name"]) == ("10", "20")


def test_many_groups_have_room() -> None:
    few, many = (seeds_figure([group(f"g{n}", n / 50, w=str(n)) for n in range(count)]) for count in (3, 40))
    assert many.height - few.height >= 37 * 30
