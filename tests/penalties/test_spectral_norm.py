from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from withstand.core.contract import contract_of
from withstand.objectives import CrossEntropy
from withstand.operators import Place, places, weights
from withstand.penalties.spectral import SpectralNorm
from withstand.types import ModelError

IMAGES = torch.linspace(0, 1, 3 * 2 * 25, dtype=torch.float64).view(3, 2, 5, 5)
LABELS = torch.tensor([0, 1, 2])


def _net(seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            *[nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.BatchNorm2d(3), nn.Flatten()],
            *[nn.Linear(27, 4), nn.Linear(4, 5), nn.Linear(5, 3)],
        )
    return net.double()


def _gradients(net: nn.Module) -> list[Tensor]:
    gradients = [weight.value.grad for weight in weights(net)]
    return [gradient for gradient in gradients if gradient is not None]


def _closed(net: nn.Module) -> tuple[Tensor, list[Tensor]]:
    """The sum of squares of the largest singular values and its gradients, by the definition."""
    total, gradients = torch.zeros((), dtype=torch.float64), []
    for weight in weights(net):
        left, values, right = torch.linalg.svd(weight.matrix.detach(), full_matrices=False)
        total = total + values[0] ** 2
        gradients.append((2 * values[0] * torch.outer(left[:, 0], right[0])).view(weight.value.shape))
    return total, gradients


@pytest.mark.parametrize("iterations", [None, 300])
def test_spectral_norm_equals_the_closed_form_with_its_gradient(iterations: int | None) -> None:
    net = _net()
    loss, terms = SpectralNorm(num_power_iterations=iterations)(net, IMAGES, LABELS)
    torch.autograd.backward(loss)
    total, gradients = _closed(net)
    torch.testing.assert_close(loss, total, rtol=1e-9, atol=0)
    torch.testing.assert_close(_gradients(net), gradients, rtol=0, atol=1e-5 if iterations else 1e-11)
    assert terms["spectral_norm"] == loss
    assert not terms["spectral_norm"].requires_grad


def test_spectral_norm_gradient_is_that_of_finite_differences() -> None:
    net, penalty = _net(), SpectralNorm(num_power_iterations=None)
    torch.autograd.backward(penalty(net, IMAGES, LABELS).loss)
    for weight, gradient in zip(weights(net), _gradients(net), strict=True):
        direction = torch.linspace(-1, 1, gradient.numel(), dtype=torch.float64).view(gradient.shape)
        ends = []
        for step in (1e-5, -2e-5):
            with torch.no_grad():
                weight.value.add_(step * direction)
            ends.append(penalty(net, IMAGES, LABELS).loss)
        slope = (ends[0] - ends[1]) / 2e-5
        torch.testing.assert_close((gradient * direction).sum(), slope.detach(), rtol=1e-5, atol=1e-8)


def _operator_norm(place: Place) -> Tensor:
    size = torch.Size(place.input_shape).numel()
    units = torch.eye(size, dtype=torch.float64).view(size, *place.input_shape)
    norm: Tensor = torch.linalg.matrix_norm(place.operator.apply(units).flatten(1), ord=2)
    return norm


def test_spectral_norm_in_operator_form_is_of_the_true_operators() -> None:
    net = _net()
    loss, _ = SpectralNorm("operator", 500)(net, IMAGES, LABELS)
    exact = torch.stack([_operator_norm(place) for place in places(net, IMAGES)]).square().sum()
    torch.testing.assert_close(loss, exact, rtol=1e-6, atol=0)
    torch.autograd.backward(loss)
    assert len(_gradients(net)) == 4
    kernel, _ = SpectralNorm()(net, IMAGES, LABELS)
    assert abs(loss - kernel) > 0.01


