"""What is computed of a network, not tried on it: kernel norms and moments. This module imports no torch.

Those who compute it (``kernel_norms``, ``moment_check``) return these types as well.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from withstand.results.shares import Finite


@dataclass(frozen=True)
class KernelNormsOf:
    """Bounds of the l2 Lipschitz constant of one class logit, in logits a unit of l2 distance.

    Attributes:
        name: Of the class.
        gradient: From below: the largest gradient norm at an example.
        perturbation: From below: the steepest rise to a point within epsilon of an example.
        deformation: From below: the steepest change by a deformation; None where none was tried.
        deformation_change: The largest plain change of the logit by a deformation, in logits.
        spectral: From above; None where there is no bound.
    """

    name: str
    gradient: Finite
    perturbation: Finite
    deformation: Finite | None
    deformation_change: Finite | None
    spectral: Finite | None

    @property
    def lower(self) -> float:
        """The largest of the lower bounds."""
        return max(self.gradient, self.perturbation, self.deformation or 0.0)


@dataclass(frozen=True)
class KernelNormsOfLayer:
    """Two norms of a layer's weight, each bounded from above; None where there is no finite bound.

    Attributes:
        name: The layer's place in the model, such as ``layers.0``.
        kernel_norm: Of the weight reshaped to (outputs, inputs times taps), as arXiv 1810.00363 takes
            it, to 1e-6. Of a convolution this says little of how far it can stretch.
        operator_norm: Of the linear map itself, at its true input size and stride; None
            of all layers where one has no such bound.
    """

    name: str
    kernel_norm: Finite | None
    operator_norm: Finite | None


@dataclass(frozen=True)
class KernelNorms:
    """Bounds for each class, the largest over the classes, and why there is no upper one.

    Of the examples, ``num_unknown`` have logits or gradients that are NaN or infinite, and bound nothing.
    """

    num_examples: int
    description: str
    classes: list[KernelNormsOf]
    layers: list[KernelNormsOfLayer]
    largest: KernelNormsOf
    reason: str | None = None
    num_unknown: int = 0


@dataclass(frozen=True)
class StdRatio:
    """Analytic deviation of a logit over the sampled one: 5 % quantile, median, 95 % quantile."""

    low: Finite
    median: Finite
    high: Finite


@dataclass(frozen=True)
class MomentsMethod:
    """What one analytic form makes of the logits at one noise level.

    Attributes:
        name: Of ``moment_check.METHODS``.
        reason: Why it was not tried; None where it was, and then the numbers below are there.
        mean_error: Root mean square over images and classes of (analytic - sampled mean) / sampled
            deviation. It holds the samples' own error, 1 / √num_samples.
        std_ratio: None of a form that gives means alone.
        seconds: Of wall clock, an image.
        matching_samples: How many draws have a mean as far off: 1 / mean_error², at most num_samples.
        speed_up: Time of those draws / time of the analytic form; below 1 the draws are faster.
        full_speed_up: Time of num_samples draws / time of the analytic form.
        points: (sampled, analytic) deviation of some logits, spread over all.
    """

    name: str
    reason: str | None = None
    mean_error: Finite | None = None
    std_ratio: StdRatio | None = None
    seconds: Finite | None = None
    matching_samples: Finite | None = None
    speed_up: Finite | None = None
    full_speed_up: Finite | None = None
    points: list[tuple[Finite, Finite]] = field(default_factory=list)


@dataclass(frozen=True)
class MomentsError:
    """How far moments of a layer's output are off; None where none moves.

    Attributes:
        mean_error: √(Σ (analytic - sampled mean)² / Σ sampled variance), over images and coordinates.
        std_error: √(Σ (analytic - sampled deviation)² / Σ sampled variance).
        std_ratio: √(Σ analytic variance / Σ sampled variance).
    """

    mean_error: Finite | None
    std_error: Finite | None
    std_ratio: Finite | None


@dataclass(frozen=True)
class MomentsForm:
    """One analytic form in the layers of one type.

    Attributes:
        accumulated: How far off their outputs are, with all that came before.
        own: The same, where the layer is given the sampled means and deviations of its input, and as
            much of the correlations as the form keeps.
        samples: How many draws through these layers take as long as the form.
    """

    accumulated: MomentsError
    own: MomentsError
    samples: Finite | None


@dataclass(frozen=True)
class MomentsLayer:
    """The layers of one type.

    Attributes:
        operation: The layer or function, such as ``Conv2d``.
        count: How many there are.
        forms: By the name of each analytic form that was tried.
    """

    operation: str
    count: int
    forms: dict[str, MomentsForm]


@dataclass(frozen=True)
class MomentsLevel:
    """All results at one noise level.

    Attributes:
        noise_std: Of each pixel, in [0, 1] units.
        sample_seconds: Of one draw and its pass through the network.
        methods: One entry an analytic form.
        layers: One entry a type of layer, where a form that goes layer by layer was tried.
        num_unknown: How many images have a logit that is NaN or infinite in some draw; they count nowhere.
    """

    noise_std: Finite
    sample_seconds: Finite
    methods: list[MomentsMethod]
    layers: list[MomentsLayer]
    num_unknown: int = 0


@dataclass(frozen=True)
class Moments:
    """Analytic moments of logits under noise against sampled ones."""

    num_examples: int
    num_samples: int
    standard_error: Finite
    description: str
    levels: list[MomentsLevel]
