"""Analytic moments layer by layer: how far off they are, where that comes from, and what they cost."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from withstand.core.noise import GaussianNoise
from withstand.domains import Call, FactoredGaussian, Gaussian, Moments, Program
from withstand.evaluation.moment_check.errors import Tally, root_mean_square
from withstand.evaluation.moment_check.methods import Start
from withstand.evaluation.moment_check.noisy_passes import INPUT, Sampled, Samples, part_of, timed
from withstand.objectives.propagation import rule_of_moments
from withstand.results.analytic import MomentsForm, MomentsLayer


@dataclass
class Layers:
    """What an analytic form gave, by node.

    Attributes:
        mean: Of the logits, (images, classes).
        variance: Likewise.
    """

    mean: Tensor
    variance: Tensor
    accumulated: dict[str, Tally]
    own: dict[str, Tally]
    node_seconds: dict[str, float]


def walk_layers(
    program: Program, images: Tensor, noise: GaussianNoise, samples: Samples, start: Start, batch_size: int
) -> Layers:
    """Takes an analytic form through the network, and holds each step against the samples.

    Args:
        program: Of the network, in eval mode.
        images: Float tensor (images, …), the ones that were sampled.
        noise: What is added to them.
        samples: What the draws gave.
        start: The form.
        batch_size: Images at a time.

    Raises:
        ModelError: the form cannot pass through a step.
    """
    walk = _Walk(images.device, len(images))
    logits: list[Moments] = []
    for first in range(0, len(images), batch_size):
        part = slice(first, first + batch_size)
        walk.sampled = {key: value.rows(part) for key, value in samples.values.items()}
        value = _Tracked(start(images[part], noise), walk.sampled[INPUT])
        logits.append(program.walk(value, walk.result_of).moments)
    return Layers(
        torch.cat([value.mean for value in logits]),
        torch.cat([value.variance.expand_as(value.mean) for value in logits]),
        walk.accumulated,
        walk.own,
        walk.seconds,
    )


def layer_results(samples: Samples, forms: dict[str, Layers]) -> list[MomentsLayer]:
    """The layers by type, in the order in which the network first has them.

    Args:
        samples: What the draws gave.
        forms: What each analytic form gave, by its name.
    """
    nodes: dict[str, list[str]] = defaultdict(list)
    for node, operation in samples.operations.items():
        if node in samples.values:
            nodes[operation].append(node)
    return [
        MomentsLayer(operation, len(own), {name: _cost(form, own, samples) for name, form in forms.items()})
        for operation, own in nodes.items()
    ]


def _cost(layers: Layers, nodes: list[str], samples: Samples) -> MomentsForm:
    sampling = sum(samples.seconds[node] for node in nodes)
    seconds = sum(layers.node_seconds[node] for node in nodes)
    return MomentsForm(
        root_mean_square([layers.accumulated[node].apart() for node in nodes]),
        root_mean_square([layers.own[node].apart() for node in nodes]),
        seconds / sampling if sampling else None,
    )


@dataclass(frozen=True, eq=False)
class _Tracked:
    """Analytic moments of a value, and its sampled ones."""

    moments: Moments
    sampled: Sampled


@dataclass
class _Walk:
    """Sums over batches, by node."""

    device: torch.device
    num_images: int
    sampled: dict[str, Sampled] = field(default_factory=dict)
    accumulated: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    own: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    seconds: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    def result_of(self, call: Call) -> Any:
        node = call.node.name
        analytic = call.mapped(_moments)
        result, seconds = timed(lambda: _computed(rule_of_moments(analytic)), self.device)
        self.seconds[node] += seconds / self.num_images
        if isinstance(result, Moments):
            matched = rule_of_moments(call.mapped(_matched))
            self.accumulated[node].add(result.mean, result.variance, self.sampled[node])
            self.own[node].add(matched.mean, matched.variance, self.sampled[node])
        return self._paired(result, node)

    def _paired(self, result: Any, key: str) -> Any:
        if isinstance(result, Moments):
            return _Tracked(result, self.sampled[key])
        if isinstance(result, list | tuple):
            return [self._paired(item, part_of(key, index)) for index, item in enumerate(result)]
        return result  # a size, or the like


def _computed(result: Any) -> Any:
    """The same, with nothing put off: what an activation makes of moments is part of its time."""
    for item in result if isinstance(result, list | tuple) else [result]:
        if isinstance(item, Moments):
            _ = item.variance  # it is computed where it is asked for
    return result


def _moments(value: Any) -> Any:
    return value.moments if isinstance(value, _Tracked) else value


def _matched(value: Any) -> Any:
    """With the sampled means and deviations in place of the analytic ones."""
    if not isinstance(value, _Tracked):
        return value
    mean, variance = (moment.to(value.moments.mean) for moment in value.sampled)
    match value.moments:
        case FactoredGaussian() as former:
            has_spread = former.variance > 0
            share = torch.where(has_spread, variance / former.variance.clamp_min(1e-30), 0)
            rest = torch.where(has_spread, share * former.rest, variance)
            return FactoredGaussian(mean, share.sqrt() * former.factors, rest)
    return Gaussian(mean, variance)
