"""The analytic forms: where each starts, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from withstand.core.noise import GaussianNoise
from withstand.domains import Call, FactoredGaussian, Gaussian, Moments, Program
from withstand.domains.gaussians.full import CorrelatedGaussian
from withstand.evaluation.moment_check.check_settings import Method, MomentSettings
from withstand.objectives.propagation import rule_of_moments

Start = Callable[[Tensor, GaussianNoise], Moments]
"""From images and noise to the distribution of noisy images."""

_MOST_BYTES = 2**30  # of one layer's factors of one image
_BATCH_BYTES = 2**28
_MOST_EXAMPLES = 250


class Survey(NamedTuple):
    """What a network's steps are like.

    Attributes:
        widest: How many numbers an image has at the widest step.
        operation: The layer or function of that step.
        joins: Whether a step takes two values that depend on the input.
    """

    widest: int
    operation: str
    joins: bool


def survey(program: Program, images: Tensor) -> Survey:
    """Looks at each step of a network once.

    Args:
        program: Of the network.
        images: A few of its inputs, at least one.

    Raises:
        UnsupportedOperationError: there is no rule for an operation.
    """
    widths = [(images[:1].numel(), "the input")]
    joins = False

    def result_of(call: Call) -> Any:
        nonlocal joins
        result = rule_of_moments(call)
        joins = joins or len(call.values) > 1
        widths.extend((mean[:1].numel(), call.step.kind) for mean in _means(result))
        return result

    program.walk(Gaussian(images[:1], images.new_ones(())), result_of)
    return Survey(*max(widths), joins)


def unaffordable(
    method: Method, about: Survey, settings: MomentSettings, images: Tensor, noise: GaussianNoise
) -> str | None:
    """Why a method is not tried on a network, in words and numbers; None where it is."""
    where = f"{about.widest:,} coordinates an image at the widest step ({about.operation})"
    size = images.element_size()
    if method == "full" and about.widest > settings.most_coordinates:
        return (
            f"Not tried: with {where} a covariance matrix takes {about.widest**2 * size / 2**30:.3g} GiB "
            f"an image; the limit is {settings.most_coordinates:,} coordinates (most_coordinates)."
        )
    if method == "factored":
        rank = noise.rank(images)
        if rank * about.widest * size > _MOST_BYTES:
            return (
                f"Not tried: with {where} its {rank:,} factors take "
                f"{rank * about.widest * size / 2**30:.3g} GiB an image; the limit is "
                f"{_MOST_BYTES / 2**30:g} GiB."
            )
    return None


def batch_size_of(method: Method, about: Survey, images: Tensor, noise: GaussianNoise) -> int:
    """How many images at a time."""
    wide = about.widest * images.element_size()
    if method == "factored":
        wide *= noise.rank(images)
    elif method == "full":
        wide *= about.widest
    return max(1, min(_MOST_EXAMPLES, _BATCH_BYTES // wide))


def start_of(method: Method, about: Survey) -> Start:
    """How a method sees noisy images.

    Args:
        method: One that has moments at each step.
        about: The network.
    """
    starts: dict[str, Start] = {
        "diagonal": lambda images, noise: Gaussian(images, noise.std_like(images).square()),
        "factored": lambda images, noise: FactoredGaussian(images, noise.factors(images)[:, None]),
        "full": lambda images, noise: _correlated(images, noise, is_linked=about.joins),
    }
    return starts[method]


def _correlated(images: Tensor, noise: GaussianNoise, *, is_linked: bool) -> CorrelatedGaussian:
    link = noise.factors(images).flatten(1).T[None]
    return CorrelatedGaussian(images, link @ link.mT, link if is_linked else None)


def _means(result: Any) -> list[Tensor]:
    if isinstance(result, Moments):
        return [result.mean]
    return [mean for item in result for mean in _means(item)] if isinstance(result, list | tuple) else []
