"""The recipe: one typed configuration of a whole run, from YAML and ``--key=value``.

The types below are the schema: jsonargparse reads names, types, defaults and help from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from withstand.attacks import Attack, SuiteLevel
from withstand.bayes import Posterior
from withstand.constraints import ParametrizationName
from withstand.data import PartitionName
from withstand.evaluation import (
    Certificate,
    Corruptions,
    NoiseCurve,
    Protocol,
    Sampling,
    Suite,
    plan_attacks,
    plan_certificates,
    require_sizes,
    suite_budgets,
)
from withstand.kernel_norms import KernelNorms
from withstand.objectives import CrossEntropy, Objective
from withstand.smoothing import Smoothing
from withstand.training import TrainingSettings

__all__ = ["BayesSettings", "DataSettings", "EvaluationSettings", "ModelSettings", "Published", "Recipe"]

_LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class DataSettings:
    """Which data, and how much of it.

    Args:
        name: digits, mnist, fashion-mnist, cifar10, cifar10-jpeg, cifar100, or folder:PATH.
        root: The data root; the environment variable WITHSTAND_DATA, or ./data, where null.
        size: Height and width to which the pictures of a folder are brought; their own where null.
        validation_size: Training images set aside for validation; a tenth, at most 5000, where null.
        train_size: Train on only so many of the remaining images; all where null.
        seed: Chooses the validation and training images.
        partition: How: seeded, or kernel-reg, the published choice of arXiv 1810.00363.
    """

    name: str = "digits"
    root: str | None = None
    size: int | None = None
    validation_size: int | None = None
    train_size: int | None = None
    seed: int = 0
    partition: PartitionName = "seeded"


@dataclass(frozen=True)
class BayesSettings:
    """How the weights of a network become random.

    Args:
        posterior: Of every layer that ``layers`` does not name.
        layers: Path of a layer or of a part of the network -> the posterior of what is in it, or null to
            leave it as it is.
        means: A ``.safetensors`` or state-dict file of the plain network, whose weights the means begin at.
    """

    posterior: Posterior = field(default_factory=Posterior)
    layers: dict[str, Posterior | None] = field(default_factory=dict)
    means: str | None = None


@dataclass(frozen=True)
class ModelSettings:
    """Which model.

    Args:
        name: A name that `withstand recipes --models` lists, or your own factory:
            path/to/file.py:function or package.module:function.
        normalize: Put the data set's normalisation inside, as the first layer.
        options: Keyword arguments of the model's builder, such as batch_norm.
        parametrize: Hold every weight at spectral norm 1 (spectral-norm), or orthogonal, always.
        bayes: Make the weights random, with a Gaussian posterior; they are not where null.
    """

    name: str = "cnn-small"
    normalize: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    parametrize: ParametrizationName | None = None
    bayes: BayesSettings | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """What to measure on test data.

    Args:
        attacks: Each is run at every epsilon, in its evaluation form.
        epsilons: Budgets in [0, 1] units; 8/255 may be written so.
        suite: fast, standard, thorough, or more of it as in Suite: several kinds of attacks one after
            another, and a search for signs of false robustness; attacks alone where null.
        certificates: What to prove, each at its own epsilons or at these.
        kernel_norms: How to bound the kernel norm of each class logit; not bounded where null.
        noise: At which levels of Gaussian noise to look at the answers; not measured where null.
        corruptions: At which corruptions of the images, such as blur, to look at answers; none where null.
        smoothing: How to certify the classifier that Gaussian noise makes of the net; not done where null.
        sampling: How to score a net with random weights; by default, where null, as Sampling has it.
        protocols: Published evaluations to repeat as published, such as SebrProtocol, beside honest ones.
        num_examples: Score only the first so many test examples; all where null.
        batch_size: Examples a batch.
        weights: The epoch that did best on validation data, or the last.

    Raises:
        ValueError: a number is out of its range, or there are attacks or certificates but no epsilon.
    """

    attacks: list[Attack] = field(default_factory=list)
    epsilons: list[float] = field(default_factory=list)
    suite: SuiteLevel | Suite | None = None
    certificates: list[Certificate] = field(default_factory=list)
    kernel_norms: KernelNorms | None = None
    noise: NoiseCurve | None = None
    corruptions: Corruptions | None = None
    smoothing: Smoothing | None = None
    sampling: Sampling | None = None
    protocols: list[Protocol] = field(default_factory=list)
    num_examples: int | None = None
    batch_size: int = 500
    weights: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        plan_attacks(self.attacks, self.epsilons)
        plan_certificates(self.certificates, self.epsilons)
        if self.chosen_suite is not None:
            suite_budgets(self.chosen_suite, self.attacks, self.certificates, self.epsilons)
        require_sizes(self.num_examples, self.batch_size)

    @property
    def chosen_suite(self) -> Suite | None:
        """The suite with all its settings."""
        return Suite(self.suite) if isinstance(self.suite, str) else self.suite


@dataclass(frozen=True)
class Published:
    """A figure that others published, to stand beside ours.

    Args:
        measure: clean, attacked or certified accuracy.
        accuracy: A share in [0, 1].
        source: Where it was published.
        epsilon: Budget, where attacked or certified.
        norm: Of the ball, where attacked or certified.
        note: What differs from our measurement.
        attack: The attack of the published protocol that it stands for, fgsm or pgd; ours is the strongest
            where null.
    """

    measure: Literal["clean", "attacked", "certified"]
    accuracy: float
    source: str
    epsilon: float | None = None
    norm: float | None = None
    note: str = ""
    attack: str | None = None


@dataclass(frozen=True)
class Recipe:
    """A whole run: data, model, objective, training, evaluation.

    Args:
        name: Short name; the run folder is runs/NAME unless --out says otherwise.
        title: One line for people.
        description: What the run shows.
        seed: Fixes everything random: weights, order, augmentation, attacks.
        data: Which data.
        model: Which model.
        objective: What training minimises: a class_path such as CrossEntropy or Adversarial.
        training: How to train.
        evaluation: What to measure.
        published: Figures of others beside ours.

    Raises:
        ValueError: the seed is out of its range, or something is to be proven of random weights.
    """

    name: str = "unnamed"
    title: str = ""
    description: str = ""
    seed: int = 0
    data: DataSettings = field(default_factory=DataSettings)
    model: ModelSettings = field(default_factory=ModelSettings)
    objective: Objective = field(default_factory=CrossEntropy)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    published: Sequence[Published] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.seed <= _LARGEST_SEED:
            raise ValueError(f"Expected a seed from 0 to {_LARGEST_SEED}, but got {self.seed}.")
        evaluation = self.evaluation
        if self.model.bayes is not None and (evaluation.certificates or evaluation.kernel_norms is not None):
            key = "certificates" if evaluation.certificates else "kernel_norms"
            raise ValueError(
                f"evaluation.{key} proves something of one network, but model.bayes makes weights random. "
                f"Leave evaluation.{key} out, and certify bayes.mean_network(model), the network of the mean "
                "weights, instead."
            )
