"""Weights that a hook computes before each forward, as torch.nn.utils.weight_norm and spectral_norm do."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from withstand.constraints import SpectralBall, orthogonal_, spectral_norm_
from withstand.objectives import CrossEntropy
from withstand.operators import weights
from withstand.penalties import SpectralNorm
from withstand.types import ModelError

IMAGES, LABELS = torch.rand(4, 1, 4, 5), torch.zeros(4, dtype=torch.int64)
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


def _net(wrap: Callable[[nn.Module], nn.Module]) -> nn.Sequential:
    net = nn.Sequential(wrap(nn.Conv2d(1, 3, 3)), nn.Flatten(), wrap(nn.Linear(18, 5)))
    net(IMAGES)
    return net


HOOKS = [nn.utils.weight_norm, nn.utils.spectral_norm]


@pytest.mark.parametrize("wrap", HOOKS)
def test_weight_of_a_hook_is_that_of_the_next_forward(wrap: Callable[[nn.Module], nn.Module]) -> None:
    net = _net(wrap).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(1.5)
    expected: list[Tensor] = [weight.value.detach() for weight in weights(net)]
    net(IMAGES)
    for weight, value in zip(weights(net), expected, strict=True):
        torch.testing.assert_close(weight.layer.weight, value)
        assert weight.parametrised


@pytest.mark.parametrize("wrap", HOOKS)
@pytest.mark.parametrize("change", [SpectralBall(0.5).project_, orthogonal_, spectral_norm_])
def test_constraint_refuses_a_weight_of_a_hook(
    wrap: Callable[[nn.Module], nn.Module], change: Callable[[nn.Module], None]
) -> None:
    with pytest.raises(ModelError, match="hook"):
        change(_net(wrap))


@pytest.mark.parametrize("wrap", HOOKS)
@pytest.mark.parametrize("form", ["kernel", "operator"])
def test_penalty_on_a_weight_of_a_hook_takes_step_after_step(
    wrap: Callable[[nn.Module], nn.Module], form: str
) -> None:
    net = _net(wrap)
    objective = CrossEntropy() + 0.1 * SpectralNorm(form)  # type: ignore[arg-type]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        objective(net, IMAGES, LABELS).loss.backward()
        assert all(parameter.grad is not None for parameter in net.parameters())
        optimizer.step()


def test_weight_of_an_unknown_hook_says_what_to_do() -> None:
    layer = nn.Linear(3, 2)
    values = layer.weight.detach().clone()
    del layer.weight
    layer.weight = values
    with pytest.raises(ModelError, match="register_parametrization"):
        _ = weights(nn.Sequential(layer))[0].value
