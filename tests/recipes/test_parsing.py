"""Recipes: numbers as people write them, and errors that name the nearest key."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from withstand.attacks import PGD, Patch, dlr, least_likely
from withstand.core.schedules import Linear, PerEpoch, Stages
from withstand.evaluation.meters import Attacks, Suite
from withstand.objectives import (
    Adversarial,
    CrossEntropy,
    Cubature,
    EveryLayer,
    FirstActivation,
    GaussianExpectation,
    MeanField,
    NoisyCrossEntropy,
    Sum,
)
from withstand.recipes.parsing import find_recipe, load_yaml, parse_recipe, recipe_parser, with_numbers
from withstand.recipes.schema import Recipe
from withstand.recipes.sweep import is_sweep
from withstand.types import RecipeError

RECIPE = """
name: mine
objective:
  class_path: Adversarial
  init_args:
    attack:
      class_path: PGD
      init_args:
        norm: inf
        epsilon: {class_path: Stages, init_args: {values: [8/255, 16/255], epochs: [2, 1]}}
        step_size: 1e-2
training:
  epochs: 3
evaluation:
  meters:
    - class_path: Attacks
      init_args: {attacks: [{class_path: PGD, init_args: {num_steps: 20}}], epsilons: [0.0, 8/255]}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "mine.yaml"
    file.write_text(RECIPE)
    return file


def attack_of(recipe: Recipe) -> PGD:
    assert isinstance(recipe.objective, Adversarial)
    assert isinstance(recipe.objective.attack, PGD)
    return recipe.objective.attack


def test_a_target_and_a_mask_are_set_as_a_loss_is(path: Path) -> None:
    recipe = parse_recipe(
        path,
        [
            "--objective.attack.target=withstand.attacks.least_likely",
            "--objective.attack.mask=Patch",
            "--objective.attack.mask.top=1",
            "--objective.attack.mask.left=2",
            "--objective.attack.mask.height=3",
            "--objective.attack.mask.width=4",
        ],
    ).recipe
    assert attack_of(recipe).target is least_likely
    assert attack_of(recipe).mask == Patch(1, 2, 3, 4)


def budgets_of(recipe: Recipe) -> list[float]:
    (attacks,) = recipe.evaluation.meters
    assert isinstance(attacks, Attacks)
    return attacks.epsilons


def test_load_yaml_reads_numbers_as_people_write_them(path: Path) -> None:
    recipe = parse_recipe(path).recipe
    attack = attack_of(recipe)
    assert attack.norm == math.inf
    assert attack.step_size == 0.01
    assert isinstance(attack.epsilon, Stages)
    assert attack.epsilon(2) == 16 / 255
    assert budgets_of(recipe) == [0.0, 8 / 255]


def test_parse_recipe_takes_overrides(path: Path) -> None:
    overrides = [
        "--objective.attack.epsilon=4/255",
        "--objective.attack.loss=withstand.attacks.dlr",
        "--training.epochs=7",
        "--objective.attack.norm=inf",
        "--evaluation.meters.0.epsilons=[1/255,0.5]",
        "--model.options={batch_norm: true}",
        "--training.rollback.max_rollbacks=3",
    ]
    recipe = parse_recipe(path, overrides).recipe
    attack = attack_of(recipe)
    assert attack.epsilon == 4 / 255
    assert attack.loss is dlr
    assert recipe.training.epochs == 7
    assert budgets_of(recipe) == [1 / 255, 0.5]
    assert recipe.model.options == {"batch_norm": True}
    assert recipe.training.rollback is not None
    assert recipe.training.rollback.max_rollbacks == 3


def test_attack_mode_is_set_where_nothing_wraps_the_attack(path: Path) -> None:
    attack = attack_of(parse_recipe(path, ["--objective.attack.mode=evaluation"]).recipe)
    assert attack.mode == "evaluation"
    wrapped = ["--objective.attack=AtMeans", "--objective.attack.attack=PGD"]
    inner = "--objective.attack.attack.mode=random"
    objective = parse_recipe(path, [*wrapped, inner]).recipe.objective
    assert isinstance(objective, Adversarial)
    assert objective.attack.mode == "random"
    with pytest.raises(RecipeError, match="Unknown key 'mode'"):
        parse_recipe(path, [*wrapped, "--objective.attack.mode=random"])
    with pytest.raises(RecipeError, match="Unknown key 'rank_by_loss'"):
        parse_recipe(path, ["--objective.attack.rank_by_loss=false"])


