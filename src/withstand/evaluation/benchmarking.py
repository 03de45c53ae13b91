"""One model, one data set, one budget: one row, to stand beside those of others."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from withstand import bayes
from withstand.attacks import SuiteLevel
from withstand.certificates import Certifier
from withstand.core import norms
from withstand.core.contract import require_module
from withstand.core.setting_rules import POSITIVE
from withstand.core.writing import epsilon_text, percent
from withstand.data import Dataset, as_dataset, batches
from withstand.evaluation.meter import Meter
from withstand.evaluation.meters import Certificate, Suite
from withstand.evaluation.run import evaluate
from withstand.results.measurements import ATTACKED, CERTIFIED, CLEAN
from withstand.types import ModelError

_MEASURES = (CLEAN, ATTACKED, CERTIFIED)  # of each there is one row


@dataclass(frozen=True)
class Benchmark:
    """A row of ``benchmark``; ``pandas.DataFrame([row, row])`` makes a table of several.

    Attributes:
        model: What the model is called.
        data: Name of the data set.
        norm: Of the ball: l1, l2 or linf.
        epsilon: Its radius, in [0, 1] units.
        clean: Accuracy on the clean test examples, a share in [0, 1].
        robust: Accuracy under the suite: an upper bound of robust accuracy.
        robust_lower: Of its exact 95 % interval.
        robust_upper: Likewise.
        proven: The share that is certified, a lower bound of robust accuracy; NaN where none is.
        proven_note: Why nothing is proven; empty where it is.
        examples: How many test examples.
        sample: Which of them, in words: all, or of each class its share.
        suite: The attacks: ``standard-linf``.
        seconds: How long it took.
        warnings: What makes the figures doubtful, each failed check for false robustness among them.
    """

    model: str
    data: str
    norm: str
    epsilon: float
    clean: float
    robust: float
    robust_lower: float
    robust_upper: float
    proven: float
    proven_note: str
    examples: int
    sample: str
    suite: str
    seconds: float
    warnings: tuple[str, ...]

    def __str__(self) -> str:
        reason = self.proven_note.partition(". ")[0]
        proven = f"not proven ({reason})" if reason else f"proven {percent(self.proven)}"
        doubts = f"; warnings: {len(self.warnings)}" if self.warnings else ""
        return (
            f"{self.model} on {self.data}, {self.norm} {epsilon_text(self.epsilon)}: "
            f"clean {percent(self.clean)}, robust {percent(self.robust)} "
            f"({percent(self.robust_lower)} to {percent(self.robust_upper)}) under {self.suite}, "
            f"{proven}; {self.sample}; {self.seconds:.0f} s{doubts}"
        )


def benchmark(  # noqa: PLR0913 - what, on what, against what, and where to
    model: nn.Module,
    data: Dataset | str,
    *,
    epsilon: float | str,
    norm: float | str = math.inf,
    level: SuiteLevel = "standard",
    num_examples: int | None = None,
    prove: bool = True,
    name: str | None = None,
    batch_size: int = 500,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: Path | str | None = None,
) -> Benchmark:
    """Clean, robust and proven accuracy of a model at one budget, as one row.

    It is ``evaluate`` with a suite and a certificate, and goes on from what a run folder holds. Where fewer
    examples than all are scored, each class has its share of them (the first ones are not taken, as
    RobustBench does), the same ones of every model.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); normalisation is a layer inside it.
        data: A name that ``data.load`` knows, or a data set; its test split is scored.
        epsilon: Radius of the ball, in [0, 1] units, above 0; or a text such as ``"8/255"``.
        norm: 1, 2 or inf (or ``"l1"``, ``"l2"``, ``"linf"``).
        level: The suite: fast, standard (AutoAttack and PGD), or thorough.
        num_examples: How many test examples; all where None.
        prove: Whether to prove what can be proven, by the tightest bounds, in l1, l2 and linf.
        name: What to call the model; its class where None.
        batch_size: Examples a batch.
        seed: Of all that is drawn.
        device: Where to run; where the model is, if None.
        out: A run folder for all figures, from which ``report`` makes a page; none where None.

    Raises:
        ValueError: a number, the norm or the level is out of its range.
        WithstandError: as ``evaluate`` raises them.
    """
    require_module(model)
    dataset = as_dataset(data, alone="test")
    radius, norm = POSITIVE("epsilon", epsilon), norms.as_norm(norm)
    meters: list[Meter] = [Suite(level, epsilons=[radius], norms=[norm])]
    started = time.monotonic()
    reason = _unprovable(model, dataset, norm, radius) if prove else "it was not asked for"
    if not reason:
        meters.append(Certificate(norm=norm, epsilons=[radius]))
    evaluation = evaluate(
        model,
        dataset,
        meters,
        num_examples=num_examples,
        batch_size=batch_size,
        seed=seed,
        device=device,
        out=out,
        about={"model": name or type(model).__name__},
    )
    results, table = evaluation.results, evaluation.table
    figures: dict[Any, Any] = {row.measure: row for row in table.itertuples() if row.measure in _MEASURES}
    clean, robust = figures[CLEAN], figures[ATTACKED]
    return Benchmark(
        model=str(results.model),
        data=results.dataset,
        norm=norms.label(norm),
        epsilon=radius,
        clean=clean.value,
        robust=robust.value,
        robust_lower=robust.lower,
        robust_upper=robust.upper,
        proven=figures[CERTIFIED].value if CERTIFIED in figures else math.nan,
        proven_note=reason,
        examples=results.num_examples,
        sample=results.scored,
        suite=robust.by,
        seconds=time.monotonic() - started,
        warnings=tuple(results.warnings),
    )


def _unprovable(model: nn.Module, dataset: Dataset, norm: float, epsilon: float) -> str:
    """Why nothing can be proven of a model; empty where one image goes through the bounds."""
    images, labels = next(batches(dataset.test, 1))
    weight = next(model.parameters(), images)
    try:
        bayes.require_certain(model, to="prove anything of it")
        Certifier(model).certify(
            images.to(weight.device), labels.to(weight.device), norm=norm, epsilon=epsilon
        )
    except ModelError as error:
        return str(error)
    return ""
