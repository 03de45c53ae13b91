"""How unsure a model with random weights is, on clean, attacked and foreign images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import override

from withstand import bayes
from withstand.bayes.sampling import auroc, entropies, histogram
from withstand.core.answers import predicted
from withstand.core.dataset_info import DatasetInfo
from withstand.core.numerics import seed_of
from withstand.core.setting_rules import COUNT, settle
from withstand.data import Dataset, batches, sample
from withstand.evaluation.attacking import column
from withstand.evaluation.meter import Columns, Gathered, Meter, Needs, PartResult, Sources, Subject, Summary
from withstand.evaluation.meters.calibration_and_classes import reliability
from withstand.evaluation.predictor import Predictor
from withstand.evaluation.unanswered import unanswered
from withstand.results import random_answers as results
from withstand.results.measurements import CALIBRATION_ERROR, Measurement
from withstand.types import Batch, DataError

Kind = Literal["clean", "attacked", "out-of-distribution"]
# Of the parts of ``Entropies``, in their order: as columns, as results and in words.
_COLUMNS = ("entropy", "expected-entropy", "mutual-information")
_MEASURES = ("entropy", "expected_entropy", "mutual_information")
_WORDS = ("predictive entropy", "expected entropy", "mutual information")
_CONFIDENCE, _CORRECT = "confidence", "right"
_AUROC = "AUROC of entropy against clean images"
_MOST_ROWS = 500  # images times draws, of one pass


@dataclass(frozen=True)
class Uncertainty(Meter):
    """How to measure the uncertainty of a net with random weights.

    Args:
        num_samples: Draws of the weights an image.
        out_of_distribution: Other data sets whose test images are looked at as well, such as fashion-mnist,
            as many as are scored; or name -> data set. Their images must have the shape of the scored ones.
        num_bins: Of the histograms, from 0 to the logarithm of the number of classes.

    Raises:
        ValueError: a number is out of its range.
    """

    name = "uncertainty"
    needs = Needs(attacked_images=True, random_weights=True)
    num_samples: int = 50
    out_of_distribution: list[str] | dict[str, Dataset] = field(default_factory=list)
    num_bins: int = 40

    def __post_init__(self) -> None:
        settle(self, num_samples=COUNT, num_bins=COUNT)

    @property
    @override
    def depends_on(self) -> object:
        others = {name: dataset.fingerprint for name, dataset in self._others.items()}
        return replace(self, out_of_distribution=[], num_bins=1), others

    def describe(self) -> str:
        """A sentence of the settings, for a report."""
        draws = "one draw" if self.num_samples == 1 else f"{self.num_samples} draws"
        return (
            f"Entropies in nats over {draws} of the weights an image: of the mean prediction, the mean of "
            "those of the draws, and the difference, which is the mutual information of answer and weights; "
            "the calibration error is that of 15 bins of confidence; of an attack the images are those that "
            "its accuracy is counted on, so one that was broken at a smaller epsilon or is wrong without an "
            "attack counts as it is"
        )

    @override
    def resolved(self, sources: Sources) -> Meter:
        names = self.out_of_distribution
        return replace(self, out_of_distribution={name: sources.dataset(name) for name in names})

    @override
    def require(self, info: DatasetInfo) -> None:
        """Accepts the other data sets.

        Raises:
            DataError: one is a name alone, or of another shape.
        """
        if self.out_of_distribution and not isinstance(self.out_of_distribution, dict):
            raise DataError(
                f"Uncertainty is to be measured on {', '.join(self.out_of_distribution)}, but the data are "
                "not there: Uncertainty(out_of_distribution={name: data set}) takes them."
            )
        for name, dataset in self._others.items():
            if tuple(dataset.info.shape) != tuple(info.shape):
                raise DataError(
                    f"Expected images of shape {tuple(info.shape)}, as {info.name} has, to measure "
                    f"uncertainty on, but those of {name} have shape {tuple(dataset.info.shape)}. Leave it "
                    "out of out_of_distribution, or bring its images to that shape."
                )

    @override
    def score(self, predictor: Predictor, batch: Batch, prediction: Tensor, *, seed: int) -> PartResult:
        state = self.score_attacked(predictor, batch.images, batch.labels)
        return PartResult({name: state[name] for name in _COLUMNS}, {}, state)

    @override
    @torch.no_grad()
    def score_attacked(self, predictor: Predictor, images: Tensor, labels: Tensor) -> Columns:
        columns, prediction = self._observed(predictor, images)
        return columns | {_CORRECT: (prediction == labels).cpu().numpy()}

    @override
    @torch.no_grad()
    def measure(self, subject: Subject) -> Any:
        """Entropies and confidence of the images of each other data set."""
        by_name: dict[str, dict[str, list[float]]] = {}
        for name, dataset in self._others.items():
            split = sample(dataset.test, len(subject.test))
            parts: list[Columns] = []
            for number, batch in enumerate(batches(split.to(subject.test.labels.device), subject.batch_size)):
                torch.manual_seed(seed_of(subject.seed, number * subject.batch_size))
                parts.append(self._observed(subject.predictor, batch.images)[0])
            by_name[name] = {key: np.concatenate([part[key] for part in parts]).tolist() for key in parts[0]}
        return by_name

    @override
    def summary(self, gathered: Gathered) -> Summary:
        classes = gathered.subject.info.num_classes
        edges = np.linspace(0.0, math.log(classes), self.num_bins + 1)
        seen: list[tuple[str, Kind, Columns]] = [("clean", "clean", gathered.state)]
        for target, state in gathered.attacked.items():
            seen.append((column(target.name, target.epsilon), "attacked", state))
        for name, lists in (gathered.once or {}).items():
            seen.append(
                (name, "out-of-distribution", {key: np.array(values) for key, values in lists.items()})
            )
        clean = _known(gathered.state[_COLUMNS[0]])
        sets = [self._set(*of, clean, edges) for of in seen if len(_known(of[2][_COLUMNS[0]])) and len(clean)]
        warnings = [text for name, _, state in seen for text in _unanswered(name, state[_COLUMNS[0]])]
        parts: dict[str, Any] = {"warnings": warnings} if warnings else {}
        part = results.Uncertainty(
            self.describe(), self.num_samples, classes, [float(edge) for edge in edges], sets
        )
        return Summary([row for of_set in sets for row in _rows(of_set)], parts | {"uncertainty": part})

    @property
    def _others(self) -> Mapping[str, Dataset]:
        return self.out_of_distribution if isinstance(self.out_of_distribution, dict) else {}

    def _observed(self, predictor: Predictor, images: Tensor) -> tuple[Columns, Tensor]:
        """Entropies and confidence, and the classes predicted (batch,)."""
        model = predictor.model.model if isinstance(predictor.model, bayes.Predictor) else predictor.model
        parts = torch.split(images, max(1, _MOST_ROWS // self.num_samples))
        logits = torch.cat([bayes.sample_logits(model, part, self.num_samples) for part in parts], dim=1)
        log_probabilities = logits.double().log_softmax(dim=2)
        mean = log_probabilities.exp().mean(dim=0)
        columns = dict(zip(_COLUMNS, entropies(log_probabilities), strict=True))
        columns[_CONFIDENCE] = mean.amax(dim=1)
        return {name: values.cpu().numpy() for name, values in columns.items()}, predicted(mean)

    def _set(
        self, name: str, kind: Kind, state: Columns, clean: NDArray[Any], edges: NDArray[np.float64]
    ) -> results.UncertaintySet:
        measures = [(measure, _known(state[key])) for measure, key in zip(_MEASURES, _COLUMNS, strict=True)]
        is_correct = state.get(_CORRECT)
        return results.UncertaintySet(
            name=name,
            kind=kind,
            num_examples=len(state[_CONFIDENCE]),
            accuracy=None if is_correct is None else float(is_correct.mean()),
            calibration_error=None
            if is_correct is None
            else reliability(np.nan_to_num(state[_CONFIDENCE]), is_correct).error,
            auroc=None if kind == "clean" else auroc(clean, _known(state[_COLUMNS[0]])),
            means={measure: float(values.mean()) for measure, values in measures},
            medians={measure: float(np.median(values)) for measure, values in measures},
            histograms={measure: histogram(values, edges) for measure, values in measures},
        )


def _known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Those of images that every draw answers."""
    return values[np.isfinite(values)]


def _unanswered(name: str, entropy: NDArray[np.float64]) -> list[str]:
    number = len(entropy) - len(_known(entropy))
    consequence = "their entropies are left out, and they count as wrong with confidence 0"
    what = f"images of {name}, in some draw of the weights,"
    return unanswered(number, len(entropy), what, consequence).get("warnings", [])


def _rows(of_set: results.UncertaintySet) -> Sequence[Measurement]:
    rows = [
        Measurement(words, of_set.name, value=of_set.means[measure])
        for words, measure in zip(_WORDS, _MEASURES, strict=True)
    ]
    if of_set.auroc is not None:
        rows.append(Measurement(_AUROC, of_set.name, value=of_set.auroc))
    if of_set.calibration_error is not None and of_set.kind != "clean":
        rows.append(Measurement(CALIBRATION_ERROR, of_set.name, value=of_set.calibration_error))
    return rows
