"""Measures a model on test data: rows as it goes, then their summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType

import torch
from torch import nn

from withstand import bayes
from withstand._version import __version__
from withstand.attacks import Attack, SuiteLevel, require_packages
from withstand.data import Dataset, Split, batches
from withstand.evaluation.certificate import (
    Certificate,
    CertificatePlan,
    plan_certificates,
    plan_default_attacks,
)
from withstand.evaluation.corruptions import CorruptionMeter, Corruptions
from withstand.evaluation.identity import identity, identity_of_model
from withstand.evaluation.measuring import Evaluation, Ready, measure
from withstand.evaluation.meter import Meter
from withstand.evaluation.noise import NoiseCurve, NoiseMeter
from withstand.evaluation.probes import GradientMeter, draws_answers
from withstand.evaluation.proofs import Prover, provers
from withstand.evaluation.rows import AttackPlan
from withstand.evaluation.sampling import Sampling
from withstand.evaluation.scoring import Progress
from withstand.evaluation.smoothing import SmoothingMeter
from withstand.evaluation.store import Store
from withstand.evaluation.suite import Suite, plan_suite, suite_budgets
from withstand.evaluation.uncertainty_meter import require_others
from withstand.kernel_norms import KernelNorms
from withstand.models import check
from withstand.modes import eval_mode
from withstand.run_folder import RunFolder
from withstand.smoothing import Smoothing

__all__ = ["Evaluation", "device_of_model", "evaluate", "plan_attacks", "require_sizes"]

_ASKED_TWICE = 32  # images, to see whether answers are drawn


def evaluate(  # noqa: PLR0913 - what, on what, how, and where to
    model: nn.Module,
    dataset: Dataset,
    attacks: Sequence[Attack] = (),
    epsilons: Sequence[float] = (),
    *,
    suite: SuiteLevel | Suite | None = None,
    certificates: Sequence[Certificate] = (),
    kernel_norms: KernelNorms | None = None,
    noise: NoiseCurve | None = None,
    corruptions: Corruptions | None = None,
    smoothing: Smoothing | None = None,
    sampling: Sampling | None = None,
    others: Mapping[str, Dataset] = MappingProxyType({}),
    surrogates: Mapping[str, nn.Module] = MappingProxyType({}),
    num_examples: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: Path | str | None = None,
    on_batch: Progress | None = None,
) -> Evaluation:
    """Scores the test split: clean, under each attack at each epsilon, certified, and under noise.

    With a suite, attacks of several kinds are run one after another, each on what the ones before it left,
    and signs of false robustness are looked for; what they show is in ``checks``, and a check that fails is
    a warning.

    What a run folder holds of the same model and data is not computed again: an evaluation that was stopped
    goes on, and one that asks for more adds that.

    Every attack runs in its evaluation form (best iterate, restarts, stop when fooled), and its
    success is judged here. Accuracy at a larger epsilon is never above that at a smaller one, and
    attacked accuracy never above clean accuracy, example by example.

    What is certified is attacked too: by ``default_attack`` where none of ``attacks`` is run in that
    norm at that epsilon. A certified example that falls stops the evaluation, once its image fools
    the model in float64 as well.

    Of a model with random weights (``bayes.is_stochastic``), and of any that answers differently when it is
    asked twice, the mean probability over several draws is
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
        suite: fast, standard, thorough, or more of it in a ``Suite``; attacks alone where None.
        kernel_norms: How to bound the kernel norm of each class logit; not bounded where None.
        noise: At which levels of Gaussian noise to look at the answers; not measured where None.
        corruptions: Which corruptions of the images to look at; none where None.
        smoothing: How to certify the classifier that Gaussian noise makes of the model; not done where None.
        sampling: How to score a model with random weights; as ``Sampling()`` has it where None.
        others: Name -> data set: on their test images, too, the uncertainty of such a model is measured,
            on as many as are scored.
        surrogates: Name -> another model, whose adversarial images a suite tries, too.
        num_examples: Score only the first so many test examples; all where None.
        batch_size: Examples a batch; examples times draws where weights are random.
        seed: Of the attacks' random starts and of the noise; each batch has its own, whatever came before.
        device: Where to run, and where the model is moved; where it is already, if None.
        out: A run folder for ``examples.csv``, ``gallery.npz`` and ``metrics.json``, and for what is found on
            the way, in ``evaluation``; nothing is written where None.
        on_batch: Told how many examples are done, of how many.

    Returns:
        Rows and metrics.

    Raises:
        ValueError: a number is out of its range, or there is no epsilon for attacks, certificates or a suite.
        ModelError: the model does not fit the data, or has an operation that nothing can be proven of, such
            as random weights.
        DataError: another data set is missing, or its images have another shape.
        AttackError: an attack left its ball or [0, 1], or needs a package that is not installed.
        CertificateError: a certificate is wrong, and the rows so far are written; or a bound of the
            kernel norms is.
        RunFolderError: the folder cannot be written.
    """
    require_sizes(num_examples, batch_size)
    proofs = plan_certificates(certificates, epsilons)
    chosen = Suite(suite) if isinstance(suite, str) else suite
    budgets = {} if chosen is None else suite_budgets(chosen, attacks, certificates, epsilons)
    plans = plan_attacks(attacks, epsilons)
    place = device_of_model(model) if device is None else torch.device(device)
    check(model.to(place), dataset.info)
    test = _first(dataset.test, num_examples).to(place)
    is_random = _is_random(model, test)
    sampling = (sampling or Sampling()) if is_random else None
    require_others(sampling, others, dataset.info)
    if proofs or kernel_norms is not None:
        bayes.require_certain(model, to="certify its answers" if proofs else "bound its kernel norms")
    if chosen is not None:
        others_here = {name: each.to(place) for name, each in surrogates.items()}
        plans += plan_suite(chosen, budgets, dataset.info.num_classes, others_here, is_random=is_random)
    plans += plan_default_attacks(proofs, plans)
    plans = [replace(plan, is_random=is_random) for plan in plans]
    require_packages(plan.attack for plan in plans)
    ready = Ready(
        model=model,
        info=dataset.info,
        test=test,
        plans=plans,
        proofs=proofs,
        proving=_proving(model, proofs, test),
        meters=_meters(noise, corruptions, smoothing, is_attacked=bool(plans), is_random=is_random),
        kernel_norms=kernel_norms,
        sampling=sampling,
        others={name: _first(other.test, len(test)).to(place) for name, other in others.items()},
        suite_norms=list(budgets),
        batch_size=batch_size,
        seed=seed,
    )
    run = None if out is None else RunFolder(Path(out)).create()
    return measure(ready, _store(run, model, dataset), run, on_batch)


def _store(run: RunFolder | None, model: nn.Module, dataset: Dataset) -> Store:
    """What the run folder knows of this very model and data."""
    if run is None:
        return Store(None, "")
    return Store(run.evaluation, identity(identity_of_model(model), dataset.fingerprint, __version__))


def _is_random(model: nn.Module, test: Split) -> bool:
    """Whether its answers are drawn, by random weights or by anything else."""
    if bayes.is_stochastic(model):
        return True
    with eval_mode(model), torch.random.fork_rng():
        return draws_answers(model, next(batches(test, _ASKED_TWICE)).images)


def _meters(
    noise: NoiseCurve | None,
    corruptions: Corruptions | None,
    smoothing: Smoothing | None,
    *,
    is_attacked: bool,
    is_random: bool,
) -> list[Meter]:
    return [
        *([] if noise is None else [NoiseMeter(noise, is_random=is_random)]),
        *([] if corruptions is None else [CorruptionMeter(corruptions)]),
        *([] if smoothing is None else [SmoothingMeter(smoothing)]),
        *([GradientMeter()] if is_attacked else []),
    ]


def _proving(model: nn.Module, proofs: Sequence[CertificatePlan], test: Split) -> list[Prover]:
    """Those who prove, each tried on an image before anything that takes its time."""
    found = provers(model, proofs)
    for prover in found:
        prover.try_on(next(batches(test, 1)))
    return found


def _first(test: Split, num_examples: int | None) -> Split:
    return test if num_examples is None else test.subset(torch.arange(min(num_examples, len(test))))


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
        plans.append(AttackPlan(attack, budgets, name, attack.norm))
    return plans
