"""Measures a model as planned: rows as it goes, then their summary."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

from withstand import bayes
from withstand.data import Split, batches
from withstand.dataset_info import DatasetInfo
from withstand.evaluation.assembly import assemble, telling_epsilon
from withstand.evaluation.averaging import Judging, find_judge
from withstand.evaluation.certificate import CertificatePlan
from withstand.evaluation.classes import extremes, save_extremes
from withstand.evaluation.gallery import save_gallery
from withstand.identity import identity
from withstand.evaluation.kernel_norms import measure_kernel_norms
from withstand.evaluation.meter import Meter
from withstand.evaluation.probes import withstand_grey
from withstand.evaluation.proofs import Prover
from withstand.evaluation.rows import AttackPlan
from withstand.evaluation.rows_file import RowsFile
from withstand.evaluation.sampling import Sampling
from withstand.evaluation.scoring import Progress, Wanted, observe_others, score_split
from withstand.evaluation.store import Store
from withstand.evaluation.uncertainty_meter import UncertaintyMeter
from withstand.kernel_norms import KernelNorms
from withstand.modes import eval_mode
from withstand.numerics import numerics
from withstand.run_folder import RunFolder

__all__ = ["Evaluation", "Ready", "measure"]

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


@dataclass(frozen=True)
class Ready:
    """All that an evaluation needs, checked and on the model's device.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        info: Of the data.
        test: The examples to score.
        plans: The attacks.
        proofs: What to certify.
        proving: Who does so.
        meters: What else looks at the images.
        kernel_norms: How to bound the kernel norms; not bounded where None.
        sampling: How to score answers that are drawn; None where they are not.
        others: Name -> images of another data set, on which the uncertainty is measured, too.
        suite_norms: In which a budget that allows everything is tried.
        batch_size: Examples a batch.
        seed: Of all that is drawn.
    """

    model: nn.Module
    info: DatasetInfo
    test: Split
    plans: Sequence[AttackPlan]
    proofs: Sequence[CertificatePlan]
    proving: Sequence[Prover]
    meters: Sequence[Meter]
    kernel_norms: KernelNorms | None
    sampling: Sampling | None
    others: Mapping[str, Split]
    suite_norms: Sequence[float]
    batch_size: int
    seed: int


def measure(ready: Ready, store: Store, run: RunFolder | None, on_batch: Progress | None) -> Evaluation:
    """Measures what is not known.

    Args:
        ready: What to measure.
        store: What is known already; takes up what is found.
        run: Where rows, metrics and images go; nowhere if None.
        on_batch: Told how many examples are done, of how many.

    Returns:
        Rows and metrics.

    Raises:
        WithstandError: as ``evaluate`` says.
    """
    model, test, seed, size = ready.model, ready.test, ready.seed, ready.batch_size
    with (
        eval_mode(model),
        numerics("fp32"),
        torch.random.fork_rng(),
        bayes.sharing_deviations(model, bayes.Deviations()),  # the weights stay as they are
    ):
        measured = _measured_norms(ready, store)  # before what takes its time, since bounds may contradict
        judging = find_judge(model, test, ready.plans, ready.sampling, store, batch_size=size, seed=seed)
        uncertainty = _uncertainty_meter(ready)
        wanted = Wanted(judging, ready.plans, ready.proving, ready.meters, uncertainty)
        with RowsFile(run) as rows_file:
            scored = score_split(test, wanted, store, seed=seed, rows_file=rows_file, on_batch=on_batch)
        if uncertainty is not None:
            observe_others(uncertainty, ready.others, batch_size=size, seed=seed)
            measured["uncertainty"] = uncertainty.summary()
        grey = _grey(ready, judging, store)
        metrics = assemble(ready.info, scored, wanted, ready.proofs, grey) | measured
        if run is not None:
            torch.manual_seed(seed)
            _save_images(run, judging, ready, scored.rows, metrics)
            run.write_json(run.metrics, metrics)
    return Evaluation(scored.rows, metrics)


def _measured_norms(ready: Ready, store: Store) -> dict[str, Any]:
    """The entry ``kernel_norms``, where it is asked for."""
    settings, test, seed = ready.kernel_norms, ready.test, ready.seed
    if settings is None:
        return {}
    find = partial(measure_kernel_norms, ready.model, test, settings, ready.info.class_names, seed=seed)
    return {"kernel_norms": store.noted(f"kernel norms {identity(settings, len(test), seed)}", find)}


def _uncertainty_meter(ready: Ready) -> UncertaintyMeter | None:
    settings = None if ready.sampling is None else ready.sampling.uncertainty
    if settings is None:
        return None
    return UncertaintyMeter(ready.model, settings, ready.info.num_classes, ready.batch_size)


def _grey(ready: Ready, judging: Judging, store: Store) -> list[dict[str, Any]]:
    """What withstands a budget that allows everything, in each norm of a suite."""
    test, seed, size = ready.test, ready.seed, judging.batch_size
    return [
        store.noted(
            f"grey {identity(norm, len(test), seed, judging.draws)}",
            partial(withstand_grey, judging.judge, test, norm, batch_size=size, seed=seed),
        )
        for norm in ready.suite_norms
    ]


def _save_images(
    run: RunFolder, judging: Judging, ready: Ready, rows: pd.DataFrame, metrics: Mapping[str, Any]
) -> None:
    """Images under the first attack, and those proven with the smallest and the largest radii."""
    class_names = ready.info.class_names
    for left_over in (run.gallery, run.extremes):
        left_over.unlink(missing_ok=True)
    if ready.plans:
        few = next(batches(ready.test, min(_GALLERY_SIZE, len(ready.test))))
        shown = ready.plans[0].form.at(telling_epsilon(metrics)).stages[0]
        save_gallery(run.gallery, judging.judge, few, shown, class_names)
    proven = next((each["name"] for each in metrics["certificates"] if "radius" in each), None)
    if proven is not None:
        found = extremes(rows, proven)
        save_extremes(run.extremes, ready.test, rows, found, certificate=proven, class_names=class_names)
