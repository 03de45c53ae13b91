"""What every attack leaves as it found it, and what it never makes the host wait for."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from withstand.attacks import Attack, Transfer
from withstand.core.contract import contract_of
from withstand.types import Batch, ModelError

if TYPE_CHECKING:
    from tests.devices.pretended import Device

AMPLE = 2.0  # a budget that all find something in, also those that return only what fools the model


class Trace:
    """All that an attack must leave as it found it."""

    def __init__(self, model: nn.Module, *given: Tensor) -> None:
        self._model = model
        self._modes = [module.training for module in model.modules()]
        self._parameters = [(p, p.requires_grad, p.grad, _copy(p.grad)) for p in model.parameters()]
        self._state = {key: value.clone() for key, value in model.state_dict().items()}
        self._given = [(tensor, tensor.detach().clone(), tensor.requires_grad) for tensor in given]

    def assert_untouched(self) -> None:
        assert [module.training for module in self._model.modules()] == self._modes
        for parameter, requires_grad, gradient, values in self._parameters:
            assert parameter.requires_grad is requires_grad
            assert parameter.grad is gradient
            assert values is None or (gradient is not None and torch.equal(gradient, values))
        for key, value in self._model.state_dict().items():
            assert torch.equal(value, self._state[key]), key
        for tensor, values, requires_grad in self._given:
            assert torch.equal(tensor, values)
            assert tensor.requires_grad is requires_grad
            assert not tensor.is_leaf or tensor.grad is None


def _copy(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.clone()


@pytest.mark.parametrize("has_gradients", [False, True])
@pytest.mark.parametrize("grad_enabled", [False, True])
@pytest.mark.filterwarnings("ignore:epsilon .* lets an attack turn")  # far on purpose
def test_attack_touches_nothing(
    attack: Attack, net: nn.Module, batch: Batch, has_gradients: bool, grad_enabled: bool
) -> None:
    batch.images.requires_grad_()
    next(net.parameters()).requires_grad_(False)
    if has_gradients:
        for parameter in net.parameters():
            parameter.grad = torch.ones_like(parameter)
    trace = Trace(net, *batch)
    with torch.set_grad_enabled(grad_enabled):
        result = attack.at(AMPLE)(net, *batch)
        assert torch.is_grad_enabled() is grad_enabled
    trace.assert_untouched()
    assert not result.requires_grad
    assert not torch.equal(result, batch.images)


def test_attack_takes_a_model_without_trainable_parameters(
    attack: Attack, net: nn.Module, batch: Batch
) -> None:
    results = []
    for model in (deepcopy(net), net.requires_grad_(False)):
        trace = Trace(model)
        torch.manual_seed(0)
        results.append(attack(model, *batch))
        trace.assert_untouched()
    assert torch.equal(*results)


def test_attack_has_the_model_in_eval_mode_meanwhile(
    querying_attack: Attack, net: nn.Module, batch: Batch
) -> None:
    modes: list[bool] = []

    def record(module: nn.Module, _: Any) -> None:
        modes.extend(part.training for part in module.modules())

    net.register_forward_pre_hook(record)
    querying_attack(net, *batch)
    assert modes
    assert not any(modes)


@pytest.mark.filterwarnings("ignore:epsilon .* lets an attack turn")  # far on purpose
def test_attack_touches_nothing_when_the_model_fails(
    querying_attack: Attack, net: nn.Module, batch: Batch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    contract_of(net, batch.images)  # worked once
    net.get_submodule("5").register_forward_hook(fail)
    trace = Trace(net, *batch)
    with pytest.raises((RuntimeError, ModelError), match="out of memory"):
        querying_attack(net, *batch)
    trace.assert_untouched()
    assert torch.is_grad_enabled()


def test_attack_in_training_never_makes_the_host_wait_for_the_device(
    training_attack: Attack, net: nn.Module, batch: Batch, device: Device
) -> None:
    net, batch = device.put((net, batch))
    if isinstance(training_attack, Transfer):
        training_attack = replace(training_attack, surrogate=device.put(training_attack.surrogate))
        contract_of(training_attack.surrogate, batch.images)  # looked at once
    with device.step():
        training_attack.perturb(net, *batch, progress=1.0)


@pytest.mark.filterwarnings("ignore:epsilon .* lets an attack turn")  # far on purpose
def test_attack_on_a_device_gives_the_images_of_the_cpu(
    attack: Attack, net: nn.Module, batch: Batch, device: Device
) -> None:
    torch.manual_seed(0)
    expected = attack(net, *batch)
    net, batch = device.put((net, batch))
    torch.manual_seed(0)
    actual = attack(net, *batch)
    assert actual.device == batch.images.device
    torch.testing.assert_close(actual.cpu(), expected)
