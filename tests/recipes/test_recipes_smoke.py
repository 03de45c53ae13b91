"""Every packaged recipe takes a training step and an evaluation on images of its data's shape."""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from pathlib import Path

import pytest
import torch

from withstand.attacks import PGD, Attack, StraightThrough
from withstand.core.dataset_info import KNOWN_DATASETS, DatasetInfo
from withstand.core.schedules import value_at
from withstand.data import Dataset, Split
from withstand.evaluation import Meter, Sampling, evaluate
from withstand.evaluation.meters import Attacks, Certificate, NoiseCurve
from withstand.objectives import Certified, Objective, WeightPerturbation
from withstand.objectives.adversarial import UnderAttack
from withstand.penalties import AdversarialPerturbation, DeformationStability
from withstand.recipes.parsing import ParsedRecipe, find_recipe, packaged_recipes, parse_recipe
from withstand.recipes.schema import Recipe
from withstand.reporting.table import one, select
from withstand.results.measurements import ATTACKED, CLEAN, NOISE_ACCURACY
from withstand.runs.run_parts import build_model
from withstand.training import fit

# What the recipes for picture folders are made for.
FOLDERS = {
    "folder:tiny-imagenet-200": DatasetInfo(
        "tiny-imagenet-200",
        (3, 64, 64),
        tuple(str(number) for number in range(200)),
        (0.48, 0.45, 0.4),
        (0.28, 0.27, 0.28),
    )
}


def info_of(recipe: Recipe) -> DatasetInfo:
    known = {**KNOWN_DATASETS, **FOLDERS}
    return known[recipe.data.name or ""]


def images(recipe: Recipe, num: int) -> Split:
    info = info_of(recipe)
    generator = torch.Generator().manual_seed(num)
    pixels = torch.randint(0, 256, (num, *info.shape), generator=generator).to(torch.uint8)
    return Split(pixels, torch.arange(num) % info.num_classes)


def epsilon_after(recipe: Recipe, progress: float) -> float:
    """What the objective asks for, 0 where it has no epsilon."""
    objective = recipe.objective
    if isinstance(objective, WeightPerturbation):
        objective = objective.objective
    if isinstance(objective, Certified):
        return value_at(objective.epsilon, progress)
    if isinstance(objective, UnderAttack):
        return objective.attack.epsilon_at(progress)
    return 0.0


def attack_in_brief(attack: Attack) -> Attack:
    """The attack with one step."""
    if isinstance(attack, StraightThrough):
        return replace(attack, attack=attack_in_brief(attack.attack))
    assert isinstance(attack, PGD)
    return replace(attack, num_steps=1)


def in_brief(recipe: Recipe) -> Objective:
    """The objective with as few attack steps and deformations as there can be."""
    objective = recipe.objective
    for part in objective.modules():
        if isinstance(part, UnderAttack):
            part.attack = attack_in_brief(part.attack)
        elif isinstance(part, Certified):
            part.kappa, part.epsilon = 0.5, 0.01  # a warm-up would leave the bound out
        elif isinstance(part, DeformationStability):
            part.num_deformations = 1
        elif isinstance(part, AdversarialPerturbation):
            part.num_steps = 1
    return objective


def briefly(meter: Meter) -> Meter | None:
    """The attacks and the noise alone, with as little of them as there can be."""
    if isinstance(meter, Attacks):
        attacks = [attack_in_brief(a) for a in meter.attacks if isinstance(a, PGD | StraightThrough)]
        return Attacks(attacks, meter.epsilons[:1])
    return replace(meter, num_levels=2) if isinstance(meter, NoiseCurve) else None


@pytest.fixture
def empty_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are made ready to be written, and their files stay empty: the largest come to a GiB."""
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: path.touch())
    module = import_module("withstand.training.fit")  # the package has the function by this name
    monkeypatch.setattr(module, "read_weights", lambda file: {})


@pytest.mark.usefixtures("empty_files")
@pytest.mark.parametrize("name", packaged_recipes())
def test_recipe_is_sound_takes_a_step_and_evaluates(name: str, tmp_path: Path) -> None:
    parsed = parse_recipe(find_recipe(name))
    recipe = parsed.recipe
    require_sound(name, parsed, tmp_path / "again.yaml")
    require_measured_as_trained(recipe)
    info = info_of(recipe)
    dataset = Dataset(info, train=images(recipe, 4), validation=images(recipe, 3), test=images(recipe, 2))
    model = build_model(recipe, info)
    objective = in_brief(recipe)
    selection = None if recipe.training.selection is None else recipe.training.selection.at(0.0)
    settings = replace(recipe.training, epochs=1, batch_size=4, selection=selection, accelerator="cpu")
    # The exact norms of a LeNet's convolutions take many seconds.
    settings = replace(settings, rollback=None, measures=[])
    result = fit(model, dataset, objective, settings, out=tmp_path)
    assert result.steps == settings.batch_repeats
    meters = [brief for meter in recipe.evaluation.meters if (brief := briefly(meter)) is not None]
    sampling = Sampling(num_samples=2, num_repeats=1, attack_samples=1)
    evaluation = evaluate(model, dataset, meters, sampling=sampling)
    clean = one(evaluation.table, CLEAN)
    assert clean is not None
    assert clean.total == 2
    noise = [meter for meter in meters if isinstance(meter, NoiseCurve)]
    assert len(select(evaluation.table, NOISE_ACCURACY, by="unclipped")) == 2 * len(noise)
    num_attacks = sum(len(meter.attacks) for meter in meters if isinstance(meter, Attacks))
    assert len(evaluation.results.attacks) >= num_attacks  # where there are several, the worst of them too
    attacked = list(select(evaluation.table, ATTACKED)["by"])
    assert attacked == [attack.name for attack in evaluation.results.attacks]  # at one epsilon each


def require_sound(name: str, parsed: ParsedRecipe, again: Path) -> None:
    """It has all its names, says the command that runs it, and its text reads back to itself."""
    assert parsed.recipe.name == name
    assert parsed.recipe.title
    assert parsed.recipe.description
    header = find_recipe(name).read_text().split("name:")[0]
    assert f"withstand run {name}" in header
    again.write_text(parsed.text)
    assert parse_recipe(again).values == parsed.values


def require_measured_as_trained(recipe: Recipe) -> None:
    """It attacks at the epsilon that it trains for at last, and certifies what it trains to certify."""
    final = epsilon_after(recipe, float("inf"))
    require_rising_epsilons(
        [epsilon_after(recipe, epoch + 0.999) for epoch in range(recipe.training.epochs)], final
    )
    budgets = [meter.epsilons for meter in recipe.evaluation.meters if isinstance(meter, Attacks)]
    if final > 0:
        assert budgets
        assert all(final in [pytest.approx(epsilon) for epsilon in epsilons] for epsilons in budgets)
    norms = [meter.norm for meter in recipe.evaluation.meters if isinstance(meter, Certificate)]
    assert norms == ([recipe.objective.norm] if isinstance(recipe.objective, Certified) else [])


def require_rising_epsilons(epsilons: list[float], final: float) -> None:
    """The last epoch trains at the largest epsilon of all, and the first at less or the same."""
    assert epsilons == sorted(epsilons)
    assert epsilons[-1] == pytest.approx(final)
