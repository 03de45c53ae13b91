"""The recipe: one typed configuration of a whole run, from YAML and ``--key=value``.

The types below are the schema: jsonargparse reads names, types, defaults and help from them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from withstand import penalties  # noqa: F401  (recipes name its classes)
from withstand.bayes import Posterior
from withstand.constraints import ParametrizationName
from withstand.core.norms import norm_rule
from withstand.core.setting_rules import AT_LEAST_0, COUNT, SHARE, Whole, optional, settle
from withstand.data import PartitionName
from withstand.evaluation import Meter, Sampling, require_sizes
from withstand.objectives import CrossEntropy, Objective
from withstand.training import TrainingSettings

_LARGEST_SEED = 2**31 - 1


@dataclass(frozen=True)
class DataSettings:
    """Which data, and how much of it.

    Args:
        name: digits, mnist, fashion-mnist, cifar10, cifar10-jpeg, cifar100; folder:PATH of pictures,
            PATH.npz, FILE.py:FUNCTION, or hub:OWNER/NAME; null of data that were handed over in Python.
        root: The data root; the environment variable WITHSTAND_DATA, or ./data, where null.
        size: Height and width to which pictures of a folder or hub are brought; their own where null.
        validation_size: Training images set aside for validation; a tenth, at most 5000, where null.
        train_size: Train on only so many of the remaining images; all where null.
        seed: Chooses the validation and training images.
        partition: How: seeded, or kernel-reg, the published choice of arXiv 1810.00363.

    Raises:
        ValueError: a number is out of its range.
    """

    name: str | None = "digits"
    root: str | None = None
    size: int | None = None
    validation_size: int | None = None
    train_size: int | None = None
    seed: int = 0
    partition: PartitionName = "seeded"

    def __post_init__(self) -> None:
        settle(
            self,
            size=optional(COUNT),
            validation_size=optional(Whole(least=0)),
            train_size=optional(COUNT),
            seed=Whole(least=0, most=_LARGEST_SEED),
        )


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
            path/to/file.py:function or package.module:function; or an ONNX file, net.onnx; null of a network
            that was handed over in Python.
        normalize: Put the data set's normalisation inside, as the first layer.
        options: Keyword arguments of the model's builder, such as batch_norm.
        parametrize: Hold every weight at spectral norm 1 (spectral-norm) or orthogonal, always; or all but
            the last, whose rows have length 1 (orthogonal-normalized-last), or which is left as it is
            (orthogonal-free-last).
        bayes: Make the weights random, with a Gaussian posterior; they are not where null.
    """

    name: str | None = "cnn-small"
    normalize: bool = True
    options: dict[str, Any] = field(default_factory=dict)
    parametrize: ParametrizationName | None = None
    bayes: BayesSettings | None = None


@dataclass(frozen=True)
class EvaluationSettings:
    """What to measure on test data.

    Args:
        meters: Each a class_path such as Attacks, Suite, Certificate, NoiseCurve, Corruptions or
            RandomizedSmoothing; clean accuracy, calibration and classes are measured always.
        sampling: How to score a net with random weights; by default, where null, as Sampling has it.
        num_examples: Score only so many test examples, of each class its share; all where null.
        batch_size: Examples a batch.
        weights: The epoch that did best on validation data, or the last.

    Raises:
        ValueError: a number is out of its range.
    """

    meters: list[Meter] = field(default_factory=list)
    sampling: Sampling | None = None
    num_examples: int | None = None
    batch_size: int = 500
    weights: Literal["best", "last"] = "best"

    def __post_init__(self) -> None:
        require_sizes(self.num_examples, self.batch_size)


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
        attack: The attack of the published protocol that it is of, fgsm or pgd; ours is the strongest
            where null.

    Raises:
        ValueError: a number is out of its range.
    """

    measure: Literal["clean", "attacked", "certified"]
    accuracy: float
    source: str
    epsilon: float | None = None
    norm: float | None = None
    note: str = ""
    attack: str | None = None

    def __post_init__(self) -> None:
        settle(self, accuracy=SHARE, epsilon=optional(AT_LEAST_0), norm=optional(norm_rule))


def require_folder_name(name: str) -> None:
    """Accepts a name of a folder that lies below ``runs``, such as ``mine`` or, of a sweep, ``mine/seed=0``.

    Raises:
        ValueError: it is empty, or leads elsewhere.
    """
    parts = name.split("/")
    if any(not part.strip() or part in (".", "..") for part in parts) or any(one in name for one in "\\\0"):
        raise ValueError(f"Expected a name that does for a folder in runs, such as mine-1, but got {name!r}.")


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
        changed: What --key=value changed of the recipe's file, filled in where it is read.
        unspelled: Keys whose values were made in Python and cannot be said here, so that nothing can be
            trained by this recipe until they are set.

    Raises:
        ValueError: the name does not do for a folder, the seed is out of its range, or something is to be
            proven of random weights.
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
    changed: Sequence[str] = ()
    unspelled: Sequence[str] = ()

    def __post_init__(self) -> None:
        require_folder_name(self.name)
        settle(self, seed=Whole(least=0, most=_LARGEST_SEED))
        for meter in self.evaluation.meters:
            if self.model.bayes is not None and meter.needs.fixed_weights:
                raise ValueError(
                    f"The meter {type(meter).__name__} is of one network, but model.bayes makes weights "
                    "random. Leave it out of evaluation.meters, and measure bayes.mean_network(model), the "
                    "network of the mean weights, instead."
                )
            if self.model.bayes is None and meter.needs.random_weights:
                raise ValueError(
                    f"The meter {type(meter).__name__} is of random weights, but the recipe has no "
                    "model.bayes. Leave it out of evaluation.meters."
                )
