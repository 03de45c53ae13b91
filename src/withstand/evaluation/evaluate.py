"""Measures a model on test data: rows as it goes, then their summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch
from torch import nn

from withstand import bayes
from withstand.attacks import Attack
from withstand.data import Dataset, Split, batches
from withstand.evaluation.averaging import Judging, find_judge
from withstand.evaluation.certificate import (
    Certificate,
    CertificatePlan,
    plan_certificates,
    plan_default_attacks,
)
from withstand.evaluation.gallery import save_gallery
from withstand.evaluation.kernel_norms import measure_kernel_norms
from withstand.evaluation.noise import NoiseCurve, NoiseMeter
from withstand.evaluation.proofs import Prover, provers
from withstand.evaluation.rows import AttackPlan
from withstand.evaluation.sampling import Sampling
from withstand.evaluation.scoring import Wanted, observe_others, score_split
from withstand.evaluation.summary import summarise
from withstand.evaluation.uncertainty_meter import UncertaintyMeter, require_others
from withstand.kernel_norms import KernelNorms
from withstand.models import check
from withstand.modes import eval_mode
from withstand.numerics import numerics
from withstand.run_folder import RunFolder

__all__ = ["Evaluation", "device_of_model", "evaluate", "plan_attacks", "require_sizes"]

_GALLERY_SIZE = 12


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        rows: One row a test example (see ``rows.score_batch``).
        metrics: Accuracies with intervals, as ``metrics.json`` holds them.
    """

    rows: pd.DataFrame
    metrics: dict[str, Any]


