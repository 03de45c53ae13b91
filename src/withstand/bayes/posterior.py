"""The Gaussian posterior of a weight: how its standard deviation is stored, begun and drawn."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias, get_args

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.setting_rules import AT_LEAST_0, POSITIVE, list_of, optional, settle

Parametrization: TypeAlias = Literal["softplus", "log"]
"""How a standard deviation comes from the parameter rho: log(1 + exp(rho)), or exp(rho)."""

Estimator: TypeAlias = Literal["auto", "local", "flipout", "shared"]
"""How a layer draws (see ``Posterior``)."""


class Normal(NamedTuple):
    """Independent normal entries of a weight, and their prior N(0, prior_std²).

    Attributes:
        mean: Tensor of any shape.
        std: Tensor of the same shape, at least 0.
        prior_std: Of every entry, positive.
    """

    mean: Tensor
    std: Tensor
    prior_std: float


@dataclass(frozen=True)
class Posterior:
    """A mean-field Gaussian posterior: every entry of a weight is an independent normal variable.

    Args:
        prior_std: Standard deviation of the prior N(0, prior_std²) of each entry, biases included.
        initial_std: With which each entry begins; two numbers draw its rho uniformly between theirs.
        parametrization: ``softplus`` takes std = log(1 + exp(rho)) (Blundell et al., ICML 2015), ``log``
            takes std = exp(rho).
        estimator: ``local`` draws the layer's outputs of each example, not its weights (Kingma et al.,
            NeurIPS 2015): exact for a matrix on vectors, while outputs of one weight at several places, as in
            a convolution, are drawn as if they were independent. ``flipout`` gives each example the same draw
            of the weights with signs of its own (Wen et al., ICLR 2018): exact for each example, and two
            examples are uncorrelated. ``shared`` draws the weights once for all examples: half the work of
            flipout. ``auto`` is local where that is exact, else flipout. Scale and shift of normalisation
            layers are drawn for each example, or once for all where ``shared``.
        mean_range: Draw the means anew, uniformly in ± this, but for normalisation layers; they stay as they
            are where None.

    Raises:
        ValueError: a number is out of its range, or a word is none of these.
    """

    prior_std: float = 0.1
    initial_std: float | tuple[float, float] = 0.05
    parametrization: Parametrization = "softplus"
    estimator: Estimator = "auto"
    mean_range: float | None = None

    def __post_init__(self) -> None:
        one = isinstance(self.initial_std, int | float | str)
        settle(
            self,
            prior_std=POSITIVE,
            initial_std=POSITIVE if one else list_of(POSITIVE, least=2),
            mean_range=optional(AT_LEAST_0),
        )
        words = ("parametrization", Parametrization), ("estimator", Estimator)
        for name, known in words:
            word = getattr(self, name)
            if word not in get_args(known):
                raise ValueError(
                    f"Expected {name} to be one of {', '.join(get_args(known))}, but got {word!r}."
                )

    @property
    def _initial(self) -> tuple[float, float]:
        stds = self.initial_std
        return (stds, stds) if isinstance(stds, int | float) else (min(stds), max(stds))

    def std(self, rho: Tensor) -> Tensor:
        """The standard deviation of a parameter, of any shape."""
        function: Callable[[Tensor], Tensor] = F.softplus if self.parametrization == "softplus" else torch.exp
        return function(rho)

    def rho(self, std: float) -> float:
        """The parameter of a standard deviation above 0."""
        if self.parametrization == "log":
            return math.log(std)
        return std + math.log(-math.expm1(-std))  # log(exp(std) - 1), without overflow

    def initial_rho(self, like: Tensor) -> Tensor:
        """Parameters to begin with, of the shape of a weight."""
        low, high = (self.rho(std) for std in self._initial)
        return torch.empty_like(like).uniform_(low, high) if low < high else torch.full_like(like, low)


def divergence(normal: Normal) -> Tensor:
    """KL(N(mean, std²) || N(0, prior_std²)), summed over all entries: in closed form.

    log(prior_std / std) - 1/2 + (std² + mean²) / (2 prior_std²) an entry.

    Returns:
        Scalar tensor, at least 0; infinite where a std is 0.
    """
    summed: Tensor = _Divergence.apply(*normal)  # type: ignore[no-untyped-call]
    return summed


class _Divergence(torch.autograd.Function):
    """Few passes over memory: a weight has as many entries here as a batch has numbers elsewhere."""

    @staticmethod
    @override
    def forward(ctx: Any, mean: Tensor, std: Tensor, prior_std: float) -> Tensor:
        ctx.save_for_backward(mean, std)
        ctx.prior_std = prior_std
        share = 0.5 / prior_std**2
        terms = std.log().neg_().add_(math.log(prior_std) - 0.5)
        return terms.addcmul_(std, std, value=share).addcmul_(mean, mean, value=share).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        mean, std = ctx.saved_tensors
        share = upstream / ctx.prior_std**2
        by_mean = mean * share if ctx.needs_input_grad[0] else None
        by_std = std * share - upstream / std if ctx.needs_input_grad[1] else None
        return by_mean, by_std, None
