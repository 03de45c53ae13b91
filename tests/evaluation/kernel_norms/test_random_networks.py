from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand import bayes
from withstand.evaluation.kernel_norms.random_networks import expected_lipschitz, expected_scale
from withstand.types import ModelError


def _image(*shape: int) -> Tensor:
    return torch.rand(1, *shape, generator=torch.Generator().manual_seed(0))


def _random(model: nn.Module, std: float = 0.1, **layers: bayes.Posterior | None) -> nn.Module:
    return bayes.convert(model, bayes.Posterior(initial_std=std), layers)


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 6)
        self.second = nn.Linear(6, 6)

    @override
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.second(F.relu(self.first(x)))
        return result


class _Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Linear(6, 4)
        self.right = nn.Linear(6, 3)
        self.last = nn.Linear(7, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.last(torch.cat([self.left(x), self.right(x)], dim=1))
        return result


class _Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    @override
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layer(F.relu(self.layer(x)))
        return result


class _Reading(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.layer(x), self.layer.weight)


class _Constant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.register_buffer("constant", torch.ones(1, 6))

    @override
    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x * self.layer(self.constant)
        return result


def test_expected_lipschitz_of_a_chain_is_the_product() -> None:
    model = _random(nn.Sequential(nn.Flatten(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)))
    assert expected_lipschitz(model, _image(6), {"1": 2.0, "3": 3.5}) == pytest.approx(7.0)


def test_expected_lipschitz_takes_plain_layers_by_their_own_norm() -> None:
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    norm = torch.linalg.matrix_norm(plain[0].get_parameter("weight").double(), ord=2).item()
    model = bayes.convert(plain, layers={"0": None})
    assert expected_lipschitz(model, _image(6), {"2": 3.0}) == pytest.approx(3 * norm, rel=1e-6)


def test_expected_lipschitz_takes_convolutions_and_pooling() -> None:
    model = _random(
        nn.Sequential(
            nn.Conv2d(1, 2, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(18, 3)
        )
    )
    assert expected_lipschitz(model, _image(1, 6, 6), {"0": 4.0, "4": 3.0}) == pytest.approx(6.0, rel=1e-6)


def test_expected_lipschitz_takes_sums_and_joins() -> None:
    assert expected_lipschitz(
        _random(_Residual()), _image(6), {"first": 2.0, "second": 3.0}
    ) == pytest.approx(7)
    # sqrt(3² + 4²) would not bound the expectation of a root of squares
    norms = {"left": 3.0, "right": 4.0, "last": 2.0}
    assert expected_lipschitz(_random(_Joined()), _image(6), norms) == pytest.approx(14.0)


@pytest.mark.parametrize(
    ("model", "norms", "message"),
    [
        (_Twice(), {"layer": 1.0}, "'layer' is used twice"),
        (_Reading(), {"layer": 1.0}, "reads a random weight of its layer 'layer'"),
        (
            _Constant(),
            {"layer": 1.0},
            "reads a random weight of its layer 'layer' beside calling the layer on",
        ),
        (nn.Sequential(nn.Linear(6, 6)), {}, "No expected norm is known of the random layer '0'"),
        (nn.Sequential(nn.Linear(6, 6), nn.LayerNorm(6)), {"0": 1.0}, "of the random layer '1'"),
    ],
)
def test_expected_lipschitz_refuses_what_has_no_such_bound(
    model: nn.Module, norms: Mapping[str, float], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        expected_lipschitz(_random(model), _image(6), norms)


def test_expected_scale_counts_the_running_deviation() -> None:
    torch.manual_seed(0)
    layer = bayes.BatchNorm1d(40, posterior=bayes.Posterior(initial_std=(0.1, 0.6)))
    assert layer.running_var is not None
    layer.running_var.uniform_(0.2, 3.0)
    bound = expected_scale(layer)
    normal = layer.normals()["weight"]
    factors = (layer.running_var + layer.eps).rsqrt()
    noise = torch.randn(4000, 40)
    sampled = ((normal.mean + normal.std * noise) * factors).abs().amax(dim=1).mean().item()
    assert sampled < bound
    assert bound <= (factors.max() + 1.002 * bayes.expected_maximum(normal.std * factors)).item()
    model = nn.Sequential(bayes.Linear(6, 40), layer, nn.ReLU())
    assert expected_lipschitz(model, _image(6), {"0": 2.0}) == pytest.approx(2 * bound, rel=1e-6)


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(3), bayes.BatchNorm1d(3, track_running_stats=False)])
def test_expected_scale_refuses_other_layers(layer: nn.BatchNorm1d) -> None:
    with pytest.raises(ModelError, match="running statistics"):
        expected_scale(layer)


def test_expected_lipschitz_leaves_the_model_as_it_was() -> None:
    model = _random(nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    expected_lipschitz(model, _image(6), {"0": 1.0})
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_expected_lipschitz_passes_norms_that_are_not_finite_through() -> None:
    model = _random(nn.Sequential(nn.Linear(6, 5)))
    assert not math.isfinite(expected_lipschitz(model, _image(6), {"0": math.inf}))
