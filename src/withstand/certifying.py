"""Certificates of a trained run, and a run folder for a model that was trained elsewhere."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml
from safetensors.torch import load_file
from torch import nn

from withstand import models, norms
from withstand.certificates import Method
from withstand.data import Dataset
from withstand.environment import describe_device, environment, git_commit
from withstand.evaluation import (
    AttackPlan,
    Certificate,
    Evaluation,
    FormerEvaluation,
    extend_evaluation,
    plan_attacks,
    plan_suite,
)
from withstand.pipeline import add_cost, evaluate_run
from withstand.recipe import DataSettings, EvaluationSettings, ModelSettings, Recipe
from withstand.recipe_file import ParsedRecipe, parse_recipe
from withstand.run_folder import RunFolder, replaced
from withstand.runs import build_model, device_of, load_data, load_run_model, model_spec, open_run
from withstand.same_recipe import require_same_recipe
from withstand.types import RecipeError, RunFolderError

__all__ = ["Request", "adopt_model", "certify_run"]


@dataclass(frozen=True)
class Request:
    """What to certify; what is None is as the run's recipe says.

    Args:
        norm: 2 or inf.
        epsilons: Budgets in [0, 1] units.
        method: The domain to bound with, or best for the tightest.
        clip: Whether the attacker keeps to [0, 1].
        radius: Whether to find the largest certified epsilon of each example, too.
        num_examples: How many of the first test examples.
        batch_size: Examples a batch.
    """

    norm: float | None = None
    epsilons: list[float] | None = None
    method: Method | None = None
    clip: bool | None = None
    radius: bool | None = None
    num_examples: int | None = None
    batch_size: int | None = None

    def certificates(self, settings: EvaluationSettings) -> list[Certificate]:
        """The recipe's certificates with what is asked for in their place; else one that is.

        Args:
            settings: Of the recipe.

        Raises:
            RecipeError: neither says what to certify, or a value does not fit.
        """
        known = [each for each in settings.certificates if self.norm in (None, each.norm)]
        asked = {"epsilons": self.epsilons, "method": self.method, "clip": self.clip, "radius": self.radius}
        given: dict[str, Any] = {key: value for key, value in asked.items() if value is not None}
        try:
            if known:
                whole = [replace(each, epsilons=each.epsilons or settings.epsilons) for each in known]
                changed = [replace(each, **given) for each in whole]
                return list({each.name: each for each in changed}.values())
            if self.norm is None or self.epsilons is None:
                raise RecipeError(
                    "There is no certificate in the recipe, so say what to certify: "
                    "--norm=2 --epsilons=[0.5,1.58], or --norm=inf --epsilons=[8/255]."
                )
            return [Certificate(norm=self.norm, **given)]
        except ValueError as error:
            raise RecipeError(str(error)) from error


def certify_run(
    folder: Path,
    request: Request,
    overrides: Sequence[str] = (),
    *,
    command: str,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Certifies a trained run, beside what its last evaluation attacked.

    Args:
        folder: The run folder; a run that was never evaluated is scored clean as well.
        request: What to certify.
        overrides: ``--key=value`` of its recipe, such as ``--data.root=PATH``.
        command: The command that repeats it, for ``environment.json``.
        on_batch: Told after each batch how many examples are done, of how many.

    Raises:
        WithstandError: of the part that failed; nothing that was written before is lost.
    """
    run, own = open_run(folder)
    certificates = request.certificates(own.recipe.evaluation)
    metrics = run.read_json(run.metrics) if run.examples.exists() else {}
    changes = _changes(run, metrics, request)
    changes["certificates"] = [asdict(each) for each in certificates]
    set_by_key = [f"--evaluation.{key}={_flow(value)}" for key, value in changes.items()]
    parsed = parse_recipe(run.recipe, [*overrides, *set_by_key])
    if not metrics:
        return evaluate_run(run, parsed, command=command, on_batch=on_batch)
    return _extend_run(run, parsed, metrics, command=command, on_batch=on_batch)


def _changes(run: RunFolder, metrics: dict[str, Any], request: Request) -> dict[str, Any]:
    """The evaluation's keys that differ from the recipe's."""
    sizes = {"num_examples": request.num_examples, "batch_size": request.batch_size}
    given = {key: value for key, value in sizes.items() if value is not None}
    if not metrics:
        return {"attacks": [], "epsilons": [], "suite": None, **given}
    number = metrics["num_examples"]
    if request.num_examples not in (None, number):
        raise RunFolderError(
            f"{run.path} was evaluated on {number} examples, so its certificates are of the same ones: leave "
            f"--num_examples out, or evaluate others first by `withstand evaluate {run.path} "
            f"--evaluation.num_examples={request.num_examples}`."
        )
    return {**metrics.get("settings", {}), **given}


