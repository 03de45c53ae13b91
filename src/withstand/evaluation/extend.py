"""Adds certificates to an evaluation that is there, without running its attacks again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from withstand import bayes
from withstand.data import Dataset, Split, batches
from withstand.evaluation.attacking import attack_batch
from withstand.evaluation.certificate import Certificate, CertificatePlan
from withstand.evaluation.evaluate import device_of_model
from withstand.evaluation.evidence import evidence_of
from withstand.evaluation.extension import Extension, FormerEvaluation, is_whole, plan_extension
from withstand.evaluation.judge import Answer, Judge
from withstand.certificates.consistency import require_lawful
from withstand.evaluation.measuring import Evaluation
from withstand.evaluation.proofs import Former, Proven, Prover, outcomes_of, provers
from withstand.evaluation.rows import CLEAN, AttackPlan, Columns, Scores, column, prediction_column, shown
from withstand.evaluation.scoring import batch_seed
from withstand.evaluation.summary import (
    attack_summary,
    certificate_summary,
    warnings_of,
    withdrawal_warnings,
)
from withstand.models import check
from withstand.modes import eval_mode
from withstand.numerics import numerics
from withstand.run_folder import RunFolder, radius_column, replaced
from withstand.types import Batch, RunFolderError

__all__ = ["extend_evaluation"]

_ALWAYS = ("index", "label", "prediction", "confidence", CLEAN)
_CLAIM = "certified"
_MOST_OTHER_PREDICTIONS = 0.005  # of the examples: another device rounds otherwise


def extend_evaluation(  # noqa: PLR0913 - what, on what, how, and where to
    model: nn.Module,
    dataset: Dataset,
    former: FormerEvaluation,
    certificates: Sequence[Certificate],
    run: RunFolder,
    *,
    batch_size: int = 500,
    seed: int = 0,
    device: torch.device | str | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Certifies the examples of a former evaluation; its attacks stand beside what is proven.

    The laws hold as in ``evaluate``. An attack of the former evaluation that felled an example
    which is certified now is run on it again, to have the image.

    Args:
        model: The one that was evaluated.
        dataset: Its test split was scored.
        former: What was found.
        certificates: What to prove, each at its own epsilons.
        run: Where ``examples.csv`` grows batch by batch and ``metrics.json`` at the end.
        batch_size: Examples a batch.
        seed: Of the attacks' random starts.
        device: Where to run, and where the model is moved; where it is already, if None.
        on_batch: Told after each batch how many examples are done, of how many.

    Returns:
        The rows and metrics of both.

    Raises:
        ValueError: a certificate has no epsilon, or two are alike.
        ModelError: nothing can be proven of the model, such as of one with random weights.
        CertificateError: a certificate is wrong; the rows so far are written.
        RunFolderError: the rows are of other examples or of another model, or cannot be written.
    """
    bayes.require_certain(model, to="certify its answers")
    plans = plan_extension(former, certificates)
    place = device_of_model(model) if device is None else torch.device(device)
    check(model.to(place), dataset.info)
    test = _same_examples(former, dataset.test, run).to(place)
    proving = provers(model, plans.proofs)
    for prover in proving:
        prover.try_on(next(batches(test, 1)))
    rows = _with_columns(former, plans)
    withdrawn: Counter[str] = Counter()
    done = 0
    with eval_mode(model), numerics("fp32"), torch.random.fork_rng():
        for batch in batches(test, batch_size):
            torch.manual_seed(batch_seed(seed, done))
            part = rows.iloc[done : done + len(batch.labels)]
            _require_same_model(model, batch, part, run)
            columns, proven = _extend(model, batch, part, plans, proving)
            for name, values in columns.items():
                rows.loc[part.index, name] = values
            _write(rows, run)
            violations = [violation for each in proven.values() for violation in each.violations]
            require_lawful(violations, done, str(run.examples))
            if not done:
                for prover in proving:
                    prover.require_known_answers(batch.images[0])
            withdrawn.update({name: each.num_withdrawn for name, each in proven.items()})
            done += len(batch.labels)
            if on_batch is not None:
                on_batch(done, len(test))
    metrics = _metrics(former.metrics, rows, plans, withdrawn)
    run.write_json(run.metrics, metrics)
    return Evaluation(rows, metrics)


def _same_examples(former: FormerEvaluation, test: Split, run: RunFolder) -> Split:
    """The examples that the rows are of."""
    rows = former.rows
    few = test.subset(torch.arange(min(len(rows), len(test))))
    has_all = set(_ALWAYS) <= set(rows) and len(rows) == len(few) == former.metrics["num_examples"]
    if not (
        has_all
        and (rows["index"].to_numpy() == np.arange(len(few))).all()
        and (rows["label"].to_numpy() == few.labels.cpu().numpy()).all()
    ):
        raise RunFolderError(
            f"{run.examples} holds rows of other examples than its metrics or the test data. "
            f"Evaluate anew with `withstand evaluate {run.path}`."
        )
    return few


def _require_same_model(model: nn.Module, batch: Batch, rows: pd.DataFrame, run: RunFolder) -> None:
    with torch.no_grad():
        predicted = model(batch.images).argmax(dim=1).cpu().numpy()
    num_others = int((predicted != rows["prediction"].to_numpy()).sum())
    if num_others > 1 + _MOST_OTHER_PREDICTIONS * len(rows):
        raise RunFolderError(
            f"{run.examples} holds predictions of another model: {num_others} of {len(rows)} differ. "
            f"Evaluate anew with `withstand evaluate {run.path}`."
        )


