"""Priors: their divergences against draws, limits, torch's own formula and finite differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.distributions import Laplace, Normal, kl_divergence

from withstand import bayes
from withstand.bayes import GaussianPrior, LaplacePrior, MixturePrior, Prior, TrainedPrior
from withstand.objectives import Variational
from withstand.types import ModelError


def mixture(prior: MixturePrior, w: Tensor) -> Tensor:
    """Its log density."""
    shares = torch.tensor([prior.share, 1 - prior.share], dtype=w.dtype).log()
    parts = [Normal(0.0, std).log_prob(w) for std in (prior.wide, prior.narrow)]
    return torch.logsumexp(torch.stack(parts) + shares.view(2, *[1] * w.dim()), dim=0)


PRIORS: dict[str, tuple[Prior, Callable[[Tensor], Tensor]]] = {
    "Gaussian": (GaussianPrior(0.3), Normal(0.0, 0.3).log_prob),
    "Laplace": (LaplacePrior(0.2), Laplace(0.0, 0.2).log_prob),
    "mixture": (MixturePrior(0.5, 0.02, 0.3), lambda w: mixture(MixturePrior(0.5, 0.02, 0.3), w)),
}
ENTRIES = torch.tensor(  # means and deviations, from much narrower than any prior to much wider
    [[0.0, 0.001], [0.03, 0.002], [0.05, 0.02], [-0.3, 0.1], [0.0, 0.05], [1.5, 0.5], [0.2, 3.0]],
    dtype=torch.float64,
)


def one(prior: Prior, mean: float, std: float) -> float:
    return prior.divergence("w", *torch.tensor([[mean], [std]], dtype=torch.float64)).item()


@pytest.mark.parametrize("name", PRIORS)
def test_divergence_is_the_mean_over_draws_of_the_difference_of_log_densities(name: str) -> None:
    prior, log_density = PRIORS[name]
    torch.manual_seed(0)
    noise = torch.randn(100_000, dtype=torch.float64)
    noise = torch.cat([noise, -noise])
    for mean, std in ENTRIES.tolist():
        posterior = Normal(mean, std)
        w = mean + std * noise
        differences = posterior.log_prob(w) - log_density(w)
        error = differences.std().item() / math.sqrt(len(noise))
        assert one(prior, mean, std) == pytest.approx(differences.mean().item(), abs=5 * error + 2e-4)


@pytest.mark.parametrize("name", PRIORS)
def test_divergence_of_a_tight_posterior_is_its_entropy_and_the_density_at_its_mean(name: str) -> None:
    prior, log_density = PRIORS[name]
    for mean in (0.1, -0.4):
        entropy = Normal(mean, 1e-6).entropy().item()
        expected = -entropy - log_density(torch.tensor(mean).double()).item()
        assert one(prior, mean, 1e-6) == pytest.approx(expected, abs=1e-4)
    assert one(prior, 0.0, 0.0) == one(prior, 0.1, 0.0) == math.inf


@given(name=st.sampled_from([*PRIORS]), mean=st.floats(-3, 3), std=st.floats(1e-4, 10))
@settings(max_examples=60, deadline=None)
def test_divergence_is_at_least_0_even_in_the_mean_and_added_up(name: str, mean: float, std: float) -> None:
    prior = PRIORS[name][0]
    here = one(prior, mean, std)
    assert here >= -5e-4
    assert one(prior, -mean, std) == pytest.approx(here, abs=1e-9)
    means, stds = torch.full((2, 3), mean), torch.full((2, 3), std)
    assert prior.divergence("w", means, stds).item() == pytest.approx(6 * here, rel=1e-4, abs=5e-3)


@pytest.mark.parametrize("name", PRIORS)
def test_gradient_of_the_divergence_is_that_of_finite_differences(name: str) -> None:
    prior = PRIORS[name][0]
    mean, std = (column.clone().requires_grad_() for column in ENTRIES.T)
    slopes = torch.autograd.grad(3 * prior.divergence("w", mean, std), (mean, std))
    for row, (at_mean, at_std) in enumerate(ENTRIES.tolist()):
        step = 1e-5 * at_std
        by_mean = (one(prior, at_mean + step, at_std) - one(prior, at_mean - step, at_std)) / (2 * step)
        by_std = (one(prior, at_mean, at_std + step) - one(prior, at_mean, at_std - step)) / (2 * step)
        # In units of the posterior's own scale: a step of a deviation changes the divergence by that.
        assert slopes[0][row].item() * at_std == pytest.approx(3 * by_mean * at_std, rel=1e-3, abs=1e-3)
        assert slopes[1][row].item() * at_std == pytest.approx(3 * by_std * at_std, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize(
    "prior", [MixturePrior(0.3, 0.3, 0.4), MixturePrior(0.3, 0.001, 1 - 1e-12), LaplacePrior(0.3)]
)
def test_mixture_of_one_deviation_is_the_normal_prior_and_the_laplace_prior_is_not(prior: Prior) -> None:
    for mean, std in ENTRIES.tolist():
        same = one(prior, mean, std) == pytest.approx(one(GaussianPrior(0.3), mean, std), abs=1e-5)
        assert same == isinstance(prior, MixturePrior)


def test_single_precision_is_enough_for_many_entries() -> None:
    torch.manual_seed(0)
    mean, std = 0.1 * torch.randn(200, 200), torch.empty(200, 200).uniform_(0.01, 0.1)
    for prior, _ in PRIORS.values():
        whole = prior.divergence("w", mean.double(), std.double()).item()
        assert prior.divergence("w", mean, std).item() == pytest.approx(whole, rel=1e-5)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


@pytest.mark.parametrize(("std", "relative"), [(0.2, 0.0), (0.01, 0.5)])
def test_trained_prior_is_around_the_weights_of_its_file(tmp_path: Path, std: float, relative: float) -> None:
    file = tmp_path / "model.safetensors"
    plain = network()
    save_file(plain.state_dict(), file)
    random = bayes.convert(plain, bayes.Posterior(initial_std=(0.05, 0.3)))
    with torch.no_grad():
        for parameter in random.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    expected = torch.zeros(())
    for name, trained in plain.named_parameters():
        posterior = Normal(random.get_parameter(name), random.get_parameter(f"{name}_rho").exp().log1p())
        deviation = torch.maximum(torch.tensor(std), relative * trained.detach().abs())
        expected = expected + kl_divergence(posterior, Normal(trained.detach(), deviation)).sum()
    prior = TrainedPrior(str(file), std, relative)
    torch.testing.assert_close(bayes.kl(random, prior), expected)
    slopes = torch.autograd.grad(bayes.kl(random, prior), [*random.parameters()])
    torch.testing.assert_close(slopes, torch.autograd.grad(expected, [*random.parameters()]))
    images, labels = torch.rand(8, 4), torch.arange(8) % 2
    objective = Variational(num_data=10, prior=prior)
    file.unlink()  # which has been read
    torch.manual_seed(1)
    loss, terms = objective(random, images, labels)
    assert terms["kl"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss.item() == pytest.approx((terms["cross_entropy"] + terms["kl"] / 10).item())


def test_trained_prior_says_what_it_lacks(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    save_file({"1.weight": torch.zeros(2, 2)}, file)
    random = bayes.convert(network())
    with pytest.raises(ModelError, match=r"'1.weight' of shape \(3, 4\), but .*one of shape \(2, 2\)"):
        bayes.kl(random, TrainedPrior(str(file)))
    save_file({"2.weight": torch.zeros(2, 2)}, file)
    with pytest.raises(ModelError, match=r"but .*other\.safetensors has no such"):
        bayes.kl(random, TrainedPrior(str(file)))
    with pytest.raises(ModelError, match="missing"):
        Variational(prior=TrainedPrior(str(tmp_path / "missing.safetensors"))).prepare(5)


def test_trained_prior_reads_a_run_folder_and_takes_nothing_but_a_path(tmp_path: Path) -> None:
    plain = network()
    save_file(plain.state_dict(), tmp_path / "model.safetensors")
    random = bayes.convert(plain, bayes.Posterior(initial_std=0.1))
    prior = TrainedPrior(str(tmp_path), 0.1)
    assert bayes.kl(random, prior).item() == pytest.approx(0, abs=1e-4)
    for wrong in (None, plain):
        with pytest.raises(TypeError, match=r"Expected weights as the path of a trained network"):
            TrainedPrior(wrong)  # type: ignore[arg-type]


def test_a_prior_takes_the_place_of_that_of_posteriors() -> None:
    random = bayes.convert(network(), bayes.Posterior(prior_std=0.7))
    torch.testing.assert_close(bayes.kl(random), bayes.kl(random, GaussianPrior(0.7)))
    for wrong in (3, GaussianPrior):
        with pytest.raises(TypeError, match=r"a prior, such as LaplacePrior\(0.1\)"):
            bayes.kl(random, wrong)  # type: ignore[arg-type]
    assert not torch.allclose(bayes.kl(random), bayes.kl(random, LaplacePrior(0.7)))
    with pytest.raises(TypeError, match=r"prior to be a prior, such as .* but got the class itself"):
        Variational(prior=LaplacePrior)  # type: ignore[arg-type]


def test_mixture_refuses_a_narrow_component_that_is_wider() -> None:
    with pytest.raises(ValueError, match=r"narrow to be at most wide, 0\.1, but got 0\.2"):
        MixturePrior(0.1, 0.2)