def _flow(value: object) -> str:
    """A value as one line of YAML."""
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9)
    return text.removesuffix("\n").removesuffix("\n...")


def _extend_run(
    run: RunFolder,
    parsed: ParsedRecipe,
    metrics: dict[str, Any],
    *,
    command: str,
    on_batch: Callable[[int, int], None] | None,
) -> Evaluation:
    require_same_recipe(parsed, run)
    recipe = parsed.recipe
    settings, device = recipe.evaluation, device_of(recipe)
    dataset = load_data(recipe)
    model = load_run_model(run, recipe, dataset)
    started = time.monotonic()
    evaluation = extend_evaluation(
        model,
        dataset,
        FormerEvaluation(_rows_of(run), metrics, _plans(settings, dataset, metrics)),
        settings.certificates,
        run,
        batch_size=settings.batch_size,
        seed=recipe.seed,
        device=device,
        on_batch=on_batch,
    )
    add_cost(run, certify_seconds=time.monotonic() - started)
    about = {
        "certify_command": command,
        "certify_device": describe_device(device),
        "certify_commit": git_commit(),
    }
    run.write_json(run.environment, {**run.read_json(run.environment), **about})
    return evaluation


def _plans(settings: EvaluationSettings, dataset: Dataset, metrics: dict[str, Any]) -> list[AttackPlan]:
    """The attacks of an evaluation; a suite without what it transferred, of which only the rows are left.

    Its norms and budgets are those that it was run at, not those that the new certificates would give it.
    """
    plans = plan_attacks(settings.attacks, settings.epsilons)
    suite = settings.chosen_suite
    if suite is None:
        return plans
    known = {each["name"]: [point["epsilon"] for point in each["curve"]] for each in metrics["attacks"]}
    names = {norm: f"{suite.level}-{norms.label(norm)}" for norm in (1.0, 2.0, math.inf)}
    budgets = {norm: known[name] for norm, name in names.items() if name in known}
    return [*plans, *plan_suite(suite, budgets, dataset.info.num_classes, is_random=False)]


def _rows_of(run: RunFolder) -> pd.DataFrame:
    try:
        return pd.read_csv(run.examples)
    except (OSError, ValueError) as error:
        raise RunFolderError(
            f"Cannot read {run.examples}: {error}. Evaluate anew with `withstand evaluate {run.path}`."
        ) from error


# -- a model that was trained elsewhere -------------------------------------------------------------


def adopt_model(
    out: RunFolder, data: DataSettings, model: ModelSettings, weights: Path | None, *, command: str
) -> None:
    """Makes a run folder of a model, so that it is evaluated, certified and reported like a run.

    Args:
        out: The folder; one that holds this very model already is left as it is.
        data: What it was trained on.
        model: How to build it.
        weights: Its weights; those that it is built with where None.
        command: The command that repeats it, for ``environment.json``.

    Raises:
        WithstandError: the model cannot be built, or the folder holds another.
    """
    recipe = Recipe(name=out.path.name, data=data, model=model)
    device = device_of(recipe)
    dataset = load_data(recipe)
    network = build_model(recipe, dataset.info)
    if weights is not None:
        models.load_weights(network, weights)
    if out.recipe.exists():
        _require_same_model(out, recipe, network)
        return
    out.create()
    out.write_json(out.model_spec, model_spec(recipe, dataset.info))
    _write_environment(out, dataset, device, command)
    models.save_weights(network, out.last_weights)
    content = {
        "name": recipe.name,
        "title": f"Certificates of {model.name}",
        "data": asdict(data),
        "model": asdict(model),
        "evaluation": {"weights": "last"},
    }
    with replaced(out.recipe) as temporary:  # last, since it makes the folder a run
        temporary.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")


def _write_environment(out: RunFolder, dataset: Dataset, device: torch.device, command: str) -> None:
    about = environment(seed=0, command=command, data_fingerprint=dataset.fingerprint, device=device)
    out.write_json(out.environment, about)


def _require_same_model(out: RunFolder, recipe: Recipe, network: nn.Module) -> None:
    held = parse_recipe(out.recipe).recipe
    same = (held.data, held.model) == (recipe.data, recipe.model) and out.last_weights.exists()
    state = network.state_dict()
    kept = load_file(out.last_weights) if same else {}
    if set(kept) != set(state) or not all(torch.equal(kept[name], state[name]) for name in kept):
        raise RunFolderError(f"{out.path} holds another run or model. Choose another folder with --out.")
