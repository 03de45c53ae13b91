from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from withstand.reporting.read import read_run
from withstand.reporting.schema import Environment, Metrics
from withstand.reporting.summary import (
    command_for,
    cost_rows,
    curves,
    environment_rows,
    lookup,
    norms,
    run_labels,
    run_title,
    setting,
    strongest,
    strongest_at,
    strongest_curve,
)

WriteRun = Callable[..., Path]


def plain(text: str) -> str:
    return text.replace("\N{NO-BREAK SPACE}", " ")


@pytest.fixture
def measured(metrics: dict[str, Any]) -> Metrics:
    return cast("Metrics", metrics)


def test_strongest_takes_the_lowest_at_each_epsilon(measured: Metrics) -> None:
    found = [(each.attack, each.point["epsilon"], each.point["correct"]) for each in strongest(measured)]
    assert found == [("fgsm", 0.1, 905), ("pgd-200", 0.3, 402)]


def test_strongest_keeps_norms_apart(metrics: dict[str, Any], measured: Metrics) -> None:
    other = metrics["attacks"][0] | {"norm": "2", "name": "pgd-l2"}
    metrics["attacks"].append(other)
    assert [(each.norm, each.attack) for each in strongest(measured)] == [
        ("inf", "fgsm"),
        ("inf", "pgd-200"),
        ("2", "pgd-l2"),
        ("2", "pgd-l2"),
    ]
    assert norms(measured) == ["inf", "2"]


def test_strongest_at_allows_for_rounding(measured: Metrics) -> None:
    found = strongest_at(measured, "inf", 0.3000000001)
    assert found is not None
    assert found.attack == "pgd-200"
    assert strongest_at(measured, "inf", 0.2) is None
    assert strongest_at(measured, "2", 0.3) is None


def test_curves_begin_with_clean_and_ascend(metrics: dict[str, Any], measured: Metrics) -> None:
    metrics["attacks"][1]["curve"].append(metrics["clean"] | {"epsilon": 0.0})
    for curve in curves(measured, "inf"):
        assert [point["epsilon"] for point in curve.points] == [0.0, 0.1, 0.3]
        assert curve.points[0]["correct"] == 981
        assert curve.attacks == ["clean", curve.name, curve.name]


def test_strongest_curve_names_the_attack_of_each_point(measured: Metrics) -> None:
    curve = strongest_curve(measured, "inf", "a run")
    assert curve.name == "a run"
    assert curve.attacks == ["clean", "fgsm", "pgd-200"]
    assert [point["correct"] for point in curve.points] == [981, 905, 402]


def test_cost_rows(environment: dict[str, Any]) -> None:
    rows = {name: plain(value) for name, value in cost_rows(cast("Environment", environment))}
    assert rows == {
        "Training time": "1 min 40 s",
        "Training steps": "400",
        "Time a step": "250 ms",
        "Peak memory": "3.0 MiB",
    }
    certified = cost_rows({"cost": {"certify_seconds": 12.0}})
    assert [(name, plain(value)) for name, value in certified] == [("Certification time", "12.0 s")]
    assert cost_rows({"cost": {"train_seconds": 1.5, "train_steps": 0}})[-1] == ("Training steps", "0")
    assert cost_rows({}) == []


def test_environment_rows_leave_out_what_is_not_known(environment: dict[str, Any]) -> None:
    rows = dict(environment_rows(cast("Environment", environment | {"seed": 0})))
    assert rows == {
        "python version": "3.11.2",
        "torch version": "2.13.0",
        "Device": "cpu (2 threads)",
        "Seed": "0",
    }


def test_lookup() -> None:
    recipe = {"a": {"b": 0}, "c": None}
    assert lookup(recipe, "a.b") == "0"
    assert lookup(recipe, "a.b.c") is None
    assert lookup(recipe, "c") is None
    assert lookup(None, "a") is None


def test_titles_and_labels(write_run: WriteRun) -> None:
    runs = [
        read_run(write_run("one")),
        read_run(write_run("two")),
        read_run(write_run("three", recipe="{name: other, title: ''}")),
        read_run(write_run("four", only={"train.csv"})),
    ]
    assert [run_title(run) for run in runs] == ["A tiny run", "A tiny run", "other", "four"]
    assert run_labels(runs) == ["tiny (one)", "tiny (two)", "other", "four"]
    same_twice = run_labels([runs[0], runs[0]])
    assert len(set(same_twice)) == 2


def test_a_point_of_a_sweep_beside_other_runs_is_named_by_its_folder(
    write_run: Callable[..., Path], tmp_path: Path
) -> None:
    names = {"kernel": "with/seed=0", "plain": "plain-net"}
    runs = []
    for folder, name in names.items():
        path = write_run(folder)
        recipe = path / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace("name: tiny", f"name: {name}", 1))
        runs.append(read_run(path))
    assert run_labels(runs) == ["kernel", "plain"]
    assert run_labels(runs[1:]) == ["plain-net"]
    assert run_labels(runs[:1]) == ["with/seed=0"]


def test_setting(write_run: WriteRun) -> None:
    assert setting(read_run(write_run("one"))) == "cnn-small on MNIST, 2 epochs, seed 3"
    once = read_run(write_run("once", recipe="training: {epochs: 1}"))
    assert setting(once) == "on MNIST, 1 epoch"
    assert setting(read_run(write_run("two", only={"metrics.json"}))) == "on MNIST"
    assert setting(read_run(write_run("three", only={"train.csv"}))) == ""


def test_command_quotes_the_folder(write_run: WriteRun) -> None:
    run = read_run(write_run("two words"))
    assert command_for(run, "evaluate") == f"withstand evaluate '{run.path}'"
