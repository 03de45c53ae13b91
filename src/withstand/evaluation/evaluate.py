"""Measures a model on test data: rows as it goes, then their summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from withstand.attacks import Attack
from withstand.data import Dataset, Split, batches
from withstand.evaluation.certificate import Certificate, plan_certificates, plan_default_attacks
from withstand.evaluation.gallery import save_gallery
from withstand.evaluation.kernel_norms import measure_kernel_norms
from withstand.evaluation.laws import Outcome, require_lawful
from withstand.evaluation.noise import NoiseCurve, NoiseMeter
from withstand.evaluation.proofs import Evidence, Prover, outcomes_of, provers
from withstand.evaluation.rows import AttackPlan, Columns, Scores, score_batch
from withstand.evaluation.summary import summarise
from withstand.kernel_norms import KernelNorms
from withstand.models import check
from withstand.modes import eval_mode
from withstand.numerics import numerics
from withstand.run_folder import RunFolder
from withstand.types import Batch, RunFolderError

__all__ = ["Evaluation", "batch_seed", "device_of_model", "evaluate", "plan_attacks", "require_sizes"]

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

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); its modes stay as they were.
        dataset: Its test split is scored.
        attacks: Each is run at every epsilon; may be empty.
        epsilons: Budgets in [0, 1] units, in any order.
        certificates: What to prove, at their own epsilons or at these.
        kernel_norms: How to bound the kernel norm of each class logit; not bounded where None.
        noise: At which levels of Gaussian noise to look at the answers; not measured where None.
        num_examples: Score only the first so many test examples; all where None.
        batch_size: Examples a batch.
        seed: Of the attacks' random starts and of the noise; each batch has its own, whatever came before.
        device: Where to run, and where the model is moved; where it is already, if None.
        out: A run folder for ``examples.csv`` (written batch by batch), ``gallery.npz`` and
            ``metrics.json``; nothing is written where None.
        on_batch: Told after each batch how many examples are done, of how many.

    Returns:
        Rows and metrics.

    Raises:
        ValueError: a number is out of its range, or there are attacks or certificates but no epsilon.
        ModelError: the model does not fit the data, or has an operation that nothing can be proven of.
        AttackError: an attack left its ball or [0, 1].
        CertificateError: a certificate is wrong, and the rows so far are written; or a bound of the
            kernel norms is.
        RunFolderError: the folder cannot be written.
    """
    require_sizes(num_examples, batch_size)
    plans = plan_attacks(attacks, epsilons)
    proofs = plan_certificates(certificates, epsilons)
    plans += plan_default_attacks(proofs, plans)
    run = None if out is None else RunFolder(Path(out)).create()
    place = device_of_model(model) if device is None else torch.device(device)
    check(model.to(place), dataset.info)
    test = dataset.test.to(place)
    if num_examples is not None:
        test = test.subset(torch.arange(min(num_examples, len(test))))
    proving = provers(model, proofs)
    for prover in proving:  # before anything that takes its time
        prover.try_on(next(batches(test, 1)))
    if run is not None:  # what a former evaluation left would not fit the rows to come
        run.metrics.unlink(missing_ok=True)
        run.gallery.unlink(missing_ok=True)
    with eval_mode(model), numerics("fp32"), torch.random.fork_rng():
        measured: dict[str, Any] = {}
        if kernel_norms is not None:  # before attacks that take their time, since bounds may contradict
            names = dataset.info.class_names
            measured["kernel_norms"] = measure_kernel_norms(model, test, kernel_norms, names, seed=seed)
        meter = None if noise is None else NoiseMeter(noise)
        wanted = _Wanted(plans, proving, meter)
        rows, withdrawn = _score(model, test, wanted, batch_size, seed, run, on_batch)
        if meter is not None:
            measured["noise"] = meter.summary()
        metrics = {
            "schema": 1,
            "dataset": dataset.info.name,
            "num_examples": len(test),
            "num_classes": dataset.info.num_classes,
            **summarise(rows, plans, proofs, withdrawn),
            **measured,
        }
        if run is not None:
            if plans:
                torch.manual_seed(seed)
                few = next(batches(test, min(_GALLERY_SIZE, len(test))))
                shown = plans[0].attack.at(_telling_epsilon(metrics))
                save_gallery(run.gallery, model, few, shown, dataset.info.class_names)
            run.write_json(run.metrics, metrics)
    return Evaluation(rows, metrics)


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


@dataclass(frozen=True)
class _Wanted:
    """What is found out of each batch."""

    plans: Sequence[AttackPlan]
    proving: Sequence[Prover]
    noise: NoiseMeter | None

    def under_noise(self, model: nn.Module, batch: Batch, scores: Scores, seed: int) -> Columns:
        if self.noise is None:
            return {}
        prediction = torch.from_numpy(scores.columns["prediction"]).to(batch.labels.device)
        return self.noise.score(model, batch, prediction, seed=seed)


def _score(
    model: nn.Module,
    test: Split,
    wanted: _Wanted,
    batch_size: int,
    seed: int,
    out: RunFolder | None,
    on_batch: Callable[[int, int], None] | None,
) -> tuple[pd.DataFrame, Counter[str]]:
    """The rows, and how many examples each certificate lost to rounding."""
    frames = []
    withdrawn: Counter[str] = Counter()
    done = 0
    for batch in batches(test, batch_size):
        torch.manual_seed(batch_seed(seed, done))
        scores = score_batch(model, batch, wanted.plans, done)
        outcomes = outcomes_of(scores.columns, wanted.plans)
        evidence = _evidence(batch, scores)
        proven = {each.plan.name: each.prove(batch, outcomes, evidence) for each in wanted.proving}
        columns = {name: values for each in proven.values() for name, values in each.columns.items()}
        columns |= wanted.under_noise(model, batch, scores, batch_seed(seed, done))
        frames.append(pd.DataFrame({**scores.columns, **columns}))
        if out is not None:
            _append(frames[-1], out, is_first=not done)
        violations = [violation for each in proven.values() for violation in each.violations]
        require_lawful(violations, done, "" if out is None else str(out.examples))
        withdrawn.update({name: each.num_withdrawn for name, each in proven.items()})
        done += len(batch.labels)
        if on_batch is not None:
            on_batch(done, len(test))
    return pd.concat(frames, ignore_index=True), withdrawn


def batch_seed(seed: int, first_index: int) -> int:
    """Of a batch's random starts and of its noise, whatever was drawn for those before it."""
    return seed * 1_000_003 + first_index


def _evidence(batch: Batch, scores: Scores) -> Evidence:
    """The images that fooled the model, which the scoring kept."""

    def images(outcome: Outcome, rows: Tensor) -> Tensor:
        return scores.fooling.get(outcome.attack, batch.images)[rows]

    return images


def _append(frame: pd.DataFrame, out: RunFolder, *, is_first: bool) -> None:
    try:
        frame.to_csv(out.examples, mode="w" if is_first else "a", header=is_first, index=False)
    except OSError as error:
        raise RunFolderError(
            f"Cannot write {out.examples}: {error.strerror or error}. "
            "The rows written before are still there."
        ) from error
