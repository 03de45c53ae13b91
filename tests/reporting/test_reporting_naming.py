"""What runs are called."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from withstand.reporting.naming import (
    command_for,
    lookup,
    run_changes,
    run_description,
    run_labels,
    run_title,
    setting,
    what_differs,
)

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


CHANGED = """
name: mine
title: ''
description: ''
seed: 1
data: {name: mnist, train_size: 50}
model: {name: mlp}
objective:
  class_path: withstand.objectives.Adversarial
  init_args: {attack: {class_path: withstand.attacks.PGD, init_args: {norm: .inf, epsilon: 0.02}}}
training: {epochs: 1}
evaluation: {meters: [], num_examples: null, weights: last, batch_size: 500}
changed: ["objective.attack.epsilon 0.15 → 0.02"]
"""
WHOLE = CHANGED.replace("title: ''", "title: A title").replace("description: ''", "description: Words.")


def measured_as(evaluated: Any, **settings: Any) -> Any:
    asked: dict[str, Any] = {"meters": [], "num_examples": None, "weights": "last", "batch_size": 500}
    return evaluated.but(settings=asked | settings, model="Net")


def test_changed_recipe_is_titled_by_what_ran(make_run: MakeRun, evaluated: Any) -> None:
    run = make_run("folder", recipe=CHANGED, evaluated=measured_as(evaluated))
    assert run_title(run) == "mlp on MNIST, Adversarial ℓ∞ ε = 0.02"
    assert setting(run) == f"{run_title(run)}, 50 training images, 1 epoch, seed 1"
    assert run_changes(run) == "Recipe mine, changed: objective.attack.epsilon 0.15 → 0.02."
    assert run_labels([run]) == ["folder"]


@pytest.mark.parametrize(
    ("settings", "holds"),
    [
        ({}, True),
        ({"batch_size": 3}, True),
        ({"meters": [{"class_path": "More"}]}, True),
        ({"num_examples": 10}, False),
        ({"weights": "best"}, False),
    ],
)
def test_words_of_a_recipe_are_shown_where_it_was_measured_as_it_asks(
    make_run: MakeRun, evaluated: Any, settings: dict[str, Any], holds: bool
) -> None:
    run = make_run("one", recipe=WHOLE, evaluated=measured_as(evaluated, **settings))
    shown = ("A title", "Words.") if holds else ("mlp on MNIST, Adversarial ℓ∞ ε = 0.02", None)
    assert (run_title(run), run_description(run)) == shown


def test_words_of_a_recipe_are_not_shown_of_a_network_measured_in_python(
    make_run: MakeRun, evaluated: Any
) -> None:
    run = make_run("one", recipe=WHOLE, evaluated=evaluated.but(model="Net", weights=None))
    assert run_title(run) == setting(run) == "Net on MNIST"
    assert run_description(run) is None
    assert "may not describe" in str(run_changes(run))
    assert run_labels([run]) == ["one"]


def test_run_without_a_recipe_is_titled_by_its_network_and_data(evaluated: Any) -> None:
    assert run_title(evaluated.but(model="Net").run()) == "Net on MNIST"


@pytest.mark.parametrize(
    ("objective", "words"),
    [
        ("{class_path: CrossEntropy}", "CrossEntropy"),
        ("{class_path: a.Certified, init_args: {norm: 2.0, epsilon: 0.5}}", "Certified ℓ₂ ε = 0.5"),
        (
            "{class_path: C, init_args: {norm: .inf, epsilon: {class_path: Linear, init_args: "
            "{start: 0.0, end: 0.03137254901960784, epochs: 2}}}}",
            "C ℓ∞ ε to 8/255",
        ),
        (
            "{class_path: C, init_args: {epsilon: {class_path: Stages, init_args: "
            "{values: [0.1, 0.2], epochs: [1, 9]}}}}",
            "C ε to 0.2",
        ),
        ("{class_path: N, init_args: {noise_std: 0.125}}", "N noise_std = 0.125"),
        (
            "{class_path: Sum, init_args: {terms: [{class_path: A}, "
            "{class_path: Weighted, init_args: {weight: 0.1, term: {class_path: B}}}]}}",
            "A + 0.1 × B",
        ),
        (
            "{class_path: WeightPerturbation, init_args: {objective: {class_path: Adversarial, init_args: "
            "{attack: {class_path: PGD, init_args: {norm: .inf, epsilon: 0.3}}}}}}",
            "WeightPerturbation of Adversarial ℓ∞ ε = 0.3",
        ),
    ],
)
def test_setting_says_what_is_minimised(make_run: MakeRun, objective: str, words: str) -> None:
    run = make_run("one", recipe=f"{{model: {{name: mlp}}, objective: {objective}}}")
    assert setting(run) == f"mlp on MNIST, {words}"


RAMP = "{class_path: withstand.schedules.Linear, init_args: {start: 0.0, end: 0.4, epochs: 20}}"
HALVED = "no better than a guess; back to the end of epoch 1, step of epsilon halved"


@pytest.mark.parametrize(
    ("epsilon", "epochs", "note", "reached"),
    [
        (RAMP, 2, "", "to 0.04"),
        (RAMP, 20, "", "to 0.4"),
        (RAMP, 30, "", "to 0.4"),
        (RAMP, 2, HALVED, "to 0.03"),
        (f"{{class_path: PerEpoch, init_args: {{schedule: {RAMP}}}}}", 3, "", "to 0.06"),
        ("{class_path: Stages, init_args: {values: [0.1, 0.2], epochs: [5, 9]}}", 5, "", "to 0.1"),
        ("{class_path: Stages, init_args: {values: [0.1, 0.2], epochs: [5, 9]}}", 6, "", "to 0.2"),
        ("{class_path: mine.Linear, init_args: {start: 0.0, end: 0.4}}", 6, "", "by a schedule"),
        ("{class_path: Linear, init_args: {start: 0.0, stop: 0.4}}", 6, "", "by a schedule"),
    ],
)
@pytest.mark.parametrize("is_logged", [True, False])
def test_setting_names_the_epsilon_that_training_reached(
    make_run: MakeRun, epsilon: str, epochs: int, note: str, reached: str, is_logged: bool
) -> None:
    if note and not is_logged:
        return
    columns = "epoch,progress,seconds,learning_rate,loss,collapsed,note"
    rows = "\n".join(f"{epoch},{epoch},1,0.1,1,0," for epoch in range(1, epochs + 1)) + f'"{note}"'
    objective = f"{{class_path: A, init_args: {{norm: .inf, epsilon: {epsilon}}}}}"
    recipe = f"{{training: {{epochs: {40 if is_logged else epochs}}}, objective: {objective}}}"
    only = None if is_logged else {"recipe.yaml", "metrics.json"}
    run = make_run("one", recipe=recipe, training=f"{columns}\n{rows}\n", only=only)
    assert f"A ℓ∞ ε {reached}" in setting(run).split(", ")


@pytest.mark.parametrize(
    ("names", "short"),
    [
        (["mnist-plain-small", "mnist-iat-small", "mnist-certified-small"], ["plain", "iat", "certified"]),
        (["adversarial-l2-0.25", "adversarial-l2-0.5"], ["l2-0.25", "l2-0.5"]),
        (["tiny (one)", "tiny (two)"], ["one", "two"]),
        (["a", "a-b"], ["a", "a-b"]),
        (["digits-certified", "mnist-certified-mlp"], ["digits-certified", "mnist-certified-mlp"]),
        (["plain"], ["plain"]),
        ([], []),
    ],
)
def test_legends_have_what_differs_between_names(names: list[str], short: list[str]) -> None:
    assert what_differs(names) == short