def test_objective_can_be_replaced_and_summed(path: Path, tmp_path: Path) -> None:
    assert isinstance(parse_recipe(path, ["--objective=CrossEntropy"]).recipe.objective, CrossEntropy)
    file = tmp_path / "sum.yaml"
    file.write_text(
        "objective: {class_path: Sum, init_args: {terms: [{class_path: CrossEntropy}, {class_path: Weighted, "
        "init_args: {weight: 1/2, term: {class_path: Adversarial, init_args: {attack: "
        "{class_path: PGD}}}}}]}}\n"
    )
    objective = parse_recipe(file).recipe.objective
    assert isinstance(objective, Sum)
    assert len(objective.terms) == 2


@pytest.mark.parametrize(
    ("noise_std", "expected"),
    [
        ("0.1", 0.1),
        ("8/255", 8 / 255),
        ("[0.1, 0.2, 1/4]", [0.1, 0.2, 0.25]),
        (
            "{class_path: Linear, init_args: {start: 0, end: 1/4, epochs: 5}}",
            Linear(start=0, end=0.25, epochs=5),
        ),
    ],
)
@pytest.mark.parametrize("objective", ["GaussianExpectation", "NoisyCrossEntropy"])
def test_noise_std_is_read_in_all_its_forms(
    objective: str, noise_std: str, expected: object, tmp_path: Path
) -> None:
    file = tmp_path / "noise.yaml"
    file.write_text(
        f"objective: {{class_path: {objective}, init_args: {{noise_std: {noise_std}, blur: 1/2}}}}\n"
    )
    parsed = parse_recipe(file).recipe.objective
    assert isinstance(parsed, GaussianExpectation | NoisyCrossEntropy)
    assert parsed.noise_std == expected
    assert parsed.blur == 0.5


def test_propagation_is_read_in_all_its_forms(tmp_path: Path) -> None:
    file = tmp_path / "noise.yaml"
    file.write_text("objective: {class_path: GaussianExpectation, init_args: {noise_std: 0.1}}\n")
    way = "{class_path: EveryLayer, init_args: {loss: {class_path: Cubature, init_args: {num_points: 32}}}}"
    for overrides, expected in (
        ([], FirstActivation()),
        (["--objective.propagation=FirstActivation"], FirstActivation()),
        (["--objective.propagation=EveryLayer"], EveryLayer(MeanField())),
        ([f"--objective.propagation={way}"], EveryLayer(Cubature(32))),
    ):
        first = parse_recipe(file, [*overrides, "--objective.weight=2"])
        objective = first.recipe.objective
        assert isinstance(objective, GaussianExpectation)
        assert objective.propagation == expected
        assert objective.weight == 2
        again = tmp_path / "again.yaml"
        again.write_text(first.text)
        assert str(parse_recipe(again).recipe.objective) == str(objective)
    with pytest.raises(RecipeError, match="even num_points of at least 2, but got 31"):
        parse_recipe(file, [f"--objective.propagation={way.replace('32', '31')}"])
    with pytest.raises(RecipeError, match="noise_std of at least 0"):
        parse_recipe(file, ["--objective.noise_std=-0.1"])


def test_recipe_text_reads_back_to_itself(path: Path, tmp_path: Path) -> None:
    first = parse_recipe(path, ["--seed=3"])
    again = tmp_path / "again.yaml"
    again.write_text(first.text)
    second = parse_recipe(again)
    assert second.text == first.text
    assert second.values == first.values
    assert yaml.safe_load(first.text)["seed"] == 3


