"""What every penalty keeps to, whatever the model and the batch."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand import bayes
from withstand.core.schedules import Linear
from withstand.data import Deform
from withstand.loss.terms import Penalty
from withstand.objectives import CrossEntropy, Objective
from withstand.penalties import (
    AdversarialPerturbation,
    DeformationStability,
    GradientAlignment,
    InputGradient,
    LossGradient,
    SpectralExpectation,
    SpectralNorm,
    TangentGradient,
    VirtualAdversarial,
)
from withstand.types import Batch

DEFORM = Deform(translation=1.0, displacement=0.5, smoothness=1.0)

ANY_SHAPE: dict[str, Callable[[], Penalty]] = {
    "input-gradient": InputGradient,
    "perturbation": lambda: AdversarialPerturbation(0.5, num_steps=3),
    "perturbation-candidates": lambda: AdversarialPerturbation(0.5, num_steps=3, candidates=2),
    "loss-gradient-l2": LossGradient,
    "loss-gradient-l1": lambda: LossGradient(norm=1),
    "gradient-alignment": lambda: GradientAlignment(0.3),
    "virtual-adversarial": lambda: VirtualAdversarial(0.5),
    "spectral-norm": SpectralNorm,
    "spectral-norm-exact": lambda: SpectralNorm(num_power_iterations=None),
    "spectral-norm-operator": lambda: SpectralNorm("operator"),
    "spectral-expectation": SpectralExpectation,
}
OF_PICTURES: dict[str, Callable[[], Penalty]] = {
    "deformation-stability": lambda: DeformationStability(DEFORM, num_deformations=2),
    "tangent-gradient": lambda: TangentGradient(DEFORM, num_tangents=3),
}
PENALTIES = {**ANY_SHAPE, **OF_PICTURES}


@pytest.fixture(params=PENALTIES.values(), ids=list(PENALTIES))
def penalty(request: pytest.FixtureRequest) -> Penalty:
    """A fresh object of each."""
    penalty: Penalty = request.param()
    return penalty


@pytest.fixture(params=ANY_SHAPE.values(), ids=list(ANY_SHAPE))
def shapeless_penalty(request: pytest.FixtureRequest) -> Penalty:
    """A fresh object of each that takes inputs of any rank."""
    penalty: Penalty = request.param()
    return penalty


def fitting(penalty: Penalty, model: nn.Module) -> nn.Module:
    """The model as the penalty takes it: with random weights where it is about them."""
    return bayes.convert(model) if isinstance(penalty, SpectralExpectation) else model


def net(activation: nn.Module, classes: int = 3, *, channels: int = 1) -> nn.Sequential:
    """A small convolutional net for 6×5 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(classes)
        return nn.Sequential(
            nn.Conv2d(channels, 4, 3, padding=1),
            activation,
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(4 * 3 * 2, 7),
            activation,
            nn.Linear(7, classes),
        )


def pictures(num: int, classes: int = 3, *, channels: int = 1) -> Batch:
    """Random 6×5 images and labels."""
    generator = torch.Generator().manual_seed(num)
    images = torch.rand(num, channels, 6, 5, generator=generator)
    return Batch(images, torch.arange(num) % classes)


def _gradients(objective: Objective, model: nn.Module, images: Tensor, labels: Tensor) -> list[Tensor]:
    parameters = list(model.parameters())
    loss = objective(model, images, labels).loss
    return list(torch.autograd.grad(loss, parameters, materialize_grads=True))


def _trained(penalty: Penalty, objective: Objective, *, steps: int = 3) -> list[Tensor]:
    """The weights after some steps, with dropout, so that random draws matter."""
    torch.manual_seed(5)
    model = fitting(penalty, nn.Sequential(net(nn.ReLU()), nn.Dropout(0.3))).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    images, labels = pictures(6)
    for step in range(steps):
        optimizer.zero_grad()
        objective(model, images, labels, progress=step).loss.backward()
        optimizer.step()
    return [parameter.detach() for parameter in model.parameters()]


def test_penalty_of_weight_zero_is_plain_training_bit_for_bit(penalty: Penalty) -> None:
    plain = _trained(penalty, CrossEntropy())
    for weight in (0.0, Linear(0.0, 1.0, epochs=1, begin=100)):
        assert all(map(torch.equal, plain, _trained(penalty, CrossEntropy() + weight * penalty)))
    assert not all(map(torch.equal, plain, _trained(penalty, CrossEntropy() + 0.1 * penalty)))


def test_penalty_adds_up_to_what_its_terms_give_alone(penalty: Penalty) -> None:
    model, (images, labels) = fitting(penalty, net(nn.Softplus())), pictures(5)
    penalty(model, images, labels)  # whatever is kept between steps is there now
    torch.manual_seed(0)
    plain = _gradients(CrossEntropy(), model, images, labels)
    alone = _gradients(copy.deepcopy(penalty), model, images, labels)
    torch.manual_seed(0)
    both = _gradients(CrossEntropy() + 0.3 * penalty, model, images, labels)
    for a, b, c in zip(plain, alone, both, strict=True):
        torch.testing.assert_close(a + 0.3 * b, c)


