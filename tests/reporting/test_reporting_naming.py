"""What runs are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from withstand.reporting.naming import command_for, lookup, run_labels, run_title, setting

MakeRun = Callable[..., Any]


def test_lookup_finds_dotted_keys() -> None:
    recipe = {"a": {"b": 0}, "c": None}
    assert lookup(recipe, "a.b") == "0"
    assert lookup(recipe, "a.b.c") is None
    assert lookup(recipe, "c") is None
    assert lookup(None, "a") is None


def test_titles_and_labels_distinguish_runs(make_run: MakeRun) -> None:
    runs = [
        make_run("one"),
        make_run("two"),
        make_run("three", recipe="{name: other, title: ''}"),
        make_run("four", only={"train.csv"}),
    ]
    assert [run_title(run) for run in runs] == ["A tiny run", "A tiny run", "other", "four"]
    assert run_labels(runs) == ["tiny (one)", "tiny (two)", "other", "four"]
    assert len(set(run_labels([runs[0], runs[0]]))) == 2


def test_labels_name_points_of_a_sweep_by_folder_beside_other_runs(make_run: MakeRun) -> None:
    names = {"kernel": "with/seed=0", "plain": "plain-net"}
    runs = [make_run(folder, recipe=f"name: {name}") for folder, name in names.items()]
    assert run_labels(runs) == ["kernel", "plain"]
    assert run_labels(runs[1:]) == ["plain-net"]
    assert run_labels(runs[:1]) == ["with/seed=0"]


def test_setting_says_what_was_trained(make_run: MakeRun) -> None:
    assert setting(make_run("one")) == "cnn-small on MNIST, 2 epochs, seed 3"
    assert setting(make_run("once", recipe="training: {epochs: 1}")) == "on MNIST, 1 epoch"
    assert setting(make_run("two", only={"metrics.json"})) == "on MNIST"
    assert setting(make_run("three", only={"train.csv"})) == ""


def test_command_quotes_the_folder(make_run: MakeRun) -> None:
    run = make_run("two words")
    assert command_for(run, "evaluate") == f"withstand evaluate '{run.path}'"
