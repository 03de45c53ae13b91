"""Each penalty against its closed form on a linear model, and its gradient against differences."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from withstand.core.schedules import Constant
from withstand.data import Deform
from withstand.loss.terms import Penalty
from withstand.penalties import (
    AdversarialPerturbation,
    DeformationStability,
    GradientAlignment,
    InputGradient,
    LossGradient,
    SpectralNorm,
    TangentGradient,
    VirtualAdversarial,
)
from withstand.types import Batch, LossTerms

DEFORM = Deform(translation=1.0, displacement=0.5, smoothness=1.0)


def linear(classes: int = 3, *, seed: int = 0) -> tuple[nn.Sequential, Tensor]:
    """A linear model of 1×5×4 images in double precision, and its matrix (classes, 20)."""
    generator = torch.Generator().manual_seed(seed)
    layer = nn.Linear(20, classes).double()
    layer.weight.data = torch.randn(classes, 20, generator=generator, dtype=torch.float64)
    return nn.Sequential(nn.Flatten(), layer), layer.weight


def pictures(num: int, classes: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(num)
    images = torch.rand(num, 1, 5, 4, generator=generator, dtype=torch.float64)
    return Batch(images, torch.arange(num) % classes)


def value(penalty: Penalty, model: nn.Module, batch: Batch) -> float:
    result: LossTerms = penalty(model, *batch)
    return result.loss.item()


@settings(max_examples=20, deadline=None)
@given(num=st.integers(1, 6), classes=st.integers(1, 5), epsilon=st.floats(0, 3), steps=st.integers(1, 6))
def test_input_penalties_of_a_linear_model(num: int, classes: int, epsilon: float, steps: int) -> None:
    model, weight = linear(classes, seed=num)
    batch = pictures(num, classes)
    squares = weight.square().sum().item()
    assert value(InputGradient(), model, batch) == pytest.approx(squares)
    for candidates in (None, 1, 3, 100):
        penalty = AdversarialPerturbation(epsilon, num_steps=steps, candidates=candidates)
        assert value(penalty, model, batch) == pytest.approx(epsilon**2 * squares, abs=1e-12)
    exact = torch.linalg.matrix_norm(weight, 2).item() ** 2
    assert value(SpectralNorm(num_power_iterations=None), model, batch) == pytest.approx(exact)


def test_loss_gradient_of_a_linear_model() -> None:
    model, weight = linear()
    images, labels = pictures(7)
    errors = model(images).softmax(dim=1) - F.one_hot(labels, 3)
    gradients = errors @ weight
    assert value(LossGradient(2), model, Batch(images, labels)) == pytest.approx(
        gradients.square().sum(dim=1).mean().item()
    )
    assert value(LossGradient(1), model, Batch(images, labels)) == pytest.approx(
        gradients.abs().sum(dim=1).mean().item()
    )


@pytest.mark.parametrize("norm", [1.0, 2.0, math.inf])
def test_gradient_alignment_is_zero_where_all_gradients_are_parallel(norm: float) -> None:
    model, _ = linear(2)  # of two classes: each gradient is a multiple of the difference of the rows
    assert value(GradientAlignment(0.9, norm=norm), model, pictures(7, 2)) == pytest.approx(0.0, abs=1e-12)


def test_gradient_alignment_is_the_mean_cosine_of_the_paper() -> None:
    model, (images, labels) = smooth_net(), pictures(5)
    torch.manual_seed(0)
    near = images + torch.empty_like(images).uniform_(-1, 1) * 0.4
    gradients = []
    for each in (images, near):
        leaf = each.clone().requires_grad_()
        gradients.append(torch.autograd.grad(F.cross_entropy(model(leaf), labels), leaf)[0].flatten(1))
    torch.manual_seed(0)
    expected = (1 - F.cosine_similarity(gradients[0], gradients[1])).mean().item()
    assert value(GradientAlignment(0.4), model, Batch(images, labels)) == pytest.approx(expected)
    assert 1e-4 < expected < 2


def test_gradient_alignment_of_a_loss_that_is_flat_in_float32_is_zero_and_has_a_gradient() -> None:
    model, (images, labels) = smooth_net().float(), pictures(6)
    last = model[-1]
    assert isinstance(last, nn.Linear)
    last.bias.data = torch.tensor([300.0, 0.0, 0.0])  # at label 0 the softmax is exactly 1
    result = GradientAlignment(0.3)(model, images.float(), labels)
    gradients = torch.autograd.grad(result.loss, list(model.parameters()), materialize_grads=True)
    assert all(gradient.isfinite().all() for gradient in gradients)
    alone = GradientAlignment(0.3)(model, images[:1].float(), labels[:1]).loss
    assert alone.item() == 0


def test_tangent_gradient_of_a_linear_model() -> None:
    model, weight = linear()
    batch = pictures(4)
    torch.manual_seed(0)
    tangents = DEFORM.tangents(batch.images, 3).flatten(2)
    slopes = torch.einsum("kp,njp->nkj", weight, tangents)
    expected = slopes.square().sum(dim=2).amax(dim=0).sum().item()
    torch.manual_seed(0)
    assert value(TangentGradient(DEFORM, num_tangents=3), model, batch) == pytest.approx(expected)


def test_deformation_stability_of_a_linear_model() -> None:
    model, weight = linear()
    batch = pictures(4)
    torch.manual_seed(0)
    copies = torch.stack([DEFORM(batch.images) for _ in range(5)])
    changes = (copies - batch.images).flatten(2) @ weight.T
    expected = changes.square().amax(dim=(0, 1)).sum().item()
    torch.manual_seed(0)
    assert value(DeformationStability(DEFORM, num_deformations=5), model, batch) == pytest.approx(expected)


def test_virtual_adversarial_of_a_linear_model_of_two_classes() -> None:
    """JᵀFJ has rank 1, so one iteration finds its eigenvector from any start, up to its sign."""
    model, weight = linear(2)
    (image, label), epsilon = pictures(1, 2), 0.3
    direction = weight[0] - weight[1]
    step = (epsilon * direction / direction.norm()).view(image.shape)
    own = model(image).log_softmax(dim=1)
    ends = [
        F.kl_div(model(image + sign * step).log_softmax(dim=1), own, reduction="sum", log_target=True).item()
        for sign in (1, -1)
    ]
    torch.manual_seed(0)
    result = value(VirtualAdversarial(epsilon), model, Batch(image, label))
    assert min(abs(result - end) for end in ends) < 1e-12


def test_virtual_adversarial_converges_to_the_worst_direction() -> None:
    """For small epsilon KL is half of epsilon² times the largest eigenvalue of WᵀFW."""
    model, weight = linear(4)
    image, label = pictures(1, 4)
    shares = model(image).softmax(dim=1)[0]
    metric = weight.T @ (torch.diag(shares) - torch.outer(shares, shares)) @ weight
    largest = torch.linalg.eigvalsh(metric)[-1].item()
    epsilon = 1e-4
    result = value(VirtualAdversarial(epsilon, num_power_iterations=200), model, Batch(image, label))
    assert result == pytest.approx(epsilon**2 / 2 * largest, rel=1e-3)


def smooth_net() -> nn.Sequential:
    """Without kinks, in double precision."""
    torch.manual_seed(2)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1),
        nn.Tanh(),
        nn.Flatten(),
        nn.Linear(60, 3),
        nn.Softplus(),
        nn.Linear(3, 3),
    ).double()


@pytest.mark.parametrize(
    "penalty",
    [
        InputGradient(),
        LossGradient(2),
        LossGradient(1),
        GradientAlignment(0.3),
        GradientAlignment(1.0, norm=2.0),
        TangentGradient(DEFORM, num_tangents=3),
        DeformationStability(DEFORM, num_deformations=2),
        # δ is held, which is correct to first order at the maximum, and there enough steps end.
        AdversarialPerturbation(0.3, num_steps=200),
        SpectralNorm(num_power_iterations=None),
        SpectralNorm(num_power_iterations=200),
        SpectralNorm("operator", num_power_iterations=200),
    ],
    ids=lambda penalty: f"{type(penalty).__name__}({penalty.extra_repr()})",
)
def test_penalty_gradient_agrees_with_differences(penalty: Penalty) -> None:
    model, batch = smooth_net(), pictures(4)
    generator = torch.Generator().manual_seed(0)
    parameters = list(model.parameters())
    directions = [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in parameters]

    def move(step: float) -> None:
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.data += step * direction

    def at(step: float) -> float:
        torch.manual_seed(1)  # the same deformations each time
        move(step)
        loss = value(penalty, model, batch)
        move(-step)
        return loss

    torch.manual_seed(1)
    gradients = torch.autograd.grad(penalty(model, *batch).loss, parameters, materialize_grads=True)
    slope = sum((g * d).sum().item() for g, d in zip(gradients, directions, strict=True))
    h = 1e-6
    assert slope == pytest.approx((at(h) - at(-h)) / (2 * h), rel=5e-3)


def _two_regions(images: Tensor) -> Tensor:
    """Steep for images above a half, flat below; one class."""
    brightness = images.mean(dim=(1, 2, 3))
    return torch.where(brightness > 0.5, 10 * brightness, brightness)[:, None]


class _TwoRegions(nn.Module):
    def forward(self, images: Tensor) -> Tensor:
        return _two_regions(images)


def test_input_gradient_takes_the_largest_of_the_batch_not_the_mean() -> None:
    dark, bright = torch.full((5, 1, 2, 2), 0.2), torch.full((1, 1, 2, 2), 0.9)
    labels = torch.zeros(6, dtype=torch.int64)
    result = InputGradient()(_TwoRegions(), torch.cat([dark, bright]), labels).loss.item()
    assert result == pytest.approx(100 / 4)  # 10² ‖1/4 of each of 4 pixels‖²


def test_adversarial_perturbation_of_candidates_is_never_above_that_of_all() -> None:
    model, batch = smooth_net(), pictures(12)
    every = value(AdversarialPerturbation(0.5), model, batch)
    values = [value(AdversarialPerturbation(0.5, candidates=count), model, batch) for count in (1, 3, 6, 12)]
    assert all(result <= every * (1 + 1e-12) for result in values)
    assert values[-1] == pytest.approx(every)
    assert values[0] > 0.5 * every


def _perturbed(model: nn.Module, images: Tensor, *, steps: int, candidates: int) -> float:
    """The penalty at epsilon 0.5, one image and one class at a time."""

    def climb(image: Tensor, number: int) -> tuple[Tensor, Tensor]:
        delta = torch.zeros_like(image)
        lengths = []
        for _ in range(steps):
            leaf = (image + delta).requires_grad_()
            (slope,) = torch.autograd.grad(model(leaf)[0, number], leaf)
            lengths.append(slope.norm())
            delta = delta + 0.75 / steps * slope / slope.norm()
            delta = delta * min(1.0, 0.5 / delta.norm().item())
        return lengths[0], (model(image + delta) - model(image))[0, number].detach()

    total = 0.0
    for number in range(model(images).shape[1]):
        ends = [climb(image[None], number) for image in images]
        chosen = sorted(ends, key=lambda end: -float(end[0]))[:candidates]
        total += max(float(gain) for _, gain in chosen) ** 2
    return total


@settings(max_examples=15, deadline=None)
@given(
    num=st.integers(1, 5),
    classes=st.integers(1, 7),
    candidates=st.none() | st.integers(1, 6),
    steps=st.integers(1, 3),
)
def test_adversarial_perturbation_is_that_of_a_loop(
    num: int, classes: int, candidates: int | None, steps: int
) -> None:
    generator = torch.Generator().manual_seed(10 * num + classes)
    model = nn.Sequential(nn.Flatten(), nn.Linear(20, 4), nn.Tanh(), nn.Linear(4, classes)).double()
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
    batch = pictures(num, classes)
    penalty = AdversarialPerturbation(0.5, num_steps=steps, candidates=candidates)
    expected = _perturbed(model, batch.images, steps=steps, candidates=candidates or num)
    assert value(penalty, model, batch) == pytest.approx(expected)


def test_penalties_in_mixed_precision_see_small_changes_of_large_logits() -> None:
    double, _ = linear()
    model, (images, labels) = double.float(), pictures(3)
    nn.init.constant_(cast(nn.Linear, model[1]).bias, 1000)
    for penalty in (AdversarialPerturbation(0.1), DeformationStability(DEFORM, num_deformations=1)):
        torch.manual_seed(0)
        expected = penalty(model, images.float(), labels).loss.item()
        torch.manual_seed(0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = penalty(model, images.float(), labels).loss.item()
        assert 0.05 * expected < actual <= expected * 1.01  # another image may be taken for the worst


def test_loss_gradient_takes_its_norm_as_a_float() -> None:
    model, _ = linear()
    _, terms = LossGradient(2.0)(model, *pictures(2))  # type: ignore[arg-type]
    assert list(terms) == ["loss_gradient_l2"]


def test_adversarial_perturbation_stays_within_epsilon() -> None:
    """The change of a logit is at most epsilon times its largest gradient, which a linear model attains."""
    model, weight = linear()
    longest = AdversarialPerturbation(0.7, num_steps=3)
    assert value(longest, model, pictures(2)) <= 0.49 * weight.square().sum().item() * (1 + 1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: AdversarialPerturbation(-1.0),
        lambda: AdversarialPerturbation(math.inf),
        lambda: AdversarialPerturbation(num_steps=0),
        lambda: AdversarialPerturbation(candidates=0),
        lambda: LossGradient(3),  # type: ignore[arg-type]
        lambda: GradientAlignment(-1.0),
        lambda: GradientAlignment(norm=3),
        lambda: VirtualAdversarial(-1.0),
        lambda: VirtualAdversarial(num_power_iterations=0),
        lambda: DeformationStability(num_deformations=0),
        lambda: TangentGradient(num_tangents=0),
    ],
)
def test_penalties_refuse_what_makes_no_sense(make: Callable[[], Penalty]) -> None:
    with pytest.raises(ValueError, match="Expected"):
        make()


def test_penalties_may_have_scheduled_weights() -> None:
    model, weight = linear()
    images, labels = pictures(2)
    loss, _ = (Constant(0.25) * InputGradient())(model, images, labels)
    assert loss.item() == pytest.approx(0.25 * weight.square().sum().item())
