from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from withstand.domains import Gaussian
from withstand.objectives import Cubature, ExpectedLoss, MeanField, OfMean
from withstand.objectives.every_layer import _points

LOSSES = [OfMean(), MeanField(), Cubature(), Cubature(num_points=2)]
SCALES = [(1.0, 0.1), (2.0, 1.0), (3.0, 10.0), (1.0, 400.0)]
"""How far the means are apart, and the largest variance."""


def _logits(spread: float, variance: float, *, num: int = 8, classes: int = 5) -> tuple[Gaussian, Tensor]:
    generator = torch.Generator().manual_seed(3)
    mean = spread * torch.randn(num, classes, generator=generator, dtype=torch.float64)
    variances = variance * torch.rand(num, classes, generator=generator, dtype=torch.float64)
    return Gaussian(mean, variances), torch.randint(classes, (num,), generator=generator)


def _sampled(logits: Gaussian, labels: Tensor, *, draws: int = 40_000) -> tuple[float, float]:
    """The mean cross-entropy of the batch over draws, and its standard error."""
    generator = torch.Generator().manual_seed(4)
    normal = torch.randn(draws, *logits.shape, generator=generator, dtype=torch.float64)
    drawn = logits.mean + logits.variance.sqrt() * normal
    losses = drawn.logsumexp(2) - drawn.gather(2, labels.expand(draws, -1)[..., None])[..., 0]
    means = losses.mean(1)
    return float(means.mean()), float(means.std()) / math.sqrt(draws)


# What all of them are


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_expected_loss_without_variance_is_cross_entropy(loss: ExpectedLoss, dtype: torch.dtype) -> None:
    logits, labels = _logits(3.0, 1.0)
    mean = logits.mean.to(dtype).requires_grad_()
    variance = torch.zeros_like(mean).requires_grad_()
    ours, expected = loss(Gaussian(mean, variance), labels), F.cross_entropy(mean, labels)
    tolerance = 1e-5 if dtype == torch.float32 else 1e-12
    torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)
    (expected_gradient,) = torch.autograd.grad(expected, mean)
    actual, of_variance = torch.autograd.grad(ours, (mean, variance), allow_unused=True)
    torch.testing.assert_close(actual, expected_gradient, rtol=tolerance, atol=tolerance)
    assert of_variance is None or of_variance.isfinite().all()
    assert ours.shape == ()
    assert ours.dtype == dtype


@pytest.mark.parametrize("loss", LOSSES)
def test_expected_loss_is_the_mean_over_the_batch(loss: ExpectedLoss) -> None:
    logits, labels = _logits(2.0, 1.0)
    alone = [loss(Gaussian(logits.mean[[i]], logits.variance[[i]]), labels[[i]]) for i in range(len(labels))]
    torch.testing.assert_close(loss(logits, labels), torch.stack(alone).mean())


@pytest.mark.parametrize("loss", LOSSES)
def test_expected_loss_takes_one_variance_for_all_examples(loss: ExpectedLoss) -> None:
    logits, labels = _logits(2.0, 1.0)
    shared = logits.variance[:1]
    wide = Gaussian(logits.mean, shared.expand_as(logits.mean))
    torch.testing.assert_close(loss(Gaussian(logits.mean, shared), labels), loss(wide, labels))


@pytest.mark.parametrize("loss", LOSSES)
def test_expected_loss_gradients_are_those_of_differences(loss: ExpectedLoss) -> None:
    logits, labels = _logits(2.0, 1.0, num=3, classes=4)
    mean, variance = logits.mean.requires_grad_(), (logits.variance + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: loss(Gaussian(m, v), labels), (mean, variance))


@pytest.mark.parametrize("loss", LOSSES)
def test_expected_loss_trains_after_inference_mode(loss: ExpectedLoss) -> None:
    _points.cache_clear()
    logits, labels = _logits(2.0, 1.0)
    with torch.inference_mode():
        before = loss(Gaussian(logits.mean.clone(), logits.variance.clone()), labels)
    mean = logits.mean.requires_grad_()
    after = loss(Gaussian(mean, logits.variance.requires_grad_()), labels)
    after.backward()
    assert torch.equal(before, after.detach())
    assert mean.grad is not None


# Each by itself


