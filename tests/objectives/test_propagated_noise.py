"""Noise through layers, against samples; and through layers that act otherwise in training."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.core.noise import GaussianNoise
from withstand.domains import (
    Gaussian,
    Moments,
    Program,
    UnsupportedOperationError,
    propagate,
)
from withstand.models import MinMax, Normalize
from withstand.objectives import (
    CrossEntropy,
    EveryLayer,
    ExpectedLoss,
    FirstActivation,
    GaussianExpectation,
    Propagation,
)
from withstand.types import Batch

STD = 0.4
SHAPE = (2, 4, 4)
DRAWS = 20_000


@dataclass(frozen=True)
class Seen(ExpectedLoss):
    """Notes the moments of the logits."""

    moments: list[Moments] = field(default_factory=list)

    @override
    def __call__(self, logits: Moments, labels: Tensor) -> Tensor:
        self.moments.append(logits)
        return logits.mean.sum() + logits.variance.sum()


def _batch(num: int = 4, *, dtype: torch.dtype = torch.float64) -> Batch:
    generator = torch.Generator().manual_seed(1)
    return Batch(torch.rand(num, *SHAPE, generator=generator, dtype=dtype), torch.arange(num) % 3)


# Against samples


def _sampled(model: nn.Module, image: Tensor, noise: GaussianNoise) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and deviation under noise, and the standard error of the mean."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        repeated = image.expand(DRAWS, *SHAPE)
        drawn = model(repeated + noise.draw(repeated))
    return drawn.mean(0), drawn.std(0), drawn.std(0) / math.sqrt(DRAWS)


@pytest.mark.parametrize("blur", [0.0, 0.8])
@pytest.mark.parametrize("std", [0.3, (0.1, 0.5)])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.GELU, nn.LeakyReLU])
@pytest.mark.parametrize("has_end", [False, True])
def test_propagation_mean_is_that_of_samples(
    blur: float, std: float | Sequence[float], activation: Callable[[], nn.Module], has_end: bool
) -> None:
    torch.manual_seed(0)
    layers = [Normalize([0.5, 0.4], [0.2, 0.6]), nn.Conv2d(2, 4, 3, padding=1), activation(), nn.Flatten()]
    model = nn.Sequential(*layers, *([nn.Linear(64, 5)] if has_end else []))
    image, noise = _batch(1, dtype=torch.float32).images, GaussianNoise(std, blur)
    clean, expected = FirstActivation().logits(Program(model, image), image, noise)
    mean, _, error = _sampled(model, image, noise)
    torch.testing.assert_close(clean, model(image), rtol=1e-4, atol=1e-5)
    assert ((expected[0] - mean).abs() < 5 * error + 1e-5).all()
    assert ((clean[0] - mean).abs() > 5 * error).any()  # the test could tell


@pytest.mark.parametrize("blur", [0.0, 0.5, 2.0])
@pytest.mark.parametrize("std", [0.3, (0.1, 0.5)])
def test_propagation_through_a_linear_network_is_exact(blur: float, std: float | Sequence[float]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(Normalize([0.5, 0.4], [0.2, 0.6]), nn.Conv2d(2, 3, 3, padding=1), nn.Flatten())
    (image, label), noise, seen = _batch(1, dtype=torch.float32), GaussianNoise(std, blur), Seen()
    clean, expected = FirstActivation().logits(Program(model, image), image, noise)
    assert torch.equal(clean, expected)
    logits, _ = EveryLayer(seen)(Program(model, image), image, noise, label)
    assert torch.equal(logits, clean)
    assert torch.equal(seen.moments[0].mean, clean)
    _, deviation, _ = _sampled(model, image, noise)
    ours = seen.moments[0].variance[0].sqrt()
    assert ((ours / deviation - 1).abs() < 5 / math.sqrt(2 * DRAWS)).all()


@pytest.mark.parametrize(
    ("layers", "blur", "slack"),
    [
        ([nn.MaxPool2d(2), nn.Conv2d(2, 3, 1)], 0.0, 0.05),  # Clark's maximum of four is nearly exact
        ([nn.Conv2d(2, 4, 3, padding=1), MinMax()], 0.8, 0.0),  # of two that covary it is exact
    ],
)
def test_propagation_takes_a_maximum_as_the_first_function(
    layers: list[nn.Module], blur: float, slack: float
) -> None:
    model, noise, seen = nn.Sequential(*layers, nn.Flatten()), GaussianNoise(STD, blur), Seen()
    image, label = _batch(1, dtype=torch.float32)
    with torch.no_grad():
        clean, expected = FirstActivation().logits(Program(model, image), image, noise)
        logits, _ = EveryLayer(seen)(Program(model, image), image, noise, label)
        mean, _, error = _sampled(model, image, noise)
        torch.testing.assert_close(clean, model(image))
    torch.testing.assert_close(logits, clean)
    torch.testing.assert_close(seen.moments[0].mean, expected)
    shift = (clean[0] - mean).abs()
    assert ((expected[0] - mean).abs() < 5 * error + slack * shift.max()).all()
    assert (shift > 20 * error).any()


# Layers that act otherwise in training


def _norm_net(before: int, after: int) -> nn.Sequential:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(
            *(
                nn.Conv2d(2, 4, 3, padding=1, bias=False),
                *[nn.BatchNorm2d(4) for _ in range(before)],
                nn.ReLU(),
            ),
            *(nn.Conv2d(4, 4, 3), *[nn.BatchNorm2d(4) for _ in range(after)], nn.ReLU(), nn.Flatten()),
            *(nn.Linear(16, 3),),
        )


@pytest.mark.parametrize("way", [FirstActivation(), EveryLayer(), EveryLayer(num_factors=3)])
@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (1, 1)])
@pytest.mark.parametrize("is_training", [True, False])
def test_propagation_statistics_are_those_of_the_images_without_noise(
    way: Propagation, before: int, after: int, is_training: bool
) -> None:
    model, batch = _norm_net(before, after).train(is_training), _batch(dtype=torch.float32)
    twin = copy.deepcopy(model)
    objective = GaussianExpectation(STD, propagation=way)
    for _ in range(2):
        ours, theirs = objective(model, *batch), CrossEntropy()(twin, *batch)
    torch.testing.assert_close(ours.terms["cross_entropy"], theirs.loss.detach())
    for name, value in model.state_dict().items():
        other = twin.state_dict()[name]
        if name.endswith("num_batches_tracked"):
            assert value == 2 * is_training
        # Of the second layer the input may differ in the last bit.
        torch.testing.assert_close(value, other, rtol=1e-6 * before * after, atol=1e-7 * before * after)


@pytest.mark.parametrize(("before", "after"), [(1, 0), (0, 1), (1, 1)])
def test_propagation_normalises_moments_by_the_images_without_noise_in_training(
    before: int, after: int
) -> None:
    model, (images, labels), seen = _norm_net(before, after).double().train(), _batch(), Seen()
    fixed = copy.deepcopy(model)
    for layer in fixed:
        if isinstance(layer, nn.BatchNorm2d):  # its statistics are to be those of this batch
            layer.register_forward_pre_hook(_note_statistics)
    with torch.no_grad():
        fixed(images)
    for layer in fixed:
        layer._forward_pre_hooks.clear()
    expected = propagate(fixed.eval(), Gaussian(images, torch.full((1, *SHAPE), STD**2).double()))
    logits, _ = EveryLayer(seen)(Program(model, images), images, GaussianNoise(STD), labels)
    torch.testing.assert_close(logits, fixed(images))
    torch.testing.assert_close(seen.moments[0].mean, expected.mean)
    torch.testing.assert_close(seen.moments[0].variance, expected.variance)
    gradients = torch.autograd.grad(logits.sum() + seen.moments[0].variance.sum(), list(model.parameters()))
    assert all(gradient.isfinite().all() for gradient in gradients)


def _note_statistics(layer: nn.Module, given: tuple[Tensor]) -> None:
    assert isinstance(layer, nn.BatchNorm2d)
    layer.eval()
    layer.running_mean = given[0].mean([0, 2, 3])
    layer.running_var = given[0].var([0, 2, 3], unbiased=False)


def _with_dropout(share: float, *, is_first: bool = False) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Dropout(share), nn.Linear(64, 3)]
    return nn.Sequential(*([nn.Dropout(share)] if is_first else []), *layers)


def test_propagation_takes_dropout_after_the_first_activation() -> None:
    batch = _batch(dtype=torch.float32)
    model, objective = _with_dropout(1.0), GaussianExpectation(STD)  # of which only the last bias is left
    bias = model[-1].bias
    assert isinstance(bias, Tensor)
    torch.testing.assert_close(
        objective(model, *batch).loss, 2 * F.cross_entropy(bias.expand(4, 3), batch.labels)
    )
    model = _with_dropout(0.5)
    losses = [objective(model, *batch).loss for _ in range(2)]
    assert losses[0] != losses[1]
    assert model.training
    model.eval()
    assert torch.equal(objective(model, *batch).loss, objective(model, *batch).loss)


@pytest.mark.parametrize(
    ("way", "is_first"), [(FirstActivation(), True), (EveryLayer(), True), (EveryLayer(), False)]
)
def test_propagation_refuses_dropout_elsewhere(way: Propagation, is_first: bool) -> None:
    objective = GaussianExpectation(STD, propagation=way)
    model, batch = _with_dropout(0.5, is_first=is_first), _batch(dtype=torch.float32)
    with pytest.raises(UnsupportedOperationError, match=r"aten\.dropout.*train without dropout"):
        objective(model, *batch)
    objective(model.eval(), *batch)


class _Cumulative(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x.cumsum(1)


def test_propagation_needs_no_rule_after_the_first_activation() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(16, 6), nn.ReLU(), _Cumulative(), nn.Linear(6, 3), nn.Softplus()
    )
    images, labels = torch.rand(4, 1, 4, 4), torch.arange(4) % 3
    objective = GaussianExpectation(0.3)
    loss, terms = objective(model, images, labels)
    loss.backward()
    assert terms["expectation"] != terms["cross_entropy"]
    with pytest.raises(UnsupportedOperationError, match=r"aten\.cumsum"):
        GaussianExpectation(0.3, propagation=EveryLayer())(model, images, labels)
