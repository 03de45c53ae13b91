"""The results of an evaluation: measured, put together, and written with images beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch
from torch import nn

from withstand.core.dataset_info import DatasetInfo
from withstand.core.identity import identity
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset, Split, few
from withstand.data.content import digest
from withstand.evaluation.assembly import assemble, headline_epsilon
from withstand.evaluation.meter import Meter, Subject
from withstand.evaluation.plans import AttackPlan
from withstand.evaluation.run_files import RowsFile, is_shown, save_extremes, save_gallery
from withstand.evaluation.scoring import score_split
from withstand.evaluation.store import Store
from withstand.evaluation.work import Work
from withstand.evaluation.workers import Workers
from withstand.results.measurements import ATTACKED, accuracies_text, radius_column
from withstand.results.results import Inputs, Results
from withstand.results.results_file import write_results

_GALLERY_SIZE = 12


@dataclass(frozen=True)
class Evaluation:
    """The results of an evaluation.

    Attributes:
        rows: One row a test example, as ``examples.csv`` holds them.
        table: One row a figure, as ``measurements.csv`` holds them (see ``measurements.Measurement``).
        results: All else, as ``metrics.json`` holds it: checks, warnings, what was measured by what.
    """

    rows: pd.DataFrame
    table: pd.DataFrame
    results: Results

    def __repr__(self) -> str:
        """A line for people."""
        return f"<Evaluation: {accuracies_text(self.table)}; {len(self.table)} figures in table>"


def measured(
    work: Work,
    store: Store,
    workers: Workers,
    run: RunFolder | None,
    model: nn.Module,
    dataset: Dataset,
    doubts: Sequence[str],
    about: Mapping[str, Any],
) -> Evaluation:
    """Measures what is not known, and writes rows, images and results.

    Args:
        work: All batches.
        store: What is known of the whole.
        workers: Who scores the batches.
        run: The run folder; nothing is written where None.
        model: As it was given.
        dataset: The data, of whose whole test split the results tell.
        doubts: Warnings, before those of the results.
        about: More fields of the results.
    """
    subject, batch_plan = work.subject, work.batch_plan
    once = {}  # before what takes its time, since bounds may contradict
    for meter in batch_plan.meters:
        if type(meter).measure is not Meter.measure:
            drawn = batch_plan.scoring_plan.draws
            settings = (type(meter), meter.depends_on, len(subject.test), subject.seed, drawn)
            key = f"{meter.name} {identity(*settings)}"
            once[meter.name] = store.noted(key, partial(meter.measure, subject))

    def written() -> Evaluation:
        with RowsFile(run) as rows_file:
            split_scores = score_split(work, workers, rows_file)
            evaluation = Evaluation(split_scores.rows, *assemble(subject, batch_plan, split_scores, once))
            if run is not None:  # before the rows are shown: whoever is interrupted has the old files
                torch.manual_seed(subject.seed)
                _save_images(run, subject, dataset.test, batch_plan.plans, evaluation)
        warnings = [*doubts, *evaluation.results.warnings]
        evaluation = _told(evaluation, model, dataset, {"warnings": warnings, **about})
        if run is not None:
            write_results(run, evaluation.results, evaluation.table)
        return evaluation

    if not workers.is_first:
        workers.help_with(work)
    return workers.done_by_first(written)


def _told(evaluation: Evaluation, model: nn.Module, dataset: Dataset, about: Mapping[str, Any]) -> Evaluation:
    """The evaluation with what its results tell of the model, the data and the whole test split, and more."""
    test, info = dataset.test, dataset.info
    tested = {"num_test": len(test), "test_data": digest(test)}
    told = {**tested, "inputs": _inputs(info), "model": type(model).__name__, **about}
    return replace(evaluation, results=replace(evaluation.results, **told))


def _inputs(info: DatasetInfo) -> Inputs:
    low, high = info.input_range or ((), ())
    return Inputs(list(info.shape), list(info.feature_names), list(low), list(high))


def _save_images(
    run: RunFolder, subject: Subject, every: Split, plans: Sequence[AttackPlan], evaluation: Evaluation
) -> None:
    """Images under the first attack, and those proven with the smallest and the largest radii."""
    rows, names = evaluation.rows, subject.info.class_names
    if plans and is_shown(subject.info):
        shown = few(subject.test, _GALLERY_SIZE)
        attacked = evaluation.table[evaluation.table["measure"] == ATTACKED]
        epsilon = headline_epsilon(attacked, subject.info.num_classes)
        save_gallery(
            run.gallery, subject.predictor, shown, plans[0].attack.at(epsilon).stages[0], subject.info
        )
    else:
        run.gallery.unlink(missing_ok=True)
    certificates = (certificate.name for certificate in evaluation.results.certificates)
    if proven := next((name for name in certificates if radius_column(name) in rows), None):
        save_extremes(run.extremes, every, rows, certificate=proven, class_names=names)
    else:
        run.extremes.unlink(missing_ok=True)
