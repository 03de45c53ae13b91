"""What expectation losses must refuse or compute correctly, and must not get wrong in silence."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations
from typing_extensions import override

from withstand.core.schedules import Linear
from withstand.domains import Elementwise, FactoredGaussian, Gaussian, Site, propagate, register
from withstand.moments import RECTIFIER
from withstand.objectives import CrossEntropy, EveryLayer, FirstActivation, GaussianExpectation, Propagation
from withstand.types import DataError, ModelError

WAYS: list[Propagation] = [FirstActivation(), EveryLayer(), EveryLayer(num_factors=2)]


class _Net(nn.Module):
    """A hand-written forward of a few layers."""

    def __init__(self, compute: Callable[[Any, Tensor], Any], **layers: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, layer in layers.items():
            setattr(self, name, layer)

    @override
    def forward(self, x: Tensor) -> Any:
        return self.compute(self, x)


def _images() -> Tensor:
    return torch.rand(4, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def _labels() -> Tensor:
    return torch.arange(4) % 3


def _in_place(net: Any, x: Tensor) -> Tensor:
    hidden = net.conv(torch.relu(net.first(x)))
    bent = net.inplace(hidden)
    return net.last((hidden + bent).flatten(1))  # type: ignore[no-any-return]


def _functional(net: Any, x: Tensor) -> Tensor:
    hidden = torch.relu(net.first(x))
    hidden = F.batch_norm(hidden, net.norm.running_mean, net.norm.running_var, training=net.training)
    return net.last(hidden.flatten(1))  # type: ignore[no-any-return]


def _layers() -> dict[str, nn.Module]:
    torch.manual_seed(0)
    return {
        "first": nn.Conv2d(2, 2, 1),
        "conv": nn.Conv2d(2, 2, 1),
        "inplace": nn.ReLU(inplace=True),
        "norm": nn.BatchNorm2d(2),
        "last": nn.Linear(32, 3),
    }


def _out_of_place(net: Any, x: Tensor) -> Tensor:
    bent = torch.relu(net.conv(torch.relu(net.first(x))))
    return net.last((bent + bent).flatten(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize("way", WAYS)
def test_propagation_takes_what_is_changed_in_place_for_what_it_becomes(way: Propagation) -> None:
    losses = []
    for compute in (_in_place, _out_of_place):
        torch.manual_seed(5)  # of the random factors
        losses.append(
            GaussianExpectation(0.3, propagation=way)(_Net(compute, **_layers()), _images(), _labels()).loss
        )
    torch.testing.assert_close(*losses)


def test_propagation_after_the_first_activation_lets_layers_act_in_place_as_in_the_model() -> None:
    model = _Net(_in_place, **_layers())
    clean = CrossEntropy()(model, _images(), _labels()).loss
    terms = GaussianExpectation(1e-6)(model, _images(), _labels()).terms
    torch.testing.assert_close(terms["cross_entropy"], clean.detach())
    torch.testing.assert_close(terms["expectation"], clean.detach())


@pytest.mark.parametrize("way", WAYS)
def test_propagation_takes_a_batch_norm_of_any_spelling_by_the_statistics_of_clean_images(
    way: Propagation,
) -> None:
    def of_layer(net: Any, x: Tensor) -> Tensor:
        return net.last(net.norm(torch.relu(net.first(x))).flatten(1))  # type: ignore[no-any-return]

    losses, states = [], []
    for compute in (_functional, of_layer):
        model = _Net(compute, **_layers()).train()
        torch.manual_seed(5)
        losses.append(GaussianExpectation(0.3, propagation=way)(model, _images(), _labels()).loss)
        states.append(model.get_buffer("norm.running_var").clone())
    torch.testing.assert_close(*losses)
    torch.testing.assert_close(*states)
    assert not states[0].equal(torch.ones(2))


def test_propagation_refuses_statistics_that_would_mix_both() -> None:
    tracking = nn.Sequential(
        nn.Conv2d(2, 2, 1),
        nn.ReLU(),
        nn.InstanceNorm2d(2, track_running_stats=True),
        nn.Flatten(),
        nn.Linear(32, 3),
    )
    with pytest.raises(ModelError, match="InstanceNorm"):
        GaussianExpectation(0.1)(tracking.train(), _images(), _labels())
    GaussianExpectation(0.1)(tracking.eval(), _images(), _labels())


@pytest.mark.parametrize("way", WAYS)
def test_propagation_draws_no_more_in_the_first_call_than_in_the_second(way: Propagation) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 5), nn.ReLU(), nn.Linear(5, 3))
    objective = GaussianExpectation(0.3, propagation=way)
    losses = []
    for _ in range(2):
        torch.manual_seed(3)
        losses.append(objective(model, _images(), _labels()).loss)
    assert torch.equal(*losses)


def test_moments_added_to_themselves_are_doubled() -> None:
    class Doubled(nn.Module):
        @override
        def forward(self, x: Tensor) -> Tensor:
            return x + x

    mean, variance = torch.rand(2, 3), torch.rand(2, 3)
    for value in (Gaussian(mean, variance), FactoredGaussian(mean, torch.zeros(1, 2, 3), variance)):
        out = propagate(Doubled(), value)
        torch.testing.assert_close(out.mean, 2 * mean)
        torch.testing.assert_close(out.variance, 4 * variance)


@pytest.mark.parametrize("way", WAYS)
def test_propagation_takes_learnt_slopes_below_0(way: Propagation) -> None:
    layer = nn.PReLU(2, init=-0.3)
    model = nn.Sequential(nn.Conv2d(2, 2, 1), layer, nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 3))
    GaussianExpectation(0.2, propagation=way)(model, _images(), _labels()).loss.backward()
    assert layer.weight.grad is not None
    assert layer.weight.grad.isfinite().all()


@torch.library.custom_op("test_propagation_faults::gated", mutates_args=())
def _gated(x: Tensor) -> Tensor:
    return torch.relu(x) + 1


@_gated.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


@register(_gated)
def _of_gated(site: Site, value: Any) -> Any:
    return value.monotone(Elementwise(torch.relu, hinges=RECTIFIER)).shift(1.0)


class _Gated(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return _gated(x)  # type: ignore[no-any-return]


class _Moved(nn.Module):
    @override
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize("way", WAYS)
def test_propagation_follows_a_rule_that_goes_on_after_its_function(way: Propagation) -> None:
    first, last = nn.Linear(32, 4), nn.Linear(4, 3)
    whole = nn.Sequential(nn.Flatten(), first, _Gated(), last)
    by_parts = nn.Sequential(nn.Flatten(), first, nn.ReLU(), _Moved(), last)
    losses = []
    for model in (whole, by_parts):
        torch.manual_seed(0)
        losses.append(
            GaussianExpectation(0.1, propagation=way)(model, _images(), _labels()).terms["expectation"]
        )
    torch.testing.assert_close(*losses)


@pytest.mark.parametrize("way", WAYS)
def test_propagation_takes_the_logits_of_several_outputs_where_they_can_be_told(way: Propagation) -> None:
    last, objective = nn.Linear(32, 3), GaussianExpectation(0.1, propagation=way)

    def giving(outputs: Callable[[Tensor, Tensor], Any]) -> nn.Module:
        return _Net(lambda net, x: outputs(net.last(torch.relu(x.flatten(1))), x), last=last)

    losses = []
    for model in (giving(lambda z, _: z), giving(lambda z, x: (z, x))):
        torch.manual_seed(0)
        losses.append(objective(model, _images(), _labels()).loss)
    torch.testing.assert_close(*losses)
    with pytest.raises(ModelError, match="returns a tuple of"):
        objective(giving(lambda z, x: (z, x.flatten(1))), _images(), _labels())


def test_propagation_refuses_settings_that_do_not_fit() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 3))
    with pytest.raises(DataError, match="one value for each of 3 channels"):
        GaussianExpectation([0.1, 0.2, 0.3])(model, _images(), _labels())
    with pytest.raises(ValueError, match="noise_std"):
        GaussianExpectation(Linear(start=-0.1, end=0.2, epochs=2))


@pytest.mark.parametrize("way", WAYS)
def test_propagation_computes_a_parametrised_weight_once_for_both(way: Propagation) -> None:
    torch.manual_seed(0)
    layer = parametrizations.spectral_norm(nn.Linear(32, 4))
    model = nn.Sequential(nn.Flatten(), layer, nn.ReLU(), nn.Linear(4, 3)).train()
    twin = copy.deepcopy(model)
    objective = GaussianExpectation(0.1, propagation=way)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    objective(model, _images(), _labels())
    CrossEntropy()(twin, _images(), _labels())
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, twin.state_dict()[name])
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_propagation_in_a_copied_objective_does_not_hold_the_model() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(32, 4), *[nn.ReLU() for _ in range(50)], nn.Linear(4, 3))
    objective = GaussianExpectation(0.1)
    loss = objective(model, _images(), _labels()).loss
    again = copy.deepcopy(objective)
    assert torch.equal(again(model, _images(), _labels()).loss, loss)


def test_propagation_of_blurred_noise_to_an_activation_needs_no_factors_of_its_images() -> None:
    torch.manual_seed(0)
    images, labels = torch.rand(2, 1, 8, 8), torch.arange(2)
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Tanh(), nn.Flatten(), nn.Linear(108, 3))
    loss, terms = GaussianExpectation(0.4, blur=2.0)(model, images, labels)
    assert math.isfinite(loss.item())
    assert terms["expectation"] != terms["cross_entropy"]