def test_iat_follows_the_published_schedule() -> None:
    attack = attack_of(parse_recipe(find_recipe("mnist-iat")).recipe)
    assert isinstance(attack.epsilon, PerEpoch)
    values = [attack.epsilon_at(epoch + 0.5) for epoch in range(40)]
    assert values == pytest.approx([0.01 * e for e in range(1, 41)])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--trainin.epochs=3", r"'trainin.epochs'.*'training.epochs'"),
        ("--training.epoch=3", r"'training.epoch'.*'training.epochs'"),
        ("--objective.attack.epsilo=0.1", r"'epsilo'.*'epsilon'"),
        ("--epsilon=8/255", r"'epsilon'.*'objective.attack.epsilon'"),
        ("--training.epochs=many", "training.epochs"),
        ("--training.epochs=-1", "epochs of at least 0"),
        ("--objective.attack.norm=3", "norm of 1, 2 or inf"),
        ("--objective=Nonsense", "no class 'Nonsense'"),
        ("--objective=Crossentropy", "no class 'Crossentropy'.*'CrossEntropy'"),
        ("--objective.attack.epsilon=1/0", "divides by 0"),
        ("--evaluation.meters.0.epsilons=[]", "at least one in epsilons"),
        ("--evaluation.meters+=Suit", "evaluation.meters.*'Suit'.*'Suite'"),
        ("--evaluation.num_examples=0", "num_examples .*of at least 1"),
        ("--evaluation.batch_size=0", "batch_size .*of at least 1"),
        ("--evaluation.batch_size=99999999999999999999", "batch_size of an evaluation at most 2,147,483,647"),
        ("--evaluation.num_examples=2147483648", "num_examples of an evaluation at most 2,147,483,647"),
        ("--training.batch_size=99999999999999999999", "batch_size at most 2,147,483,647"),
        ("--seed=99999999999999999", "seed from 0"),
    ],
)
def test_overrides_that_are_wrong_say_what_to_do(path: Path, override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(path, [override])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("trainin: {epochs: 3}", r"'trainin.epochs'.*'training.epochs'"),
        ("data: {nam: mnist}", r"'data.nam'.*'data.name'"),
        ("- a list", "does not fit"),
        ("a: [", "does not fit"),
    ],
)
def test_recipe_files_that_are_wrong_say_what_to_do(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "wrong.yaml"
    file.write_text(line)
    with pytest.raises(RecipeError, match=message):
        parse_recipe(file)


NINE = ["a: &a [x, x, x, x, x, x, x, x, x]"]
NINE += [f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]" for a, b in pairwise("abcdefghi")]
BOUNDLESS = {
    "list-in-itself": ("name: &a [*a]", "&a is in itself"),
    "mapping-in-itself": ("&a\nname: {b: *a}", "&a is in itself"),
    "merged-with-itself": ("a: &a {<<: *a}", "&a is in itself"),
    "deep-lists": (f"name: {'[' * 3000}{']' * 3000}", "more than 64 levels"),
    "deep-mappings": (f"name: {'{a: ' * 3000}1{'}' * 3000}", "more than 64 levels"),
    "deep-by-aliases": (
        "a0: &a0 [1]\n" + "\n".join(f"a{n + 1}: &a{n + 1} [*a{n}]" for n in range(3000)),
        "more than 64 levels",
    ),
    "billion-laughs": ("\n".join(NINE), "more than 100,000 values"),
}


@pytest.mark.parametrize(("text", "message"), BOUNDLESS.values(), ids=list(BOUNDLESS))
def test_recipes_and_sweeps_without_bounds_are_refused_in_a_line(
    tmp_path: Path, text: str, message: str
) -> None:
    file = tmp_path / "boundless.yaml"
    file.write_text(text)
    for read in (parse_recipe, is_sweep):
        with pytest.raises(RecipeError, match=message) as caught:
            read(file)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", ["objective.attack.norm", "model.options", "evaluation.meters.0.epsilons"])
def test_overrides_without_bounds_are_refused(path: Path, key: str) -> None:
    with pytest.raises(RecipeError, match="&a is in itself"):
        parse_recipe(path, [f"--{key}=&a [*a]"])


def test_aliases_within_bounds_are_read() -> None:
    assert load_yaml("a: &a [1, 2]\nb: [*a, *a]\nc: {d: *a}") == {
        "a": [1, 2],
        "b": [[1, 2], [1, 2]],
        "c": {"d": [1, 2]},
    }


def test_find_recipe_names_the_nearest() -> None:
    with pytest.raises(RecipeError, match=r"'mnist-iaat'.*did you mean 'mnist-iat'"):
        find_recipe("mnist-iaat")


def test_arguments_may_be_fractions() -> None:
    arguments = ["--a.b=1/4", "--b=x/y", "--data.root=1/2", "run"]
    assert with_numbers(["--x.norm=inf", "--name=inf"], recipe_parser("", "")) == [
        "--x.norm=.inf",
        "--name=inf",
    ]
    assert with_numbers(arguments, recipe_parser("", "")) == [
        "--a.b=0.25",
        "--b=x/y",
        "--data.root=1/2",
        "run",
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            "model: {bayes: {posterior: {prior_std: -1}}}",
            "not fit: Expected prior_std above 0, but got -1.",
        ),
        (
            "model: {bayes: {layers: {network.1: {prior_std: -1}}}}",
            "The recipe does not fit: Expected prior_std",
        ),
        (
            "model: {bayes: {posterior: {estimator: none}}}",
            "expected one of auto, local, flipout, shared, but got none",
        ),
        (
            "evaluation: {sampling: {num_samples: 0}}",
            "not fit: Expected num_samples of at least 1, but got 0.",
        ),
    ],
)
def test_nullable_setting_names_the_bad_value_alone(tmp_path: Path, value: str, expected: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(value)
    with pytest.raises(RecipeError) as caught:
        parse_recipe(file)
    assert expected in str(caught.value)
    assert "Union" not in str(caught.value)
    assert "NoneType" not in str(caught.value)


_CERTIFICATE = "{class_path: Certificate, init_args: {norm: 2, epsilons: [0.1]}}"


@pytest.mark.parametrize("meter", [_CERTIFICATE, "KernelNorms", "MomentCheck"])
def test_random_weights_refuse_certificates(tmp_path: Path, meter: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"evaluation: {{meters: [{meter}]}}")
    (known,) = parse_recipe(file).recipe.evaluation.meters
    name = type(known).__name__
    with pytest.raises(
        RecipeError, match=rf"meter {name} is of one network.* Leave it out of .*, and measure"
    ):
        parse_recipe(file, ["--model.bayes={}"])


def test_uncertainty_refuses_fixed_weights(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text("evaluation: {meters: [Uncertainty]}")
    parse_recipe(file, ["--model.bayes={}"])
    with pytest.raises(RecipeError, match=r"Uncertainty is of random weights.*no model\.bayes"):
        parse_recipe(file)


# What is measured is a list


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["+=Suite", ".level=standard", ".epsilons=[8/255]"], ["Attacks", "Suite"]),
        (["+=Certificate", ".norm=inf", ".epsilons=[0.1]", "+=KernelNorms"], None),
        (["=[]"], []),
        (["=[]", "+=NoiseCurve", ".num_levels=3"], ["NoiseCurve"]),
        (['+={"class_path": "Corruptions"}'], ["Attacks", "Corruptions"]),
    ],
)
def test_meters_are_added_on_the_command_line(
    path: Path, overrides: list[str], expected: list[str] | None
) -> None:
    parsed = parse_recipe(path, [f"--evaluation.meters{override}" for override in overrides])
    names = [type(meter).__name__ for meter in parsed.recipe.evaluation.meters]
    assert names == (["Attacks", "Certificate", "KernelNorms"] if expected is None else expected)