def test_spectral_norm_determines_sizes_anew_when_they_change_and_only_then() -> None:
    torch.manual_seed(0)  # of some weights the two largest singular values are nearly the same
    net = nn.Sequential(
        *[nn.Conv2d(2, 3, 3, stride=2), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1), nn.Flatten()]
    ).double()
    penalty, runs = SpectralNorm("operator", 400), []
    net.register_forward_hook(lambda *_: runs.append(1))
    for images in (IMAGES, IMAGES[:, :, :3, :4]):
        contract_of(net, images)  # the one look at two images of each size
    runs.clear()
    for images in (IMAGES, IMAGES[:2], IMAGES[:, :, :3, :4], IMAGES[:, :, :3, :4]):
        loss, _ = penalty(net, images, LABELS[: len(images)] % 2)  # two outputs
        exact = torch.stack([_operator_norm(place) for place in places(net[:], images)]).square().sum()
        torch.testing.assert_close(loss, exact, rtol=1e-4, atol=0)
    assert len(runs) == 2
    other = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3), nn.Flatten()).double()
    loss, _ = penalty(other, IMAGES, LABELS % 2)
    exact = torch.stack([_operator_norm(place) for place in places(other, IMAGES)]).square().sum()
    torch.testing.assert_close(loss, exact, rtol=0.05, atol=0)


@pytest.mark.parametrize("form", ["kernel", "operator"])
def test_spectral_norm_saves_its_vectors_and_goes_on(form: str) -> None:
    net, penalty = _net(), SpectralNorm(form)  # type: ignore[arg-type]
    penalty(net, IMAGES, LABELS)
    fresh = SpectralNorm(form)  # type: ignore[arg-type]
    fresh.load_state_dict({name: value.clone() for name, value in penalty.state_dict().items()})
    assert len(penalty.state_dict()) == 4
    assert fresh(net, IMAGES, LABELS).loss.equal(penalty(net, IMAGES, LABELS).loss)


@pytest.mark.parametrize("iterations", [None, 2])
@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_spectral_norm_of_weights_of_zero_and_weights_that_are_not_finite(
    iterations: int | None, value: float
) -> None:
    net = _net().float()
    with torch.no_grad():
        weights(net)[1].value.fill_(value)
    loss, _ = SpectralNorm(num_power_iterations=iterations)(net, IMAGES.float(), LABELS)
    assert bool(loss.isfinite()) is (value == 0)
    if value == 0:
        torch.autograd.backward(loss)
        assert all(gradient.isfinite().all() for gradient in _gradients(net))


def test_spectral_norm_is_not_of_norm_layers_and_biases() -> None:
    net, penalty = _net(), SpectralNorm(num_power_iterations=None)
    before = penalty(net, IMAGES, LABELS).loss
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.dim() == 1:
                parameter.mul_(100)
    assert penalty(net, IMAGES, LABELS).loss.equal(before)


def test_spectral_norm_of_parametrised_and_half_precision_weights_and_compiled_models() -> None:
    parametrised = nn.Sequential(nn.Flatten(), parametrizations.weight_norm(nn.Linear(50, 3)))
    torch.autograd.backward(SpectralNorm()(parametrised, IMAGES, LABELS).loss)
    assert all(p.grad is not None for p in parametrised.parameters() if p.dim() > 1)
    compiled = torch.compile(_net(), backend="eager")
    assert isinstance(compiled, nn.Module)
    for form in ("kernel", "operator"):
        one, two = (SpectralNorm(form)(net, IMAGES, LABELS).loss for net in (compiled, _net()))
        assert one.equal(two)
    with torch.autocast("cpu", torch.bfloat16):
        loss = SpectralNorm(num_power_iterations=None)(_net().bfloat16(), IMAGES, LABELS).loss
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), _closed(_net().bfloat16().double())[0], rtol=1e-5, atol=0)


def test_spectral_norm_adds_to_an_objective_and_works_without_gradients() -> None:
    net = _net().eval()
    objective = CrossEntropy() + 0.5 * SpectralNorm(num_power_iterations=None)
    with torch.no_grad():
        loss, terms = objective(net, IMAGES, LABELS)
    plain = CrossEntropy()(net, IMAGES, LABELS).loss
    torch.testing.assert_close(loss, plain + 0.5 * _closed(net)[0])
    torch.testing.assert_close(terms["spectral_norm"], _closed(net)[0])


def test_spectral_norm_refuses_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="but got 'kernels'"):
        SpectralNorm("kernels")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="num_power_iterations of at least 1"):
        SpectralNorm(num_power_iterations=0)
    with pytest.raises(ValueError, match="give num_power_iterations, such as 2"):
        SpectralNorm("operator", None)
    with pytest.raises(ModelError, match="no linear layer"):
        SpectralNorm()(nn.Flatten(), IMAGES, LABELS)
