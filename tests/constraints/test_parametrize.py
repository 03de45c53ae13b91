from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from withstand.constraints import orthogonal_, spectral_norm_
from withstand.operators import weights
from withstand.types import ModelError


def _net() -> nn.Sequential:
    return nn.Sequential(
        *[nn.Conv2d(2, 2, 3), nn.BatchNorm2d(2), nn.Flatten()],
        *[nn.Linear(8, 4), nn.Linear(4, 6)],
    )


IMAGES = torch.linspace(0, 1, 64).view(2, 2, 4, 4)


def test_orthogonal_kernels_have_singular_values_one_and_keep_them() -> None:
    net = _net()
    orthogonal_(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for _ in range(3):
        for weight in weights(net):
            values = torch.linalg.svdvals(weight.matrix)
            torch.testing.assert_close(values, torch.ones_like(values), rtol=0, atol=1e-5)
        former = weights(net)[0].value.detach().clone()
        optimizer.zero_grad()
        torch.autograd.backward(net(IMAGES).square().sum())
        optimizer.step()
        assert not weights(net)[0].value.equal(former)


def test_spectral_norm_brings_norms_to_one() -> None:
    net = _net()
    spectral_norm_(net)
    for _ in range(100):
        net(IMAGES)
    net.eval()
    norms = torch.stack([torch.linalg.matrix_norm(weight.matrix, ord=2) for weight in weights(net)])
    torch.testing.assert_close(norms, torch.ones(3), rtol=0, atol=1e-3)


@pytest.mark.parametrize("change", [orthogonal_, spectral_norm_])
def test_parametrised_weights_become_plain_again(change: Callable[[nn.Module], None]) -> None:
    net = _net().eval()
    change(net)
    assert all(weight.parametrised for weight in weights(net))
    logits: Tensor = net(IMAGES)
    for weight in weights(net):
        parametrize.remove_parametrizations(weight.layer, "weight")
    torch.testing.assert_close(net(IMAGES), logits)
    assert not any(weight.parametrised for weight in weights(net))


@pytest.mark.parametrize("change", [orthogonal_, spectral_norm_])
def test_parametrisation_refuses_what_cannot_be_parametrised(change: Callable[[nn.Module], None]) -> None:
    net = _net()
    spectral_norm_(net)
    with pytest.raises(ModelError, match="'0' is parametrised already"):
        change(net)
    shared = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    shared[1].weight = shared[0].weight
    with pytest.raises(ModelError, match="'0' is shared with another layer"):
        change(shared)
    with pytest.raises(ModelError, match="no linear layer"):
        change(nn.Flatten())


def test_orthogonal_refuses_weights_that_are_not_finite() -> None:
    net = _net()
    last = weights(net)[-1]
    with torch.no_grad():
        last.tensor.fill_(torch.nan)
    with pytest.raises(ModelError, match=rf"'{last.name}' is not finite"):
        orthogonal_(net)
    assert not any(weight.parametrised for weight in weights(net))


def test_orthogonal_refuses_half_precision() -> None:
    net = _net().bfloat16()
    with pytest.raises(ModelError, match=r"'0' is torch.bfloat16.*model.float"):
        orthogonal_(net)
    assert not any(weight.parametrised for weight in weights(net))
