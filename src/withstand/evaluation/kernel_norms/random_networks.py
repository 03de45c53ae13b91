"""The expected Lipschitz constant of a network with random weights.

The Lipschitz bound that a ball gives is a sum of products of layer norms, in which each random layer occurs
at most once on each way through the network. Layers are drawn independently of each other, so that the
expectation of a product of their norms is the product of the expectations: the same sum with each random
layer's norm replaced by (a bound of) its expectation bounds the expected Lipschitz constant, and so E ||f(x
+ d) - f(x)|| / ||d|| with the same weights on both sides. Only where values are joined by ``cat`` a ball
takes the root of a sum of squares, which expectations do not pass through; there the plain sum is taken,
which is larger.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any, Self, final

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override

from withstand import bayes
from withstand.core.float64_copy import float64_copy
from withstand.domains import Ball, Call, Program
from withstand.evaluation.kernel_norms.all_bounds import growth, wide_ball
from withstand.operators import GuaranteedNorms, LinearOperator, OperatorNorms, Shape
from withstand.types import ModelError

_SLACK = 1 + 1e-3  # of bayes.expected_maximum


def expected_lipschitz(model: nn.Module, image: Tensor, norms: Mapping[str, float]) -> float:
    """A bound of the expected l2 Lipschitz constant of a network, from bounds of its random layers.

    Where the numbers given are upper bounds of the layers' expected norms, the result is a proven one for
    the network; it is no more than an estimate where they are estimates. Layers without randomness have
    guaranteed norms, and a random BatchNorm the bound of ``expected_scale``.

    Args:
        model: Maps images to logits; its random layers are independent. Modes do not matter.
        image: Tensor (1, …), one of its inputs.
        norms: Path of each random linear layer or convolution -> its (bound of the) expected norm.

    Raises:
        ModelError: no ball passes through the model, a random layer is used twice, so that it is not
            independent of itself, or one is used by something else than a call of the layer.
    """
    copied = float64_copy(model)
    mean = bayes.mean_network(copied)
    layers = dict(bayes.variational_layers(copied))
    expected = dict(norms)
    for path, layer in layers.items():
        if isinstance(layer, _BatchNorm):
            expected[path] = expected_scale(layer)
    walk = _Walk(set(layers), expected)
    ball = wide_ball(image.double())
    with torch.inference_mode(False), torch.no_grad():
        program = Program(mean, ball.center)
        program.verify_capture(ball.center)
        reached = program.walk(_Spread(ball.midpoint, ball.radius), walk.result_of)
    if not isinstance(reached, _Spread):
        raise ModelError("The model's output is not one tensor that depends on the images.")
    return growth(reached.radius)


def expected_scale(layer: _BatchNorm) -> float:
    """A bound of E max |scale| of a random BatchNorm in eval mode, running deviation included.

    max |mean| / s + E max |std e| / s over channels, with s² the running variance and the layer's epsilon.

    Args:
        layer: One that is a ``bayes.VariationalLayer``.

    Raises:
        ModelError: it is not, or has no running statistics.
    """
    if not isinstance(layer, bayes.VariationalLayer) or layer.running_var is None:
        raise ModelError(
            f"Expected a random BatchNorm with running statistics, but got {layer}; without them it is no "
            "function of one image."
        )
    with torch.no_grad():
        normal = layer.normals()["weight"]
        factors = (layer.running_var.double() + layer.eps).rsqrt()
        noise = bayes.expected_maximum(normal.std.double() * factors)
        return ((normal.mean.double() * factors).abs().max() + noise * _SLACK).item()


class _Walk:
    """What each operation makes of balls, once each random layer's norm is an expected one.

    Args:
        paths: Of the random layers.
        expected: Path -> expected norm.
    """

    def __init__(self, paths: Set[str], expected: Mapping[str, float]) -> None:
        self._paths = paths
        self._expected = expected
        self._met: set[str] = set()

    def result_of(self, call: Call) -> Any:
        owners = {path.rpartition(".")[0] for path in call.constant_paths()} & self._paths
        if not owners:
            return call.apply_rule(GuaranteedNorms())
        for path in owners - {call.step.path}:
            raise ModelError(
                f"The model reads a random weight of its layer {path!r} beside calling the layer on what it "
                "makes of the image, and what comes of it is not known; call the layer alone."
            )
        path = call.step.path
        if path in self._met:
            raise ModelError(
                f"The random layer {path!r} is used twice. With the same weights it is not independent of "
                "itself, so that the expectation of its norms' product is not the product of expectations."
            )
        self._met.add(path)
        return call.apply_rule(_KnownNorm(path, self._expected.get(path)))


@dataclass(frozen=True)
class _KnownNorm(OperatorNorms):
    """The norm of a random layer that is known beforehand; None where it is not."""

    path: str
    norm: float | None

    @override
    def of(self, operator: LinearOperator, input_shape: Shape, key: str) -> Tensor:
        if self.norm is None:
            raise ModelError(f"No expected norm is known of the random layer {self.path!r}.")
        return operator.entries.new_tensor(self.norm)


@final
class _Spread(Ball):
    """A ball of which the radius is a sum of products of norms, everywhere."""

    @override
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        balls: list[Self] = [self, *others]
        joined = torch.cat([ball.midpoint for ball in balls], dim)
        return replace(self, midpoint=joined, radius=sum((ball.radius for ball in others), self.radius))