@pytest.mark.parametrize("scales", SCALES)
def test_of_mean_is_a_lower_bound(scales: tuple[float, float]) -> None:
    logits, labels = _logits(*scales)
    sampled, error = _sampled(logits, labels)
    ours = OfMean()(logits, labels)
    assert torch.equal(ours, F.cross_entropy(logits.mean, labels))
    assert float(ours) < sampled + 5 * error


@pytest.mark.parametrize("scales", SCALES)
def test_cubature_is_the_expected_loss(scales: tuple[float, float]) -> None:
    logits, labels = _logits(*scales, num=32, classes=10)
    sampled, error = _sampled(logits, labels, draws=10_000)
    assert float(Cubature()(logits, labels)) == pytest.approx(sampled, rel=0.01, abs=5 * error)


def test_cubature_converges() -> None:
    logits, labels = _logits(2.0, 4.0, num=64, classes=10)
    truth = float(Cubature(2**14)(logits, labels))
    sampled, error = _sampled(logits, labels, draws=5_000)
    assert abs(truth - sampled) < 5 * error
    for count in (64, 256, 1024, 4096):  # almost as one over the number of points
        assert abs(float(Cubature(count)(logits, labels)) - truth) < 0.5 / count * truth


@pytest.mark.parametrize("count", [2, 4, 6, 10, 64, 100])
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_cubature_points_are_as_many_as_asked_for_finite_and_of_mean_0(count: int, classes: int) -> None:
    points = _points(count, classes, torch.float64, torch.device("cpu"))
    assert points.shape == (count, classes)
    assert points.isfinite().all()
    assert points.abs().max() < 7
    torch.testing.assert_close(points.mean(0), torch.zeros(classes).double(), rtol=0, atol=1e-12)
    assert len({tuple(point) for point in points.tolist()}) == count
    if count >= 64:
        assert float((points.square().mean() - 1).abs()) < 0.1
    assert torch.equal(points, _points(count, classes, torch.float64, torch.device("cpu")))


@pytest.mark.parametrize(("count", "word"), [(-2, "Expected"), (0, "Expected"), (1, "Expected"), (7, "even")])
def test_cubature_points_come_in_pairs(count: int, word: str) -> None:
    with pytest.raises(ValueError, match=f"{word} num_points of at least 2, but got {count}"):
        Cubature(count)


def test_mean_field_is_as_written() -> None:
    logits, labels = _logits(2.0, 5.0)
    mean, variance = logits.mean, logits.variance
    expected = 0.0
    for i, k in enumerate(labels.tolist()):
        terms = [
            math.exp(
                -float(mean[i, k] - mean[i, j])
                / math.sqrt(1 + math.pi / 8 * float(variance[i, k] + variance[i, j]))
            )
            for j in range(mean.shape[1])
            if j != k
        ]
        expected += math.log(1 + sum(terms)) / len(labels)
    torch.testing.assert_close(MeanField()(logits, labels), torch.tensor(expected).double())


def test_mean_field_of_two_classes_is_the_log_of_the_mean_probability_within_2_percent() -> None:
    steps = torch.linspace(-12, 12, 20_001, dtype=torch.float64)
    weights = torch.exp(-0.5 * steps**2)
    weights = weights / weights.sum()
    for apart in (-4.0, -1.0, -0.3, 0.0, 0.5, 2.0, 6.0):
        for variance in (0.0, 0.2, 1.0, 5.0, 40.0):
            true = float((weights * torch.sigmoid(apart + math.sqrt(variance) * steps)).sum())
            logits = Gaussian(
                torch.tensor([[apart, 0.0]]).double(), torch.tensor([[0.3, 0.7]]).double() * variance
            )
            ours = math.exp(-float(MeanField()(logits, torch.tensor([0]))))
            assert ours == pytest.approx(true, abs=0.02)


def test_expected_loss_under_noise_rises_for_a_confident_answer_and_drops_for_a_wrong_one() -> None:
    mean, labels = torch.tensor([[4.0, 0.0, 0.0]]), torch.tensor([0])

    def cost(label: int, variance: float) -> float:
        return float(MeanField()(Gaussian(mean, torch.full((1, 3), variance)), labels + label))

    assert cost(0, 0.0) < cost(0, 1.0) < cost(0, 10.0) < math.log(3) < cost(1, 10.0) < cost(1, 0.0)


def test_expected_loss_shows_its_settings() -> None:
    assert str(Cubature(num_points=32)) == "Cubature(num_points=32)"
    assert Cubature(32) == Cubature(32) != Cubature(64)
    assert str(MeanField()) == "MeanField()"