def evaluate(  # noqa: PLR0913 - what, on what, how, and where to
    model: nn.Module,
    dataset: Dataset,
    attacks: Sequence[Attack],
    epsilons: Sequence[float],
    *,
    certificates: Sequence[Certificate] = (),
    kernel_norms: KernelNorms | None = None,
    noise: NoiseCurve | None = None,
    sampling: Sampling | None = None,
    others: Mapping[str, Dataset] = MappingProxyType({}),
    num_examples: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: Path | str | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores the test split: clean, under each attack at each epsilon, certified, and under noise.

    Every attack runs in its evaluation form (best iterate, restarts, stop when fooled), and its
    success is judged here. Accuracy at a larger epsilon is never above that at a smaller one, and
    attacked accuracy never above clean accuracy, example by example.

    What is certified is attacked too: by ``default_attack`` where none of ``attacks`` is run in that
    norm at that epsilon. A certified example that falls stops the evaluation, once its image fools
    the model in float64 as well.

    Of a model with random weights (``bayes.is_stochastic``) the mean probability over several draws is
    scored and attacked, several times an example, and the share of right predictions stands for right or
    wrong. Attacked images, and the worst of several attacks, are chosen by one set of predictions and counted
    on another, so that luck of the draws is no success of the attack; the orders above then hold up to
    sampling alone. Nothing can be proven of such a model.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); its modes stay as they were.
        dataset: Its test split is scored.
        attacks: Each is run at every epsilon; may be empty.
        epsilons: Budgets in [0, 1] units, in any order.
        certificates: What to prove, at their own epsilons or at these.
        kernel_norms: How to bound the kernel norm of each class logit; not bounded where None.
        noise: At which levels of Gaussian noise to look at the answers; not measured where None.
        sampling: How to score a model with random weights; as ``Sampling()`` has it where None.
        others: Name -> data set: on their test images, too, the uncertainty of such a model is measured,
            on as many as are scored.
        num_examples: Score only the first so many test examples; all where None.
        batch_size: Examples a batch; examples times draws where weights are random.
        seed: Of the attacks' random starts and of the noise; each batch has its own, whatever came before.
        device: Where to run, and where the model is moved; where it is already, if None.
        out: A run folder for ``examples.csv`` (written batch by batch), ``gallery.npz`` and
            ``metrics.json``; nothing is written where None.
        on_batch: Told after each batch how many examples are done, of how many.

    Returns:
        Rows and metrics.

    Raises:
        ValueError: a number is out of its range, or there are attacks or certificates but no epsilon.
        ModelError: the model does not fit the data, or has an operation that nothing can be proven of, such
            as random weights.
        DataError: another data set is missing, or its images have another shape.
        AttackError: an attack left its ball or [0, 1].
        CertificateError: a certificate is wrong, and the rows so far are written; or a bound of the
            kernel norms is.
        RunFolderError: the folder cannot be written.
    """
    require_sizes(num_examples, batch_size)
    sampling = (sampling or Sampling()) if bayes.is_stochastic(model) else None
    require_others(sampling, others, dataset.info)
    plans = plan_attacks(attacks, epsilons)
    proofs = plan_certificates(certificates, epsilons)
    if proofs or kernel_norms is not None:
        bayes.require_certain(model, to="certify its answers" if proofs else "bound its kernel norms")
    plans += plan_default_attacks(proofs, plans)
    plans = [replace(plan, is_random=sampling is not None) for plan in plans]
    run = None if out is None else RunFolder(Path(out)).create()
    place = device_of_model(model) if device is None else torch.device(device)
    check(model.to(place), dataset.info)
    test = _first(dataset.test, num_examples).to(place)
    proving = _proving(model, proofs, test)
    if run is not None:  # what a former evaluation left would not fit the rows to come
        run.metrics.unlink(missing_ok=True)
        run.gallery.unlink(missing_ok=True)
    with (
        eval_mode(model),
        numerics("fp32"),
        torch.random.fork_rng(),
        bayes.sharing_deviations(model, bayes.Deviations()),  # the weights stay as they are
    ):
        measured: dict[str, Any] = {}
        if kernel_norms is not None:  # before attacks that take their time, since bounds may contradict
            names = dataset.info.class_names
            measured["kernel_norms"] = measure_kernel_norms(model, test, kernel_norms, names, seed=seed)
        judging = find_judge(model, test, plans, sampling, batch_size=batch_size, seed=seed)
        uncertainty = _uncertainty_meter(model, sampling, dataset, batch_size)
        wanted = Wanted(judging, plans, proving, None if noise is None else NoiseMeter(noise), uncertainty)
        rows, withdrawn = score_split(test, wanted, seed=seed, out=run, on_batch=on_batch)
        if uncertainty is not None:
            foreign = {name: _first(other.test, len(test)).to(place) for name, other in others.items()}
            observe_others(uncertainty, foreign, batch_size=batch_size, seed=seed)
        found = summarise(rows, plans, proofs, withdrawn, draws=judging.judge.num_repeats)
        found["warnings"] += judging.warnings
        metrics = {**_about(dataset, test), **found, **measured, **wanted.measured()}
        if run is not None:
            torch.manual_seed(seed)
            _save_gallery(run, judging, test, plans, metrics, dataset.info.class_names)
            run.write_json(run.metrics, metrics)
    return Evaluation(rows, metrics)


def _proving(model: nn.Module, proofs: Sequence[CertificatePlan], test: Split) -> list[Prover]:
    """Those who prove, each tried on an image before anything that takes its time."""
    found = provers(model, proofs)
    for prover in found:
        prover.try_on(next(batches(test, 1)))
    return found


def _about(dataset: Dataset, test: Split) -> dict[str, Any]:
    return {
        "schema": 1,
        "dataset": dataset.info.name,
        "num_examples": len(test),
        "num_classes": dataset.info.num_classes,
    }


def _first(test: Split, num_examples: int | None) -> Split:
    return test if num_examples is None else test.subset(torch.arange(min(num_examples, len(test))))


def _uncertainty_meter(
    model: nn.Module, sampling: Sampling | None, dataset: Dataset, most_rows: int
) -> UncertaintyMeter | None:
    if sampling is None or sampling.uncertainty is None:
        return None
    return UncertaintyMeter(model, sampling.uncertainty, dataset.info.num_classes, most_rows)


def _save_gallery(
    run: RunFolder,
    judging: Judging,
    test: Split,
    plans: Sequence[AttackPlan],
    metrics: Mapping[str, Any],
    class_names: Sequence[str],
) -> None:
    """Images under the first attack; none where there is no attack."""
    if not plans:
        return
    few = next(batches(test, min(_GALLERY_SIZE, len(test))))
    shown = plans[0].form.at(_telling_epsilon(metrics))
    save_gallery(run.gallery, judging.judge, few, shown, class_names)


def require_sizes(num_examples: int | None, batch_size: int) -> None:
    """Accepts sizes with which there is something to evaluate.

    Raises:
        ValueError: one is below 1.
    """
    if num_examples is not None and num_examples < 1:
        raise ValueError(f"Expected num_examples of at least 1, but got {num_examples}.")
    if batch_size < 1:
        raise ValueError(f"Expected an evaluation batch_size of at least 1, but got {batch_size}.")


def device_of_model(model: nn.Module) -> torch.device:
    """Where its weights are; the CPU where it has none."""
    state = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if state is None else state.device


def _telling_epsilon(metrics: Mapping[str, Any]) -> float:
    """The largest budget of the first attack at which the model does better than chance."""
    curve = metrics["attacks"][0]["curve"]
    better = [point["epsilon"] for point in curve if point["accuracy"] > 1 / metrics["num_classes"]]
    return float(max(better, default=curve[0]["epsilon"]))


def plan_attacks(attacks: Sequence[Attack], epsilons: Sequence[float]) -> list[AttackPlan]:
    """Attacks with their budgets in ascending order, and names that differ.

    Raises:
        ValueError: there are attacks but no epsilon, or an epsilon is negative or not finite.
    """
    budgets = sorted(set(epsilons))
    if attacks and not budgets:
        raise ValueError("Attacks need at least one epsilon to be run at, but got none.")
    if any(not 0 <= epsilon < float("inf") for epsilon in budgets):
        raise ValueError(f"Expected every epsilon to be finite and at least 0, but got {budgets}.")
    plans: list[AttackPlan] = []
    for attack in attacks:
        alike = sum(plan.attack.name == attack.name for plan in plans)
        name = attack.name if not alike else f"{attack.name}-{alike + 1}"
        plans.append(AttackPlan(attack, budgets, name, attack.ball_norm))
    return plans
