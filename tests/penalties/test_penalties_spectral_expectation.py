"""The penalty of the expected spectral norm: its value, its gradient, and what it is taken of."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from withstand import bayes
from withstand.bayes import Posterior
from withstand.objectives import Variational
from withstand.operators import places
from withstand.penalties import SpectralExpectation
from withstand.types import ModelError

IMAGES = torch.linspace(0, 1, 3 * 2 * 25, dtype=torch.float64).view(3, 2, 5, 5)
LABELS = torch.tensor([0, 1, 2])
POSTERIOR = Posterior(initial_std=(0.02, 0.2))


def _net() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = nn.Sequential(
            *[nn.Conv2d(2, 3, 3, padding=1, stride=2), nn.BatchNorm2d(3), nn.Flatten()],
            *[nn.Linear(27, 6), nn.Linear(6, 3)],
        )
        return bayes.convert(net, POSTERIOR).double()


def _surrogates(net: nn.Module, *, draws: int | None = None) -> Tensor:
    """The surrogate of each layer: singular values, rows and columns of the true matrices."""
    result = []
    for place in places(bayes.mean_network(net), IMAGES):
        layer = net.get_submodule(place.weight.name)
        assert isinstance(layer, bayes.VariationalLayer)
        twin = copy.deepcopy(place)
        mean = _matrix(twin.operator, place.input_shape)
        std = layer.normals()["weight"].std.detach()
        with torch.no_grad():
            twin.weight.layer.get_parameter("weight").copy_(std)
        deviations = _matrix(twin.operator, place.input_shape)
        if draws is None:
            last = bayes.expected_maximum(std)
        else:
            generator = torch.Generator().manual_seed(9)
            normals = torch.randn(draws, *std.shape, generator=generator, dtype=std.dtype)
            last = (std * normals).abs().flatten(1).amax(dim=1).mean()
        norms = deviations.norm(dim=1).amax() + deviations.norm(dim=0).amax()
        result.append(torch.linalg.matrix_norm(mean, ord=2) + norms + last)
    return torch.stack(result).detach()


def _matrix(operator: Any, shape: tuple[int, ...]) -> Tensor:
    size = torch.Size(shape).numel()
    matrix: Tensor = operator.apply(torch.eye(size, dtype=torch.float64).view(size, *shape)).flatten(1).T
    return matrix


def test_spectral_expectation_of_a_linear_layer_by_hand() -> None:
    torch.manual_seed(0)
    layer = bayes.Linear(20, 12, posterior=POSTERIOR).double()
    std = layer.normals()["weight"].std.detach()
    draws = (std * torch.randn(20_000, 12, 20).double()).abs().amax(dim=(1, 2))
    norm = torch.linalg.svdvals(layer.weight.detach())[0]
    by_hand = norm + std.norm(dim=1).max() + std.norm(dim=0).max() + draws.mean()
    penalty = SpectralExpectation(num_power_iterations=300)
    loss, terms = penalty(layer, torch.rand(2, 20).double(), LABELS[:2])
    assert (2 * loss).sqrt().item() == pytest.approx(by_hand.item(), rel=2e-3)
    assert list(terms) == ["spectral_expectation"]
    assert terms["spectral_expectation"] == loss
    assert not terms["spectral_expectation"].requires_grad


@pytest.mark.parametrize(
    ("options", "formula"),
    [
        ({}, lambda surrogates: surrogates.square().sum() / 2),
        ({"squared": False}, lambda surrogates: surrogates.sum()),
        ({"last_only": True}, lambda surrogates: surrogates[-1].square() / 2),
        ({"last_only": True, "squared": False}, lambda surrogates: surrogates[-1]),
    ],
)
def test_spectral_expectation_of_a_network(
    options: dict[str, Any], formula: Callable[[Tensor], Tensor]
) -> None:
    net = _net()
    loss = SpectralExpectation(**options, num_power_iterations=300)(net, IMAGES, LABELS).loss
    assert loss.item() == pytest.approx(formula(_surrogates(net)).item(), rel=1e-6)
    drawn = formula(_surrogates(net, draws=10_000)).item()
    assert loss.item() == pytest.approx(drawn, rel=5e-3)
    quick = SpectralExpectation(**options)(net, IMAGES, LABELS).loss  # as it is by default
    assert quick.item() == pytest.approx(drawn, rel=2e-2)


def test_spectral_expectation_draws_nothing_and_depends_on_no_image() -> None:
    net, penalty = _net(), SpectralExpectation(num_power_iterations=300)
    before = torch.get_rng_state()
    first = penalty(net, IMAGES, LABELS).loss
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(penalty(net, IMAGES.flip(0) * 0.1, LABELS).loss, first)


def test_spectral_expectation_gradient_is_that_of_finite_differences() -> None:
    """Of the means by small steps; of the deviations by steps so wide that single entries count."""
    net, penalty = _net(), SpectralExpectation(num_power_iterations=500)
    torch.autograd.backward(penalty(net, IMAGES, LABELS).loss)
    generator = torch.Generator().manual_seed(0)
    checked = 0
    for name, parameter in net.named_parameters():
        if parameter.grad is None:
            assert name.split(".")[0] == "1" or "bias" in name  # norm layers, and biases
            continue
        step, tolerance = (0.02, 2e-2) if name.endswith("_rho") else (1e-5, 1e-5)
        direction = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        direction = direction.abs() if name.endswith("_rho") else direction
        values = []
        for sign in (1, -1):
            moved = copy.deepcopy(net)
            with torch.no_grad():
                moved.get_parameter(name).add_(sign * step * direction)
            values.append(penalty(moved, IMAGES, LABELS).loss.item())
        slope = (values[0] - values[1]) / (2 * step)
        assert (parameter.grad * direction).sum().item() == pytest.approx(slope, rel=tolerance), name
        checked += 1
    assert checked == 6


def test_spectral_expectation_stores_vectors_so_that_two_iterations_a_step_follow() -> None:
    net, penalty = _net(), SpectralExpectation()
    exact = (_surrogates(net).square().sum() / 2).item()
    for _ in range(60):
        loss = penalty(net, IMAGES, LABELS).loss
    assert loss.item() == pytest.approx(exact, rel=1e-5)
    fresh = SpectralExpectation()
    fresh.load_state_dict(penalty.state_dict())
    assert fresh(net, IMAGES, LABELS).loss.item() == penalty(net, IMAGES, LABELS).loss.item()
    assert len(penalty.state_dict()) == 3


def test_spectral_expectation_counts_only_random_layers_and_refuses_a_plain_network() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(50, 4), nn.Linear(4, 3)).double()
    half = bayes.convert(net, POSTERIOR, {"2": None})
    whole = bayes.convert(net, POSTERIOR)
    values = [
        SpectralExpectation(last_only=last)(model, IMAGES, LABELS).loss.item()
        for model in (half, whole)
        for last in (True, False)
    ]
    assert values[0] == values[1]
    assert values[1] < values[3]
    assert 0 < values[2] < values[3]
    norms = bayes.convert(nn.Sequential(net, nn.LayerNorm(3)), layers={"0": None}).double()
    for plain in (net, norms):
        with pytest.raises(ModelError, match=r"is for random weights.*bayes\.convert.*SpectralNorm"):
            SpectralExpectation()(plain, IMAGES, LABELS)
    with pytest.raises(ValueError, match="num_power_iterations of at least 1"):
        SpectralExpectation(num_power_iterations=0)


@pytest.mark.parametrize("first", [True, False])
def test_spectral_expectation_beside_the_variational_objective_is_what_it_is_alone(first: bool) -> None:
    def gradients(*objectives: Any) -> list[Tensor]:
        result = None
        for objective in objectives:
            net = _net()
            torch.manual_seed(1)
            torch.autograd.backward(copy.deepcopy(objective)(net, IMAGES, LABELS).loss)
            surrogates = [torch.zeros_like(p) if p.grad is None else p.grad for p in net.parameters()]
            result = (
                surrogates if result is None else [a + b for a, b in zip(result, surrogates, strict=True)]
            )
        assert result is not None
        return result

    bound, term = Variational(100, 2), 0.02 * SpectralExpectation()
    both = gradients(term + bound if first else bound + term)
    torch.testing.assert_close(both, gradients(bound, term))


def test_spectral_expectation_in_lower_precision_and_compiled() -> None:
    net = _net().float()
    expected = SpectralExpectation()(net, IMAGES.float(), LABELS).loss
    with torch.autocast("cpu", torch.bfloat16):
        actual = SpectralExpectation()(net, IMAGES.float(), LABELS).loss
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected)
    compiled = torch.compile(net, backend="eager")
    torch.testing.assert_close(SpectralExpectation()(compiled, IMAGES.float(), LABELS).loss, expected)


def test_spectral_expectation_leaves_layers_without_a_term_as_they_like() -> None:
    torch.manual_seed(0)
    first = nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular")
    plain = nn.Sequential(first, nn.Flatten(), nn.Linear(32, 6), nn.ReLU(), nn.Linear(6, 3))
    model = bayes.convert(plain, layers={"0": None})
    loss, _ = SpectralExpectation()(model, torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
    assert loss.item() > 0
    with pytest.raises(ModelError, match="'0' has 'circular'"):
        SpectralExpectation()(bayes.convert(plain), torch.rand(2, 1, 4, 4), torch.tensor([0, 1]))
