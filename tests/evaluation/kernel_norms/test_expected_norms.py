from __future__ import annotations

import math
from functools import cache

import pytest
import torch
from torch import Tensor, nn

from withstand import bayes
from withstand.evaluation.kernel_norms import ExpectedNorms, NetworkNorms, expected_norms
from withstand.types import ModelError


def _images(*shape: int) -> Tensor:
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(1))


def _dense() -> nn.Module:
    torch.manual_seed(3)
    plain = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))
    return bayes.convert(plain, bayes.Posterior(initial_std=(0.05, 0.2)))


def _convolutional() -> nn.Module:
    torch.manual_seed(4)
    plain = nn.Sequential(
        *[nn.Conv2d(1, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU(), nn.MaxPool2d(2)],
        *[nn.Conv2d(3, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3)],
    )
    return bayes.convert(plain, bayes.Posterior(initial_std=(0.05, 0.2), estimator="shared"))


MODELS = {"dense": (_dense, (3, 2, 2)), "convolutional": (_convolutional, (1, 11, 11))}


@cache
def _norms_of(kind: str) -> NetworkNorms:
    make, shape = MODELS[kind]
    return expected_norms(make(), _images(*shape), num_draws=20)


def _drawn(model: nn.Module) -> nn.Module:
    """A plain network of one draw of all weights."""
    plain = bayes.mean_network(model).eval()
    with torch.no_grad():
        for path, layer in bayes.variational_layers(model):
            for name, normal in layer.normals().items():
                plain.get_submodule(path).get_parameter(name).copy_(torch.normal(normal.mean, normal.std))
    return plain


@pytest.mark.parametrize("kind", MODELS)
def test_expected_norms_bound_the_average_stretch_of_networks(kind: str) -> None:
    make, shape = MODELS[kind]
    model = make()
    network = _norms_of(kind).network
    assert network is not None
    assert network.confidence is not None
    torch.manual_seed(0)
    ratios = []
    with torch.no_grad():
        for _ in range(20):
            drawn = _drawn(model)
            images = torch.rand(30, *shape)
            moves = 0.1 * torch.randn(30, *shape)
            changes = (drawn(images + moves) - drawn(images)).norm(dim=1)
            ratios.append((changes / moves.flatten(1).norm(dim=1)).max().item())
    mean = math.fsum(ratios) / len(ratios)
    assert 0 < mean <= min(network.confidence, network.proven)


@pytest.mark.parametrize("kind", MODELS)
def test_expected_norms_are_in_order(kind: str) -> None:
    norms = _norms_of(kind)
    assert norms.reason is None
    assert list(norms.layers) == {"dense": ["1", "3"], "convolutional": ["0", "4", "7"]}[kind]
    assert norms.network is not None
    for norm in (*norms.layers.values(), norms.network):
        assert norm.confidence is not None
        assert 0 < norm.sampled <= min(norm.confidence, norm.proven)
        assert norm.sampled <= norm.surrogate * 1.01


def test_expected_norms_of_the_network_are_products_of_layers() -> None:
    norms = _norms_of("dense")
    assert norms.network is not None
    for kind in ("sampled", "surrogate", "proven"):
        product = math.prod(getattr(norm, kind) for norm in norms.layers.values())
        assert getattr(norms.network, kind) == pytest.approx(product, rel=1e-9)
    once = expected_norms(_dense(), _images(3, 2, 2), num_draws=20, confidence=0.995)
    confident = [norm.confidence for norm in once.layers.values() if norm.confidence is not None]
    assert norms.network.confidence == pytest.approx(math.prod(confident), rel=1e-9)
    assert math.prod(confident) > math.prod(norm.confidence or 0.0 for norm in norms.layers.values())


def test_expected_norm_of_a_layer_agrees_with_its_operator() -> None:
    model = _dense()
    layer = dict(bayes.variational_layers(model))["1"]
    normal = layer.normals()["weight"]
    torch.manual_seed(0)
    noise = torch.randn(2000, 16, 12)
    sampled = torch.linalg.matrix_norm(normal.mean + normal.std * noise, ord=2).mean().item()
    norm = _norms_of("dense").layers["1"]
    assert norm.sampled == pytest.approx(sampled, rel=0.05)
    assert norm.confidence is not None
    assert norm.sampled == pytest.approx(
        norm.confidence - normal.std.max().item() * math.sqrt(2 * math.log(100) / 20), rel=1e-6
    )


def test_expected_norms_are_sampled_the_same_without_confidence() -> None:
    make, shape = MODELS["convolutional"]
    with_bound = expected_norms(make(), _images(*shape), num_draws=2)
    without = expected_norms(make(), _images(*shape), num_draws=2, confidence=None)
    assert without.network is not None
    assert without.network.confidence is None
    for name, norm in without.layers.items():
        assert norm.confidence is None
        assert norm.sampled == pytest.approx(with_bound.layers[name].sampled, rel=1e-6)


def test_expected_norms_measure_gives_columns_of_an_epoch() -> None:
    columns = ExpectedNorms(num_draws=2).of(_dense(), _images(3, 2, 2))
    kinds = ("sampled", "surrogate", "confidence", "proven")
    assert list(columns) == [f"spectral/{name}/{kind}" for name in ("1", "3", "network") for kind in kinds]
    assert all(value > 0 for value in columns.values())
    fewer = ExpectedNorms(num_draws=2, confidence=None).of(_dense(), _images(3, 2, 2))
    assert list(fewer) == [name for name in columns if not name.endswith("confidence")]
    assert ExpectedNorms(num_draws=2).of(_dense(), _images(3, 2, 2)) == columns


def test_expected_norms_without_a_network_bound_have_layers() -> None:
    torch.manual_seed(0)
    model = bayes.convert(nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 2)))
    norms = expected_norms(model, _images(4), num_draws=1)
    assert list(norms.layers) == ["0", "2"]
    assert norms.network is None
    assert norms.reason is not None
    assert "No expected norm is known of the random layer '1'" in norms.reason
    columns = ExpectedNorms(num_draws=1).of(model, _images(4))
    assert not [name for name in columns if "network" in name]


def test_expected_norms_change_neither_model_nor_random_state() -> None:
    make, shape = MODELS["convolutional"]
    model = make().train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    ExpectedNorms(num_draws=1).of(model, _images(*shape))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert not any(parameter.grad is not None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])


def test_expected_norms_refuse_plain_networks_and_bad_numbers() -> None:
    with pytest.raises(ModelError, match=r"withstand\.bayes\.convert"):
        expected_norms(nn.Sequential(nn.Linear(4, 2)), _images(4))
    for bad in (-0.1, 1.0):
        with pytest.raises(ValueError, match="confidence"):
            ExpectedNorms(confidence=bad)
        with pytest.raises(ValueError, match="confidence"):
            expected_norms(_dense(), _images(3, 2, 2), confidence=bad)
    with pytest.raises(ValueError, match="num_draws"):
        ExpectedNorms(num_draws=0)