def _with_columns(former: FormerEvaluation, plans: Extension) -> pd.DataFrame:
    """The rows with room for what is to come, and without what a stopped certification left."""
    rows = former.rows.drop(columns=[name for name in former.rows if _is_left_over(former, str(name))])
    attacked = [column(plan.name, epsilon) for plan in plans.fresh for epsilon in plan.epsilons]
    proven = [column(plan.name, epsilon) for plan in plans.proofs for epsilon in plan.epsilons]
    predicted = [prediction_column(plan.name, epsilon) for plan in plans.fresh for epsilon in plan.epsilons]
    new = dict.fromkeys([*attacked, *predicted, *proven], "Int64")
    new |= {radius_column(plan.name): "Float64" for plan in plans.proofs if plan.certificate.radius}
    room = {name: pd.Series(pd.NA, rows.index, dtype=kind) for name, kind in new.items() if name not in rows}
    return pd.concat([rows, pd.DataFrame(room, index=rows.index)], axis=1)


def _is_left_over(former: FormerEvaluation, name: str) -> bool:
    """Whether a column is unfinished, or of a certificate that never came to its metrics."""
    if name in _ALWAYS:
        return False
    known = former.metrics.get("certificates", [])
    kept = {column(each["name"], point["epsilon"]) for each in known for point in each["curve"]}
    kept |= {radius_column(each["name"]) for each in known if each.get("radius")}
    is_claim = name.startswith((_CLAIM, radius_column(_CLAIM)))
    return not is_whole(former.rows, name) or (is_claim and name not in kept)


def _extend(
    model: nn.Module, batch: Batch, rows: pd.DataFrame, plans: Extension, proving: Sequence[Prover]
) -> tuple[Columns, dict[str, Proven]]:
    """What is new of a batch: columns, and what each certificate gave."""
    clean = _answer(rows, batch)
    judge = Judge.of(model)
    scores = attack_batch(judge, batch, clean, plans.fresh)
    attacked = _attack_columns(rows, scores, plans.attacks)
    outcomes = outcomes_of({CLEAN: rows[CLEAN].to_numpy(), **attacked}, plans.attacks)
    evidence = evidence_of(judge, batch, scores, plans.attacks, clean.right > 0)
    proven = {
        each.plan.name: each.prove(
            batch,
            outcomes,
            evidence,
            _before(rows, each.plan, plans),
            [*each.probe(model, batch), each.clean_margins(batch)],
        )
        for each in proving
    }
    columns = {name: values for each in proven.values() for name, values in each.columns.items()}
    return shown({**attacked, **columns}), proven


def _answer(rows: pd.DataFrame, batch: Batch) -> Answer:
    """The clean answers, as the rows have them."""
    names = ("prediction", "confidence", CLEAN)
    prediction, confidence, right = (
        torch.tensor(rows[name].to_numpy()).to(batch.labels.device) for name in names
    )
    return Answer(prediction, confidence, right.long())


def _attack_columns(rows: pd.DataFrame, scores: Scores, attacks: Sequence[AttackPlan]) -> Columns:
    """All attacks' columns, kept and new, in which whatever falls at one budget falls beyond it."""
    columns: Columns = {}
    for plan in attacks:
        names = [column(plan.name, epsilon) for epsilon in plan.epsilons]
        found = [
            scores.columns[name] if name in scores.columns else rows[name].to_numpy(dtype=np.int32)
            for name in names
        ]
        columns |= zip(names, np.minimum.accumulate(np.stack(found), axis=0), strict=True)
    return {**scores.columns, **columns}


def _before(rows: pd.DataFrame, plan: CertificatePlan, plans: Extension) -> Former:
    name = radius_column(plan.name)
    is_known = name in rows and not plan.certificate.radius
    return Former(
        {each: rows[column(plan.name, each)].to_numpy(dtype=bool) for each in plans.kept[plan.name]},
        rows[name].to_numpy(dtype=np.float64) if is_known else None,
    )


def _write(rows: pd.DataFrame, run: RunFolder) -> None:
    with replaced(run.examples) as temporary:
        rows.to_csv(temporary, index=False)


def _metrics(
    former: Mapping[str, Any], rows: pd.DataFrame, plans: Extension, withdrawn: Mapping[str, int]
) -> dict[str, Any]:
    fresh = [plan.name for plan in plans.fresh]
    attacks = [attack_summary(rows, plan) for plan in plans.attacks if plan.name in fresh]
    proven = [certificate_summary(rows, plan) for plan in plans.certified]
    warnings = [*former["warnings"], *warnings_of(rows, plans.fresh), *withdrawal_warnings(withdrawn)]
    return {
        **former,
        "attacks": _merged(former["attacks"], attacks),
        "certificates": _merged(former.get("certificates", []), proven),
        "warnings": list(dict.fromkeys(warnings)),
    }


def _merged(former: Sequence[Mapping[str, Any]], new: Sequence[Mapping[str, Any]]) -> list[Any]:
    """Entries by name; a new one takes the place of a former."""
    return list({entry["name"]: entry for entry in [*former, *new]}.values())
