"""Recipes of older versions: their errors show what to write instead, and that can be written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from withstand.evaluation import Meter, Sampling
from withstand.evaluation.meters import (
    Attacks,
    Certificate,
    Corruptions,
    KernelNorms,
    NoiseCurve,
    RandomizedSmoothing,
    SebrProtocol,
    Suite,
    Uncertainty,
)
from withstand.recipes.parsing import load_yaml, parse_recipe
from withstand.recipes.upgrade import new_evaluation, with_moved_modules
from withstand.types import RecipeError

_OLD = {
    "attacks": "{epsilons: [0.1], attacks: [{class_path: PGD, init_args: {num_steps: 3}}]}",
    "suite": "{epsilons: [8/255], suite: fast}",
    "suite with settings": "{epsilons: [0.1], suite: {level: standard, norms: [2], transfer_from: null}}",
    "certificates": "{epsilons: [0.1], certificates: [{norm: 2}, {norm: inf, epsilons: [0.2], clip: no}]}",
    "kernel_norms": "{kernel_norms: {num_examples: 10}}",
    "noise": "{noise: {num_levels: 3}}",
    "corruptions": "{corruptions: {severities: [1]}}",
    "smoothing": "{smoothing: {num_estimation: 500}}",
    "protocols": "{protocols: [{class_path: SebrProtocol, init_args: {fgsm: [0.1], pgd: [0.2]}}]}",
    "uncertainty": "{suite: fast, epsilons: [0.1], sampling: {num_samples: 3, uncertainty: {num_bins: 7}}}",
}


def written_instead(error: RecipeError) -> Any:
    """What an error says to write."""
    return load_yaml(str(error).partition("Write instead:\n")[2])


@pytest.mark.parametrize("key", _OLD)
def test_old_keys_of_a_file_are_shown_as_they_are_written_now(tmp_path: Path, key: str) -> None:
    file, new = tmp_path / "old.yaml", tmp_path / "new.yaml"
    file.write_text(f"evaluation: {_OLD[key]}")
    with pytest.raises(RecipeError, match=r"old\.yaml is of an older version.*in the place of") as caught:
        parse_recipe(file)
    new.write_text(yaml.safe_dump(written_instead(caught.value)))
    random = ["--model.bayes={}"] if key == "uncertainty" else []
    evaluation = parse_recipe(new, random).recipe.evaluation
    expected: dict[str, list[Meter]] = {
        "suite": [Suite("fast", [8 / 255])],
        "suite with settings": [Suite("standard", [0.1], norms=[2])],
        "certificates": [Certificate(2, [0.1]), Certificate(float("inf"), [0.2], clip=False)],
        "kernel_norms": [KernelNorms(num_examples=10)],
        "noise": [NoiseCurve(num_levels=3)],
        "corruptions": [Corruptions(severities=[1])],
        "smoothing": [RandomizedSmoothing(num_estimation=500)],
        "protocols": [SebrProtocol(fgsm=[0.1], pgd=[0.2])],
        "uncertainty": [Suite("fast", [0.1]), Uncertainty(num_bins=7)],
    }
    if key == "attacks":
        (attacks,) = evaluation.meters
        assert isinstance(attacks, Attacks)
        assert [attack.name for attack in attacks.attacks] == ["pgd-3-linf"]
        assert attacks.epsilons == [0.1]
    else:
        assert evaluation.meters == expected[key]
    assert evaluation.sampling == (Sampling(num_samples=3) if random else None)


def test_old_keys_are_all_named_and_the_others_stay(tmp_path: Path) -> None:
    file = tmp_path / "old.yaml"
    unchanged = "num_examples: 7, batch_size: 3, weights: last"
    file.write_text(f"evaluation: {{noise: {{}}, smoothing: {{}}, kernel_norms: null, {unchanged}}}")
    with pytest.raises(RecipeError) as caught:
        parse_recipe(file)
    new = tmp_path / "new.yaml"
    new.write_text(yaml.safe_dump(written_instead(caught.value)))
    settings = parse_recipe(new).recipe.evaluation
    assert (settings.num_examples, settings.batch_size, settings.weights) == (7, 3, "last")
    assert settings.meters == [NoiseCurve(), RandomizedSmoothing()]


@pytest.mark.parametrize(
    "argument",
    [
        *("attacks=[PGD]", "attacks.0.num_steps=3", "epsilons=[0.1]", "suite=fast", "suite.level=fast"),
        *("certificates=[{norm: 2}]", "kernel_norms={}", "noise={}", "noise.num_levels=3", "corruptions={}"),
        *("smoothing=null", "protocols=[SebrProtocol]"),
        *("sampling.uncertainty=null", "sampling.uncertainty.num_samples=3"),
    ],
)
def test_old_keys_of_the_command_line_are_shown_as_they_are_written_now(
    tmp_path: Path, argument: str
) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("seed: 0")
    key = (
        "sampling.uncertainty" if "uncertainty" in argument else argument.partition("=")[0].partition(".")[0]
    )
    with pytest.raises(RecipeError, match=rf"evaluation\.{key} is no key any more") as caught:
        parse_recipe(file, [f"--evaluation.{argument}"])
    shown = [word for word in str(caught.value).split() if word.startswith("--evaluation.meters")]
    parsed = parse_recipe(file, [word.rstrip(",.") for word in shown])
    assert parsed.recipe.evaluation.meters == [Suite("standard", [0.1])]


@pytest.mark.parametrize("old", ["{attacks: [], epsilons: []}", "{noise: true}", "{certificates: [2]}"])
def test_old_keys_with_values_that_never_fitted_are_named_too(tmp_path: Path, old: str) -> None:
    file = tmp_path / "old.yaml"
    file.write_text(f"evaluation: {old}")
    with pytest.raises(RecipeError, match=r"Write instead:\nevaluation:\n  meters:"):
        parse_recipe(file)


def test_recipe_of_today_is_accepted(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    for text in ("evaluation: {meters: [NoiseCurve]}", "evaluation: {sampling: {num_samples: 3}}", "seed: 1"):
        file.write_text(text)
        parse_recipe(file, ["--evaluation.num_examples=3"])
    assert new_evaluation({}) == {"meters": []}


@pytest.mark.parametrize("switch", ["stop_when_fooled: true", "rank_by_loss: false"])
def test_switches_of_attacks_are_named_wherever_they_are(tmp_path: Path, switch: str) -> None:
    file = tmp_path / "old.yaml"
    attack = f"{{class_path: PGD, init_args: {{num_steps: 3, {switch}}}}}"
    file.write_text(f"objective: {{class_path: Adversarial, init_args: {{attack: {attack}}}}}")
    with pytest.raises(RecipeError, match=rf"attacks have a mode now.*{switch.partition(':')[0]}"):
        parse_recipe(file)
    file.write_text(file.read_text().replace(switch, "mode: evaluation"))
    parse_recipe(file)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("a: withstand.schedules.Linear", "a: withstand.core.schedules.Linear"),
        ("- class_path: withstand.terms.Sum\n", "- class_path: withstand.loss.Sum\n"),
        ("{class_path: withstand.kernel_norms.ExpectedNorms}", None),
        ("[withstand.noise.GaussianNoise, 1]", "[withstand.core.noise.GaussianNoise, 1]"),
        ("withstand.terms.Weighted", "withstand.loss.Weighted"),
        ("name: folder:/tmp/withstand.noise.Run", "name: folder:/tmp/withstand.noise.Run"),
        ("a: my.withstand.schedules.Linear", "a: my.withstand.schedules.Linear"),
        ("a: withstand.schedules.Linear.x", "a: withstand.schedules.Linear.x"),
    ],
)
def test_moved_modules_are_renamed_in_whole_values_alone(before: str, after: str | None) -> None:
    expected = "{class_path: withstand.evaluation.kernel_norms.ExpectedNorms}" if after is None else after
    assert with_moved_modules(before) == expected
