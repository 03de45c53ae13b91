"""What a recipe says of itself: it stays only where it holds for what is run."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from withstand.core.flat import flat
from withstand.recipes.parsing import ParsedRecipe, parse_recipe

RECIPE = """
name: mine
title: Adversarial training of a small net on digits, linf 0.15
description: Forty epochs, measured under PGD.
data: {name: digits}
model: {name: mlp, options: {hidden: [8]}}
objective:
  class_path: Adversarial
  init_args: {attack: {class_path: PGD, init_args: {norm: inf, epsilon: 0.15}}}
training: {epochs: 40}
evaluation:
  meters:
    - class_path: Attacks
      init_args: {attacks: [{class_path: PGD}], epsilons: [0.15]}
published:
  - {measure: clean, accuracy: 0.9, source: A paper, note: of theirs}
"""
OTHER_SUBJECT = {
    "--data.name=mnist": "data.name digits → mnist",
    "--data.train_size=100": "data.train_size null → 100",
    "--model.name=cnn-small": "model.name mlp → cnn-small",
    "--model.options={hidden: [9]}": "model.options.hidden [8] → [9]",
}
OTHER_TRAINING = {
    "--objective=CrossEntropy": "objective Adversarial(attack=PGD(norm=inf, epsilon=0.15",
    "--objective.attack.epsilon=0.02": "objective.attack.epsilon 0.15 → 0.02",
    "--objective.attack.norm=2": "objective.attack.norm inf → 2",
    "--training.epochs=1": "training.epochs 40 → 1",
    "--training.optimizer=SGD": "training.optimizer ",
}
OTHER_EVALUATION = {
    "--evaluation.meters=[]": "evaluation.meters [Attacks] → []",
    "--evaluation.meters.0.epsilons=[0.1]": "evaluation.meters.0.epsilons [0.15] → [0.1]",
    "--evaluation.num_examples=10": "evaluation.num_examples null → 10",
    "--evaluation.weights=last": "evaluation.weights best → last",
}
NOTHING = [
    *("--seed=3", "--data.seed=3", "--name=other", "--data.root=elsewhere", "--training.accelerator=cpu"),
    *("--evaluation.batch_size=9", "--training.epochs=40", "--training.tensorboard=true"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPE)
    return file


def is_told(parsed: ParsedRecipe) -> bool:
    recipe, own = parsed.recipe, yaml.safe_load(RECIPE)
    assert (recipe.title == own["title"]) is (recipe.description == own["description"])
    assert recipe.title in ("", own["title"])
    return bool(recipe.title)


@pytest.mark.parametrize("override", NOTHING)
def test_words_stay_where_nothing_that_they_speak_of_is_changed(path: Path, override: str) -> None:
    parsed = parse_recipe(path, [override])
    assert is_told(parsed)
    assert [figure.note for figure in parsed.recipe.published] == ["of theirs"]


@pytest.mark.parametrize(
    ("override", "change"),
    [*OTHER_SUBJECT.items(), *OTHER_TRAINING.items(), *OTHER_EVALUATION.items()],
)
def test_title_and_description_go_with_what_they_speak_of(path: Path, override: str, change: str) -> None:
    parsed = parse_recipe(path, [override])
    assert not is_told(parsed)
    (changed,) = parsed.recipe.changed
    assert changed.startswith(change)
    assert "Forty epochs" not in parsed.text


@pytest.mark.parametrize("override", OTHER_SUBJECT)
def test_published_figures_are_not_beside_other_data_or_models(path: Path, override: str) -> None:
    assert parse_recipe(path, [override]).recipe.published == []


@pytest.mark.parametrize("override", OTHER_TRAINING)
def test_published_figures_beside_another_training_say_so(path: Path, override: str) -> None:
    (figure,) = parse_recipe(path, [override]).recipe.published
    assert figure.note == "of theirs; of the recipe as it was, which this run changed"


@pytest.mark.parametrize("override", OTHER_EVALUATION)
def test_published_figures_stay_beside_another_evaluation(path: Path, override: str) -> None:
    (figure,) = parse_recipe(path, [override]).recipe.published
    assert figure.note == "of theirs"


def test_words_stay_where_more_is_measured(path: Path) -> None:
    parsed = parse_recipe(path, ["--evaluation.meters+=NoiseCurve"])
    assert is_told(parsed)
    assert parsed.recipe.changed == ["evaluation.meters [Attacks] → [Attacks, NoiseCurve]"]


@pytest.mark.parametrize("word", ["title", "description"])
def test_words_of_the_command_stay(path: Path, word: str) -> None:
    parsed = parse_recipe(path, [f"--{word}=mine", "--training.epochs=1"])
    assert {key: parsed.values[key] for key in ("title", "description")} == {
        "title": "",
        "description": "",
        word: "mine",
    }


def test_published_figures_of_the_command_stay(path: Path) -> None:
    figure = "[{measure: clean, accuracy: 0.5, source: other, note: mine}]"
    parsed = parse_recipe(path, ["--data.name=mnist", f"--published={figure}"])
    assert [(one.source, one.note) for one in parsed.recipe.published] == [("other", "mine")]


def test_what_is_written_of_a_changed_recipe_is_read_as_the_same(path: Path, tmp_path: Path) -> None:
    parsed = parse_recipe(path, ["--objective.attack.epsilon=0.02", "--seed=2", "--training.epochs=1"])
    written = tmp_path / "recipe.yaml"
    written.write_text(parsed.text)
    again = parse_recipe(written)
    assert flat(again.values) == flat(parsed.values)
    assert again.recipe.changed == [
        "seed 0 → 2",
        "objective.attack.epsilon 0.15 → 0.02",
        "training.epochs 40 → 1",
    ]
    further = parse_recipe(written, ["--training.epochs=2"])
    assert further.recipe.changed == [*again.recipe.changed, "training.epochs 1 → 2"]


def test_recipe_that_is_whole_only_with_the_command_has_no_words(tmp_path: Path) -> None:
    file = tmp_path / "half.yaml"
    file.write_text("title: T\ndescription: D\nobjective: {class_path: Adversarial}\n")
    attack = "--objective={class_path: Adversarial, init_args: {attack: {class_path: PGD}}}"
    assert parse_recipe(file, [attack]).recipe.title == ""


def test_printed_values_have_the_words_that_hold(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        parse_recipe(path, ["--training.epochs=1", "--print_config"])
    assert stop.value.code == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["title"], printed["changed"]) == ("", ["training.epochs 40 → 1"])
