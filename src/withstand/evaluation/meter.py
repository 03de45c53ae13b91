"""The interface of all that is measured of a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, NamedTuple, Protocol

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from withstand.core.dataset_info import DatasetInfo
from withstand.data import Dataset, Split
from withstand.evaluation.plans import AttackPlan, CertificatePlan
from withstand.evaluation.predictor import Predictor
from withstand.results.measurements import Measurement
from withstand.results.results import Target
from withstand.types import Batch

Columns = dict[str, NDArray[Any]]
"""Arrays (batch,) by name."""

Counts = dict[str, NDArray[np.int64]]
"""Whole numbers that add up over batches, by name."""


@dataclass(frozen=True)
class PartResult:
    """The results of one part of one batch.

    Attributes:
        columns: For ``examples.csv``.
        counts: Arrays of the same shape at every batch.
        state: Arrays (batch, …) that are stored for the summary, but shown nowhere.
    """

    columns: Columns = field(default_factory=dict)
    counts: Counts = field(default_factory=dict)
    state: Columns = field(default_factory=dict)


@dataclass(frozen=True)
class Needs:
    """What a meter asks for.

    Args:
        batches: To see each batch of test images.
        attacked_images: To see the images that each attack left, at each epsilon.
        fixed_weights: A network whose answers are not drawn.
        random_weights: A network whose weights are drawn.
    """

    batches: bool = True
    attacked_images: bool = False
    fixed_weights: bool = False
    random_weights: bool = False


@dataclass(frozen=True)
class Subject:
    """What is measured, on the model's device.

    Args:
        model: In eval mode; maps images in [0, 1] to logits (batch, classes).
        info: Of the data.
        test: The examples to score.
        predictor: Scores answers, and holds what attacks differentiate.
        batch_size: Examples a batch.
        seed: Of all that is drawn.
        index: int64 tensor (examples,) of where the examples stand in the whole test split; each at its own
            place where None.
    """

    model: nn.Module
    info: DatasetInfo
    test: Split
    predictor: Predictor
    batch_size: int
    seed: int
    index: Tensor | None = None

    @property
    def places(self) -> Tensor:
        """``index`` in any case."""
        return torch.arange(len(self.test)) if self.index is None else self.index


class Sources(Protocol):
    """Where a meter's names of other things lead."""

    def dataset(self, name: str) -> Dataset:
        """The data set of a name."""

    def model(self, folder: str) -> nn.Module:
        """The model of a run folder."""


@dataclass(frozen=True)
class Gathered:
    """All results of a meter, and what it is based on.

    Args:
        subject: What was measured.
        rows: ``examples.csv``.
        counts: The meter's, summed over all batches.
        state: The meter's, of all batches: arrays (examples, …).
        attacked: Attack and epsilon -> the meter's results on the images that it left, likewise.
        once: What ``measure`` returned.
        headline_attack: Of all attacks the one to report first, and at which epsilon.
        headline_certificate: Likewise.
    """

    subject: Subject
    rows: pd.DataFrame
    counts: Counts = field(default_factory=dict)
    state: Columns = field(default_factory=dict)
    attacked: Mapping[Target, Columns] = field(default_factory=dict)
    once: Any = None
    headline_attack: Target | None = None
    headline_certificate: Target | None = None


class Summary(NamedTuple):
    """What a meter adds to the results.

    Attributes:
        measurements: Rows of the table.
        parts: Fields of ``results.Results``; ``warnings`` among them are what makes the figures doubtful.
    """

    measurements: Sequence[Measurement] = ()
    parts: Mapping[str, Any] = MappingProxyType({})


class Meter(ABC):
    """Something to measure: a frozen dataclass of its settings.

    It sees one batch at a time and keeps nothing, so that its results can be stored and read back. All but
    its name may be left as it is here.
    """

    # Not annotated as class variables: jsonargparse resolves no types of a class that has such.
    needs = Needs()
    section = ""
    """Of a meter of your own: the ``module:function`` that makes its section of the report."""

    @property
    @abstractmethod
    def name(self) -> str:
        """Of several meters with one name the last is measured alone."""

    @property
    def depends_on(self) -> object:
        """All that its results depend on beside model, data and seed; its settings, by default."""
        return self

    def implied(self) -> Sequence[Meter]:
        """What else must be measured for this to be trusted."""
        return ()

    def resolved(self, sources: Sources) -> Meter:
        """The same with data sets and models in the place of their names.

        Raises:
            WithstandError: one is missing, or does not fit.
        """
        return self

    def fits(self, info: DatasetInfo) -> bool:
        """Whether data of such a shape can be measured at all: a recipe's meter is left out where not."""
        return True

    def require(self, info: DatasetInfo) -> None:  # noqa: B027 - most meters take any data
        """Accepts the data; asked before anything that takes its time.

        Raises:
            WithstandError: the data do not fit, or a package is not installed.
        """

    def attack_plans(self, info: DatasetInfo, *, is_random: bool) -> Sequence[AttackPlan]:
        """The attacks to run.

        Args:
            info: Of the data.
            is_random: Whether the model draws its answers.
        """
        return ()

    def certificate_plans(self) -> Sequence[CertificatePlan]:
        """What to prove."""
        return ()

    def score(self, predictor: Predictor, batch: Batch, prediction: Tensor, *, seed: int) -> PartResult:
        """Looks at one batch.

        Args:
            predictor: Of a model in eval mode; its ``predictor`` maps images in [0, 1] to logits.
            batch: Images (batch, channels, height, width) in [0, 1] and labels (batch,).
            prediction: int64 tensor (batch,): the classes of the clean images; -1 (``answers.NO_ANSWER``)
                where the model answers NaN.
            seed: Of whatever is drawn. torch's own random state is seeded too, and may be used.
        """
        return PartResult()

    def score_attacked(self, predictor: Predictor, images: Tensor, labels: Tensor) -> Columns:
        """Looks at the images that an attack left of one batch.

        Args:
            predictor: As in ``score``.
            images: Tensor (batch, …) in [0, 1]: the worst ones, the clean one where there is none.
            labels: int64 tensor (batch,).

        Returns:
            Arrays (batch, …), for ``Gathered.attacked``.
        """
        return {}

    def measure(self, subject: Subject) -> Any:
        """Looks at the whole once.

        Returns:
            What JSON can hold; None where there is nothing to look at but batches.

        Raises:
            WithstandError: the model does not fit.
        """
        return None

    def summary(self, gathered: Gathered) -> Summary:
        """What all of it comes to; of attacks and certificates the accuracies are in the table anyway."""
        return Summary()
