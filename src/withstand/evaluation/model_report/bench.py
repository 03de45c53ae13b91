"""A model with a few images to try things on, and what several tries share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from withstand import bayes
from withstand.core.contract import adapted, precision_of
from withstand.core.dataset_info import DatasetInfo
from withstand.core.devices import preserved_random_states, wait_for
from withstand.core.float64_copy import float64_copy, require_independence
from withstand.core.modes import eval_mode, put_back
from withstand.data import Dataset, Split
from withstand.domains import Gaussian, ProgramCache, UnsupportedOperationError, input_set
from withstand.evaluation.kernel_norms.all_bounds import spectral_bound
from withstand.evaluation.kernel_norms.lower import slopes
from withstand.evaluation.measuring import Evaluation
from withstand.evaluation.meter import Meter
from withstand.evaluation.model_report.report_parts import LipschitzBound
from withstand.evaluation.run import evaluate
from withstand.graph.capture_surroundings import quiet, unchanged
from withstand.objectives.propagation import through_every_layer
from withstand.operators import GuaranteedNorms, PowerIteration
from withstand.types import Batch

EPSILON = 8 / 255
"""In [0, 1] units: what is tried, as whether something works does not depend on it."""

NORMS = GuaranteedNorms(is_quick=True)
_FEW = 2
_EMPTY = 0


@dataclass(frozen=True)
class Bench:
    """What is tried, and on what.

    Args:
        model: Maps images in [0, 1] to logits.
        info: Of the data.
        images: Float tensor (batch, …) on the model's device, at least two.
        labels: int64 tensor (batch,).
        num_data: Examples in the training set.
    """

    model: nn.Module
    info: DatasetInfo
    images: Tensor
    labels: Tensor
    num_data: int

    def batch(self, size: int = _FEW) -> Batch:
        """So many examples, the same ones again and again where there are fewer."""
        index = torch.arange(size, device=self.labels.device) % len(self.labels)
        return Batch(self.images[index], self.labels[index])

    @cached_property
    def few(self) -> Split:
        """Two examples, as a split."""
        images, labels = self.batch()
        return Split(images.float(), labels)

    def evaluate(self, *meters: Meter) -> Evaluation:
        """Measures on two examples."""
        none = self.few.subset(torch.arange(_EMPTY))
        return evaluate(self.model, Dataset(self.info, self.few, none, self.few), meters)

    @cached_property
    def has_gradients(self) -> bool:
        """Whether answers have gradients with respect to the images, which most attacks go by."""
        images = self.batch().images.clone().requires_grad_()
        with torch.enable_grad(), eval_mode(self.model):
            return bool(adapted(self.model, images)(images).requires_grad)

    @cached_property
    def random_model(self) -> nn.Module:
        """The model with random weights."""
        return self.model if bayes.is_stochastic(self.model) else bayes.convert(self.model)

    @cached_property
    def estimates(self) -> PowerIteration:
        """Operator norms as training estimates them."""
        return PowerIteration(1)

    @cached_property
    def copied(self) -> nn.Module:
        """A float64 copy in eval mode."""
        return float64_copy(self.model)

    @cached_property
    def exact(self) -> nn.Module:
        """What certificates compute with: the float64 copy, of whose answers each is an image's own."""
        bayes.require_certain(self.model, to="prove anything of it")
        images = self.images[:_FEW].double()
        with torch.no_grad():
            model = adapted(self.copied, images)
            require_independence(model, images)
        return model

    @cached_property
    def faults(self) -> str:
        """All that keeps sets from passing, a line each; empty where nothing does.

        Raises:
            ModelError: nothing can be proven of the model, whatever passes.
        """
        images = self.images[:_FEW].double()
        with torch.no_grad():
            faults = ProgramCache().of(self.exact, images).faults(images)
        return "\n".join(
            fault if len(faults) == 1 else f"{number}. {fault}"
            for number, fault in enumerate(faults, start=1)
        )

    def prove(self, norm: float) -> None:
        """Takes sets of images through, as certificates do.

        Raises:
            ModelError: they do not get through.
        """
        if self.faults:
            raise UnsupportedOperationError(self.faults)
        images = self.images[:_FEW].double()
        with torch.no_grad():
            sets = input_set(images, norm, EPSILON, "box_ball", clip=True)
            ProgramCache().of(self.exact, images).run_to_last_layer(sets, NORMS)

    def moments(self) -> None:
        """Takes normal distributions through.

        Raises:
            ModelError: they do not get through.
        """
        bayes.require_certain(self.model, to="compute moments of it")
        images = self.images[:_FEW].to(precision_of(self.model, self.images))
        model = adapted(self.model, images)
        with torch.no_grad(), eval_mode(model):
            noisy = Gaussian(images, torch.full_like(images, EPSILON**2))
            through_every_layer(ProgramCache().of(model, images), noisy)

    @cached_property
    def lipschitz(self) -> LipschitzBound:
        """Bounds of the steepest logit, from both sides.

        Raises:
            ModelError: nothing can be proven of the model.
        """
        image = self.images[:1].double()
        steepest = slopes(self.exact, image, 1).lengths.max().item()
        bound = spectral_bound(self.exact, image, NORMS)
        if bound.values is None:
            return LipschitzBound(steepest=steepest, reason=self.faults or bound.reason or "")
        largest = max(bound.values)
        return LipschitzBound(largest, largest * math.sqrt(image.numel()), steepest)


@contextmanager
def held_still(model: nn.Module) -> Iterator[None]:
    """The model is afterwards as it was, and so is the random state; nothing is printed meanwhile.

    Args:
        model: Whose parameters, buffers, gradients, modes and attributes are put back.

    Yields:
        Nothing.
    """
    with _put_back(model), unchanged(model), quiet(), torch.enable_grad():
        yield


@contextmanager
def _put_back(model: nn.Module) -> Iterator[None]:
    """Modes, weights, buffers, gradients and the random state are afterwards what they were."""
    gradients = [(weight, weight.grad) for weight in model.parameters()]
    for weight, _ in gradients:
        weight.grad = None
    try:
        with put_back(model, (*model.parameters(), *model.buffers())), preserved_random_states():
            yield
    finally:
        for weight, gradient in gradients:
            weight.grad = gradient


def seconds(run: Callable[[], object], device: torch.device) -> float:
    """How long something takes, with what the device still has to do."""
    start = time.perf_counter()
    run()
    wait_for(device)
    return time.perf_counter() - start
