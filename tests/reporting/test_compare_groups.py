"""Runs that differ in their seeds alone are one group, with a mean and its interval."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from withstand.core.flat import flat
from withstand.reporting import summarize_seeds
from withstand.reporting.compare.comparison import Comparison, points_of, records
from withstand.reporting.compare.groups import Group, differing, groups_of, labels, means_of, short_keys
from withstand.reporting.compare.seeds import seeds_table
from withstand.reporting.read import Run, read_run

WriteRun = Callable[..., Path]


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


def with_clean(evaluated: Any, value: float, lower: float = 0.5, upper: float = 0.99) -> Any:
    """An evaluation with another clean accuracy."""
    clean, *others = evaluated.rows
    return replace(evaluated, rows=(replace(clean, value=value, lower=lower, upper=upper), *others))


@pytest.fixture
def make(evaluated: Any) -> Callable[..., Run]:
    """A run with values in its recipe and a clean accuracy."""

    def of(clean: float = 0.9, **values: Any) -> Run:
        recipe = {"name": "tiny", "seed": 0, "data": {"name": "mnist", "train_size": None}, **values}
        run: Run = with_clean(evaluated, clean).run(recipe=recipe)
        return run

    return of


def clean_mean(evaluated: Any, *shares: float) -> Any:
    points = points_of([with_clean(evaluated, share).run() for share in shares])
    return means_of(points[points.kind == "clean"], [Group("all", {}, range(len(shares)))]).iloc[0]


def test_means_have_students_interval(evaluated: Any) -> None:
    mean = clean_mean(evaluated, 0.90, 0.92, 0.97)
    assert mean.value == pytest.approx(0.93)
    # 4.303 is Student's t for 2 degrees of freedom; the deviation is sqrt(0.0013).
    half = 4.30265 * 0.0013**0.5 / 3**0.5
    assert mean.lower == pytest.approx(0.93 - half, abs=1e-6)
    assert mean.upper == 1.0  # not 1.02


def test_means_of_one_run_have_its_binomial_interval(evaluated: Any) -> None:
    mean = clean_mean(evaluated, 0.7)
    assert (mean.value, mean.lower, mean.upper) == (0.7, 0.5, 0.99)


def test_groups_ignore_seeds_names_and_words(make: Callable[..., Run]) -> None:
    runs = [
        make(0.9, seed=0, name="a", title="x"),
        make(0.8, seed=1, name="b", data={"name": "mnist", "train_size": None, "seed": 1}),
        make(0.6, seed=0, model={"name": "mlp"}),
    ]
    compared = Comparison(runs)
    first, second = compared.groups
    assert (first.members, second.members) == ([0, 1], [2])
    assert compared.mean("Clean").value[0] == pytest.approx(0.85)
    assert second.values == {"model.name": "mlp"}
    assert second.label == "name=mlp"


def test_groups_take_the_same_seed_again_as_no_other_seed(make: Callable[..., Run]) -> None:
    groups = groups_of([make(seed=0), make(seed=0), make(seed=1)])
    assert [group.members for group in groups] == [[0, 2], [1]]
    assert len({group.label for group in groups}) == 2


@pytest.mark.parametrize(
    ("hashes", "members"),
    [
        (["a", "a", "b", "b"], [(0, 1), (2, 3)]),
        (["a", "b", "a", "b"], [(0, 2), (1, 3)]),
        (["", "a", "", "b"], [(0, 1, 2), (3,)]),
        (["", "", "", ""], [(0, 1, 2, 3)]),
    ],
)
def test_groups_hold_runs_of_one_test_data(
    make: Callable[..., Run], hashes: list[str], members: list[tuple[int, ...]]
) -> None:
    runs = [make(seed=seed) for seed in range(4)]
    told = [
        replace(run, results=replace(run.results, test_data=data))  # type: ignore[type-var]
        for run, data in zip(runs, hashes, strict=True)
    ]
    groups = groups_of(told)
    assert [tuple(group.members) for group in groups] == members
    assert len({group.label for group in groups}) == len(members)


def test_groups_are_named_by_a_sweeps_folders(make: Callable[..., Run]) -> None:
    names = ["plain/seed=0,train_size=30", "plain/seed=1,train_size=30", "strong/seed=0,train_size=30"]
    runs = [make(name=name, seed=int(name[11]), model={"name": name[:5]}) for name in names[:2]]
    runs.append(make(name=names[2], model={"name": "other"}))
    assert [group.label for group in groups_of(runs)] == ["plain, train_size=30", "strong, train_size=30"]


def test_groups_hold_runs_without_recipe_alone_and_none_without_evaluation(write_run: WriteRun) -> None:
    trained = read_run(write_run("trained", only={"train.csv", "recipe.yaml"}))
    bare = [read_run(write_run(name, only={"metrics.json"})) for name in ("one", "two")]
    compared = Comparison([trained, *bare])
    assert [(group.label, group.members) for group in compared.groups] == [("one", [1]), ("two", [2])]
    assert compared.mean("Training time").empty
    assert groups_of([trained]) == []


def test_means_are_of_the_strongest_attack_and_the_tightest_certificate(
    write_run: WriteRun, certified: Any
) -> None:
    compared = Comparison([read_run(write_run("run", evaluated=certified))])
    values = {plain(mean.aspect): mean.value for mean in records(compared.means)}
    assert values["Attacked, ℓ∞ ε = 0.3"] == 0.402  # the stronger of two attacks
    assert values["Attacked, ℓ∞ ε = 0.1"] == 0.905
    assert values["Certified, ℓ₂ ε = 0.5"] == 0.71  # the tighter of two methods
    assert values["Training time"] == 100


def test_seeds_table_has_what_all_groups_share(evaluated: Any, make: Callable[..., Run]) -> None:
    fewer = replace(evaluated, rows=evaluated.rows[:2])  # clean, and one attack at 0.3
    runs = [make(model={"name": "a"}), fewer.run(recipe={"model": {"name": "b"}})]
    table = seeds_table(Comparison(runs))
    header = ["Run", "Seeds", "Clean", "Attacked, ℓ∞ ε = 0.3", "Training time"]
    assert [plain(name) for name in table.columns] == header
    assert table["Training time"].tolist() == ["—", "—"]


def test_means_leave_out_seeds_that_were_measured_otherwise(evaluated: Any, make: Callable[..., Run]) -> None:
    fewer = replace(evaluated, rows=evaluated.rows[:2]).run(recipe=make(seed=1).recipe)
    aspects = Comparison([make(), fewer]).means.aspect.map(plain)
    assert aspects.tolist() == ["Clean", "Attacked, ℓ∞ ε = 0.3"]


def test_seeds_summary_has_the_middle_epsilon(write_run: WriteRun) -> None:
    header, ((name, seeds, clean, attacked),) = summarize_seeds([write_run("run")])
    assert len(header) == 4
    assert (name, seeds) == ("tiny", "1")
    assert plain(clean).startswith("98.1 % (")
    assert plain(attacked).startswith("90.5 % (")


def test_flat_values_have_dotted_keys() -> None:
    recipe = {
        "seed": 1,
        "objective": {
            "class_path": "withstand.loss.terms.Sum",
            "init_args": {
                "terms": [{"class_path": "a.CrossEntropy"}, {"class_path": "b.W", "init_args": {"w": 2}}]
            },
        },
    }
    assert flat(recipe) == {
        "seed": 1,
        "objective": "Sum",
        "objective.terms.0": "CrossEntropy",
        "objective.terms.1": "W",
        "objective.terms.1.w": 2,
    }


def test_differing_keys_tell_absent_from_null() -> None:
    assert differing([{"a": 1, "b": 2}, {"a": 1, "b": 2, "c": None}]) == ["c"]
    assert differing([{"a": 1}, {"a": 2}]) == ["a"]
    assert differing([{"a": 1}]) == []


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        (["data.train_size", "model.name"], ["train_size", "name"]),
        (["seed", "data.seed"], ["seed", "data.seed"]),
        (["a.terms.1.weight", "a.terms.2.weight"], ["terms.1.weight", "terms.2.weight"]),
        (["a.terms.1"], ["terms.1"]),
    ],
)
def test_keys_are_short(keys: list[str], expected: list[str]) -> None:
    assert short_keys(keys) == dict(zip(keys, expected, strict=True))


def test_labels_are_never_alike() -> None:
    assert labels(["a", "b"], [{}, {}]) == ["a", "b"]
    assert labels(["a", "a"], [{"x.w": 0.5}, {"x.w": 1}]) == ["w=0.5", "w=1"]
    long = [{"key": "v" * 90 + end} for end in "ab"]
    shortened = labels([None, None], long)
    assert len(set(shortened)) == 2
    assert max(map(len, shortened)) < 70
