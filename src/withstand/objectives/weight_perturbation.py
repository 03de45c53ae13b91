"""Training at the worst weights near the present ones (adversarial weight perturbation)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core import norms
from withstand.core.batch_shares import current, meets, own_share
from withstand.core.devices import preserved_random_state
from withstand.core.processes import add_up_
from withstand.core.schedules import Schedule, scheduled, value_at
from withstand.core.setting_rules import AT_LEAST_0, settle
from withstand.core.wrappers import eager, unwrapped
from withstand.loss.passes import Pass
from withstand.loss.terms import Objective, OnePass, an_objective
from withstand.types import LossTerms, ModelError

_logger = logging.getLogger(__name__)


class WeightPerturbation(OnePass):
    """Another objective at weights that are one step worse: adversarial weight perturbation (AWP).

    Wu et al., "Adversarial weight perturbation helps robust generalization" (NeurIPS 2020, eq. 9 to 11, with
    one step and the present weights). Each weight W of at least two dimensions moves by
    v = gamma ‖W‖ g / ‖g‖, where g is the gradient of the objective with respect to W; biases and scales stay,
    as in the published code. The loss and its gradient are those at W + v, and change W.

    Adversarial images are found once, at W; only ``Variational`` with several draws looks for them again. Of
    a step's two passes the second alone counts for what BatchNorm keeps, and Dropout and noise are alike in
    both. A step costs a forward and backward pass more. What ``torch.compile`` made runs as it is written.

    Where one process divides a batch into parts (``micro_batches``), each part has a v of its own, which is
    said. Over several processes there is one, of the whole batch.

    Args:
        objective: What to minimise, such as ``Adversarial(attack)`` or ``TRADES(attack)``.
        gamma: Length of v as a share of that of W, at least 0; a float or a schedule. Published are 0.01 with
            adversarial training and 0.005 with TRADES. As long as it is 0 this is the objective itself:
            ``Stages(values=[0, 0.01], epochs=[5, 15])`` begins after five epochs.

    Raises:
        TypeError: the objective is none.
        ValueError: gamma is out of its range.
    """

    def __init__(self, objective: Objective, gamma: float | Schedule = 0.01) -> None:
        super().__init__()
        self.objective: Objective = an_objective("what is perturbed", objective)
        self.gamma = gamma
        settle(self, gamma=scheduled(AT_LEAST_0))
        self._has_told = False

    @override
    def of_pass(self, passed: Pass, labels: Tensor, *, progress: float = math.inf) -> LossTerms:
        gamma = value_at(self.gamma, progress)
        if gamma == 0:
            return self.objective.of_pass(passed, labels, progress=progress)
        self._tell_of_parts()
        model = unwrapped(passed.model)
        with eager():
            # Of its own, since other terms may need the graph and the buffers of the pass that is given.
            tracks_images = self.objective.differentiates_images(progress)
            first = Pass(passed.model, passed.images, tracks_images=tracks_images)
            copies = {id(buffer): buffer.clone() for buffer in model.buffers()}
            with _replaced(model, copies), preserved_random_state(passed.images.device), torch.enable_grad():
                loss = self.objective.of_pass(first, labels, progress=progress).loss
                moved = _uphill(loss, model, gamma)
            with _replaced(model, moved):
                return self.objective.of_pass(first.again(), labels, progress=progress)

    @override
    def differentiates_images(self, progress: float = math.inf) -> bool:
        return self.objective.differentiates_images(progress)

    @override
    def prepare(self, num_data: int) -> None:
        self.objective.prepare(num_data)

    @override
    def slow_down(self, at: float) -> bool:
        return self.objective.slow_down(at)

    @override
    def extra_repr(self) -> str:
        return f"gamma={self.gamma}"

    def _tell_of_parts(self) -> None:
        share = current()
        if share is None or self._has_told:
            return
        own = own_share(share.total)
        if share.size < (share.total if own is None else own.size):
            self._has_told = True
            _logger.warning(
                "WeightPerturbation: a step is computed in parts (micro_batches), each of which moves the "
                "weights by its own gradient, not by that of the whole batch."
            )


def _uphill(loss: Tensor, model: nn.Module, gamma: float) -> dict[int, Tensor]:
    """The id of each weight -> where it moves to, with a gradient to the weight itself.

    Args:
        loss: The mean over the rows that this process computes.
        model: Whose weights it depends on.
        gamma: Length of each step as a share of the weight's.

    Raises:
        ModelError: no weight has two dimensions.
    """
    # Some parametrisations of small kernels have parameters of no entries.
    weights = [
        weight
        for weight in model.parameters()
        if weight.requires_grad and weight.dim() > 1 and weight.numel()
    ]
    if not weights:
        raise ModelError(
            f"The model {type(model).__name__} trains no weight of two or more dimensions, such as those of "
            "linear layers, so WeightPerturbation has nothing to move: train without it."
        )
    moved: dict[int, Tensor] = {}
    for weight, gradient in zip(weights, _gradients(loss, weights), strict=True):
        direction = norms.steepest(norms.finite(gradient)[None], 2.0)[0]
        moved[id(weight)] = weight + gamma * weight.detach().norm() * direction
    return moved


def _gradients(loss: Tensor, weights: Sequence[Tensor]) -> Sequence[Tensor]:
    """Those of a mean over rows; up to a factor those of the whole batch where processes share it."""
    share = current()
    if meets() and share is not None:
        loss = loss * (share.size / share.total)  # before, since statistics that are joined mix the gradients
    gradients = torch.autograd.grad(loss, weights, materialize_grads=True, allow_unused=True)
    if meets():
        gradients = tuple(gradient.contiguous() for gradient in gradients)
        add_up_(gradients)
    return gradients


@contextmanager
def _replaced(model: nn.Module, tensors: Mapping[int, Tensor]) -> Iterator[None]:
    """A model with other tensors in the place of weights or buffers, which it has back afterwards.

    Args:
        model: Any module.
        tensors: The id of a weight or buffer, in whichever modules it is -> what takes its place.

    Yields:
        Nothing.
    """
    held: list[dict[str, Any]] = [
        held for module in model.modules() for held in (module._parameters, module._buffers)
    ]
    places = [(of, name, tensor) for of in held for name, tensor in of.items() if id(tensor) in tensors]
    try:
        for of, name, tensor in places:
            of[name] = tensors[id(tensor)]
        _read_anew(model)
        yield
    finally:
        for of, name, tensor in places:
            of[name] = tensor
        _read_anew(model)


def _read_anew(model: nn.Module) -> None:
    """Recurrent layers hold their weights in a list as well, and read that."""
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module._flat_weights = [module._parameters.get(name) for name in module._flat_weights_names]
