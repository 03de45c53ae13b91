"""The divergence from the prior: torch's own formula, and its gradient."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.distributions import Normal as TorchNormal
from torch.distributions import kl_divergence

from withstand import bayes
from withstand.bayes import Normal, Posterior
from withstand.bayes.posterior import divergence
from withstand.types import ModelError


def _torchs(mean: Tensor, std: Tensor, prior_std: float) -> Tensor:
    mean, std = mean.double(), std.double()
    prior = TorchNormal(torch.zeros_like(mean), torch.full_like(std, prior_std))
    return kl_divergence(TorchNormal(mean, std), prior).sum()


def _entries(shape: list[int], seed: int, spread: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    mean = spread * torch.randn(shape, generator=generator, dtype=torch.float64)
    std = 0.1 * torch.exp(spread * torch.randn(shape, generator=generator, dtype=torch.float64))
    return mean, std


@given(
    shape=st.lists(st.integers(1, 6), min_size=0, max_size=4),
    seed=st.integers(0, 1000),
    spread=st.floats(0.05, 4),
    prior_std=st.floats(1e-3, 1e3),
)
@settings(max_examples=80, deadline=None)
def test_divergence_is_that_of_torch(shape: list[int], seed: int, spread: float, prior_std: float) -> None:
    mean, std = _entries(shape, seed, spread)
    result = divergence(Normal(mean, std, prior_std))
    assert result.shape == ()
    assert result.item() == pytest.approx(_torchs(mean, std, prior_std).item(), rel=1e-6, abs=1e-12)
    assert result >= -1e-12


def test_divergence_in_single_precision_over_many_entries() -> None:
    torch.manual_seed(0)
    mean = torch.empty(1200, 1200).uniform_(-0.1, 0.1)
    std = torch.empty(1200, 1200).uniform_(0.0486, 0.1269)
    result = divergence(Normal(mean, std, 0.1))
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(_torchs(mean, std, 0.1).item(), rel=1e-6)


def test_divergence_of_a_posterior_that_is_the_prior_is_none() -> None:
    zero, same = torch.zeros(5), torch.full((5,), 0.25)
    assert divergence(Normal(zero, same, 0.25)).item() == pytest.approx(0, abs=1e-6)
    assert divergence(Normal(zero, torch.zeros(5), 0.25)).item() == float("inf")


def test_divergence_gradient_is_that_of_finite_differences() -> None:
    mean, std = (entries.requires_grad_() for entries in _entries([2, 3], 0, 0.7))
    assert torch.autograd.gradcheck(lambda m, s: divergence(Normal(m, s, 0.3)), (mean, std))
    # Upstream factors count, and what asks for no gradient gets none.
    (slope,) = torch.autograd.grad(-3 * divergence(Normal(mean.detach(), std, 0.3)), std)
    (expected,) = torch.autograd.grad(-3 * _torchs(mean.detach(), std, 0.3), std)
    torch.testing.assert_close(slope, expected)
    assert divergence(Normal(mean.detach(), std.detach(), 0.3)).requires_grad is False


def test_kl_of_a_network_sums_over_layers_with_their_own_priors() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3), nn.Linear(3, 2)
    )
    posterior = Posterior(prior_std=0.2, initial_std=(0.05, 0.3), parametrization="log")
    random = bayes.convert(net, posterior, {"3": Posterior(prior_std=3.0), "4": None})
    expected = torch.zeros((), dtype=torch.float64)
    for path, parameter in net.named_parameters():
        if path.startswith("4"):
            continue
        rho = random.get_parameter(f"{path}_rho")
        std = torch.log1p(rho.exp()) if path.startswith("3") else rho.exp()
        expected += _torchs(parameter, std, 3.0 if path.startswith("3") else 0.2)
    actual = bayes.kl(random)
    assert actual.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.autograd.backward(actual)
    torch.autograd.backward(expected)
    for path, parameter in random.named_parameters():
        if path.startswith("4"):
            assert parameter.grad is None
        elif not path.endswith("_rho"):
            torch.testing.assert_close(parameter.grad, net.get_parameter(path).grad)
        else:
            assert parameter.grad is not None
            assert parameter.grad.abs().sum() > 0


def test_kl_of_a_plain_network_is_an_error_that_says_what_to_do() -> None:
    with pytest.raises(ModelError, match=r"Linear has no random weights.*bayes\.convert\(model\)"):
        bayes.kl(nn.Linear(2, 2))
