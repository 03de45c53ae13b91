"""What ``GaussianExpectation`` computes, and how it behaves as an objective."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.core.schedules import Linear, Schedule, Stages
from withstand.models import Normalize
from withstand.objectives import (
    CrossEntropy,
    Cubature,
    EveryLayer,
    FirstActivation,
    GaussianExpectation,
    MeanField,
    Objective,
    OfMean,
    Propagation,
)
from withstand.penalties import LossGradient
from withstand.types import Batch, DataError, ModelError

STD = 0.2
WAYS: dict[str, Propagation] = {
    "first-activation": FirstActivation(),
    "mean-field": EveryLayer(),
    "of-mean": EveryLayer(OfMean()),
    "cubature": EveryLayer(Cubature(8)),
}


def _lenet() -> nn.Sequential:
    """As published, of 12×12 images in two channels."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(Normalize([0.4, 0.6], [0.2, 0.5]), nn.Conv2d(2, 4, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(4, 5, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(45, 8), nn.ReLU(), nn.Linear(8, 3)),
        )


def _norm_net() -> nn.Sequential:
    """With BatchNorm before the first activation and after it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(Normalize([0.4, 0.6], [0.2, 0.5]), nn.Conv2d(2, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU()),
            *(nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten()),
            *(nn.Linear(80, 6), nn.BatchNorm1d(6, affine=False), nn.ReLU(), nn.Linear(6, 3)),
        )


def _batch(num: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.rand(num, 2, 12, 12, generator=generator), torch.arange(num) % 3)


class Textbook:
    """The published form as its formulas stand, with a pass for the images and another for the mean."""

    def __init__(self, model: nn.Sequential, images: Tensor, std: float | Sequence[float]) -> None:
        self.clean = self.noisy = images
        stds = images.new_tensor([std] * 2 if isinstance(std, float) else list(std))
        self.variance = stds.square().reshape(1, 2, 1, 1).expand(1, *images.shape[1:])
        self.is_bent = False
        for layer in model:
            self._pass(layer)

    def _pass(self, layer: nn.Module) -> None:
        if isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
            self._normalise(layer)
            return
        if isinstance(layer, nn.ReLU) and not self.is_bent:
            self.is_bent, std = True, self.variance.sqrt()
            normal = torch.distributions.Normal(torch.zeros_like(std), torch.ones_like(std))
            h = self.clean / std
            self.noisy = self.clean * normal.cdf(h) + std * normal.log_prob(h).exp()
        else:
            self.noisy = layer(self.noisy)
            if isinstance(layer, Normalize):
                self.variance = self.variance / layer.std.square()
            if isinstance(layer, nn.Conv2d):
                square = layer.weight.square()
                self.variance = F.conv2d(self.variance, square, None, layer.stride, layer.padding)
        self.clean = layer(self.clean)

    def _normalise(self, layer: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
        mean, variance = layer.running_mean, layer.running_var
        if layer.training:  # by what comes without noise alone
            dims = [0, 2, 3] if self.clean.dim() == 4 else [0]
            mean, variance = self.clean.mean(dims), self.clean.var(dims, unbiased=False)
        assert mean is not None
        assert variance is not None
        scale = (1.0 if layer.weight is None else layer.weight) / (variance + layer.eps).sqrt()
        bias = (0.0 if layer.bias is None else layer.bias) - mean * scale
        scale, bias = (part.reshape(-1, *[1] * (self.clean.dim() - 2)) for part in (scale, bias))
        self.clean, self.noisy = self.clean * scale + bias, self.noisy * scale + bias
        self.variance = self.variance * scale.square() if not self.is_bent else self.variance


def _steps(
    objective: Objective, model: nn.Module, *, steps: int = 3, lr: float = 0.1, progress: float = math.inf
) -> list[float]:
    """The losses of a short training with random draws in it."""
    torch.manual_seed(5)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = objective(model, *_batch(), progress=progress).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


# What it computes


@pytest.mark.parametrize("make", [_lenet, _norm_net])
@pytest.mark.parametrize("is_training", [True, False])
@pytest.mark.parametrize("std", [0.3, (0.1, 0.4)])
def test_gaussian_expectation_in_its_published_form_is_the_textbooks(
    make: Callable[[], nn.Sequential], is_training: bool, std: float | Sequence[float]
) -> None:
    model = make().double().train(is_training)
    images, labels = _batch()[0].double(), _batch()[1]
    twin = copy.deepcopy(model)
    expected = Textbook(twin, images, std)
    terms = F.cross_entropy(expected.clean, labels), F.cross_entropy(expected.noisy, labels)
    expected_loss = 0.7 * terms[0] + 1.5 * terms[1]
    ours = GaussianExpectation(std, 1.5, clean_weight=0.7)(model, images, labels)
    torch.testing.assert_close(ours.loss, expected_loss, rtol=1e-10, atol=0)
    torch.testing.assert_close(ours.terms["cross_entropy"], terms[0].detach(), rtol=1e-10, atol=0)
    torch.testing.assert_close(ours.terms["expectation"], terms[1].detach(), rtol=1e-10, atol=0)
    accuracy = (expected.clean.argmax(1) == labels).float().mean()
    assert torch.equal(ours.terms["accuracy"], accuracy)
    assert (terms[0] - terms[1]).abs().item() > 1e-4
    actual = torch.autograd.grad(ours.loss, list(model.parameters()))
    for ours_, theirs in zip(
        actual, torch.autograd.grad(expected_loss, list(twin.parameters())), strict=True
    ):
        torch.testing.assert_close(ours_, theirs, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("make", [_lenet, _norm_net])
@pytest.mark.parametrize("weight", [0.0, Linear(0.0, 1.0, epochs=1, begin=2)])
def test_gaussian_expectation_with_weight_0_is_cross_entropy_bit_for_bit(
    make: Callable[[], nn.Sequential], weight: float | Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a network was traced")

    monkeypatch.setattr("withstand.graph.program_cache.Program", refuse)
    model, twin = (nn.Sequential(nn.Dropout(0.2), *make()) for _ in range(2))
    ours = _steps(GaussianExpectation(STD, weight), model, progress=1.5)
    assert ours == _steps(CrossEntropy(), twin, progress=1.5)
    for name, value in model.state_dict().items():
        assert torch.equal(value, twin.state_dict()[name]), name
    terms = GaussianExpectation(STD, weight)(model, *_batch(), progress=0).terms
    assert set(terms) == {"cross_entropy", "accuracy"}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("blur", [0.0, 1.0])
@pytest.mark.parametrize("make", [_lenet, _norm_net])
def test_gaussian_expectation_without_noise_is_the_loss_itself(
    way: Propagation, blur: float, make: Callable[[], nn.Sequential]
) -> None:
    model, batch = make(), _batch(4)
    loss, terms = GaussianExpectation(0.0, blur=blur, propagation=way)(model, *batch)
    torch.testing.assert_close(terms["expectation"], terms["cross_entropy"], rtol=0, atol=1e-6)
    torch.testing.assert_close(terms["cross_entropy"], F.cross_entropy(model(batch[0]), batch[1]).detach())
    actual = torch.autograd.grad(loss, list(model.parameters()))
    expected = torch.autograd.grad(2 * F.cross_entropy(model(batch[0]), batch[1]), list(model.parameters()))
    for ours, theirs in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_gaussian_expectation_settings_follow_progress(way: Propagation) -> None:
    model, batch = _lenet(), _batch(4)
    scheduled = GaussianExpectation(
        Linear(0.1, 0.3, epochs=4),
        Stages([1.0, 2.0], [2, 2]),
        clean_weight=Linear(1.0, 0.0, epochs=4),
        propagation=way,
    )
    for progress, std, weight, clean in (
        (0.0, 0.1, 1.0, 1.0),
        (1.0, 0.15, 1.0, 0.75),
        (2.0, 0.2, 2.0, 0.5),
        (math.inf, 0.3, 2.0, 0.0),
    ):
        fixed = GaussianExpectation(std, weight, clean_weight=clean, propagation=way)
        torch.testing.assert_close(
            scheduled(model, *batch, progress=progress).loss, fixed(model, *batch).loss
        )
    channels = GaussianExpectation([0.2, 0.2], propagation=way)(model, *batch).loss
    torch.testing.assert_close(channels, GaussianExpectation(0.2, propagation=way)(model, *batch).loss)
    assert not torch.isclose(channels, GaussianExpectation([0.2, 0.4], propagation=way)(model, *batch).loss)


# How it behaves


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("blur", [0.0, 2.0])
def test_gaussian_expectation_training_lowers_the_loss_and_leaves_all_else_as_it_was(
    way: Propagation, blur: float
) -> None:
    torch.manual_seed(0)
    model, (images, labels) = _norm_net().train(), _batch()
    model[5].eval()  # frozen
    modes = [module.training for module in model.modules()]
    objective = GaussianExpectation(STD, blur=blur, propagation=way)
    losses = _steps(objective, model, steps=8, lr=0.05)
    assert losses[-1] < 0.9 * losses[0]
    assert [module.training for module in model.modules()] == modes
    loss, terms = objective(model, images, labels)
    loss.backward()
    assert images.grad is None
    assert torch.equal(images, _batch()[0])
    assert set(terms) == {"cross_entropy", "accuracy", "expectation"}
    assert all(value.shape == () and not value.requires_grad for value in terms.values())
    assert not objective.state_dict()


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_gaussian_expectation_draws_nothing_at_random(way: Propagation) -> None:
    model, objective = _norm_net(), GaussianExpectation(STD, blur=1.0, propagation=way)
    before = torch.get_rng_state()
    first = objective(model, *_batch(4)).loss
    assert torch.equal(first, objective(model, *_batch(4)).loss)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
@pytest.mark.parametrize("is_training", [True, False])
def test_gaussian_expectation_adds_up(way: Propagation, is_training: bool) -> None:
    model, batch = _norm_net().train(is_training), _batch(4)
    objective, penalty = GaussianExpectation(STD, propagation=way), LossGradient(2)
    summed = (0.5 * objective + 0.1 * penalty)(model, *batch)
    gradients = torch.autograd.grad(summed.loss, list(model.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)
    model.load_state_dict(_norm_net().state_dict())
    alone, slope = objective(model, *batch), penalty(model, *batch).loss
    torch.testing.assert_close(summed.loss, 0.5 * alone.loss + 0.1 * slope)
    assert set(summed.terms) == {*alone.terms, "loss_gradient_l2"}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_gaussian_expectation_serves_copies_and_other_models_alike(way: Propagation) -> None:
    batch, objective = _batch(4), GaussianExpectation(STD, propagation=way)
    fresh = copy.deepcopy(objective)
    models: list[nn.Module] = [_lenet(), _norm_net(), _norm_net().eval()]
    expected = [
        GaussianExpectation(STD, propagation=way)(copy.deepcopy(model), *batch).loss for model in models
    ]
    objective(copy.deepcopy(models[0]), *batch)
    for one in (fresh, copy.deepcopy(objective), copy.copy(objective), objective):
        for model, loss in zip(models, expected, strict=True):
            assert torch.equal(one(copy.deepcopy(model), *batch).loss, loss)
    model = _norm_net()  # the same one in both modes, by turns
    for is_training, loss in ((True, expected[1]), (False, expected[2]), (True, expected[1])):
        model.load_state_dict(_norm_net().state_dict())
        assert torch.equal(objective(model.train(is_training), *batch).loss, loss)


def test_gaussian_expectation_shows_its_settings() -> None:
    settings = [
        GaussianExpectation(0.1),
        GaussianExpectation(0.2),
        GaussianExpectation([0.1, 0.2]),
        GaussianExpectation(Linear(0.0, 0.1, epochs=3)),
        GaussianExpectation(Linear(0.0, 0.1, epochs=4)),
        GaussianExpectation(0.1, 2.0),
        GaussianExpectation(0.1, clean_weight=0.5),
        GaussianExpectation(0.1, blur=1.0),
        GaussianExpectation(0.1, propagation=EveryLayer(MeanField())),
        GaussianExpectation(0.1, propagation=EveryLayer(OfMean())),
        GaussianExpectation(0.1, propagation=EveryLayer(Cubature())),
        GaussianExpectation(0.1, propagation=EveryLayer(Cubature(32))),
    ]
    assert len({str(objective) for objective in settings}) == len(settings)
    assert str(GaussianExpectation(0.1)) == str(GaussianExpectation(0.1, propagation=FirstActivation()))


def test_gaussian_expectation_checks_each_batch() -> None:
    model, (images, labels), objective = _lenet(), _batch(4), GaussianExpectation(STD)
    for _ in range(2):
        with pytest.raises(DataError, match=r"Expected images in \[0, 1\]"):
            objective(model, images * 255, labels)
    with pytest.raises(DataError, match="one int64 label an image"):
        objective(model, images, labels.float())
    with pytest.raises(DataError, match="at least one image"):
        objective(model, images[:0], labels[:0])
    objective(model, images, labels)
    with pytest.raises(DataError, match=r"Expected images in \[0, 1\]"):
        objective(model, images * 255, labels)
    with pytest.raises(DataError, match="labels of at least 0, but got -1"):
        objective(model, images, torch.full_like(labels, -1))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_std": -0.1}, "noise_std of at least 0, but got -0.1"),
        ({"noise_std": math.nan}, "noise_std of at least 0 and finite, but got nan"),
        ({"noise_std": []}, "at least one in noise_std, but got none"),
        ({"noise_std": Linear(0.1, -1.0, epochs=2)}, "all values of noise_std of at least 0, but got -1"),
        ({"noise_std": 0.1, "blur": math.nan}, "blur of at least 0 and finite, but got nan"),
    ],
)
def test_gaussian_expectation_refuses_wrong_settings(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GaussianExpectation(**settings)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_gaussian_expectation_refuses_what_does_not_fit(way: Propagation) -> None:
    batch = _batch(4)
    with pytest.raises(ValueError, match="one value for each of 3 channels"):
        GaussianExpectation([0.1, 0.2, 0.3], propagation=way)(_lenet(), *batch)
    for length in (2, 7):  # before the first activation, and after it
        with pytest.raises(
            ModelError, match=r"returns shape .* must give logits, a tensor \(batch, classes\)"
        ):
            GaussianExpectation(STD, propagation=way)(_lenet()[:length], *batch)