def test_meters_that_were_added_are_set_and_the_others_stay(path: Path) -> None:
    added = ["+=Suite", ".level=standard", ".epsilons=[8/255]", ".norms=[2]", ".0.epsilons.1=0.5"]
    first, suite = parse_recipe(
        path, [f"--evaluation.meters{override}" for override in added]
    ).recipe.evaluation.meters
    assert isinstance(first, Attacks)
    assert first.epsilons == [0.0, 0.5]
    assert suite == Suite("standard", [8 / 255], norms=[2.0])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("--objective.loss=CrossEntropy", r"objective\.loss: the class 'CrossEntropy' is of another kind"),
        ("--objective.loss=CappedCrosEntropy", r"no class .*Did you mean 'CappedCrossEntropy'"),
        ("--objective.loss=Adversarial", r"the class 'Adversarial' is of another kind"),
        ("--training.average=0.99", r"training\.average: expected \{name: value, …\}, but got 0\.99"),
        ("--training.average=true", r"training\.average: expected \{name: value, …\}, but got true"),
    ],
)
def test_what_is_of_another_kind_is_said_to_be(option: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        parse_recipe(find_recipe("digits-certified"), [option])


@pytest.mark.parametrize(
    ("meter", "message"),
    [
        ("Suit", r"evaluation\.meters.*no class 'Suit'\. Did you mean 'Suite'"),
        ("{class_path: Kernelnorms}", r"no class 'Kernelnorms'\. Did you mean 'KernelNorms'"),
        (
            "{class_path: Attacks, init_args: {attacks: [PG], epsilons: [0.1]}}",
            r"attacks.*no class 'PG'\. Did you mean 'PGD'",
        ),
        ("Qwertyuiop", r"no class 'Qwertyuiop'\.$"),
        ("{class_path: KernelNorms, init_args: {num_exmples: 3}}", r"'num_exmples'.*'num_examples'"),
        ("{class_path: Suite, init_args: {level: fast}}", r"Suite.*required: epsilons"),
        (
            "{class_path: Suite, init_args: {level: slow, epsilons: [0.1]}}",
            r"level: expected .*fast, .*got slow",
        ),
    ],
)
def test_meters_misspelt_in_a_recipe_name_the_nearest(tmp_path: Path, meter: str, message: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(f"evaluation: {{meters: [{meter}]}}")
    with pytest.raises(RecipeError, match=message):
        parse_recipe(file)


NORMS = "expected a norm of 1, 2 or inf, or as text l1, l2 or linf"
PRECISIONS = "expected one of fp32, tf32, bf16, fp16"


@pytest.mark.parametrize("norm", ["l2", "L2", '"2"', "2", "2.0"])
def test_recipes_read_norms_and_epsilons_alike(tmp_path: Path, norm: str) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(
        f"""
objective:
  class_path: Adversarial
  init_args: {{attack: {{class_path: PGD, init_args: {{norm: {norm}, epsilon: "8/255"}}}}}}
evaluation:
  meters:
  - {{class_path: Suite, init_args: {{level: fast, norms: [{norm}, linf], epsilons: ["8/255", 1/2]}}}}
model: {{options: {{norm: l2}}}}
"""
    )
    recipe = parse_recipe(file).recipe
    assert recipe.objective.attack == PGD(2.0, 8 / 255)
    (suite,) = recipe.evaluation.meters
    assert (suite.norms, suite.epsilons) == ([2.0, math.inf], [8 / 255, 0.5])  # type: ignore[attr-defined]
    assert recipe.model.options == {"norm": "l2"}  # a word of the model's own
    set_to_linf = parse_recipe(file, ["--objective.attack.norm=linf"]).recipe
    assert set_to_linf.objective.attack == PGD(math.inf, 8 / 255)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("--objective.attack.norm=l3", f"objective.attack.norm: {NORMS}, but got l3"),
        ("--objective.attack.epsilon=much", "objective.attack.epsilon: expected a number, but got much."),
        ("--objective.attack.num_steps=x", "objective.attack.num_steps: expected a whole number, but got x."),
        ("--training.precision=fp8", f"training.precision: {PRECISIONS}, but got fp8"),
        ("--training.compile=maybe", "training.compile: expected true or false, but got maybe"),
        ("--evaluation.meters=3", "evaluation.meters: expected a list in brackets, but got 3"),
        ("--model.options=3", "model.options: expected {name: value, …}, but got 3"),
        ("--data.seed=-1", "Expected seed from 0 to 2147483647, but got -1."),
    ],
)
def test_errors_name_the_key_what_it_takes_and_what_it_was_given(override: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        parse_recipe(find_recipe("digits-adversarial"), [override])
    assert str(caught.value) == f"The recipe does not fit: {message}"


def test_an_unknown_key_names_the_command_that_lists_them() -> None:
    parser = recipe_parser("withstand train RECIPE", "")
    with pytest.raises(RecipeError, match=r"`withstand train RECIPE --help-all` lists all keys\.$"):
        parse_recipe(find_recipe("digits-adversarial"), ["--nope=1"], parser=parser)