def test_penalty_is_lowered_by_descent(penalty: Penalty) -> None:
    # In float64, since some are small beside the rounding of what they are made of.
    model, (images, labels) = fitting(penalty, net(nn.Softplus())).double(), pictures(4)
    images = images.double()
    torch.manual_seed(1)
    before = penalty(model, images, labels).loss
    for parameter, slope in zip(
        model.parameters(),
        torch.autograd.grad(before, list(model.parameters()), materialize_grads=True),
        strict=True,
    ):
        parameter.data -= 1e-3 * slope
    torch.manual_seed(1)
    assert 0 < penalty(model, images, labels).loss.item() < before.item()


@pytest.mark.parametrize("classes", [1, 2, 5])
@pytest.mark.parametrize("num", [1, 3])
def test_penalty_takes_any_number_of_classes_and_images(penalty: Penalty, num: int, classes: int) -> None:
    images, labels = pictures(num, classes, channels=2)
    model = fitting(penalty, net(nn.ReLU(), classes, channels=2))
    gradients = _gradients(CrossEntropy() + penalty, model, images, labels)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


def _dead(model: nn.Module) -> nn.Module:
    """No image changes any output: the first layer's activations are all 0."""
    first = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
    nn.init.constant_(first.bias if first.bias is not None else first.weight, -100.0)
    return model


def _zero(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    return model


@pytest.mark.parametrize("kill", [_dead, _zero])
def test_penalty_of_dead_networks_is_finite(penalty: Penalty, kill: Callable[[nn.Module], nn.Module]) -> None:
    images, labels = pictures(3)
    objective = CrossEntropy() + penalty
    model = fitting(penalty, kill(net(nn.ReLU())))
    assert bool(torch.isfinite(objective(model, images, labels).loss))
    gradients = _gradients(objective, model, images, labels)
    assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients)


class _Constant(nn.Module):
    """Answers without looking."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, images: Tensor) -> Tensor:
        return self.logits.expand(len(images), 2)


@pytest.mark.parametrize("make", [m for name, m in PENALTIES.items() if "spectral" not in name])
def test_penalty_of_a_model_that_ignores_its_images_is_none(make: Callable[[], Penalty]) -> None:
    images, _ = pictures(3)
    labels = torch.zeros(3, dtype=torch.int64)
    loss = (CrossEntropy() + make())(_Constant(), images, labels).loss
    assert loss.item() == pytest.approx(CrossEntropy()(_Constant(), images, labels).loss.item())


class _Broken(nn.Module):
    """Answers NaN for bright images."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = net(nn.ReLU())

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.inner(images)
        return logits * torch.where(images.mean(dim=(1, 2, 3)) > 0.7, torch.nan, 1.0)[:, None]


@pytest.mark.parametrize("make", [m for name, m in PENALTIES.items() if "spectral" not in name])
def test_penalty_shows_an_answer_that_is_not_finite(make: Callable[[], Penalty]) -> None:
    images, labels = pictures(4)
    images[2] = 1.0
    assert make()(_Broken(), images, labels).loss.isnan()


def test_penalty_takes_inputs_of_any_rank(shapeless_penalty: Penalty) -> None:
    torch.manual_seed(0)
    model = fitting(shapeless_penalty, nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)))
    inputs, labels = torch.rand(4, 6), torch.tensor([0, 1, 2, 0])
    gradients = _gradients(CrossEntropy() + shapeless_penalty, model, inputs, labels)
    assert any(gradient.any() for gradient in gradients)
    signals = nn.Sequential(nn.Conv1d(2, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))
    model = fitting(shapeless_penalty, signals)
    gradients = _gradients(CrossEntropy() + shapeless_penalty, model, torch.rand(4, 2, 6), labels)
    assert any(gradient.any() for gradient in gradients)


def test_penalty_leaves_the_model_as_it_was(penalty: Penalty, tiny_model: nn.Module) -> None:
    tiny_model = fitting(penalty, tiny_model.train())
    next(layer for layer in tiny_model.modules() if isinstance(layer, nn.BatchNorm2d)).eval()
    images, labels = torch.rand(4, 1, 4, 4), torch.tensor([0, 1, 2, 0])
    before = copy.deepcopy(tiny_model.state_dict())
    modes = [module.training for module in tiny_model.modules()]
    loss = penalty(tiny_model, images, labels).loss
    assert loss.requires_grad
    assert modes == [module.training for module in tiny_model.modules()]
    assert all(torch.equal(before[name], value) for name, value in tiny_model.state_dict().items())
    assert all(parameter.grad is None for parameter in tiny_model.parameters())
    assert not images.requires_grad


