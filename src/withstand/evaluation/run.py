"""Measures a model on test data: rows as it goes, then the table of all figures."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import nn

from withstand import bayes
from withstand._version import __version__
from withstand.attacks import Attack
from withstand.core.checks import as_device, memory_checked
from withstand.core.contract import adapted, outside_inference_mode, require_module
from withstand.core.dataset_info import DatasetInfo
from withstand.core.devices import preserved_random_states
from withstand.core.identity import identity, identity_of_model
from withstand.core.modes import eval_mode
from withstand.core.network import describe, written_by_forward
from withstand.core.numerics import numerics, without_autocast
from withstand.core.processes import num_processes, rank
from withstand.core.run_folder import EVALUATED_FILES, RunFolder
from withstand.core.setting_rules import COUNT, SEED, instance_of, optional
from withstand.data import Dataset, as_dataset, batches, few, stratified
from withstand.evaluation.averaging import find_predictor
from withstand.evaluation.measuring import Evaluation, measured
from withstand.evaluation.meter import Meter, Subject
from withstand.evaluation.meters import Calibration, Classes
from withstand.evaluation.one_batch import BatchPlan
from withstand.evaluation.plans import (
    AttackPlan,
    CertificatePlan,
    default_plans,
    merged_attacks,
    merged_certificates,
)
from withstand.evaluation.prediction_sampling import ASKED_TWICE, Sampling, are_answers_drawn
from withstand.evaluation.proofs import provers
from withstand.evaluation.run_files import (
    warnings_of_other_weights,
    weights_in,
)
from withstand.evaluation.store import Store
from withstand.evaluation.work import Progress, Work
from withstand.evaluation.workers import Alone, Workers
from withstand.models import check
from withstand.models.check import num_classes
from withstand.results.results import SCHEMA
from withstand.types import DataError, ModelError, RunFolderError

_logger = logging.getLogger(__name__)


@outside_inference_mode()
@without_autocast()
def evaluate(  # noqa: PLR0913 - what, on what, how, and where to
    model: nn.Module,
    dataset: Any,
    meters: Iterable[Meter] = (),
    *,
    sampling: Sampling | None = None,
    num_examples: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: Path | str | None = None,
    on_batch: Progress | None = None,
    workers: Workers | None = None,
    about: Mapping[str, Any] = MappingProxyType({}),
) -> Evaluation:
    """Scores the test split: clean accuracy, calibration and classes, and whatever meters are named.

    What a run folder holds of the same model and data is not computed again: an evaluation that was stopped
    goes on, and one that asks for more adds that.

    Every attack runs in its evaluation form (best iterate, restarts, stop when fooled), and its
    success is decided here. Accuracy at a larger epsilon is never above that at a smaller one, and
    attacked accuracy never above clean accuracy, example by example. Where anything is attacked, signs of
    false robustness are looked for; a check that fails is a warning.

    What is certified is attacked too: by ``plans.default_attack`` where nothing else attacks it in that
    norm at that epsilon. A certified example that an attack breaks stops the evaluation, once its image fools
    the model in float64 as well.

    Of a model with random weights (``bayes.is_stochastic``), and of any that answers differently when it is
    asked twice, the mean probability over several draws is scored and attacked, several times an example, and
    the share of correct predictions counts, not correct or wrong. Attacked images, and the worst of several
    attacks, are chosen by one set of predictions and counted on another, so that luck of the draws is no
    success of the attack; the orders above then hold up to sampling alone. Nothing can be proven of such.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); its modes stay as they were.
        dataset: A ``data.Dataset``, or what ``data.as_dataset`` makes one of: its test split is scored, or
            all of data that come in one part.
        meters: What to measure, such as ``meters.Attacks``, ``meters.Suite``, ``meters.Certificate``.
        sampling: How to score a model with random answers; as ``Sampling()`` has it where None.
        num_examples: Score only so many test examples, drawn so that each class has its share
            (``data.stratified`` with seed 0): the same ones of every model and for every ``seed``. All where
            None.
        batch_size: Examples a batch; examples times draws where weights are random.
        seed: Of all that is drawn; each part of a batch has its own, whatever came before.
        device: Where to run, and where the model is moved; where it is already, if None.
        out: A run folder for ``examples.csv``, ``measurements.csv``, ``metrics.json`` and ``gallery.npz``,
            and for results on the way, in ``evaluation``; nothing is written where None. The files
            hold what ``meters`` names; to add to what they held, name the former meters too, which costs
            nothing, since all results are stored.
        on_batch: Called with how many examples are done, of how many.
        workers: Who scores the batches: this process alone where None, which waits for no other;
            ``Processes()`` with all processes of its group, which must call this too; ``RayWorkers(…)`` of a
            cluster. The numbers are the same.
        about: More fields of the results, such as ``weights`` and ``settings`` of a recipe.

    Returns:
        Rows, table and results.

    Raises:
        TypeError: something is no meter, or of no kind that ``data.as_dataset`` takes.
        ValueError: a number is out of its range.
        ModelError: the model does not fit the data or a meter, such as certificates of random weights.
        DataError: there are no test images; another data set is missing, or its images have another shape.
        AttackError: an attack left its ball or [0, 1], or needs a package that is not installed.
        CertificateError: a certificate is wrong, and the rows so far are written; or a bound of the
            kernel norms is.
        ClusterError: Ray's workers end again and again, or do not start.
        ProcessError: another process of the group has ended, or would measure something else.
        OutOfMemoryError: the device's memory does not hold a batch.
        RunFolderError: the folder cannot be written, or another process holds it.
    """
    workers = optional(instance_of(Workers, "an evaluation.Processes()"))("workers", workers) or Alone()
    with ExitStack() as holding:
        with workers.agreeing():
            num_examples, batch_size = require_sizes(num_examples, batch_size)
            sampling = optional(instance_of(Sampling, "a Sampling(num_samples=20)"))("sampling", sampling)
            require_module(model)
            dataset = _dataset_of(model, dataset)
            _require_test_images(dataset)
            seed, meters = SEED("seed", seed), _listed(meters)
            place = device_of_model(model) if device is None else as_device(device)
            run = None if out is None or not workers.is_first else RunFolder.at(out)
            described, weights = describe(model), weights_in(run, model)
            doubts = warnings_of_other_weights(run, weights)
            check(model.to(place), dataset.info)
            index = stratified(dataset.test.labels, num_examples)
            test = dataset.test.subset(index).to(place)
            given, model = model, adapted(model, few(test, ASKED_TWICE).images)
            is_random = are_answers_drawn(model, test)
            all_meters = with_implied(meters)
            _require_met(model, all_meters, dataset.info, is_random=is_random)
            plans, certificates = _plans_of(all_meters, dataset.info, is_random=is_random)
            proving = provers(model, certificates)
            for prover in proving:  # before anything that takes its time
                prover.try_on(next(batches(test, 1)))
            model_identity = identity_of_model(given, but=written_by_forward(described, describe(given)))
            if run is not None:
                holding.enter_context(_started(run, workers))
            store = _store_of(run, model_identity, dataset, workers)
        workers.require_alike(store.owner, plans, certificates, all_meters, index, batch_size, seed, sampling)
        drawn = (sampling or Sampling()) if is_random else None
        with (
            memory_checked(f"take batches smaller than {batch_size} examples."),
            eval_mode(model),
            numerics("fp32"),
            preserved_random_states(),
            bayes.sharing_deviations(model, bayes.Deviations()),  # the weights stay as they are
        ):
            scoring_plan = find_predictor(model, test, plans, drawn, store, batch_size=batch_size, seed=seed)
            subject = Subject(
                model, dataset.info, test, scoring_plan.predictor, scoring_plan.batch_size, seed, index
            )
            work = Work(subject, BatchPlan(scoring_plan, plans, proving, all_meters), store, on_batch)
            return measured(work, store, workers, run, given, dataset, doubts, {"weights": weights, **about})


def _plans_of(
    meters: Sequence[Meter], info: DatasetInfo, *, is_random: bool
) -> tuple[list[AttackPlan], list[CertificatePlan]]:
    """All that meters attack and certify, and the attacks that certificates are tried on."""
    plans = merged_attacks(plan for meter in meters for plan in meter.attack_plans(info, is_random=is_random))
    certificates = merged_certificates(plan for meter in meters for plan in meter.certificate_plans())
    return [*plans, *default_plans(certificates, plans)], certificates


@contextmanager
def _started(run: RunFolder, workers: Workers) -> Iterator[None]:
    with ExitStack() as stack:
        try:
            stack.enter_context(run.starting("evaluating", writes=EVALUATED_FILES))
        except RunFolderError as error:
            if num_processes() == 1 or not isinstance(workers, Alone):
                raise
            raise RunFolderError(
                f"{error} This is process {rank()} of a group, and each evaluates for itself: give all of "
                "them workers=withstand.evaluation.Processes() to share the work, or evaluate in one alone."
            ) from error
        yield


def _store_of(run: RunFolder | None, model_identity: str, dataset: Dataset, workers: Workers) -> Store:
    of = {"model": model_identity, "data": dataset.fingerprint}
    owner = identity(*of.values(), __version__, SCHEMA)
    return Store(None if run is None else run.evaluation, owner, of, workers.done_by_first)


def _listed(meters: Iterable[Meter]) -> list[Meter]:
    """The meters, each of them one; of two with one name the first is left out, which is logged."""
    if isinstance(meters, Meter):
        raise TypeError(f"Expected a list of meters, but got one meter: write [{type(meters).__name__}(…)].")
    meters = list(meters)
    for meter in meters:
        if isinstance(meter, Attack):
            raise TypeError(
                f"Expected meters, but got the attack {meter.name}: write "
                "meters.Attacks([attack], epsilons=[0.1])."
            )
        if not isinstance(meter, Meter):
            raise TypeError(f"Expected meters, such as meters.NoiseCurve(), but got {meter!r}.")
    for name, number in Counter(meter.name for meter in meters).items():
        if number > 1:
            _logger.warning("Of %s meters named %s the last alone is measured.", number, name)
    return meters


def with_implied(meters: Sequence[Meter]) -> list[Meter]:
    """All that is measured: what always is, what is named, and what that implies; of each name the last."""
    named = [Calibration(), Classes(), *meters]
    implied = [other for meter in meters for other in meter.implied()]
    by_name = {meter.name: meter for meter in named}
    return list(by_name.values()) + [
        meter for name, meter in {meter.name: meter for meter in implied}.items() if name not in by_name
    ]


def _require_met(model: nn.Module, meters: Sequence[Meter], info: DatasetInfo, *, is_random: bool) -> None:
    """Accepts a model that has what meters need."""
    for meter in meters:
        if meter.needs.fixed_weights:
            bayes.require_certain(model, to=f"measure {meter.name}")
        if meter.needs.random_weights and not is_random:
            raise ModelError(
                f"The meter {type(meter).__name__} is for networks whose weights are random, and those of "
                "this one are not. Leave it out, or make them random by bayes.convert."
            )
        meter.require(info)


def _dataset_of(model: nn.Module, source: Any) -> Dataset:
    """The data; of test images alone the classes are the model's, since not each need have an image."""
    dataset = as_dataset(source, alone="test")
    if isinstance(source, Dataset) or len(dataset.train) or not len(dataset.test):
        return dataset
    names, number = dataset.info.class_names, num_classes(model, dataset.info)
    more = [str(label) for label in range(len(names), number)]
    return replace(dataset, info=replace(dataset.info, class_names=[*names, *more]))


def _require_test_images(dataset: Dataset) -> None:
    if not len(dataset.test):
        raise DataError(
            f"{dataset.info.name} has no test images, so there is nothing to evaluate. Give its test split "
            "at least one image."
        )


def require_sizes(num_examples: int | None, batch_size: int) -> tuple[int | None, int]:
    """The sizes of an evaluation as whole numbers, where there is something to evaluate with them.

    Raises:
        TypeError: one is no number.
        ValueError: one is below 1, or not whole.
    """
    words = "{} of an evaluation".format
    return optional(COUNT)(words("num_examples"), num_examples), COUNT(words("batch_size"), batch_size)


def device_of_model(model: nn.Module) -> torch.device:
    """Where its weights are; the CPU where it has none."""
    state = next(chain(model.parameters(), model.buffers()), None)
    return torch.device("cpu") if state is None else state.device
