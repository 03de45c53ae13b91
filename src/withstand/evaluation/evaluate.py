"""Measures a model on test data: rows as it goes, then their summary."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from withstand.attacks import Attack
from withstand.data import Dataset, Split, batches
from withstand.evaluation.gallery import save_gallery
from withstand.evaluation.rows import AttackPlan, score_batch
from withstand.evaluation.summary import summarise
from withstand.models import check
from withstand.modes import eval_mode
from withstand.numerics import numerics
from withstand.run_folder import RunFolder
from withstand.types import Batch, RunFolderError

__all__ = ["Evaluation", "evaluate", "plan_attacks", "require_sizes"]

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
    num_examples: int | None = None,
    batch_size: int = 500,
    seed: int = 0,
    device: torch.device | str | None = None,
    out: Path | str | None = None,
    on_batch: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Scores the test split, clean and under each attack at each epsilon.

    Every attack runs in its evaluation form (best iterate, restarts, stop when fooled), and its
    success is judged here. Accuracy at a larger epsilon is never above that at a smaller one, and
    attacked accuracy never above clean accuracy, example by example.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); its modes stay as they were.
        dataset: Its test split is scored.
        attacks: Each is run at every epsilon; may be empty.
        epsilons: Budgets in [0, 1] units, in any order.
        num_examples: Score only the first so many test examples; all where None.
        batch_size: Examples a batch.
        seed: Of the attacks' random starts; each batch has its own, whatever came before.
        device: Where to run, and where the model is moved; where it is already, if None.
        out: A run folder for ``examples.csv`` (written batch by batch), ``gallery.npz`` and
            ``metrics.json``; nothing is written where None.
        on_batch: Told after each batch how many examples are done, of how many.

    Returns:
        Rows and metrics.

    Raises:
        ValueError: a number is out of its range, or there are attacks but no epsilon.
        ModelError: the model does not fit the data.
        AttackError: an attack left its ball or [0, 1].
        RunFolderError: the folder cannot be written.
    """
    require_sizes(num_examples, batch_size)
    plans = plan_attacks(attacks, epsilons)
    run = None if out is None else RunFolder(Path(out)).create()
    place = _device_of(model) if device is None else torch.device(device)
    check(model.to(place), dataset.info)
    test = dataset.test.to(place)
    if num_examples is not None:
        test = test.subset(torch.arange(min(num_examples, len(test))))
    if run is not None:  # what a former evaluation left would not fit the rows to come
        run.metrics.unlink(missing_ok=True)
        run.gallery.unlink(missing_ok=True)
    with eval_mode(model), numerics("fp32"), torch.random.fork_rng():
        rows = _score(model, test, plans, batch_size, seed, run, on_batch)
        metrics = {
            "schema": 1,
            "dataset": dataset.info.name,
            "num_examples": len(test),
            "num_classes": dataset.info.num_classes,
            **summarise(rows, plans),
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


def _device_of(model: nn.Module) -> torch.device:
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


def _score(
    model: nn.Module,
    test: Split,
    plans: Sequence[AttackPlan],
    batch_size: int,
    seed: int,
    out: RunFolder | None,
    on_batch: Callable[[int, int], None] | None,
) -> pd.DataFrame:
    frames = []
    done = 0
    for batch in batches(test, batch_size):
        torch.manual_seed(seed * 1_000_003 + done)
        frames.append(pd.DataFrame(score_batch(model, Batch(*batch), plans, done)))
        if out is not None:
            _append(frames[-1], out, is_first=not done)
        done += len(batch.labels)
        if on_batch is not None:
            on_batch(done, len(test))
    return pd.concat(frames, ignore_index=True)


def _append(frame: pd.DataFrame, out: RunFolder, *, is_first: bool) -> None:
    try:
        frame.to_csv(out.examples, mode="w" if is_first else "a", header=is_first, index=False)
    except OSError as error:
        raise RunFolderError(
            f"Cannot write {out.examples}: {error.strerror or error}. "
            "The rows written before are still there."
        ) from error
