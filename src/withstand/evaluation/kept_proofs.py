"""Certifies a batch where that has not been done, and holds all that is claimed against all attacks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from withstand.identity import identity
from withstand.certificates.consistency import Attained, Outcome
from withstand.evaluation.meter import Found
from withstand.evaluation.proofs import Evidence, Former, Proven, Prover, margin_column
from withstand.evaluation.rows import column
from withstand.evaluation.store import BatchStore
from withstand.run_folder import radius_column
from withstand.types import Batch

__all__ = ["prove"]

_WITHDRAWN = "withdrawn"


def prove(
    prover: Prover,
    batch: Batch,
    outcomes: Sequence[Outcome],
    evidence: Evidence,
    attained: Sequence[Attained],
    kept: BatchStore,
) -> Proven:
    """What a certificate says of a batch; nothing that breaks a law is kept.

    Args:
        prover: Of the certificate.
        batch: Images (batch, …) in [0, 1] and labels (batch,).
        outcomes: What attacks left of it, the clean images included.
        evidence: Gives the images that fooled the model.
        attained: The margins that attacks came down to.
        kept: What is known of the batch.
    """
    plan = prover.plan
    former = _former(prover, kept)
    missing = [epsilon for epsilon in plan.epsilons if epsilon not in former.certified]
    fresh = prover.at(missing, radius=plan.certificate.radius and former.radius is None)
    proven = fresh.prove(batch, outcomes, evidence, former, attained)
    before = kept.find(_key(prover, _WITHDRAWN))
    num_withdrawn = proven.num_withdrawn + (0 if before is None else int(before.counts[_WITHDRAWN][0]))
    if not proven.violations:
        _keep(prover, kept, proven)
        kept.put(_key(prover, _WITHDRAWN), Found({}, {_WITHDRAWN: np.array([num_withdrawn])}))
    return proven._replace(num_withdrawn=num_withdrawn)


def _former(prover: Prover, kept: BatchStore) -> Former:
    plan = prover.plan
    found = {epsilon: kept.find(_key(prover, f"{epsilon:.6g}")) for epsilon in plan.epsilons}
    known = {epsilon: each.columns for epsilon, each in found.items() if each is not None}
    radius = kept.find(_key(prover, "radius")) if plan.certificate.radius else None
    return Former(
        {epsilon: each[column(plan.name, epsilon)].astype(np.bool_) for epsilon, each in known.items()},
        None if radius is None else radius.columns[radius_column(plan.name)].astype(np.float64),
        {
            epsilon: each[margin_column(plan.name, epsilon)].astype(np.float64)
            for epsilon, each in known.items()
        },
    )


def _keep(prover: Prover, kept: BatchStore, proven: Proven) -> None:
    plan = prover.plan
    for epsilon in plan.epsilons:
        names = (column(plan.name, epsilon), margin_column(plan.name, epsilon))
        found = Found({name: proven.columns[name] for name in names}, {})
        kept.put(_key(prover, f"{epsilon:.6g}"), found)
    name = radius_column(plan.name)
    if name in proven.columns:
        kept.put(_key(prover, "radius"), Found({name: proven.columns[name]}, {}))


def _key(prover: Prover, part: str) -> str:
    certificate = replace(prover.plan.certificate, epsilons=None, radius=False)
    return f"{prover.plan.name} {part} {identity(certificate)}"
