"""Measures uncertainty on clean, attacked and foreign images, as ``metrics.json`` holds it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from withstand import bayes
from withstand.data import Dataset
from withstand.dataset_info import DatasetInfo
from withstand.evaluation.rows import CLEAN, Columns
from withstand.evaluation.sampling import Sampling
from withstand.evaluation.uncertainty import (
    Entropies,
    Uncertainty,
    auroc,
    calibration_error,
    entropies,
    histogram,
)
from withstand.types import DataError

__all__ = ["UncertaintyMeter", "require_others"]

Kind = Literal["clean", "attacked", "out-of-distribution"]
# Of the parts of ``Entropies``, in their order.
_COLUMNS = ("entropy", "expected-entropy", "mutual-information")
_MEASURES = ("entropy", "expected_entropy", "mutual_information")
_CONFIDENCE, _RIGHT = "confidence", "right"


def require_others(sampling: Sampling | None, others: Mapping[str, Dataset], info: DatasetInfo) -> None:
    """Accepts the other data sets that uncertainty is to be measured on.

    Args:
        sampling: The settings; None for a model without random weights, of which nothing is measured.
        others: Name -> data set.
        info: Of the data that are scored.

    Raises:
        DataError: one is missing, or of another shape.
    """
    uncertainty = None if sampling is None else sampling.uncertainty
    if uncertainty is None:
        return
    missing = [name for name in uncertainty.out_of_distribution if name not in others]
    if missing:
        raise DataError(
            f"Uncertainty is to be measured on {', '.join(missing)}, but the data are not there: "
            "evaluate(…, others={name: data set}) takes them."
        )
    for name, dataset in others.items():
        if tuple(dataset.info.shape) != tuple(info.shape):
            raise DataError(
                f"Expected images of shape {tuple(info.shape)}, as {info.name} has, to measure uncertainty "
                f"on, but those of {name} have shape {tuple(dataset.info.shape)}. Leave it out of "
                "out_of_distribution, or bring its images to that shape."
            )


class _Part(NamedTuple):
    """One batch of a set, each an array (batch,)."""

    entropies: NDArray[np.float64]  # (3, batch)
    confidence: NDArray[np.float64]
    is_right: NDArray[np.bool_] | None


@dataclass
class _Set:
    kind: Kind
    parts: list[_Part] = field(default_factory=list)

    def entropies(self) -> NDArray[np.float64]:
        """(3, examples)."""
        return np.concatenate([part.entropies for part in self.parts], axis=1)


class UncertaintyMeter:
    """Looks at batches, and sums up what it has found.

    Args:
        model: With random weights, in eval mode; maps images in [0, 1] to logits (batch, classes).
        settings: How many draws.
        num_classes: Of the logits.
        most_rows: Images times draws to pass through the model at once.
    """

    def __init__(self, model: nn.Module, settings: Uncertainty, num_classes: int, most_rows: int) -> None:
        self._model = model
        self._settings = settings
        self._num_classes = num_classes
        self._size = max(1, most_rows // settings.num_samples)
        self._sets: dict[str, _Set] = {}

    @property
    def settings(self) -> Uncertainty:
        """How many draws, and what else what it finds depends on."""
        return self._settings

    @torch.no_grad()
    def observe(self, name: str, images: Tensor, labels: Tensor | None = None) -> Columns:
        """Looks at one more batch of a set, and keeps nothing: ``take`` does.

        Args:
            name: Of the set.
            images: Float tensor (batch, …) in [0, 1].
            labels: int64 tensor (batch,), or None where the images are of none of the classes.

        Returns:
            All that it found, and of the clean images also the columns ``entropy``, ``expected-entropy`` and
            ``mutual-information`` in nats, which are shown.
        """
        samples = self._settings.num_samples
        logits = [bayes.sample_logits(self._model, part, samples) for part in torch.split(images, self._size)]
        log_probabilities = torch.cat(logits, dim=1).double().log_softmax(dim=2)
        found = dict(zip(_COLUMNS, _stacked(entropies(log_probabilities)), strict=True))
        confidence, prediction = log_probabilities.exp().mean(dim=0).max(dim=1)
        kept: Columns = {_kept(name, each): values for each, values in found.items()}
        kept[_kept(name, _CONFIDENCE)] = confidence.cpu().numpy()
        if labels is not None:
            kept[_kept(name, _RIGHT)] = (prediction == labels).cpu().numpy()
        return {**kept, **found} if name == CLEAN else kept

    def take(self, name: str, kind: Kind, columns: Columns) -> None:
        """Takes up what was found of one more batch of a set.

        Args:
            name: Of the set.
            kind: The same at each of its batches.
            columns: As ``observe`` returned them; others may be among them.
        """
        found = np.stack([columns[_kept(name, each)] for each in _COLUMNS]).astype(np.float64)
        confidence = columns[_kept(name, _CONFIDENCE)].astype(np.float64)
        is_right = columns.get(_kept(name, _RIGHT))
        part = _Part(found, confidence, None if is_right is None else is_right.astype(np.bool_))
        self._sets.setdefault(name, _Set(kind)).parts.append(part)

    def summary(self) -> dict[str, Any]:
        """The entry ``uncertainty`` of ``metrics.json``, of all batches so far."""
        edges = np.linspace(0.0, math.log(self._num_classes), self._settings.num_bins + 1)
        clean = self._sets[CLEAN].entropies()[0]
        return {
            "description": self._settings.describe(),
            "num_samples": self._settings.num_samples,
            "num_classes": self._num_classes,
            "sets": [_summary_of(name, each, clean, edges) for name, each in self._sets.items()],
        }


def _kept(name: str, measure: str) -> str:
    """The column in which a measure of a set is kept, but not shown."""
    return f"_{measure} {name}"


def _stacked(found: Entropies) -> NDArray[np.float64]:
    stacked: NDArray[np.float64] = torch.stack(list(found)).cpu().numpy()
    return stacked


def _summary_of(
    name: str, observed: _Set, clean: NDArray[np.float64], edges: NDArray[np.float64]
) -> dict[str, Any]:
    found = observed.entropies()
    named = list(zip(_MEASURES, found, strict=True))
    counts: dict[str, Any] = {"edges": [float(edge) for edge in edges]}
    counts |= {measure: histogram(values, edges) for measure, values in named}
    return {
        "name": name,
        "kind": observed.kind,
        "num_examples": found.shape[1],
        **_against_labels(observed),
        **{
            measure: {"mean": float(values.mean()), "median": float(np.median(values))}
            for measure, values in named
        },
        "auroc": None if observed.kind == "clean" else auroc(clean, found[0]),
        "histogram": counts,
    }


def _against_labels(observed: _Set) -> dict[str, float | None]:
    right = [part.is_right for part in observed.parts if part.is_right is not None]
    if not right:
        return {"accuracy": None, "calibration_error": None}
    is_right = np.concatenate(right)
    confidence = np.concatenate([part.confidence for part in observed.parts])
    return {
        "accuracy": float(is_right.mean()),
        "calibration_error": calibration_error(confidence, is_right),
    }
