"""The evidence lower bound: how it is scaled, sampled, combined, and given the size of the data."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand import bayes
from withstand.attacks import PGD, fgsm
from withstand.bayes import Drawing, Posterior
from withstand.core.schedules import Linear, Stages
from withstand.objectives import Adversarial, CrossEntropy, Objective, Sum, Variational
from withstand.penalties import DeformationStability, InputGradient, SpectralExpectation
from withstand.types import Batch, LossTerms, ModelError

POSTERIOR = Posterior(initial_std=(0.05, 0.3))


def _net(posterior: Posterior = POSTERIOR, *, has_norm: bool = False) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        norm = [nn.BatchNorm1d(12)] if has_norm else []
        net = nn.Sequential(nn.Flatten(), nn.Linear(9, 12), *norm, nn.ReLU(), nn.Linear(12, 4))
        return bayes.convert(net, posterior).double()


@pytest.fixture
def batch() -> Batch:
    generator = torch.Generator().manual_seed(1)
    images = torch.rand(8, 1, 3, 3, generator=generator, dtype=torch.float64)
    return Batch(images * 0.8 + 0.1, torch.arange(8) % 4)


def _gradients(loss: Tensor, model: nn.Module) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(model.parameters())))


@pytest.mark.parametrize("num_data", [1, 8, 60_000])
def test_variational_is_the_mean_loss_plus_the_divergence_over_the_size_of_the_data(
    num_data: int, batch: Batch
) -> None:
    model, twin = _net(), _net()
    torch.manual_seed(3)
    loss, terms = Variational(num_data)(model, *batch)
    torch.manual_seed(3)
    likelihood = F.cross_entropy(twin(batch.images), batch.labels)
    expected = likelihood + bayes.kl(twin) / num_data
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(_gradients(loss, model), _gradients(expected, twin))
    assert list(terms) == ["cross_entropy", "accuracy", "kl"]
    assert terms["cross_entropy"].item() == pytest.approx(likelihood.item())
    assert terms["kl"].item() == pytest.approx(bayes.kl(twin).item())
    assert not any(term.requires_grad for term in terms.values())


def test_variational_without_weight_has_no_divergence(batch: Batch) -> None:
    model, objective = _net(), Variational(100, kl_weight=Linear(0.0, 0.5, epochs=4, begin=1))
    for _, layer in bayes.variational_layers(model):  # whose divergence is infinite
        nn.init.constant_(layer.get_parameter("weight_rho"), -math.inf)
    loss, terms = objective(model, *batch, progress=1.0)
    assert loss.item() == pytest.approx(terms["cross_entropy"].item())
    assert "kl" not in terms


def test_variational_weight_of_the_divergence_follows_its_schedule(batch: Batch) -> None:
    model, objective = _net(), Variational(100, kl_weight=Linear(0.0, 0.5, epochs=4, begin=1))
    for progress, weight in ((1.5, 0.0625), (3.0, 0.25), (5.0, 0.5), (math.inf, 0.5)):
        loss, terms = objective(model, *batch, progress=progress)
        result = (loss - terms["cross_entropy"]) / terms["kl"] * 100
        assert result.item() == pytest.approx(weight, rel=1e-3)
    fixed, terms = Variational(100, kl_weight=0.25)(model, *batch)
    assert (fixed - terms["cross_entropy"]).item() == pytest.approx(0.0025 * terms["kl"].item())


@pytest.mark.parametrize("estimator", ["local", "flipout", "shared"])
def test_variational_samples_in_one_pass_are_the_mean_of_samples_with_the_same_noise(
    estimator: bayes.posterior.Estimator, batch: Batch
) -> None:
    posterior = Posterior(initial_std=(0.05, 0.3), estimator=estimator)
    model, twin = _net(posterior), _net(posterior)
    torch.manual_seed(4)
    loss, terms = Variational(50, 5)(model, *batch)
    torch.manual_seed(4)
    with bayes.drawing(twin, Drawing(5)):
        each = twin(torch.cat([batch.images] * 5)).view(5, 8, 4)
    expected = torch.stack([F.cross_entropy(logits, batch.labels) for logits in each]).mean()
    expected = expected + bayes.kl(twin) / 50
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(_gradients(loss, model), _gradients(expected, twin))
    hits = (each.argmax(dim=2) == batch.labels).double().mean()
    assert terms["accuracy"].item() == pytest.approx(hits.item())


def test_variational_samples_in_one_pass_have_the_mean_of_single_ones(batch: Batch) -> None:
    model = _net()
    with torch.no_grad():
        single = torch.stack([Variational(50)(model, *batch).loss for _ in range(1000)])
        many = torch.stack([Variational(50, 5)(model, *batch).loss for _ in range(200)])
    error = math.sqrt(single.var().item() / 1000 + many.var().item() / 200)
    assert abs(single.mean() - many.mean()) < 5 * error
    assert many.var() / single.var() == pytest.approx(1 / 5, rel=0.4)


class _Recording(Adversarial):
    """Adversarial training that keeps what its attack made."""

    def __init__(self, attack: PGD) -> None:
        super().__init__(attack)
        self.images = torch.zeros(0)

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        hook = model.register_forward_pre_hook(self._keep)
        with hook:
            return super().forward(model, images, labels, progress=progress)

    def _keep(self, module: nn.Module, args: tuple[Tensor, ...]) -> None:
        self.images = args[0].detach().clone()  # of the last pass, that of the loss


@pytest.mark.parametrize("estimator", ["auto", "flipout", "shared"])
@pytest.mark.parametrize(
    "attack", [fgsm(0.05), PGD(epsilon=0.05, num_steps=2), PGD(epsilon=0.05, num_steps=1, random_start=False)]
)
def test_variational_attacks_every_draw_with_draws_of_its_own(
    attack: PGD, estimator: bayes.posterior.Estimator, batch: Batch
) -> None:
    model, likelihood = _net(Posterior(initial_std=0.3, estimator=estimator)), _Recording(attack)
    objective = Variational(100, 3, likelihood=likelihood)
    loss, terms = objective(model, *batch)
    moved = (likelihood.images.view(3, *batch.images.shape) - batch.images).abs().flatten(2).amax(dim=2)
    # The draws of two steps may disagree and lead back inside, but no image is left as it was.
    assert ((moved > 0.01) & (moved < 0.05 + 1e-7)).all()
    one, two, _ = likelihood.images.chunk(3)
    assert not torch.equal(one, two)
    assert {"adversarial", "adversarial_accuracy", "epsilon", "kl"} == set(terms)
    total = terms["adversarial"] + terms["kl"] / 100
    assert loss.item() == pytest.approx(total.item())
    assert all(gradient.isfinite().all() and gradient.any() for gradient in _gradients(loss, model))


@pytest.mark.parametrize("num_samples", [1, 3])
@pytest.mark.parametrize("estimator", ["auto", "flipout", "shared"])
@pytest.mark.parametrize(
    "likelihood",
    [
        Adversarial(PGD(epsilon=0.3, num_steps=2, keep_best=True)),
        Adversarial(PGD(epsilon=0.3, num_steps=2, num_restarts=2)),
        Adversarial(PGD(epsilon=0.3, num_steps=3, mode="evaluation")),  # rows leave the batch
        DeformationStability() + CrossEntropy(),
    ],
)
def test_variational_deviations_learn_whatever_looks_at_the_model_first(
    likelihood: Objective, estimator: bayes.posterior.Estimator, num_samples: int, batch: Batch
) -> None:
    model = _net(Posterior(initial_std=0.3, estimator=estimator))
    objective = Variational(100, num_samples, likelihood=likelihood) + 0.1 * SpectralExpectation()
    loss, _ = objective(model, *batch)
    gradients = torch.autograd.grad(loss, list(model.parameters()))  # of each, or torch complains
    assert all(gradient.isfinite().all() and gradient.any() for gradient in gradients)


def test_variational_shows_a_penalty_the_gradient_of_each_draw(batch: Batch) -> None:
    model = _net()
    likelihood = CrossEntropy() + InputGradient()
    torch.manual_seed(1)
    many = Variational(100, 4, likelihood=likelihood)(model, *batch).terms
    torch.manual_seed(1)
    with bayes.drawing(model, Drawing(4)):
        by_hand = InputGradient()(model, torch.cat([batch.images] * 4), batch.labels.repeat(4)).terms
    (name,) = by_hand
    assert many[name].item() == pytest.approx(by_hand[name].item())
    assert many[name] > 0


def test_variational_needs_the_size_of_the_data_from_somewhere(batch: Batch) -> None:
    model, objective = _net(), Variational()
    with pytest.raises(ValueError, match=r"needs num_data.*Variational\(num_data=60_000\)"):
        objective(model, *batch)
    objective.prepare(8)
    objective.prepare(999)  # the first counts
    assert objective.num_data == 8
    given = Variational(5)
    given.prepare(8)
    assert given.num_data == 5
    torch.manual_seed(0)
    result = objective(model, *batch).loss
    torch.manual_seed(0)
    torch.testing.assert_close(result, Variational(8)(model, *batch).loss)


def test_variational_gets_the_size_of_the_data_through_sums_weights_and_likelihoods() -> None:
    class Sized(CrossEntropy):
        size = 0

        @override
        def prepare(self, num_data: int) -> None:
            self.size = num_data

    likelihoods = [Sized() for _ in range(4)]
    inner = Variational(likelihood=likelihoods[0] + 0.5 * likelihoods[1])
    objective: Objective = (
        Sum([0.1 * SpectralExpectation(), 2.0 * inner, 0.0 * likelihoods[2]]) + likelihoods[3]
    )
    objective.prepare(77)
    assert inner.num_data == 77
    assert [each.size for each in likelihoods] == [77] * 4


def test_variational_slows_down_and_describes_itself(batch: Batch) -> None:
    attacked = Adversarial(PGD(epsilon=Stages([0.1, 0.3], [2, 2]), num_steps=1))
    objective = Variational(10, 2, likelihood=attacked)
    assert objective.slow_down(2)
    assert objective(_net(), *batch, progress=2).terms["epsilon"].item() == pytest.approx(0.2)
    assert not Variational(10).slow_down(2)
    assert "num_data=10, num_samples=2, kl_weight=1.0" in repr(objective)


@pytest.mark.parametrize("num_samples", [1, 3])
def test_variational_trains_beside_penalties_and_norm_layers(num_samples: int, batch: Batch) -> None:
    model = _net(has_norm=True).train()
    objective = Variational(20, num_samples) + 0.02 * SpectralExpectation() + 0.1 * InputGradient()
    loss, terms = objective(model, *batch)
    assert {"cross_entropy", "kl", "spectral_expectation"} <= set(terms)
    assert all(gradient.isfinite().all() for gradient in _gradients(loss, model))
    with torch.no_grad():
        assert objective(model, *batch).loss.isfinite()
    with torch.inference_mode():
        assert copy.deepcopy(objective)(model, *batch).loss.isfinite()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"num_data": 0}, "num_data of at least 1, but got 0"),
        ({"num_samples": 0}, "num_samples of at least 1, but got 0"),
        ({"kl_weight": -0.1}, "kl_weight of at least 0, but got -0.1"),
        ({"kl_weight": math.nan}, "kl_weight of at least 0 and finite, but got nan"),
    ],
)
def test_variational_refuses_numbers_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Variational(**wrong)


def test_variational_refuses_a_plain_network(batch: Batch) -> None:
    with pytest.raises(ModelError, match="has no random weights"):
        Variational(10)(bayes.mean_network(_net()), *batch)
