"""Sweeps: every combination once, under a name of its own, and errors before anything runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from withstand.objectives import GaussianExpectation
from withstand.recipes.parsing import find_recipe, load_yaml, parse_recipe
from withstand.recipes.sweep import (
    Sweep,
    find_sweep,
    is_sweep,
    packaged_sweeps,
    points,
    read_over,
    read_sweep,
)
from withstand.types import RecipeError

KEYS = st.sampled_from(
    ["seed", "data.seed", "data.train_size", "objective.terms.1.weight", "a.b.weight", "x"]
)
VALUES: st.SearchStrategy[Any] = st.one_of(
    st.integers(),
    st.floats(allow_nan=False),
    st.text(max_size=60),
    st.none(),
    st.booleans(),
    st.fixed_dictionaries({"class_path": st.sampled_from(["A", "b.A"]), "init_args": st.just({})}),
)
NAMES = st.from_regex(r"\A[a-z0-9][a-z0-9._+=-]{0,8}\Z")
VARIANT_KEYS = st.sampled_from(["training.epochs", "model.name"])


def sweep_of(over: dict[str, list[Any]], variants: dict[str, dict[str, Any]]) -> Sweep | None:
    try:
        return Sweep("s", "digits-adversarial", over=over, variants=variants)
    except RecipeError:
        return None


@given(
    st.dictionaries(KEYS, st.lists(VALUES, min_size=1, max_size=4), max_size=3),
    st.dictionaries(NAMES, st.dictionaries(VARIANT_KEYS, st.integers(), max_size=2), max_size=3),
)
def test_points_are_the_product_and_their_names_differ(
    over: dict[str, list[Any]], variants: dict[str, dict[str, Any]]
) -> None:
    sweep = sweep_of(over, variants)
    if sweep is None:
        return
    all_points = points(sweep)
    count = max(1, len(variants))
    for values in over.values():
        count *= len(values)
    assert len(all_points) == count
    assert len({point.name.lower() for point in all_points}) == count
    assert len({point.overrides for point in all_points}) == count
    for point in all_points:
        assert len(point.name.split("/")) == bool(variants) + bool(over)
        assert not any(sign in point.name for sign in " \\:*?\"'<>|$\n\0")
        assert all(len(part) < 200 and part not in (".", "..") for part in point.name.split("/"))


def test_points_have_overrides_in_order_and_what_varies_last() -> None:
    sweep = Sweep(
        "mine",
        "digits-adversarial",
        title="Mine",
        settings={"training.epochs": 3},
        over={"seed": [0, 1], "data.train_size": [300]},
        variants={"plain": {}, "strong": {"objective": {"class_path": "CrossEntropy"}}},
    )
    all_points = points(sweep, ["--model.name=mlp"])
    names = [point.name for point in all_points]
    assert names == [f"{v}/seed={s},train_size=300" for v in ("plain", "strong") for s in (0, 1)]
    assert all_points[2].overrides == (
        "--name=strong/seed=0,train_size=300",
        "--title=Mine: strong/seed=0,train_size=300",
        "--description=",
        "--training.epochs=3",
        "--objective={class_path: CrossEntropy}",
        "--model.name=mlp",
        "--seed=0",
        "--data.train_size=300",
    )


def test_sweep_varies_a_value_of_a_class_that_the_command_line_names() -> None:
    sweep = Sweep("mine", "digits-adversarial", over={"objective.noise_std": [0.1, 0.2]})
    for point, expected in zip(points(sweep, ["--objective=GaussianExpectation"]), (0.1, 0.2), strict=True):
        objective = parse_recipe(find_recipe("digits-adversarial"), point.overrides).recipe.objective
        assert isinstance(objective, GaussianExpectation)
        assert objective.noise_std == expected


@pytest.mark.parametrize(
    ("over", "name"),
    [
        ({"seed": [0], "data.seed": [1]}, "seed=0,data.seed=1"),
        ({"objective.terms.1.weight": [0.1], "objective.terms.2.weight": [2.0]}, None),
        ({"objective": [{"class_path": "a.b.CrossEntropy"}]}, "objective=CrossEntropy"),
        ({"data.name": ["folder:/x/y z"]}, "name=folder-x-y-z"),
        ({"a.b": [-1.5]}, "b=-1.5"),
        ({"a.b": ["x", "X"]}, "b=1-x"),
        ({"a.b": [None]}, "b=null"),
        ({"a.epsilon": [8 / 255]}, "epsilon=0.0313725"),
    ],
)
def test_point_names_are_short_and_distinguish_keys(over: dict[str, list[Any]], name: str | None) -> None:
    point = points(Sweep("s", "r", over=over))[0]
    assert point.name == (name or "terms.1.weight=0.1,terms.2.weight=2")


@given(VALUES)
def test_sweep_values_reach_the_recipe_as_they_are(value: Any) -> None:
    (point,) = points(Sweep("s", "r", over={"key": [value]}))
    text = point.overrides[-1].removeprefix("--key=")
    assert (text if isinstance(value, str) else load_yaml(text)) == value


def test_sweep_keys_may_share_a_value() -> None:
    (point,) = points(Sweep("s", "r", over={"seed,data.seed": [3]}))
    assert point.name == "seed=3"
    assert point.overrides[-2:] == ("--seed=3", "--data.seed=3")


@pytest.mark.parametrize("name", packaged_sweeps())
def test_packaged_sweeps_are_sound(name: str) -> None:
    file = find_sweep(name)
    sweep = read_sweep(file)
    assert is_sweep(file)
    assert sweep.name == name
    assert sweep.title
    assert f"withstand sweep {name}" in file.read_text().split("name:")[0]
    base = find_recipe(sweep.recipe)
    few = replace(sweep, over={key: values[:1] for key, values in sweep.over.items()})
    for point in points(few):
        assert parse_recipe(base, point.overrides).recipe.name == point.name


def test_is_sweep_of_a_recipe_is_false(tmp_path: Path) -> None:
    assert not is_sweep(find_sweep("digits-adversarial"))
    empty = tmp_path / "empty.yaml"
    empty.touch()
    assert not is_sweep(empty)


def test_sweep_may_have_its_recipe_beside_it(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("name: base\n")
    file = tmp_path / "mine.yaml"
    file.write_text("recipe: base.yaml\nover: {seed: [0, 8/255]}\n")
    sweep = read_sweep(file)
    assert sweep.name == "mine"
    assert find_recipe(sweep.recipe) == tmp_path / "base.yaml"
    assert sweep.over == {"seed": [0, 8 / 255]}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: digits-adversarial", "varies nothing"),
        ("over: {seed: [0]}", "must name the recipe"),
        ("recipe: nowhere\nover: {seed: [0]}", "no recipe 'nowhere'"),
        ("recipe: digits-adversarial\novr: {seed: [0]}", "'ovr'.*'over'"),
        ("recipe: digits-adversarial\nover: {seed: 0}", r"over\.seed must be a list"),
        ("recipe: digits-adversarial\nover: {seed: []}", "has no values"),
        ("recipe: digits-adversarial\nover: {seed: [1, 2, 1]}", "value 1 twice"),
        ("recipe: digits-adversarial\nover: {seed: [0], 'data.seed,seed': [1]}", "over gives seed twice"),
        ("recipe: digits-adversarial\nover: [seed]", "over must be a mapping"),
        ("recipe: digits-adversarial\nvariants: {a: 3}", r"variants\.a must be a mapping"),
        ("recipe: digits-adversarial\nvariants: {../a: {}}", "does not do for a folder"),
        ("recipe: digits-adversarial\nname: a/b\nover: {seed: [0]}", "does not do for a folder"),
        ("recipe: digits-adversarial\nvariants: {a: {}, A: {}}", "Two variants are called 'a'"),
        ("recipe: digits-adversarial\nover: {seed: [0]}\nvariants: {a: {seed: 1}}", "'a' set seed"),
        ("recipe: digits-adversarial\nover: {seed: [0]}\nset: {seed: 1}", "over and set give seed"),
        ("recipe: [", "Cannot read"),
    ],
)
def test_sweeps_that_are_wrong_say_what_to_do(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(text)
    with pytest.raises(RecipeError, match=message):
        read_sweep(file)


def test_find_sweep_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match="did you mean 'digits-adversarial'"):
        find_sweep("digits-adversaril")


def test_read_over_takes_the_command_line() -> None:
    assert read_over("a.b=8/255,[1,2],x,{c: 1}") == ("a.b", [8 / 255, [1, 2], "x", {"c": 1}])


@pytest.mark.parametrize("argument", ["seed", "seed=", "=1", "seed=[", "seed= "])
def test_read_over_refuses_what_does_not_fit(argument: str) -> None:
    with pytest.raises(RecipeError, match="Expected --over key=v1,v2"):
        read_over(argument)
