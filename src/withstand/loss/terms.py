"""Objectives and how they add up: ``CrossEntropy() + 0.1 * InputGradient()``.

An objective is an ``nn.Module`` so that whatever state it keeps moves with the device and is
saved in the checkpoint; it is called on a model and a batch and returns ``LossTerms``. Terms of a
sum that need the same forward pass share one (``passes.Pass``).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core.checks import as_batch, check_batch
from withstand.core.contract import (
    adapted_with_classes,
    outside_inference_mode,
    precision_of,
    require_differentiable,
)
from withstand.core.schedules import Schedule, scheduled, value_at
from withstand.core.setting_rules import AT_LEAST_0, instance_of, list_of
from withstand.core.wrappers import require_network
from withstand.loss.in_loops import autocast_around, averaged
from withstand.loss.passes import Pass
from withstand.types import LossTerms

ReadyObjective: TypeAlias = Callable[[Tensor, Tensor, float], LossTerms]
"""The loss of images, labels and the epochs done."""


class Objective(nn.Module, ABC):
    """The interface of all that training minimises.

    Objectives add (``a + b``) and scale (``0.1 * a``, also by a schedule).
    """

    _num_classes = 0  # of the model whose first batch was checked

    @override
    def __call__(self, model: Any, images: Tensor, labels: Tensor, *, progress: float = math.inf) -> Any:
        """``forward``, of a model and a batch in the form that everything expects.

        In a ``DistributedDataParallel`` gradients are averaged over its processes, each of which has a batch
        and terms of its own. The values of the first batch of a model are checked; those of later ones only
        on the CPU, since to look at them waits for any other device.

        Raises:
            DataError: the images are not floats in [0, 1], or the labels do not fit them or the model.
            ModelError: the model fails on the images, gives no logits, or cannot be differentiated.
        """
        require_network(model)

        def of_batch(inside: nn.Module, images: Tensor, labels: Tensor) -> LossTerms:
            with autocast_around(inside):
                inside, images, labels = self._checked(inside, images, labels)
                result: LossTerms = nn.Module.__call__(self, inside, images, labels, progress=progress)
                return result

        # In inference mode nothing can be differentiated, and what is cached could not be used in training.
        with outside_inference_mode():
            return averaged(model, images, labels, of_batch)

    def ready(self, model: nn.Module, images: Tensor, labels: Tensor) -> ReadyObjective:
        """What a call does of more such batches, without the checks that it makes of each.

        It is for a loop whose batches are alike, and whose model stays in its modes meanwhile: it holds for
        no other.

        Args:
            model: Of the loop itself, distributed by no wrapper.
            images: Of one batch, which is checked as in a call.
            labels: Likewise.

        Raises:
            DataError: as of a call.
            ModelError: as of a call.
        """
        inside, checked, _ = self._checked(model, images, labels)

        def of_batch(images: Tensor, labels: Tensor, progress: float) -> LossTerms:
            result: LossTerms = nn.Module.__call__(
                self, inside, images.to(checked.dtype), labels, progress=progress
            )
            return result

        return of_batch

    def _checked(self, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[nn.Module, Tensor, Tensor]:
        images, labels = as_batch(images, labels)
        images = images.to(precision_of(model, images))
        model, num_classes = adapted_with_classes(model, images)
        if num_classes and not (
            num_classes == self._num_classes and _seem_right(images, labels, num_classes)
        ):
            check_batch(images, labels, num_classes)
            require_differentiable(model)
            self._num_classes = num_classes
        return model, images, labels

    @abstractmethod
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        """The loss of one batch.

        Args:
            model: Maps images in [0, 1] to logits (batch, classes).
            images: Float tensor (batch, …), in [0, 1].
            labels: Integer tensor (batch,).
            progress: Epochs done; at infinity (the default) every schedule is at its end.

        Returns:
            The scalar to minimise and its named terms.
        """

    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        """The loss of one batch, from a forward pass that others may use too.

        What needs the logits of the images as they are, or their gradients, overrides this, and calls it
        from ``forward`` with a pass of its own.

        Args:
            passed: The model, the images, and what has been computed of them.
            labels: Integer tensor (batch,).
            progress: Epochs done.
        """
        result: LossTerms = self(passed.model, passed.images, labels, progress=progress)
        return result

    def differentiates_images(self, progress: float = math.inf) -> bool:
        """Whether ``of_pass`` will ask for gradients with respect to the images."""
        return False

    def prepare(self, num_data: int) -> None:
        """Called once by training, before its first step; does nothing by default.

        Args:
            num_data: Examples in the training set.
        """
        return

    def slow_down(self, at: float) -> bool:
        """Halves the step of difficulty after ``at``, one epoch more for it; the default has none.

        Training calls this when it collapses (see ``training.collapse``). An objective that
        schedules how hard its task is wraps those schedules in ``schedules.Slowed``.

        Args:
            at: Epochs done when the step that was too hard begins.

        Returns:
            Whether the epoch after ``at`` has become easier.
        """
        return False

    def __add__(self, other: Objective) -> Objective:
        return Sum([*_terms_of(self), *_terms_of(other)])

    def __mul__(self, weight: float | Schedule) -> Objective:
        return Weighted(self, weight)

    __rmul__ = __mul__


def _seem_right(images: Tensor, labels: Tensor, num_classes: int) -> bool:
    """Whether ``check_batch`` has nothing to say, found out fast; of another device than the CPU taken so."""
    if images.device.type != "cpu":  # so that no step waits for it
        return True
    pixels, classes = images.detach().numpy(), labels.numpy()
    in_range = pixels.min() >= 0 and pixels.max() <= 1
    return bool(in_range and classes.min() >= 0 and classes.max() < num_classes)


an_objective = instance_of(Objective, "an objective, such as CrossEntropy()")


class OnePass(Objective, ABC):
    """The interface of an objective that works on a shared forward pass of the images as they are."""

    @abstractmethod
    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms: ...

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        passed = Pass(model, images, tracks_images=self.differentiates_images(progress))
        return self.of_pass(passed, labels, progress=progress)


class Penalty(Objective, ABC):
    """The interface of an objective that is added to another and trains nothing alone."""


class Weighted(OnePass):
    """``weight`` times a term; the term is reported as it is, before its weight.

    As long as the weight is 0 the term is not computed, and draws nothing at random.

    Args:
        term: What to scale.
        weight: At least 0; a float or a schedule of one.

    Raises:
        TypeError: the weight is no number.
        ValueError: it is negative or not finite.
    """

    def __init__(self, term: Objective, weight: float | Schedule) -> None:
        super().__init__()
        self.term: Objective = an_objective("what is weighted", term)
        self.weight: float | Schedule = scheduled(AT_LEAST_0)("the weight of an objective", weight)

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        weight = value_at(self.weight, progress)
        if weight == 0:
            # With gradient, so that a step in which nothing has a weight is a step all the same.
            return LossTerms(passed.images.new_zeros((), requires_grad=True), {})
        loss, terms = self.term.of_pass(passed, labels, progress=progress)
        return LossTerms(weight * loss, terms)

    @override
    def differentiates_images(self, progress: float = math.inf) -> bool:
        return value_at(self.weight, progress) != 0 and self.term.differentiates_images(progress)

    @override
    def prepare(self, num_data: int) -> None:
        self.term.prepare(num_data)

    @override
    def slow_down(self, at: float) -> bool:
        return self.term.slow_down(at)

    @override
    def extra_repr(self) -> str:
        return f"weight={self.weight}"  # by which a resumed training tells another objective


class Sum(OnePass):
    """The sum of several objectives; where two report the same name, the later gets a number.

    Args:
        terms: What to add, at least one.

    Raises:
        ValueError: there is nothing to add.
    """

    def __init__(self, terms: Sequence[Objective]) -> None:
        super().__init__()
        self.terms = nn.ModuleList(list_of(an_objective)("the terms of a sum", terms))

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        results = [term.of_pass(passed, labels, progress=progress) for term in _terms_of(self)]
        named: dict[str, Tensor] = {}
        for result in results:
            for name, value in result.terms.items():
                named[_free_name(name, named)] = value
        return LossTerms(torch.stack([result.loss for result in results]).sum(), named)

    @override
    def differentiates_images(self, progress: float = math.inf) -> bool:
        return any(term.differentiates_images(progress) for term in _terms_of(self))

    @override
    def prepare(self, num_data: int) -> None:
        for term in _terms_of(self):
            term.prepare(num_data)

    @override
    def slow_down(self, at: float) -> bool:
        slowed = [term.slow_down(at) for term in _terms_of(self)]  # all of them, not only up to the first
        return any(slowed)


def _terms_of(objective: Objective) -> list[Objective]:
    if not isinstance(objective, Sum):
        return [objective]
    return [term for term in objective.terms if isinstance(term, Objective)]


def _free_name(name: str, taken: dict[str, Tensor]) -> str:
    candidates = [name, *(f"{name}_{number}" for number in range(2, len(taken) + 3))]
    return next(candidate for candidate in candidates if candidate not in taken)
