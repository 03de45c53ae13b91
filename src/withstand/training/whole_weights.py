"""Where the weights of a training lie, and how what several processes have computed is added up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from withstand.core.processes import add_up_


class Weights:
    """The weights of a model, whole in each process all the time.

    Args:
        model: On its device.
    """

    def __init__(self, model: nn.Module) -> None:
        self._wholes = [*model.parameters()]

    @property
    def parameters(self) -> Sequence[nn.Parameter]:
        """What the optimiser changes, in the order of the model's parameters."""
        return self._wholes

    @contextmanager
    def divided(self) -> Iterator[None]:
        """Keeps inside the part of this process alone, but for blocks of ``whole``."""
        yield

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Has all weights in the model inside, in all processes at once; what is written to them stays."""
        yield

    @contextmanager
    def in_parts(self) -> Iterator[None]:
        """Has in ``parameters`` what the model has, in all processes at once; what is written there stays."""
        yield

    def add_up_(self, others: Sequence[Tensor]) -> None:
        """Gives ``parameters`` the sums over all processes of the gradients that the model's weights have.

        Args:
            others: Replaced by their sums too, such as losses.
        """
        pairs = [pair for pair in zip(self._wholes, self.parameters, strict=True) if pair[0].requires_grad]
        has_gradient = [whole.grad is not None for whole, _ in pairs]
        known = torch.tensor(has_gradient, dtype=torch.float32).to(others[0].device)
        gradients = [torch.zeros_like(whole) if whole.grad is None else whole.grad for whole, _ in pairs]
        sums = self._sums([part for _, part in pairs], gradients, [*others, known])
        # What no process has stays None, for which optimisers change nothing; where none is missing here, the
        # device is not waited for.
        are_known = has_gradient if all(has_gradient) else known.tolist()
        for (whole, part), total, is_known in zip(pairs, sums, are_known, strict=True):
            whole.grad = None
            part.grad = total if is_known else None

    def _sums(
        self, parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor], others: Sequence[Tensor]
    ) -> Sequence[Tensor]:
        """Those of the gradients, in the form of the parameters; of others in their place."""
        add_up_([*gradients, *others])
        return gradients

    def state_of(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """The state dict of an optimiser with whole tensors; all processes ask for it at once."""
        return optimizer.state_dict()

    def load_into_(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Gives an optimiser what ``state_of`` gave, of whichever of these classes."""
        optimizer.load_state_dict(state)
