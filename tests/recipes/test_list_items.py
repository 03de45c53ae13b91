"""Items of a recipe's lists on the command line."""

from __future__ import annotations

import math
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from withstand.attacks import PGD
from withstand.evaluation.meters import Attacks
from withstand.objectives import Adversarial, CrossEntropy, Sum, Weighted
from withstand.recipes.list_items import Item, is_item, put
from withstand.recipes.parsing import find_recipe, parse_recipe
from withstand.types import RecipeError

RECIPE = """
objective:
  class_path: Sum
  init_args:
    terms:
      - CrossEntropy
      - class_path: Weighted
        init_args:
          weight: {class_path: Linear, init_args: {start: 0, end: 1, epochs: 2}}
          term: {class_path: Adversarial, init_args: {attack: {class_path: PGD}}}
evaluation:
  meters:
    - class_path: Attacks
      init_args:
        attacks:
          - class_path: PGD
            init_args: {norm: inf, num_steps: 2}
        epsilons: [0.1, 0.2]
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPE)
    return file


def second_term(path: Path, *overrides: str) -> Weighted:
    objective = parse_recipe(path, overrides).recipe.objective
    assert isinstance(objective, Sum)
    term = objective.terms[1]
    assert isinstance(term, Weighted)
    return term


def test_items_of_sums_read_back_to_themselves(path: Path, tmp_path: Path) -> None:
    first = parse_recipe(path, ["--objective.terms.1.weight=0.3"])
    again = tmp_path / "again.yaml"
    again.write_text(first.text)
    assert parse_recipe(again).values == first.values


@pytest.mark.parametrize("key", ["objective.terms.1.weight", "objective.init_args.terms.1.init_args.weight"])
def test_items_are_addressed_by_number(path: Path, key: str) -> None:
    assert second_term(path, f"--{key}=1/4").weight == 0.25


def test_items_may_be_deep_inside_others(path: Path) -> None:
    term = second_term(
        path,
        "--objective.terms.1.weight.end=3",
        "--objective.terms.1.term.attack.epsilon=8/255",
        "--objective.terms.1.term.attack.norm=inf",
    ).term
    assert isinstance(term, Adversarial)
    assert isinstance(term.attack, PGD)
    assert term.attack.epsilon == 8 / 255
    assert term.attack.norm == math.inf


def test_items_may_be_replaced_and_then_changed(path: Path) -> None:
    overrides = [
        "--objective.terms.1.term={class_path: Adversarial, init_args: {attack: {class_path: PGD}}}",
        "--objective.terms.1.term.attack.num_steps=7",
        "--evaluation.meters.0.epsilons.1=0.5",
        "--objective.terms.0={class_path: CrossEntropy}",
        "--seed=3",
    ]
    recipe = parse_recipe(path, overrides).recipe
    (attacks,) = recipe.evaluation.meters
    assert isinstance(attacks, Attacks)
    assert attacks.epsilons == [0.1, 0.5]
    assert recipe.seed == 3
    term = second_term(path, *overrides).term
    assert isinstance(term, Adversarial)
    assert isinstance(term.attack, PGD)
    assert term.attack.num_steps == 7


def test_items_of_another_class_lose_the_former_settings(path: Path) -> None:
    term = second_term(path, "--objective.terms.1.term.class_path=CrossEntropy").term
    assert isinstance(term, CrossEntropy)


def test_items_of_a_list_that_another_override_gives() -> None:
    pgd = "{class_path: PGD, init_args: {num_steps: 3}}"
    overrides = [
        "--evaluation.meters.0.attacks.0.num_steps=20",
        f"--evaluation.meters=[{{class_path: Attacks, init_args: {{attacks: [{pgd}], epsilons: [0.1]}}}}]",
    ]
    recipe = parse_recipe(find_recipe("digits-adversarial"), overrides).recipe
    (attacks,) = recipe.evaluation.meters
    assert isinstance(attacks, Attacks)
    (attack,) = attacks.attacks
    assert isinstance(attack, PGD)
    assert attack.num_steps == 20


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--objective.terms.2.weight=1", r"no objective\.terms\.2: .* list of 2 items, numbered from 0"),
        ("--evaluation.meters.0.attacks.1.num_steps=1", "list of 1 item, numbered"),
        ("--evaluation.meters.1.epsilons=[0.1]", r"no evaluation\.meters\.1: .* list of 1 item, numbered"),
        ("--training.epochs.1=3", "training.epochs is no list"),
        ("--evaluation.meters.0.attacks.0.norm.start=3", "norm is a plain value"),
        ("--evaluation.metrs.0.epsilons=[0.1]", r"'evaluation\.metrs'.*'evaluation\.meters'"),
        ("--evaluation.meters.0.atacks.0.num_steps=3", r"meters\.0\.atacks'.*meters\.0\.attacks'"),
        ("--evaluation.meters.0.attacks.0.nmu_steps=3", r"'nmu_steps'.*'num_steps'"),
        ("--evaluation.meters.0.attacks.0.num_steps=many", "num_steps"),
        ("--evaluation.meters.0.attacks.0.num_steps", "needs a value"),
        ("--foo.0.bar=1", "Unknown key 'foo'"),
    ],
)
def test_items_that_do_not_exist_say_what_to_do(path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message) as caught:
        parse_recipe(path, [override])
    assert str(caught.value).count("does not fit") <= 1


@pytest.mark.parametrize(
    ("argument", "expected"),
    [("--a.0=1", True), ("--a.0.b", True), ("--a.b=c.0.1", False), ("--0=1", False), ("a.0=1", False)],
)
def test_is_item_recognises_numbers_in_keys(argument: str, expected: bool) -> None:
    assert is_item(argument) is expected


@given(st.lists(st.integers(), min_size=1), st.data())
def test_items_change_nothing_else(values: list[int], data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(values) - 1))
    document: Any = {"a": {"class_path": "X", "init_args": {"b": deepcopy(values), "c": 1}}}
    put(document, [Item(f"a.b.{place}", "new")])
    expected: list[object] = [*values[:place], "new", *values[place + 1 :]]
    assert document == {"a": {"class_path": "X", "init_args": {"b": expected, "c": 1}}}
