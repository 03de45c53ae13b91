"""The interfaces of domains: what, richer than a tensor, passes through a network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.graph.primitives import Bilinear, Coupled, Monotone, Unimodal
from withstand.operators import LinearOperator, Shape

NormOf: TypeAlias = Callable[[LinearOperator, Shape], Tensor]
"""(operator, shape of one example) -> scalar tensor: at least the operator's largest singular value."""


class Domain(ABC):
    """The interface of an immutable value that stands for many tensors, for each example of a batch.

    It is a set of tensors (``Region``) or a distribution over them (``Moments``).
    """

    @property
    @abstractmethod
    def center(self) -> Tensor:
        """One of them for each example, (batch, …): what layers that need a tensor may look at."""

    @property
    def shape(self) -> torch.Size:
        """Shape of each of them, the batch first."""
        return self.center.shape

    @property
    def example_shape(self) -> Shape:
        """Shape of one example."""
        return tuple(self.shape[1:])

    @abstractmethod
    def affine(self, operator: LinearOperator, bias: Tensor | None, norm: NormOf) -> Self:
        """The image under x -> A x + b.

        Args:
            operator: A.
            bias: b, which broadcasts to the output (batch, …); none where None.
            norm: Says how far the operator can stretch.
        """

    @abstractmethod
    def monotone(self, function: Monotone) -> Self:
        """The image under a monotone function."""

    @abstractmethod
    def unimodal(self, function: Unimodal) -> Self:
        """The image under a unimodal activation, which falls to one minimum and rises again."""

    @abstractmethod
    def coupled(self, function: Coupled) -> Self:
        """The image under a function of several coordinates of each example, such as softmax.

        Raises:
            ModelError: these are distributions, and the function is none of those in ``graph.coupled``.
        """

    @abstractmethod
    def shift(self, constant: Tensor | float) -> Self:
        """The image under x -> x + constant, which broadcasts to (batch, …)."""

    @abstractmethod
    def add(self, other: Self) -> Self:
        """What the sums of a tensor of this and one of the other make."""

    @abstractmethod
    def product(self, other: Self, bilinear: Bilinear) -> Self:
        """What the products B(x, y) of an x of this and a y of the other make.

        Where ``other is self`` both are the same tensor, and their product is a square.

        Args:
            other: With as many dimensions.
            bilinear: B.
        """

    @abstractmethod
    def larger(self, other: Self) -> Self:
        """What the larger of each two coordinates of this and of the other, of the same shape, make."""

    @abstractmethod
    def cat(self, others: Sequence[Self], dim: int) -> Self:
        """Tensors of this and of the others, one after another along ``dim`` ≥ 1."""


class Region(Domain, ABC):
    """The interface of a set of tensors for each example.

    Each operation returns a set that holds the image of every member; it may be larger than the
    image, never smaller.
    """

    @property
    @abstractmethod
    def ends(self) -> tuple[Tensor, Tensor]:
        """The smallest box around the set: lower and upper, (batch, …) each."""

    @abstractmethod
    def meet(self, other: Self) -> Self:
        """What is in this set and in another one, whose center is the same but for rounding."""

    @abstractmethod
    def worst_differences(self, weight: Tensor, labels: Tensor) -> Tensor:
        """How much each class can gain on the true one over the set, beyond its center.

        Args:
            weight: Of the last layer, (classes, hidden); members are (batch, hidden).
            labels: True classes (batch,).

        Returns:
            Tensor (batch, classes): at least the maximum of (w_i - w_y)·(z - center) over the set's
            members z; 0 for the true class.
        """


class LastLayer(NamedTuple):
    """What the logits are made of: ``weight z + bias`` for the members z of a set.

    Attributes:
        features: The set, of members (batch, hidden).
        weight: Tensor (classes, hidden).
        bias: Tensor (classes,), or None.
    """

    features: Region
    weight: Tensor
    bias: Tensor | None

    @property
    def logits(self) -> Tensor:
        """Of the features' centers, (batch, classes)."""
        return F.linear(self.features.center, self.weight, self.bias)

    def differences(self, labels: Tensor) -> Tensor:
        """The worst of each logit minus the true one.

        Args:
            labels: True classes (batch,).

        Returns:
            Tensor (batch, classes): upper bounds over the whole set; 0 for the true class.
        """
        logits = self.logits
        return (
            logits - logits.gather(1, labels[:, None]) + self.features.worst_differences(self.weight, labels)
        )


class Moments(Domain, ABC):
    """The interface of a normal distribution for each example, as far as it is kept.

    What is not normal any more after an operation is taken for the normal one of the same moments.
    """

    @property
    @abstractmethod
    def mean(self) -> Tensor:
        """Of each coordinate, (batch, …)."""

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Of each coordinate, nowhere negative; broadcasts to the mean."""
