"""The command ``withstand attack``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path

from jsonargparse import ArgumentParser, Namespace

from withstand.arguments import parse, plain_parser, target
from withstand.attacks import PGD
from withstand.console import print_results
from withstand.evaluation import Sampling, evaluate
from withstand.recipe import EvaluationSettings
from withstand.runs import device_of, load_data, load_run_model, open_run
from withstand.types import RecipeError

__all__ = ["attack"]

_SAMPLING = {
    "num_samples": "Draws of random weights a prediction",
    "attack_samples": "Draws of random weights a gradient",
    "most_attack_samples": "The most draws a gradient to try, where their number is found",
}


def attack(arguments: Sequence[str]) -> None:
    """Attacks a trained run by PGD.

    Args:
        arguments: What stands after ``withstand attack``.

    Raises:
        WithstandError: of the part that failed.
    """
    parser = plain_parser(
        "withstand attack RUN",
        "Attack a trained run by PGD as you set it; nothing in the run folder changes.",
    )
    parser.add_class_arguments(PGD, as_group=False)
    parser.add_argument("--num_examples", type=int, default=1000, help="Test examples to attack.")
    parser.add_argument("--batch_size", type=int, default=500, help="Examples a batch.")
    for name, text in _SAMPLING.items():
        parser.add_argument(
            f"--{name}", type=int | None, default=None, help=f"{text}; as the run's recipe has it where null."
        )
    folder, overrides = target("attack", "RUN, a run folder", arguments, parser)
    values = parse(parser, overrides)
    settings = _attack_settings(parser, values)
    run, parsed = open_run(Path(folder))
    sampling = _attack_sampling(parsed.recipe.evaluation.sampling or Sampling(), values)
    dataset = load_data(parsed.recipe)
    result = evaluate(
        load_run_model(run, parsed.recipe, dataset),
        dataset,
        settings.attacks,
        settings.epsilons,
        sampling=sampling,
        num_examples=settings.num_examples,
        batch_size=settings.batch_size,
        seed=parsed.recipe.seed,
        device=device_of(parsed.recipe),
    )
    print_results(result.results, result.table)


def _attack_settings(parser: ArgumentParser, values: Namespace) -> EvaluationSettings:
    """One PGD at its own epsilon, and how many examples to run it on."""
    try:
        made = vars(parser.instantiate(values))
        made_attack = PGD(**{key: value for key, value in made.items() if key in signature(PGD).parameters})
        return EvaluationSettings(
            attacks=[made_attack],
            epsilons=[made_attack.epsilon_at()],
            num_examples=values.num_examples,
            batch_size=values.batch_size,
        )
    except ValueError as error:
        raise RecipeError(str(error)) from error


def _attack_sampling(of_recipe: Sampling, values: Namespace) -> Sampling:
    """As the recipe scores random answers but for what is given; uncertainty says nothing of an attack."""
    given = {name: values[name] for name in _SAMPLING if values[name] is not None}
    if "most_attack_samples" in given:
        given = {"attack_samples": None, **given}  # what is to be tried is not fixed
    try:
        return replace(of_recipe, uncertainty=None, **given)
    except ValueError as error:
        raise RecipeError(str(error)) from error
