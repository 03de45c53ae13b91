"""Certificates: proofs that no input within epsilon changes a prediction.

What is proven: for the function that the network computes in exact arithmetic with its weights as
stored, every input of the set is given the true label. Bounds are evaluated in float64 with
operator norms that are guaranteed from above; float64's own rounding, relative 1e-16 a step, is not
accounted for. NaN, infinity and ties are never certified, nor is an image that the model as it was given, in
its own precision, gives another label.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Final, Literal, NamedTuple, TypeAlias, cast, get_args

import numpy as np
import torch
from torch import Tensor, nn

from withstand.certificates.margins import largest_difference, rounding_allowance, surely_correct, worst_of
from withstand.core import norms
from withstand.core.checks import as_batch, check_batch, require_at_least
from withstand.core.contract import adapted, outside_inference_mode
from withstand.core.float64_copy import batch_size_for, float64_copy, require_independence
from withstand.core.numerics import numerics
from withstand.core.roots import largest_positive
from withstand.core.setting_rules import AT_LEAST_0, PROBABILITY, flag
from withstand.core.wrappers import unwrapped_copy
from withstand.domains import DomainName, Linear, ProgramCache, input_set, require_set
from withstand.domains.linear.backward import work
from withstand.domains.linear.linear_inputs import input_set_of
from withstand.domains.sets.input_sets import certified_norm
from withstand.operators import GuaranteedNorms
from withstand.types import Batch, DataError, ModelError

Method: TypeAlias = Literal["best", "box_ball", "box", "ball", "linear"]
METHODS: Final[tuple[Method, ...]] = get_args(Method)

# By each but the first only what is not proven yet is bounded. Neither box nor ball is ever tighter than box_ball.
_STAGES: Final[Mapping[Method, Sequence[DomainName]]] = MappingProxyType(
    {"best": ("box_ball", "linear")} | {name: (name,) for name in METHODS if name != "best"}
)
MOST_WORK: Final = 10**10
"""Multiplications an image up to which ``"best"`` tries linear bounds, as ``domains.work`` counts them."""
_NUM_PROBES = 4
_AUTOCAST = "autocast to "


class Certification(NamedTuple):
    """What is proven of a batch.

    Attributes:
        margin: Float64 tensor (batch,): a lower bound on the true logit minus the largest other, over
            the whole set; minus infinity where it cannot be computed.
        certified: Bool tensor (batch,): the margin is positive, and the model as it was given, in its own
            precision, gives the image the true label.
        rounding: Float64 tensor (batch,): by how much a logit of the model as it was given differs from that
            of its float64 copy on the image, the largest over the classes; infinity where one of them is
            NaN, or infinite in one of the two alone.
        precision: Of the model as it was given: that of its first weight, such as float32, or
            ``autocast to float16`` where autocast was on.
    """

    margin: Tensor
    certified: Tensor
    rounding: Tensor
    precision: str


class Certifier:
    """A model made ready for certificates: a float64 copy in eval mode, and its graph once it is needed.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes). It is copied; later changes of it
            are not seen.
        method: The domain to bound with; or ``"best"``: box_ball, and linear for what that does not prove, where
            it takes at most ``MOST_WORK`` multiplications an image.
        clip: Whether the attacker keeps to [0, 1].
        batch_size: Examples at a time; by default what suits the model's device.

    Raises:
        ValueError: there is no such method, or the batch size is below 1.
        ModelError: the model cannot be copied.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        method: Method = "best",
        clip: bool = True,
        batch_size: int | None = None,
    ) -> None:
        if method not in METHODS:
            raise ValueError(f"Expected a method of {', '.join(METHODS)}, but got {method!r}.")
        require_at_least(1, batch_size=batch_size)
        flag("clip", clip)
        self._model = float64_copy(model)
        self._given = unwrapped_copy(model).eval()
        self._domains = _STAGES[method]
        self._left_out: str | None = None
        self._clip = clip
        self._batch_size = batch_size or batch_size_for(self._model)
        self._programs = ProgramCache()
        self._norms = GuaranteedNorms()
        self._is_checked = False

    def predict(self, images: Tensor) -> Tensor:
        """The logits of the float64 copy, (batch, classes).

        Args:
            images: Float tensor (batch, …) in [0, 1].
        """
        return torch.cat([self._logits(batch) for batch in torch.split(images, self._batch_size)])

    def _logits(self, images: Tensor) -> Tensor:
        """The same, of all images in one batch."""
        with torch.no_grad(), numerics("fp32"):
            return _logits_of(self._model(images.double()), images)

    @outside_inference_mode()
    def certify(
        self, images: Tensor, labels: Tensor, *, norm: float, epsilon: float | Tensor
    ) -> Certification:
        """Bounds the worst margin within epsilon of each image.

        Args:
            images: Float tensor (batch, …) in [0, 1].
            labels: Integer tensor (batch,).
            norm: 1, 2 or inf; also as ``"l1"``, ``"l2"``, ``"linf"``.
            epsilon: At least 0, in [0, 1] units; a float (or ``"8/255"``), or a tensor (batch,).

        Raises:
            ValueError: the norm or epsilon is out of its range.
            UnsupportedOperationError: there is no rule for an operation of the model.
            ModelError: the model is no function of one image, or another than its graph.
            DataError: the batch is not one.
        """
        images, labels = self._placed(images, labels)
        p = certified_norm("norm", norm)
        exact = self._check(images, labels, p)
        budgets = _budgets(epsilon, len(images))
        if self._clip and len(budgets):
            norms.warn_beyond_range(p, float(budgets.max()), images.shape[1:].numel())
        margin = self._margins(images, labels, p, budgets.to(images.device))
        given = self._given_logits(images)
        certified = (margin > 0) & surely_correct(given, labels)
        return Certification(margin, certified, largest_difference(given, exact), self._precision(images))

    @outside_inference_mode()
    def radius(self, images: Tensor, labels: Tensor, *, norm: float, tolerance: float = 1e-3) -> Tensor:
        """The largest epsilon that is certified of each image.

        Every radius that is returned was itself certified, as ``certify`` does. It is 0 where the
        clean prediction is wrong, and never more than the distance between two images in [0, 1]. Where
        a larger epsilon can have a tighter bound (linf, clipped, of balls), a larger one may exist.

        Args:
            images: Float tensor (batch, …) in [0, 1].
            labels: Integer tensor (batch,).
            norm: 1, 2 or inf.
            tolerance: How far below the largest certifiable epsilon it may stay, relative; in (0, 1).

        Returns:
            Float64 tensor (batch,), in [0, 1] units.

        Raises:
            ValueError: the norm or the tolerance is out of its range.
            UnsupportedOperationError: there is no rule for an operation of the model.
            ModelError: the model is no function of one image, or another than its graph.
            DataError: the batch is not one.
        """
        images, labels = self._placed(images, labels)
        p, tolerance = certified_norm("norm", norm), PROBABILITY("tolerance", tolerance)
        logits = self._check(images, labels, p)
        at_zero = worst_of(logits - logits.gather(1, labels[:, None]), labels)
        at_zero = at_zero.where(surely_correct(self._given_logits(images), labels), -math.inf)
        farthest = norms.diameter(p, images.shape[1:].numel())

        def margin(rows: Tensor, epsilon: Tensor) -> Tensor:
            return self._margins(images[rows], labels[rows], p, epsilon)

        return largest_positive(margin, at_zero, farthest, tolerance)

    def _placed(self, images: Tensor, labels: Tensor) -> Batch:
        """A batch where the model is."""
        batch = as_batch(images, labels)
        device = next(self._given.parameters(), batch.images).device
        return Batch(batch.images.to(device), batch.labels.to(device))

    def _given_logits(self, images: Tensor) -> Tensor:
        """The logits (batch, classes) of the model as it was given, in its own precision."""
        batches = torch.split(images.to(_dtype_of(self._given, images)), self._batch_size)
        with torch.no_grad():
            return torch.cat([_logits_of(self._given(batch), batch) for batch in batches])

    def _precision(self, images: Tensor) -> str:
        """In which precision the model as it was given takes images, in words."""
        dtype, device = _dtype_of(self._given, images), images.device.type
        is_cast = torch.is_autocast_enabled(device) and dtype != torch.float64  # which autocast leaves alone
        name = str(torch.get_autocast_dtype(device) if is_cast else dtype).removeprefix("torch.")
        return f"{_AUTOCAST}{name}" if is_cast else name

    def _margins(self, images: Tensor, labels: Tensor, norm: float, epsilons: Tensor) -> Tensor:
        """The worst margins (batch,) of images that were checked, each at its own epsilon."""
        parts = (torch.split(part, self._batch_size) for part in (images, labels, epsilons))
        with torch.no_grad(), numerics("fp32"):
            margins = [
                self._margin(x.double(), y, norm, epsilon) for x, y, epsilon in zip(*parts, strict=True)
            ]
        return torch.cat(margins)

    def _margin(self, images: Tensor, labels: Tensor, norm: float, epsilon: Tensor) -> Tensor:
        margins, is_open = images.new_full((len(images),), -math.inf), torch.ones_like(labels, dtype=torch.bool)
        for domain in self._domains:
            bounds, clean = self._bounds(domain, images[is_open], labels[is_open], norm, epsilon[is_open])
            margins[is_open] = torch.maximum(margins[is_open], bounds)
            # What is wrong without an attack is not to be proven by anything.
            is_open[is_open.clone()] = (margins[is_open] <= 0) & (clean > 0)
            if not bool(is_open.any()):
                break
        return margins

    def _bounds(
        self, domain: DomainName, images: Tensor, labels: Tensor, norm: float, epsilon: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The worst margins by one domain, minus infinity where there is none, and those of the images, (batch,)."""
        value = input_set(images, norm, epsilon, domain, clip=self._clip)
        last = self._programs.of(self._model, images).run_to_last_layer(value, self._norms)
        logits = last.logits
        bounds = worst_of(last.differences(labels) + rounding_allowance(logits, labels), labels)
        clean = worst_of(logits - logits.gather(1, labels[:, None]), labels)
        return torch.where(bounds.isfinite(), bounds, -math.inf), clean

    def left_out(self, images: Tensor) -> str:
        """What ``"best"`` does not try on such images, since it would take too long; empty where nothing.

        Args:
            images: Some, (batch, …), of which the shape counts.

        Raises:
            UnsupportedOperationError: there is no rule for an operation of the model.
        """
        if self._left_out is None:
            self._left_out = ""
            if len(self._domains) > 1 and (num := self._work(images[:1].double())) > MOST_WORK:
                self._domains = self._domains[:1]
                self._left_out = (
                    f"linear bounds, of some {num:.0e} multiplications an image; method=\"linear\" computes them"
                )
        return self._left_out

    def _work(self, image: Tensor) -> int:
        """Multiplications of the linear bounds of one image."""
        with torch.no_grad(), numerics("fp32"):
            boxes = input_set(image, math.inf, 0.0, "box")
            record = Linear.of(input_set_of(image, math.inf, 0.0, clip=False), boxes, refines=False)
            last = self._programs.of(self._model, image).run_to_last_layer(record, self._norms)
        return work(cast(Linear, last.features).node)

    def _check(self, images: Tensor, labels: Tensor, norm: float) -> Tensor:
        """Accepts a batch of which the graph computes what the model does; its logits (batch, classes)."""
        check_batch(images, labels)
        for domain in self._domains:
            require_set(norm, domain)
        self._model = adapted(self._model, images.double())
        self._given = adapted(self._given, images.to(_dtype_of(self._given, images)))
        if len(images) and not self._is_checked:  # once, since the model does not change
            require_independence(self._logits, images[:_NUM_PROBES])
            self.left_out(images)
            self._is_checked = True
        with torch.no_grad(), numerics("fp32"):
            batches = torch.split(images.double(), self._batch_size)
            logits = torch.cat(
                [self._programs.of(self._model, batch).require_same(batch) for batch in batches]
            )
        _require_classes(labels, logits)
        return logits


@outside_inference_mode()
def certify(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: float,
    epsilon: float | Tensor,
    method: Method = "best",
    clip: bool = True,
) -> Certification:
    """Proves, where it can, that no input within epsilon changes a prediction.

    The model stays as it was; for many calls on one model make a ``Certifier``.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        images: Float tensor (batch, …) in [0, 1].
        labels: Integer tensor (batch,).
        norm: 1, 2 or inf; also as ``"l1"``, ``"l2"``, ``"linf"``.
        epsilon: At least 0, in [0, 1] units; a float (or ``"8/255"``), or a tensor (batch,).
        method: The domain to bound with; or ``"best"``: box_ball, and linear for what that does not prove, where
            it takes at most ``MOST_WORK`` multiplications an image.
        clip: Whether the attacker keeps to [0, 1].

    Returns:
        Margin and decision of each image.

    Raises:
        ValueError: an argument is out of its range.
        UnsupportedOperationError: there is no rule for an operation of the model.
    """
    return Certifier(model, method=method, clip=clip).certify(images, labels, norm=norm, epsilon=epsilon)


@outside_inference_mode()
def certified_radius(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    norm: float,
    method: Method = "best",
    clip: bool = True,
    tolerance: float = 1e-3,
) -> Tensor:
    """The largest epsilon within which each prediction is proven not to change.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        images: Float tensor (batch, …) in [0, 1].
        labels: Integer tensor (batch,).
        norm: 1, 2 or inf.
        method: The domain to bound with; or ``"best"``: box_ball, and linear for what that does not prove, where
            it takes at most ``MOST_WORK`` multiplications an image.
        clip: Whether the attacker keeps to [0, 1].
        tolerance: How far below the largest certifiable epsilon it may stay, relative; in (0, 1).

    Returns:
        Float64 tensor (batch,), in [0, 1] units; 0 where the clean prediction is wrong.

    Raises:
        ValueError: an argument is out of its range.
        UnsupportedOperationError: there is no rule for an operation of the model.
    """
    return Certifier(model, method=method, clip=clip).radius(images, labels, norm=norm, tolerance=tolerance)


def _budgets(epsilon: float | Tensor, count: int) -> Tensor:
    if not isinstance(epsilon, Tensor | np.ndarray):
        epsilon = AT_LEAST_0("epsilon", epsilon)
    budgets = torch.as_tensor(epsilon, dtype=torch.float64).detach()
    if budgets.shape not in (torch.Size([]), torch.Size([count])):
        raise ValueError(
            f"Expected one epsilon, or one for each of {count} images, but got shape {tuple(budgets.shape)}."
        )
    wrong = budgets[~((budgets >= 0) & budgets.isfinite())]
    if len(wrong):
        raise ValueError(f"Expected every epsilon to be finite and at least 0, but got {wrong[0]:g}.")
    return budgets.expand(count)


def _dtype_of(model: nn.Module, images: Tensor) -> torch.dtype:
    """The precision that a model takes images in: that of its first weight, else theirs."""
    tensors = (*model.parameters(), *model.buffers())
    return next((part.dtype for part in tensors if part.is_floating_point() and part.dim()), images.dtype)


def _logits_of(outputs: Tensor, images: Tensor) -> Tensor:
    if outputs.shape[:-1] != images.shape[:1]:
        raise ModelError(
            f"Expected logits (batch, classes), but of images {tuple(images.shape)} the model gives "
            f"{tuple(outputs.shape)}. A squeeze() without a dimension takes away a batch of one: "
            "name the dimension."
        )
    return outputs


def _require_classes(labels: Tensor, logits: Tensor) -> None:
    if len(labels) and (largest := int(labels.max())) >= logits.shape[1]:
        raise DataError(f"Expected labels below {logits.shape[1]}, one a logit, but got {largest}.")