def test_penalty_leaves_batch_norm_statistics_to_the_training_pass(penalty: Penalty) -> None:
    def after(objective: Objective) -> dict[str, Tensor]:
        torch.manual_seed(0)
        layers = [nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(24, 3)]
        model = fitting(penalty, nn.Sequential(*layers).train())
        objective(model, *pictures(5))
        return model.state_dict()

    plain, penalised = after(CrossEntropy()), after(CrossEntropy() + penalty)
    assert all(torch.equal(value, penalised[name]) for name, value in plain.items())


def test_penalty_can_be_measured_without_gradients(penalty: Penalty) -> None:
    model, (images, labels) = fitting(penalty, net(nn.Softplus())), pictures(4)
    penalty(model, images, labels)
    torch.manual_seed(2)
    expected = copy.deepcopy(penalty)(model, images, labels).loss
    torch.manual_seed(2)
    with torch.no_grad():
        measured = penalty(model, images, labels).loss
    assert measured.item() == pytest.approx(expected.item())


def test_penalty_can_be_measured_in_inference_mode_and_trained_with_then(penalty: Penalty) -> None:
    model, (images, labels) = fitting(penalty, net(nn.Softplus())), pictures(4)
    with torch.inference_mode():
        inferred = copy.deepcopy(penalty)
        torch.manual_seed(2)
        actual = (CrossEntropy() + inferred)(model, images.clone(), labels.clone()).loss
    torch.manual_seed(2)
    with torch.no_grad():
        expected = (CrossEntropy() + penalty)(model, images, labels).loss
    assert not actual.requires_grad
    assert actual.item() == pytest.approx(expected.item())
    inferred(model, images, labels).loss.backward()


def test_penalty_reports_itself_before_its_weight(penalty: Penalty) -> None:
    model, (images, labels) = fitting(penalty, net(nn.ReLU())), pictures(4)
    torch.manual_seed(3)
    loss, terms = copy.deepcopy(penalty)(model, images, labels)
    torch.manual_seed(3)
    _, weighted = (2.0 * penalty)(model, images, labels)
    (name,) = terms
    assert terms[name].item() == loss.item()
    assert weighted[name].item() == pytest.approx(loss.item())
    assert not terms[name].requires_grad


@pytest.mark.parametrize("name", ANY_SHAPE)
def test_penalty_state_goes_through_a_checkpoint(name: str) -> None:
    former, fresh = ANY_SHAPE[name](), ANY_SHAPE[name]()
    model, (images, labels) = fitting(former, net(nn.ReLU())), pictures(4)
    former(model, images, labels)
    fresh.load_state_dict(former.state_dict())
    torch.manual_seed(0)
    expected = former(model, images, labels).loss
    torch.manual_seed(0)
    assert fresh(model, images, labels).loss.item() == expected.item()


class Attending(nn.Module):
    """Attention over the rows of an image, by the fused function or a layer."""

    def __init__(self, layer: nn.MultiheadAttention | None) -> None:
        super().__init__()
        self.layer = layer
        self.inner = nn.Linear(4, 12)
        self.head = nn.Linear(16, 3)

    @override
    def forward(self, images: Tensor) -> Tensor:
        query, key, value = self.inner(images.flatten(1, 2)).chunk(3, dim=2)
        if self.layer is None:
            mixed = F.scaled_dot_product_attention(query, key, value)
        else:
            mixed = self.layer(query, key, value, need_weights=False)[0]
        logits: Tensor = self.head(mixed.flatten(1))
        return logits


@pytest.mark.parametrize("is_layer", [False, True])
@pytest.mark.parametrize("make", [m for name, m in PENALTIES.items() if "spectral" not in name])
def test_penalty_is_differentiated_through_fused_attention(
    make: Callable[[], Penalty], is_layer: bool
) -> None:
    torch.manual_seed(0)
    model = Attending(nn.MultiheadAttention(4, 2, batch_first=True) if is_layer else None)
    make()(model, torch.rand(6, 1, 4, 4), torch.arange(6) % 3).loss.backward()
    assert model.inner.weight.grad is not None
    assert model.inner.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("make", [InputGradient, LossGradient])
def test_penalty_through_fused_attention_has_the_slope_of_finite_differences(
    make: Callable[[], Penalty],
) -> None:
    torch.manual_seed(0)
    model, images, labels = Attending(None).double(), torch.rand(6, 1, 4, 4).double(), torch.arange(6) % 3
    weight = model.inner.weight
    make()(model, images, labels).loss.backward()
    assert weight.grad is not None
    direction, step = torch.randn_like(weight), 1e-5
    with torch.no_grad():
        weight += step * direction
        above = make()(model, images, labels).loss
        weight -= 2 * step * direction
        below = make()(model, images, labels).loss
    slope = (weight.grad * direction).sum()
    torch.testing.assert_close(slope, (above - below).detach() / (2 * step), rtol=1e-6, atol=1e-9)
