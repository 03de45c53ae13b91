"""The pretended device refuses what it must, and else computes what the CPU does."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.devices.pretended import DEVICE, Device, DeviceError
from withstand.core.devices import (
    accelerator,
    preserved_random_state,
    preserved_random_states,
    random_state,
    set_random_state,
)
from withstand.core.numerics import without_autocast
from withstand.training.checkpoint import rng_state, set_rng_state

Fault = Callable[[Tensor], object]
PLACE = torch.device("pretended", 0)

MEETINGS: dict[str, Fault] = {
    "a constant of the CPU": lambda x: x * torch.tensor([1.0, 2.0]),
    "a matrix of the CPU": lambda x: x @ torch.rand(2, 2),
    "a part of the CPU": lambda x: torch.cat([x, torch.zeros(1, 2)]),
    "a mask of the CPU": lambda x: torch.where(torch.ones(2, dtype=torch.bool), x, x),
    "values of the CPU": lambda x: x.index_put_((torch.zeros(1, dtype=torch.long),), torch.ones(2)),
    "a number of the CPU where none is taken": lambda x: torch.stack([x.sum(), torch.tensor(1.0)]),
    "numpy": lambda x: x.numpy(),
    "a generator of the CPU": lambda x: torch.rand(2, generator=torch.Generator(), device=x.device),
}
WAITS: dict[str, Fault] = {
    "item": lambda x: x.sum().item(),
    "float": lambda x: float(x.sum()),
    "bool": lambda x: bool((x > 0.5).any()),
    "list": lambda x: x.tolist(),
    "to the host": lambda x: x.cpu(),
    "to the host later": lambda x: x.to("cpu", non_blocking=True),
    "from the host": lambda x: torch.ones(2).to(x.device),
    "numbers": lambda x: x.new_tensor([1.0, 2.0]),
    "number": lambda x: torch.tensor(1.0, device=x.device),
    "nonzero": lambda x: x.nonzero(),
    "mask": lambda x: x[x > 0.5],
    "value at a mask": lambda x: x.index_put_((x > 0.5,), torch.zeros_like(x[0, 0])),
    "indices of the CPU": lambda x: x[torch.tensor([0, 1])],
    "index of the device": lambda x: x[x.argmax() * 0],
    "selected": lambda x: x.masked_select(x > 0.5),
    "unique": lambda x: x.unique(),
    "equal": lambda x: torch.equal(x, x),
    "close": lambda x: torch.allclose(x, x),
    "repeated": lambda x: x.repeat_interleave(torch.ones_like(x[:, 0]).long(), dim=0),
    "inverse": lambda x: torch.linalg.inv(x.T @ x),
    "eigenvalues": lambda x: torch.linalg.eigvalsh(x.T @ x),
}


@pytest.fixture
def x(device: Device) -> Iterator[Tensor]:
    """Three rows of two, and an end without the faults that were planted."""
    yield torch.rand(3, 2, device=PLACE)
    device.faults.clear()


@pytest.mark.parametrize("fault", MEETINGS.values(), ids=MEETINGS)
def test_device_refuses_what_is_elsewhere(x: Tensor, fault: Fault) -> None:
    with pytest.raises(DeviceError):
        fault(x)
    assert len(DEVICE.faults) == 1


@pytest.mark.parametrize("fault", WAITS.values(), ids=WAITS)
def test_device_refuses_in_a_step_alone_what_makes_the_host_wait(x: Tensor, fault: Fault) -> None:
    fault(x)
    assert DEVICE.faults == []
    with DEVICE.step(), pytest.raises(DeviceError):
        fault(x)
    assert len(DEVICE.faults) == 1


def test_device_keeps_a_fault_that_was_caught(x: Tensor) -> None:
    with DEVICE.step(), contextlib.suppress(AssertionError):
        x.sum().item()
    assert DEVICE.faults == ["_local_scalar_dense makes the host wait in a step"]


class _Asking(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float(gradient.sum())


def test_device_refuses_a_wait_in_the_backward_pass(x: Tensor) -> None:
    loss: Tensor = _Asking.apply(x.requires_grad_()).sum()  # type: ignore[no-untyped-call]
    with DEVICE.step(), pytest.raises(DeviceError):
        loss.backward()


def test_device_takes_numbers_of_the_cpu_from_operations_on_elements(device: Device) -> None:
    x = torch.ones(3, device=PLACE)
    with device.step():
        result = torch.where(x > 0, x * torch.tensor(2.0), 0.0)
        result[0] = 5
    assert result.tolist() == [5, 2, 2]


def test_device_computes_gradients_and_steps_as_the_cpu_does(device: Device, tiny_model: nn.Module) -> None:
    images = torch.rand(6, 1, 4, 4)
    models = [tiny_model, device.put(tiny_model)]
    for model, given in zip(models, (images, device.put(images)), strict=True):
        optimizer = torch.optim.Adam(model.parameters())
        for seed in range(3):
            torch.manual_seed(seed)  # of Dropout
            optimizer.zero_grad()
            model(given).square().mean().backward()
            optimizer.step()
    for one, other in zip(*(model.state_dict().values() for model in models), strict=True):
        assert other.device == PLACE
        assert torch.equal(one, other.cpu())


def test_device_keeps_parameters_that_are_moved_and_what_is_written_to_a_disk(device: Device) -> None:
    layer = nn.Linear(2, 2)
    weight, values = layer.weight, layer.weight.detach().clone()
    layer.to(PLACE).double()
    assert layer.weight is weight
    assert (weight.device, weight.dtype, weight.is_leaf) == (PLACE, torch.float64, True)
    buffer = io.BytesIO()
    torch.save(layer.state_dict(), buffer)
    buffer.seek(0)
    assert torch.equal(torch.load(buffer, weights_only=True)["weight"].float(), values)


# -- what is asked of any kind of device -------------------------------------------------------------


def _drawn() -> tuple[Tensor, Tensor]:
    return torch.rand(3), torch.rand(3, device=PLACE).cpu()


def test_random_state_of_a_device_is_its_own(device: Device) -> None:
    assert accelerator() == torch.device("pretended")
    torch.manual_seed(3)
    before = random_state(PLACE)
    torch.rand(3)
    assert torch.equal(random_state(PLACE), before)
    first = torch.rand(3, device=PLACE)
    assert not torch.equal(random_state(PLACE), before)
    set_random_state(PLACE, before)
    assert torch.equal(torch.rand(3, device=PLACE).cpu(), first.cpu())
    assert torch.equal(first.cpu(), torch.rand(3, generator=torch.Generator().manual_seed(3)))


@pytest.mark.usefixtures("device")
@pytest.mark.parametrize("preserved", [lambda: preserved_random_state(PLACE), preserved_random_states])
def test_random_states_of_all_devices_are_preserved(preserved: Callable[[], object]) -> None:
    torch.manual_seed(3)
    with preserved():  # type: ignore[attr-defined]
        torch.manual_seed(5)
        _drawn()
    assert all(map(torch.equal, _drawn(), [_seeded(3)] * 2))


def _seeded(seed: int) -> Tensor:
    return torch.rand(3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.usefixtures("device")
def test_checkpoint_holds_the_random_state_of_the_accelerator() -> None:
    torch.manual_seed(3)
    states = rng_state()
    first = _drawn()
    torch.manual_seed(5)
    set_rng_state(states)
    assert all(map(torch.equal, _drawn(), first))


@pytest.mark.usefixtures("device")
def test_checkpoint_of_another_kind_of_accelerator_restores_the_state_of_the_cpu() -> None:
    states = {"cpu": torch.get_rng_state(), "elsewhere": torch.zeros(3, dtype=torch.uint8)}
    before = random_state(PLACE)
    first = torch.rand(3)
    set_rng_state(states)
    assert torch.equal(torch.rand(3), first)
    assert torch.equal(random_state(PLACE), before)


@pytest.mark.usefixtures("device")
def test_without_autocast_turns_it_off_on_any_accelerator() -> None:
    with torch.autocast("pretended", dtype=torch.bfloat16):
        assert torch.is_autocast_enabled("pretended")
        with without_autocast():
            assert not torch.is_autocast_enabled("pretended")
        assert torch.is_autocast_enabled("pretended")


def test_no_accelerator_is_seen_where_there_is_none() -> None:
    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("There is one.")
    assert accelerator() is None
    assert set(rng_state()) == {"cpu"}
