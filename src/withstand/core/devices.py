"""What torch asks of each kind of device in another way: random states, and when its work is done."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor


def accelerator() -> torch.device | None:
    """The kind of accelerator that this process can use, such as ``cuda``, ``xpu`` or ``mps``; or None."""
    return torch.accelerator.current_accelerator(check_available=True)


def random_state(device: torch.device) -> Tensor:
    """The state of the generator from which torch draws on a device; without waiting for the device.

    Args:
        device: Of any kind; one without a number is the current one of its kind.

    Returns:
        Tensor of bytes on the CPU.
    """
    if device.type == "cpu":
        return torch.get_rng_state()
    module: Any = torch.get_device_module(device)
    state: Tensor = module.get_rng_state(device)
    return state


def set_random_state(device: torch.device, state: Tensor) -> None:
    """Restores what ``random_state`` gave.

    Args:
        device: Of any kind.
        state: Tensor of bytes on the CPU.
    """
    if device.type == "cpu":
        torch.set_rng_state(state)
    else:
        module: Any = torch.get_device_module(device)
        module.set_rng_state(state, device)


def preserved_random_state(device: torch.device) -> AbstractContextManager[None]:
    """Torch's random state of the CPU and of a device, as it was, afterwards.

    Args:
        device: Of any kind.
    """
    if device.type == "cpu":
        return torch.random.fork_rng([])
    return torch.random.fork_rng([device], device_type=device.type)


def preserved_random_states() -> AbstractContextManager[None]:
    """Torch's random states of the CPU and of all devices in use, as they were, afterwards."""
    kind = accelerator()
    # CUDA is not started for it: where it has not been used, there is no state yet.
    if kind is None or (kind.type == "cuda" and not torch.cuda.is_initialized()):
        return torch.random.fork_rng([])
    return torch.random.fork_rng(range(torch.accelerator.device_count()), device_type=kind.type)


def wait_for(device: torch.device) -> None:
    """Returns when a device has done all that it was given.

    Args:
        device: Of any kind.
    """
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
