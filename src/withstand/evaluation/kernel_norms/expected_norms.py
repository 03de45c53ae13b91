"""How large the random layers of a network are expected to be: estimated, and bounded."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import bayes
from withstand.bayes.expected_norm_bounds import expected_norm_bound
from withstand.bayes.sampled_norms import (
    confidence_bound,
    drawn_operators,
    estimated_norm,
    noise_lipschitz,
    require_confidence,
)
from withstand.core.devices import preserved_random_state
from withstand.core.float64_copy import float64_copy
from withstand.core.setting_rules import COUNT
from withstand.data.partition import derived_seed
from withstand.evaluation.kernel_norms.random_networks import expected_lipschitz
from withstand.operators import Dense, Place, places, upper_bound
from withstand.training.measure import Measure
from withstand.types import ModelError

_NETWORK = "network"


class ExpectedNorm(NamedTuple):
    """The expected spectral norm E ||W|| of a layer's operator, or a Lipschitz constant made of these.

    Attributes:
        sampled: An estimate: the mean norm of a few draws.
        surrogate: An estimate: ||M|| and ``bayes.fluctuation``.
        confidence: An upper bound by these draws, which fails with at most a known probability; None where
            none was asked for.
        proven: An upper bound: ||M|| and the smallest proven bound of the noise's norm.
    """

    sampled: float
    surrogate: float
    confidence: float | None
    proven: float


class NetworkNorms(NamedTuple):
    """The expected norms of a network with random weights.

    Attributes:
        layers: Name of the layer's place in the model -> its expected norm.
        network: What the layers' norms make of the whole network's expected l2 Lipschitz constant. Its
            ``confidence`` holds for all layers at once. None where there is no such bound.
        reason: Why there is none.
    """

    layers: Mapping[str, ExpectedNorm]
    network: ExpectedNorm | None
    reason: str | None


class _RandomLayer(NamedTuple):
    """One random layer: its place, and the same with another chance that the bound by draws fails."""

    place: Place
    norm: ExpectedNorm
    confidence_at: Callable[[float], float] | None


def expected_norms(
    model: nn.Module,
    images: Tensor,
    *,
    num_draws: int = 5,
    confidence: float | None = 0.99,
    seed: int = 0,
) -> NetworkNorms:
    """The expected norm of each random linear layer and convolution, and of the whole network.

    All is computed of a float64 copy in eval mode; neither the model nor torch's random state changes.

    Args:
        model: One with random layers (``withstand.bayes``).
        images: Tensor (batch, …), as the model takes them; the first one tells the sizes.
        num_draws: Of each weight, at least 1.
        confidence: In [0, 1), of each layer's bound by draws, and of that of the network, where each of L
            layers takes its share of 1 - confidence. None leaves these bounds out, whose norms of large
            convolutions take seconds a draw.
        seed: Of the draws.

    Raises:
        ModelError: no linear layer or convolution is random, one pads by other than zeros, or the model
            cannot be copied.
        ValueError: a number is out of its range.
    """
    require_confidence(confidence)
    generator = torch.Generator().manual_seed(derived_seed("expected norms", seed))
    with preserved_random_state(images.device), torch.inference_mode(False), torch.no_grad():
        copied, image = float64_copy(model), images[:1].double()
        with bayes.at_posterior_mean(copied):
            layers = [
                _random_layer(place, num_draws, confidence, generator)
                for place in places(copied, image, bayes.is_variational)
            ]
        if not layers:
            raise ModelError(
                f"No linear layer or convolution of {type(model).__name__} has random weights; make them by "
                "withstand.bayes.convert(model)."
            )
        by_name = {layer.place.name: layer.norm for layer in layers}
        try:
            return NetworkNorms(by_name, _of_network(copied, image, layers, confidence), None)
        except ModelError as error:
            return NetworkNorms(by_name, None, str(error))


def _random_layer(
    place: Place, num_draws: int, confidence: float | None, generator: torch.Generator
) -> _RandomLayer:
    layer = place.weight.layer
    assert isinstance(layer, bayes.VariationalLayer)  # chosen by the caller
    means, shape = place.operator, place.input_shape
    spread = place.operator_of(layer.std(place.weight.parameter))
    surrogate = upper_bound(means, shape).item() + bayes.fluctuation(spread, shape).item()
    proven = expected_norm_bound(means, spread.weight, shape)
    bounds, estimates = [], []
    for operator in drawn_operators(means, spread.weight, num_draws, generator):
        if confidence is not None:
            bounds.append(upper_bound(operator, shape))
        if confidence is None or not isinstance(
            means, Dense
        ):  # whose guaranteed norms are far above, at times
            estimates.append(estimated_norm(operator, shape))
    sampled = math.fsum(estimates) / num_draws if estimates else torch.stack(bounds).mean().item()
    if confidence is None:
        return _RandomLayer(place, ExpectedNorm(sampled, surrogate, None, proven), None)
    confidence_at = partial(confidence_bound, torch.stack(bounds), noise_lipschitz(spread))
    return _RandomLayer(
        place, ExpectedNorm(sampled, surrogate, confidence_at(confidence), proven), confidence_at
    )


def _of_network(
    model: nn.Module, image: Tensor, layers: Sequence[_RandomLayer], confidence: float | None
) -> ExpectedNorm:
    def whole(norm_of: Callable[[_RandomLayer], float]) -> float:
        return expected_lipschitz(model, image, {layer.place.weight.name: norm_of(layer) for layer in layers})

    confident = None
    if confidence is not None:
        share = 1 - (1 - confidence) / len(layers)
        confident = whole(lambda layer: layer.confidence_at(share) if layer.confidence_at else math.inf)
    return ExpectedNorm(
        whole(lambda layer: layer.norm.sampled),
        whole(lambda layer: layer.norm.surrogate),
        confident,
        whole(lambda layer: layer.norm.proven),
    )


class ExpectedNorms(Measure):
    """The expected norms of the random layers after each epoch, in columns ``spectral/LAYER/KIND``.

    LAYER is the layer's place in the model, or ``network`` for the expected l2 Lipschitz constant of the
    whole, which is left out where there is none. KIND is ``sampled``, ``surrogate``, ``confidence`` or
    ``proven`` (see ``ExpectedNorm``).

    Args:
        num_draws: Of each weight, the same each epoch, at least 1.
        confidence: In [0, 1), of the bounds by draws; None leaves these out.

    Raises:
        ValueError: a number is out of its range.
    """

    def __init__(self, *, num_draws: int = 5, confidence: float | None = 0.99) -> None:
        require_confidence(confidence)
        self.num_draws = COUNT("num_draws", num_draws)
        self.confidence = confidence

    @override
    def of(self, model: nn.Module, images: Tensor) -> Mapping[str, float]:
        norms = expected_norms(model, images, num_draws=self.num_draws, confidence=self.confidence)
        rows = dict(norms.layers)
        if norms.network is not None:
            rows[_NETWORK] = norms.network
        return {
            f"spectral/{name}/{kind}": value
            for name, norm in rows.items()
            for kind, value in norm._asdict().items()
            if value is not None
        }
