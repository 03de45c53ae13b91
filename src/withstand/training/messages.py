"""What makes the result of a training doubtful, in words."""

from __future__ import annotations

from withstand.data import Dataset
from withstand.training.collapse import commonest
from withstand.training.loop import TrainingResult
from withstand.training.validation import NO_ANSWER_SHARE


def warnings_of(result: TrainingResult, dataset: Dataset) -> list[str]:
    """The warnings of a training that has ended; none where all is well.

    Args:
        result: Of the training.
        dataset: What it was trained on.
    """
    return [*_collapse(result), *_no_answers(result), *_no_better(result, dataset)]


def _collapse(result: TrainingResult) -> list[str]:
    collapsed = [int(row["epoch"]) for row in result.rows if row["collapsed"]]
    if not collapsed:
        return []
    epochs = f"{'epoch' if len(collapsed) == 1 else 'epochs'} {', '.join(map(str, collapsed[:5]))}"
    epochs += f" and {len(collapsed) - 5} more" if len(collapsed) > 5 else ""
    if not result.has_collapsed:
        return [f"Training collapsed at times, to one answer for all images: {epochs}. It has recovered."]
    kept = "The weights of the best epoch before are in model.safetensors. "
    return [
        f"Training collapsed: the model gives one answer to nearly all images ({epochs}). "
        f"{kept if result.best_score > -1 else ''}Raise epsilon in smaller steps (schedules.Linear, or "
        "training.rollback, which halves a step that was too large), or lower the learning rate."
    ]


def _no_answers(result: TrainingResult) -> list[str]:
    share = float(result.rows[-1].get(NO_ANSWER_SHARE) or 0) if result.rows else 0.0
    if not share:
        return []
    return [
        f"No answer: for {share:.1%} of the validation images the model answers NaN or infinity at the end; "
        "they count as wrong. A root, a logarithm or a quotient in the model may do this."
    ]


def _no_better(result: TrainingResult, dataset: Dataset) -> list[str]:
    """Of a training that has not collapsed; a constant answer is as good."""
    labels = dataset.validation.labels
    if result.has_collapsed or result.best_score < 0 or not len(labels):
        return []
    share = commonest(labels)
    if share == 1 or result.best_score > share:
        return []
    return [
        f"The best validation score, {result.best_score:.1%}, is no better than always answering the "
        f"commonest class, which {share:.1%} of the validation images are of. Train longer, with another "
        "learning rate, or at a smaller epsilon."
    ]
