"""How to go on with a model: which recipe suits the data, their number, and what works."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from withstand.evaluation.model_report.model_report import ModelReport
from withstand.evaluation.model_report.report_parts import Advice, Verdict
from withstand.evaluation.model_report.trials import (
    ADVERSARIAL,
    CERTIFIED,
    DEFORMATIONS,
    GRADIENT,
    NOISE,
    Family,
)

_FEW = 2000  # training examples
_COLOURS = 3
_LOOSE = 1e3  # times the steepest gradient: a bound of which little can be proven


@dataclass(frozen=True)
class Advised:
    """What advice depends on beside the report.

    Attributes:
        num_train: Training examples; None where there are no data.
        name: How commands name the model; None for lines of Python.
        options: What commands must have beside it.
    """

    num_train: int | None
    name: str | None
    options: Sequence[str]


# Data -> the recipe; of other data that of the digits, with an epsilon that suits them.
_ADVERSARIAL: Mapping[str, str] = MappingProxyType(
    {"digits": "digits-adversarial", "mnist": "mnist-iat-small", "cifar10": "cifar10-extended-16"}
)
_CERTIFIED: Mapping[str, str] = MappingProxyType(
    {
        "digits": "digits-certified",
        "mnist": "mnist-certified-small",
        "fashion-mnist": "fashion-certified-mlp",
        "cifar10": "cifar10-bcp-4c3f",
    }
)


def advised(report: ModelReport, about: Advised) -> list[Advice]:
    """Ways to go on that work with the model, the best one first.

    Args:
        report: With its verdicts.
        about: What else counts.
    """
    by_name = {verdict.name: verdict for verdict in report.training}
    few = about.num_train is not None and about.num_train <= _FEW
    ways = [
        _against_attacks(report, about, by_name),
        _proven(report, about, by_name),
        _from_few(report, about, by_name) if few else None,
    ]
    return [way for way in ways if way is not None]


def _against_attacks(report: ModelReport, about: Advised, by_name: Mapping[str, Verdict]) -> Advice | None:
    if not _works(ADVERSARIAL, by_name):
        return None
    epsilon = "8/255" if report.shape[0] == _COLOURS else "0.1"
    recipe, more = _ADVERSARIAL.get(report.data), list[str]()
    if recipe is None:
        recipe = "digits-adversarial"
        more = [f"--objective.attack.epsilon.end={epsilon}", f"--training.selection.epsilon={epsilon}"]
    python = f"ws.objectives.Adversarial(ws.attacks.PGD(norm='linf', epsilon={epsilon}, num_steps=10))"
    why = f"A step costs {_cost(ADVERSARIAL, by_name)} plain ones with 5 attack steps."
    return Advice("To withstand attacks", _how(report, about, recipe, more, python), why)


def _proven(report: ModelReport, about: Advised, by_name: Mapping[str, Verdict]) -> Advice | None:
    if not _works(CERTIFIED, by_name):
        if not _works(NOISE, by_name):
            return None
        python = "ws.objectives.NoisyCrossEntropy(0.25, keeps_clean=False)"
        more = [
            "--objective=NoisyCrossEntropy",
            "--objective.noise_std=0.25",
            "--objective.keeps_clean=false",
        ]
        why = "No bound passes this model; randomised smoothing needs none (the meter RandomizedSmoothing)."
        return Advice("For a guarantee", _how(report, about, "mnist-moments-small", more, python), why)
    recipe = _CERTIFIED.get(report.data, "digits-certified")
    more = (
        []
        if any(option.startswith("--model.options") for option in about.options)
        else ["--model.options={}"]
    )
    ramp = "ws.schedules.Linear(start=0.0, end=0.5, epochs=10)"
    python = f"ws.objectives.Certified(norm=2, epsilon={ramp}, domain='ball')"
    why = f"A step costs {_cost(CERTIFIED, by_name)} plain ones."
    bound = report.lipschitz
    if bound.l2 is not None and bound.steepest and bound.l2 > _LOOSE * bound.steepest:
        times = f"{bound.l2 / bound.steepest:.0e}"
        why += f" The bound is now {times} times the steepest gradient; nets of few layers end up far nearer."
    return Advice("For proofs", _how(report, about, recipe, more, python), why)


def _from_few(report: ModelReport, about: Advised, by_name: Mapping[str, Verdict]) -> Advice | None:
    penalty = next((family for family in (DEFORMATIONS, GRADIENT) if _works(family, by_name)), None)
    if penalty is None:
        return None
    term = "DeformationStability" if penalty is DEFORMATIONS else "InputGradient"
    terms = f"[CrossEntropy, {{class_path: Weighted, init_args: {{weight: 0.01, term: {term}}}}}]"
    more = [
        "--data.train_size=null",
        "--data.validation_size=null",
        "--training.optimizer=torch.optim.Adam",
        "--training.optimizer.lr=0.001",
        "--objective=Sum",
        f"--objective.terms={terms}",
    ]
    python = f"ws.objectives.CrossEntropy() + 0.01 * ws.penalties.{term}()"
    why = f"With {about.num_train} training examples a penalty on kernel norms often adds accuracy."
    return Advice("For accuracy from few examples", _how(report, about, "mnist-300-small", more, python), why)


def _how(report: ModelReport, about: Advised, recipe: str, more: Sequence[str], python: str) -> str:
    if about.name is None:
        settings = "ws.training.TrainingSettings(epochs=20)"
        return f"ws.fit(model, dataset, {python}, {settings}, out='runs/mine')"
    # Commands put the data's before a model of one's own, unless they are told otherwise.
    is_own = ":" in about.name and not any(text.startswith("--model.normalize") for text in about.options)
    inside = ["--model.normalize=false"] if is_own and report.normalization.is_present else []
    parts = ["withstand", "run", recipe, f"--model.name={about.name}", *about.options, *inside, *more]
    return shlex.join([*parts, "--out=runs/mine"])


def _works(family: Family, by_name: Mapping[str, Verdict]) -> bool:
    verdict = by_name.get(family.name)
    return verdict is not None and verdict.works


def _cost(family: Family, by_name: Mapping[str, Verdict]) -> str:
    cost = by_name[family.name].cost
    return "some" if cost is None else f"{cost:.1f}"
