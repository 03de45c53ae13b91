"""Certificates: proofs that no input within epsilon changes a prediction.

What is proven: for the function that the network computes in exact arithmetic with its weights as
stored, every input of the set is given the true label. Bounds are evaluated in float64 with
operator norms that are guaranteed from above; float64's own rounding, relative 1e-16 a step, is not
accounted for. NaN, infinity and ties are never certified, nor is an image that the model as it was given, in
its own precision, gives another label.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from withstand.certificates.bounding import TIMEOUT, Bounder, Method
from withstand.certificates.margins import largest_difference, surely_correct, worst_of
from withstand.core import norms
from withstand.core.checks import as_batch, check_batch, require_at_least
from withstand.core.contract import adapted, outside_inference_mode
from withstand.core.float64_copy import batch_size_for, float64_copy, require_independence
from withstand.core.numerics import numerics
from withstand.core.roots import farther, largest_positive
from withstand.core.setting_rules import AT_LEAST_0, PROBABILITY, flag
from withstand.core.wrappers import unwrapped_copy
from withstand.domains import ProgramCache
from withstand.domains.sets.input_sets import certified_norm
from withstand.types import Batch, DataError, ModelError

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
        method: Of ``METHODS``, what to bound with; ``"best"`` is box_ball, and linear for what that does not
            prove, where it takes at most ``bounding.MOST_WORK`` multiplications an image.
        clip: Whether the attacker keeps to [0, 1].
        batch_size: Examples at a time; by default what suits the model's device.
        timeout: Seconds an image, at each epsilon, that branch and bound may take; what it proves depends on
            the machine.

    Raises:
        ValueError: there is no such method, or the batch size or timeout is not above 0.
        ModelError: the model cannot be copied.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        method: Method = "best",
        clip: bool = True,
        batch_size: int | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self._programs = ProgramCache()
        self._bounder = Bounder(method, self._programs, clip=clip, timeout=timeout)
        require_at_least(1, batch_size=batch_size)
        flag("clip", clip)
        self._model = float64_copy(model)
        self._given = unwrapped_copy(model).eval()
        self._clip = clip
        self._batch_size = batch_size or batch_size_for(self._model)
        self._is_checked = False

    @property
    def left_out(self) -> str:
        """What ``"best"`` does not try of such a network, in words; empty where nothing, and at first."""
        return self._bounder.left_out

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

        def margin(rows: Tensor, epsilon: Tensor, *, most_stages: int | None = None) -> Tensor:
            return self._margins(images[rows], labels[rows], p, epsilon, most_stages)

        radii = largest_positive(partial(margin, most_stages=1), at_zero, farthest, tolerance)
        if self._bounder.num_stages == 1:
            return radii
        return farther(margin, radii, at_zero, farthest, tolerance)

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

    def _margins(
        self,
        images: Tensor,
        labels: Tensor,
        norm: float,
        epsilons: Tensor,
        most_stages: int | None = None,
    ) -> Tensor:
        """The worst margins (batch,) of images that were checked, each at its own epsilon."""
        parts = (torch.split(part, self._batch_size) for part in (images, labels, epsilons))
        with torch.no_grad(), numerics("fp32"):
            margins = [
                self._bounder.margins(self._model, x.double(), y, norm, epsilon, most_stages=most_stages)
                for x, y, epsilon in zip(*parts, strict=True)
            ]
        return torch.cat(margins)

    def _check(self, images: Tensor, labels: Tensor, norm: float) -> Tensor:
        """Accepts a batch of which the graph computes what the model does; its logits (batch, classes)."""
        check_batch(images, labels)
        self._bounder.require_norm(norm)
        self._model = adapted(self._model, images.double())
        self._given = adapted(self._given, images.to(_dtype_of(self._given, images)))
        if len(images) and not self._is_checked:  # once, since the model does not change
            require_independence(self._logits, images[:_NUM_PROBES])
            with torch.no_grad(), numerics("fp32"):
                self._bounder.leave_out(self._model, images[:1].double())
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
    timeout: float = TIMEOUT,
) -> Certification:
    """Proves, where it can, that no input within epsilon changes a prediction.

    The model stays as it was; for many calls on one model make a ``Certifier``.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        images: Float tensor (batch, …) in [0, 1].
        labels: Integer tensor (batch,).
        norm: 1, 2 or inf; also as ``"l1"``, ``"l2"``, ``"linf"``.
        epsilon: At least 0, in [0, 1] units; a float (or ``"8/255"``), or a tensor (batch,).
        method: Of ``METHODS``, what to bound with; ``"best"`` is box_ball, and linear for what that does not
            prove, where it takes at most ``bounding.MOST_WORK`` multiplications an image.
        clip: Whether the attacker keeps to [0, 1].
        timeout: Seconds an image that branch and bound may take; others take what they need.

    Returns:
        Margin and decision of each image.

    Raises:
        ValueError: an argument is out of its range.
        UnsupportedOperationError: there is no rule for an operation of the model.
    """
    certifier = Certifier(model, method=method, clip=clip, timeout=timeout)
    return certifier.certify(images, labels, norm=norm, epsilon=epsilon)


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
    timeout: float = TIMEOUT,
) -> Tensor:
    """The largest epsilon within which each prediction is proven not to change.

    Args:
        model: Maps images in [0, 1] to logits (batch, classes).
        images: Float tensor (batch, …) in [0, 1].
        labels: Integer tensor (batch,).
        norm: 1, 2 or inf.
        method: Of ``METHODS``, what to bound with; ``"best"`` is box_ball, and linear for what that does not
            prove, where it takes at most ``bounding.MOST_WORK`` multiplications an image.
        clip: Whether the attacker keeps to [0, 1].
        tolerance: How far below the largest certifiable epsilon it may stay, relative; in (0, 1).
        timeout: Seconds an image, at each of some ten epsilons, that branch and bound may take.

    Returns:
        Float64 tensor (batch,), in [0, 1] units; 0 where the clean prediction is wrong.

    Raises:
        ValueError: an argument is out of its range.
        UnsupportedOperationError: there is no rule for an operation of the model.
    """
    certifier = Certifier(model, method=method, clip=clip, timeout=timeout)
    return certifier.radius(images, labels, norm=norm, tolerance=tolerance)


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
