"""Runs that differ in their seeds alone are one group, with a mean and an honest interval."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from withstand.reporting import summarize_seeds
from withstand.reporting.differences import differing, labels, short_keys
from withstand.reporting.read import Run, read_run
from withstand.reporting.schema import Accuracy
from withstand.reporting.seeds import groups_of, mean_of, shared, table_of_groups

WriteRun = Callable[..., Path]


def accuracy(share: float) -> Accuracy:
    return {"accuracy": share, "lower": share - 0.1, "upper": share + 0.05, "correct": 1, "total": 1}


@pytest.fixture
def make(write_run: WriteRun, metrics: dict[str, Any]) -> Callable[..., Run]:
    """Writes and reads a run with values in its recipe and a clean accuracy."""
    count = iter(range(1000))

    def write(clean: float = 0.9, **values: Any) -> Run:
        recipe = {"name": "tiny", "seed": 0, "data": {"name": "mnist", "train_size": None}, **values}
        share = {**metrics["clean"], "accuracy": clean, "lower": clean - 0.01, "upper": clean + 0.01}
        folder = write_run(
            f"run-{next(count)}", recipe=yaml.safe_dump(recipe), metrics={**metrics, "clean": share}
        )
        return read_run(folder)

    return write


def test_students_interval_of_the_mean() -> None:
    mean = mean_of([accuracy(share) for share in (0.90, 0.92, 0.97)])
    assert mean.value == pytest.approx(0.93)
    # 4.303 is Student's t for 2 degrees of freedom; the deviation is sqrt(0.0013).
    half = 4.30265 * 0.0013**0.5 / 3**0.5
    assert mean.lower == pytest.approx(0.93 - half, abs=1e-6)
    assert mean.upper == 1.0  # not 1.02
    assert list(mean.runs) == [0.90, 0.92, 0.97]


def test_one_run_has_its_binomial_interval() -> None:
    mean = mean_of([accuracy(0.7)])
    assert (mean.value, mean.lower, mean.upper) == (0.7, 0.7 - 0.1, 0.7 + 0.05)


def test_seeds_names_and_words_make_no_difference(make: Callable[..., Run]) -> None:
    runs = [
        make(0.9, seed=0, name="a", title="x"),
        make(0.8, seed=1, name="b", data={"name": "mnist", "train_size": None, "seed": 1}),
        make(0.6, seed=0, model={"name": "mlp"}),
    ]
    first, second = groups_of(runs)
    assert (first.num_seeds, second.num_seeds) == (2, 1)
    assert first.clean.value == pytest.approx(0.85)
    assert second.values == {"model.name": "mlp"}
    assert second.label == "name=mlp"


def test_the_same_seed_again_is_no_other_seed(make: Callable[..., Run]) -> None:
    groups = groups_of([make(seed=0), make(seed=0), make(seed=1)])
    assert [group.num_seeds for group in groups] == [2, 1]
    assert len({group.label for group in groups}) == 2


def test_a_sweeps_folders_name_the_groups(make: Callable[..., Run]) -> None:
    names = ["plain/seed=0,train_size=30", "plain/seed=1,train_size=30", "strong/seed=0,train_size=30"]
    runs = [make(name=name, seed=int(name[11]), model={"name": name[:5]}) for name in names[:2]]
    runs.append(make(name=names[2], model={"name": "other"}))
    assert [group.label for group in groups_of(runs)] == ["plain, train_size=30", "strong, train_size=30"]


def test_runs_without_an_evaluation_or_recipe(write_run: WriteRun) -> None:
    trained = read_run(write_run("trained", only={"train.csv", "recipe.yaml"}))
    bare = [read_run(write_run(name, only={"metrics.json"})) for name in ("one", "two")]
    found = groups_of([trained, *bare])
    assert [(group.label, group.num_seeds) for group in found] == [("one", 1), ("two", 1)]
    assert found[0].train_seconds is None
    assert groups_of([trained]) == []


def test_attacked_and_certified_means(write_run: WriteRun, certified_metrics: dict[str, Any]) -> None:
    (group,) = groups_of([read_run(write_run("run", metrics=certified_metrics))])
    assert group.attacked[("ℓ∞", 0.3)].value == 0.402  # the stronger of two attacks
    assert group.attacked[("ℓ∞", 0.1)].value == 0.905
    assert group.certified[("ℓ2", 0.5)].value == 0.71  # the tighter of two methods
    assert group.train_seconds == 100


def test_only_what_all_share_is_compared(make: Callable[..., Run], metrics: dict[str, Any]) -> None:
    one = make(model={"name": "a"})
    metrics["attacks"][0]["curve"] = metrics["attacks"][0]["curve"][:1]
    metrics["attacks"] = metrics["attacks"][:1]
    groups = groups_of([one, make(model={"name": "b"})])
    assert shared([group.attacked for group in groups]) == [("ℓ∞", 0.3)]
    header, rows = table_of_groups(groups)
    assert [name.replace("\N{NO-BREAK SPACE}", " ") for name in header] == [
        *("Run", "Seeds", "Clean", "Attacked, ℓ∞ ε = 0.3", "Training time")
    ]
    assert {len(row) for row in rows} == {len(header)}


def test_the_table_for_a_terminal_has_the_middle_epsilon(write_run: WriteRun) -> None:
    header, ((name, seeds, clean, attacked),) = summarize_seeds([write_run("run")])
    assert len(header) == 4
    assert (name, seeds) == ("tiny", "1")
    assert clean.startswith("98.10")
    assert attacked.startswith("90.50")


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
def test_short_keys(keys: list[str], expected: list[str]) -> None:
    assert short_keys(keys) == dict(zip(keys, expected, strict=True))


def test_labels_are_never_alike() -> None:
    assert labels(["a", "b"], [{}, {}]) == ["a", "b"]
    assert labels(["a", "a"], [{"x.w": 0.5}, {"x.w": 1}]) == ["w=0.5", "w=1"]
    long = [{"key": "v" * 90 + end} for end in "ab"]
    found = labels([None, None], long)
    assert len(set(found)) == 2
    assert max(map(len, found)) < 70
