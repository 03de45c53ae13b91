"""Random layers beside their plain twins: without deviation, at their means, and what they tell."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from withstand import bayes
from withstand.bayes import Deviations, Drawing, Posterior, VariationalLayer
from withstand.bayes.posterior import Estimator
from withstand.core.devices import random_state

LINEAR: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "matrix": (lambda: nn.Linear(7, 5), (4, 7)),
    "matrix on several vectors": (lambda: nn.Linear(7, 5, bias=False), (4, 3, 7)),
    "1-D": (lambda: nn.Conv1d(4, 6, 3, groups=2, padding=1), (4, 4, 9)),
    "2-D": (lambda: nn.Conv2d(3, 4, 3, stride=2, dilation=2), (4, 3, 9, 8)),
    "3-D": (lambda: nn.Conv3d(2, 3, 2), (4, 2, 3, 4, 3)),
    "1-D, transposed": (lambda: nn.ConvTranspose1d(4, 6, 3, stride=2, groups=2), (4, 4, 5)),
    "2-D, transposed": (
        lambda: nn.ConvTranspose2d(3, 2, 3, stride=2, padding=1, output_padding=1, bias=False),
        (4, 3, 4, 3),
    ),
    "3-D, transposed": (lambda: nn.ConvTranspose3d(2, 3, 2, dilation=2), (4, 2, 2, 3, 2)),
    "2-D, circular": (lambda: nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (4, 3, 6, 6)),
}
NORMS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "batch norm 1": (lambda: nn.BatchNorm1d(5), (6, 5)),
    "batch norm 1 of signals": (lambda: nn.BatchNorm1d(5, momentum=None), (6, 5, 4)),
    "batch norm 2": (lambda: nn.BatchNorm2d(3, momentum=0.3), (6, 3, 4, 4)),
    "batch norm, no statistics": (lambda: nn.BatchNorm2d(3, track_running_stats=False), (6, 3, 4, 4)),
    "batch norm 3": (lambda: nn.BatchNorm3d(3), (6, 3, 2, 3, 2)),
    "root mean square": (lambda: nn.RMSNorm(4), (6, 3, 4)),
    "group norm": (lambda: nn.GroupNorm(2, 4), (6, 4, 3, 3)),
    "layer norm": (lambda: nn.LayerNorm([3, 4]), (6, 2, 3, 4)),
    "layer norm, no shift": (lambda: nn.LayerNorm(4, bias=False), (6, 4)),
}
ESTIMATORS: tuple[Estimator, ...] = ("auto", "local", "flipout", "shared")
estimators = pytest.mark.parametrize("estimator", ESTIMATORS)


def _twins(make: Callable[[], nn.Module], estimator: Estimator) -> tuple[nn.Module, nn.Module]:
    """A layer, and the random one without deviation."""
    torch.manual_seed(0)
    plain = make()
    for parameter in plain.parameters():
        nn.init.normal_(parameter)
    random = bayes.convert(plain, Posterior(estimator=estimator))
    for name, parameter in random.named_parameters():
        if name.endswith("_rho"):
            nn.init.constant_(parameter, -math.inf)
    return plain, random


def _blocks(random: nn.Module, x: Tensor, samples: int) -> Tensor:
    repeated, how = bayes.in_blocks(x, samples)
    with bayes.drawing(random, how):
        answers: Tensor = random(repeated)
    return answers


@estimators
@pytest.mark.parametrize("name", LINEAR)
def test_random_layer_without_deviation_is_its_plain_twin_bit_for_bit(
    name: str, estimator: Estimator
) -> None:
    make, shape = LINEAR[name]
    plain, random = _twins(make, estimator)
    x = torch.rand(shape)
    for mode in (True, False):
        assert torch.equal(random.train(mode)(x), plain(x))
    for samples in (2, 3):
        actual, expected = _blocks(random, x, samples), plain(x).repeat(samples, *[1] * (x.dim() - 1))
        # Several kernels at once are another product, which adds up in another order.
        atol = 2e-6 if estimator == "shared" else 5e-7
        torch.testing.assert_close(actual, expected, rtol=0, atol=atol)


@estimators
@pytest.mark.parametrize("name", NORMS)
def test_random_norm_layer_without_deviation_is_its_plain_twin(name: str, estimator: Estimator) -> None:
    make, shape = NORMS[name]
    plain, random = _twins(make, estimator)
    for mode in (True, True, False):  # running statistics move twice
        x = torch.randn(shape)
        torch.testing.assert_close(random.train(mode)(x), plain.train(mode)(x), rtol=1e-5, atol=1e-6)
    for buffer, value in plain.named_buffers():
        assert torch.equal(random.get_buffer(buffer), value), buffer
    x = torch.randn(shape)
    torch.testing.assert_close(_blocks(random, x, 3), torch.cat([plain(x)] * 3), rtol=1e-5, atol=1e-6)


@estimators
@pytest.mark.parametrize("name", [*LINEAR, *NORMS])
def test_random_layer_draws_in_both_modes_and_anew_for_each_sample(name: str, estimator: Estimator) -> None:
    make, shape = {**LINEAR, **NORMS}[name]
    torch.manual_seed(0)
    random, x = bayes.convert(make(), Posterior(estimator=estimator)), torch.rand(shape)
    for mode in (True, False):
        torch.manual_seed(1)
        first = random.train(mode)(x)
        assert first.shape == bayes.mean_network(random)(x).shape
        assert not torch.equal(first, random(x))
        torch.manual_seed(1)
        torch.testing.assert_close(random(x), first)
        one, two = _blocks(random, x, 2).chunk(2)
        assert not torch.equal(one, two)


@estimators
@pytest.mark.parametrize("name", [*LINEAR, *NORMS])
def test_random_layer_deviations_get_gradients_in_mixed_precision(name: str, estimator: Estimator) -> None:
    make, shape = {**LINEAR, **NORMS}[name]
    torch.manual_seed(0)
    random, x = bayes.convert(make(), Posterior(estimator=estimator)), torch.rand(shape)
    for samples in (1, 2):
        torch.manual_seed(1)
        exact = _blocks(random, x, samples)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            result = _blocks(random, x, samples)
        assert result.shape == exact.shape
        torch.autograd.backward(result.float().square().sum())
        for parameter in random.parameters():
            assert parameter.grad is not None
            assert parameter.grad.isfinite().all()
            assert parameter.grad.any()
            parameter.grad = None


def _net() -> nn.Module:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))
    return bayes.convert(net)


def test_at_posterior_mean_a_model_draws_nothing_whatever_the_drawing() -> None:
    net, images = _net().eval(), torch.rand(2, 1, 4, 4)
    plain = bayes.mean_network(net)
    with bayes.at_posterior_mean(net):
        before = random_state(images.device)
        assert torch.equal(net(images), plain(images))
        for result in bayes.sample_logits(net, images, 3):
            torch.testing.assert_close(result, plain(images))
        torch.testing.assert_close(bayes.Predictor(net, 3)(images).exp(), plain(images).softmax(dim=1))
        with bayes.drawing(net, Drawing()), bayes.at_posterior_mean(net):
            assert torch.equal(net(images), plain(images))
        assert torch.equal(random_state(images.device), before)
        assert torch.equal(net(images), plain(images))
    assert not torch.equal(net(images), plain(images))
    with bayes.at_posterior_mean(plain):
        assert torch.equal(plain(images), plain(images))


def test_at_posterior_mean_restores_drawing_after_an_error() -> None:
    net, images = _net(), torch.rand(2, 1, 4, 4)
    deviations = Deviations()
    wrong = torch.rand(2, 5, 4, 4)
    with pytest.raises(RuntimeError), bayes.at_posterior_mean(net), bayes.sharing_deviations(net, deviations):
        net(wrong)
    assert not torch.equal(net(images), net(images))
    for _, layer in bayes.variational_layers(net):
        assert layer.std("weight") is not layer.std("weight")


def test_sharing_deviations_changes_neither_values_nor_gradients() -> None:
    result = []
    for deviations in (None, Deviations()):
        net, images = _net(), torch.ones(3, 1, 4, 4)
        torch.manual_seed(4)
        if deviations is None:
            loss = bayes.kl(net) / 1000 + bayes.sample_logits(net, images, 2).square().sum()
        else:
            with bayes.sharing_deviations(net, deviations):
                loss = bayes.kl(net) / 1000
            with bayes.sharing_deviations(net, deviations):
                loss = loss + bayes.sample_logits(net, images, 2).square().sum()
        torch.autograd.backward(loss)
        result.append([loss.detach(), *[parameter.grad for parameter in net.parameters()]])
    assert all(value is not None for value in result[0])
    torch.testing.assert_close(result[0], result[1])


def test_random_layer_describes_itself() -> None:
    layers: list[VariationalLayer] = [
        bayes.Linear(3, 2, False, posterior=Posterior(prior_std=0.7)),
        *[bayes.Conv1d(2, 3, 3, stride=2), bayes.Conv2d(2, 3, (1, 3), padding="same", bias=False)],
        *[bayes.BatchNorm1d(3), bayes.BatchNorm2d(3, momentum=None), bayes.GroupNorm(1, 3)],
        bayes.LayerNorm([2, 3], bias=False),
    ]
    net = nn.ModuleList(layers)
    assert bayes.variational_layers(net) == [(str(number), layer) for number, layer in enumerate(layers)]
    for layer in layers:
        assert set(layer.normals()) == {"weight", "bias"} - ({"bias"} if layer.bias is None else set())
        assert all(normal.std.requires_grad for normal in layer.normals().values())
        assert f"prior_std={layer.posterior.prior_std}" in repr(layer)
    assert layers[0].normals()["weight"].prior_std == 0.7
    with pytest.raises(AttributeError, match="Linear has no bias"):
        layers[0].std("bias")
    compiled = torch.compile(net, backend="eager")
    assert isinstance(compiled, nn.Module)
    assert len(bayes.variational_layers(compiled)) == len(layers)
    assert bayes.is_stochastic(compiled)
