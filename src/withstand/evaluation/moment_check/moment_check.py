"""The whole check: each noise level, each analytic form, each type of layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor, nn

from withstand.core.checks import as_images, check_images
from withstand.core.contract import adapted, outside_inference_mode, precision_of
from withstand.core.devices import preserved_random_states
from withstand.core.modes import eval_mode
from withstand.core.noise import GaussianNoise
from withstand.core.numerics import numerics
from withstand.domains import Program
from withstand.evaluation.moment_check.by_layer import Layers, layer_results, walk_layers
from withstand.evaluation.moment_check.check_settings import Method, MomentSettings
from withstand.evaluation.moment_check.errors import compare_logits
from withstand.evaluation.moment_check.methods import Survey, batch_size_of, start_of, survey, unaffordable
from withstand.evaluation.moment_check.noisy_passes import LOGITS, Samples, sample, seconds_of_sample, timed
from withstand.objectives import EveryLayer, FirstActivation
from withstand.objectives.propagation import through_every_layer
from withstand.results.analytic import MomentsLevel, MomentsMethod
from withstand.types import DataError, ModelError

_MOST_DRAWS = 250  # at a time
_MOST_NUMBERS = 2**23  # at the widest step
_MOST_POINTS = 300  # of all methods and levels


@dataclass(frozen=True)
class MomentResults:
    """The results of a model.

    Attributes:
        num_examples: How many images were looked at.
        levels: One entry a noise level, in the order of the settings.
    """

    num_examples: int
    levels: list[MomentsLevel]


@outside_inference_mode()
def check_moments(
    model: nn.Module,
    images: Tensor,
    settings: MomentSettings | None = None,
    *,
    seed: int = 0,
    on_image: Callable[[int, int], None] | None = None,
) -> MomentResults:
    """Holds analytic mean and deviation of each logit under Gaussian noise against samples.

    The model is put to eval mode meanwhile, and computes in float32 if that is what it is in.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes); torch.fx must be able to trace it.
        images: Float tensor (batch, …) in [0, 1], at least one, on the model's device; the first
            ``settings.num_examples`` count.
        settings: The defaults where None.
        seed: Of the noise.
        on_image: Is called with how many images of all levels are sampled, of how many.

    Returns:
        The errors and times of each level.

    Raises:
        DataError: the images are not a batch of at least one, in [0, 1].
        ModelError: moments cannot pass through the model.
    """
    settings = settings or MomentSettings()
    images = as_images(images)[: settings.num_examples]
    if len(images) < 1:
        raise DataError("Moments need at least one image, but got none.")
    check_images(images)
    images = images.to(precision_of(model, images))
    model = adapted(model, images)
    done, total = count(1), len(images) * len(settings.noise_std)

    def on_sampled() -> None:
        number = next(done)
        if on_image is not None:
            on_image(number, total)

    with eval_mode(model), torch.no_grad(), numerics("fp32"), preserved_random_states():
        program = Program(model, images)
        EveryLayer().verify_capture(program, images)
        check = _Check(model, program, survey(program, images), images, settings)
        levels = []
        for std in settings.noise_std:
            torch.manual_seed(seed)
            levels.append(check.at(std, on_sampled))
    return MomentResults(len(images), levels)


@dataclass(frozen=True)
class _Check:
    """One model and its images, ready to be looked at under noise."""

    model: nn.Module
    program: Program
    about: Survey
    images: Tensor
    settings: MomentSettings

    def at(self, std: float, on_sampled: Callable[[], None]) -> MomentsLevel:
        noise, num_samples = self.settings.noise(std), self.settings.num_samples
        chunk = max(1, min(num_samples, _MOST_DRAWS, _MOST_NUMBERS // self.about.widest))
        samples = sample(self.program, self.images, noise, num_samples, chunk=chunk, on_image=on_sampled)
        sample_seconds = seconds_of_sample(self.model, self.images, noise, chunk)
        forms: dict[str, Layers] = {}
        methods = [
            self._method(name, noise, samples, sample_seconds, forms) for name in self.settings.methods
        ]
        layers = layer_results(samples, forms) if forms else []
        # A draw that is no number shows in the variance of all.
        is_known = samples.values[LOGITS].variance.isfinite().flatten(1).all(dim=1)
        return MomentsLevel(std, sample_seconds, methods, layers, int((~is_known).sum()))

    def _method(
        self,
        method: Method,
        noise: GaussianNoise,
        samples: Samples,
        sample_seconds: float,
        forms: dict[str, Layers],
    ) -> MomentsMethod:
        reason = unaffordable(method, self.about, self.settings, self.images, noise)
        if reason is not None:
            return MomentsMethod(method, reason)
        try:
            mean, variance, seconds = self._moments(method, noise, samples, forms)
        except ModelError as error:
            if method != "full":
                raise
            return MomentsMethod(method, str(error))  # the others are valid
        with_std = sum(name != "first-activation" for name in self.settings.methods)
        return compare_logits(
            method,
            mean,
            variance,
            samples.values[LOGITS],
            seconds=seconds,
            sample_seconds=sample_seconds,
            num_samples=self.settings.num_samples,
            most_points=_MOST_POINTS // max(1, with_std * len(self.settings.noise_std)),
        )

    def _moments(
        self, method: Method, noise: GaussianNoise, samples: Samples, forms: dict[str, Layers]
    ) -> tuple[Tensor, Tensor | None, float]:
        """Mean and variance of the logits, and seconds an image."""
        images, number = self.images, len(self.images)
        if method == "first-activation":
            mean = FirstActivation().logits(self.program, images, noise)[1]
            crowd = _repeated(images, _MOST_DRAWS)  # as many as draws are timed at a time
            _, seconds = timed(lambda: FirstActivation().logits(self.program, crowd, noise), images.device)
            return mean, None, seconds / len(crowd)
        start, size = start_of(method, self.about), batch_size_of(method, self.about, images, noise)
        if method != "full":
            layers = walk_layers(self.program, images, noise, samples, start, size)
            forms[method] = layers
            crowd = _repeated(images, size)
            _, seconds = timed(
                lambda: through_every_layer(self.program, start(crowd, noise)).variance, images.device
            )
            return layers.mean, layers.variance, seconds / len(crowd)
        means, variances, total = [], [], 0.0
        for part in torch.split(images, size):
            logits, seconds = timed(
                lambda part=part: through_every_layer(self.program, start(part, noise)),  # type: ignore[misc]
                images.device,
            )
            total += seconds
            means.append(logits.mean)
            variances.append(logits.variance.expand_as(logits.mean))
        return torch.cat(means), torch.cat(variances), total / number


def _repeated(images: Tensor, count: int) -> Tensor:
    """So many images, the same ones again and again."""
    times = -(-count // len(images))
    return images.repeat(times, *[1] * (images.dim() - 1))[:count]
