"""Averages over an epoch, kept on the device so that no step waits for them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

_TAIL = 0.2  # the share of an epoch, at its end, by which a collapse is judged


class EpochMeter:
    """Records the loss and terms of each step of one epoch.

    Args:
        num_steps: Steps an epoch.
        device: Where the values lie.
        recorded: Values of the steps already done, when an epoch is resumed.
    """

    def __init__(
        self, num_steps: int, device: torch.device, recorded: Mapping[str, Tensor] | None = None
    ) -> None:
        self._num_steps = num_steps
        self._device = device
        self._values = {name: values.to(device).clone() for name, values in (recorded or {}).items()}

    def record(self, step: int, loss: Tensor, terms: Mapping[str, Tensor]) -> None:
        """Takes the values of one step, without reading them."""
        for name, value in {"loss": loss.detach(), **terms}.items():
            if name not in self._values:
                self._values[name] = torch.full((self._num_steps,), torch.nan, device=self._device)
            self._values[name][step] = value.detach()

    def state(self) -> dict[str, Tensor]:
        """All values by name, for a checkpoint."""
        return {name: values.cpu() for name, values in self._values.items()}

    def first_non_finite(self, num_done: int) -> int | None:
        """The first of the steps done whose loss is NaN or infinite. Reads from the device."""
        if not num_done:
            return None
        bad = (~torch.isfinite(self._values["loss"][:num_done])).nonzero()
        return int(bad[0]) if len(bad) else None

    def means(self) -> dict[str, float]:
        """The mean of each value over the steps of the epoch that recorded it."""
        return {name: float(values.nanmean()) for name, values in self._values.items()}

    def tail_means(self) -> dict[str, float]:
        """The mean of each value over those of the last fifth of the epoch."""
        first = int(self._num_steps * (1 - _TAIL))
        return {name: float(values[first:].nanmean()) for name, values in self._values.items()}
