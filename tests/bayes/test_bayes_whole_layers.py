"""Layers that run whole under one draw a sample: attention, recurrent and bilinear layers, and PReLU."""

from __future__ import annotations

import copy
import io
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from typing_extensions import override

from withstand import bayes
from withstand.bayes import Posterior
from withstand.core.devices import random_state
from withstand.evaluation.kernel_norms.expected_norms import expected_norms
from withstand.penalties import SpectralExpectation
from withstand.types import ModelError

Make = Callable[[], nn.Module]
ROWS, STEPS, STD = 3, 4, 0.3


class Runs(nn.Module):
    """Gives a layer what it takes of (rows, steps, 4), and puts all that it answers into one (rows, …).

    Args:
        layer: Any layer of these tests.
    """

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    @override
    def forward(self, x: Tensor) -> Tensor:
        layer = self.layer
        if isinstance(layer, nn.Bilinear):
            return torch.as_tensor(layer(x[:, 0], x[:, 1]))
        if isinstance(layer, nn.PReLU):
            return torch.as_tensor(layer(x - 0.5)).flatten(1)
        turned = x if getattr(layer, "batch_first", True) else x.transpose(0, 1)
        if isinstance(layer, nn.MultiheadAttention):
            output, shares = layer(turned, turned, value=turned)
            return torch.cat([_rows_first(output, layer).flatten(1), shares.flatten(1)], 1)
        if isinstance(layer, nn.RNNBase):
            output, state = layer(turned, self._state(x))
            states = state if isinstance(state, tuple) else (state,)
            ends = [value.transpose(0, 1).flatten(1) for value in states]
            return torch.cat([_rows_first(output, layer).flatten(1), *ends], 1)
        state = layer(x[:, 0], self._state(x))
        return torch.cat(state, 1) if isinstance(state, tuple) else torch.as_tensor(state)

    def _state(self, x: Tensor) -> Any:
        """A state to begin with, one for each row."""
        layer: Any = self.layer
        begun = x[:, 1, :3]
        if isinstance(layer, nn.RNNBase):
            begun = begun.expand(layer.num_layers * (1 + layer.bidirectional), -1, -1).contiguous()
        return (begun, begun) if isinstance(layer, nn.LSTM | nn.LSTMCell) else begun


def _rows_first(value: Tensor, layer: Any) -> Tensor:
    return value if layer.batch_first else value.transpose(0, 1)


LAYERS: dict[str, Make] = {
    "attention": lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    "attention, steps first": lambda: nn.MultiheadAttention(4, 2),
    "attention, sizes of their own": lambda: nn.MultiheadAttention(4, 1, kdim=4, vdim=4, add_bias_kv=True),
    "LSTM": lambda: nn.LSTM(4, 3, num_layers=2, bidirectional=True),
    "GRU": lambda: nn.GRU(4, 3, batch_first=True, bias=False),
    "RNN": lambda: nn.RNN(4, 3),
    "LSTMCell": lambda: nn.LSTMCell(4, 3),
    "GRUCell": lambda: nn.GRUCell(4, 3),
    "RNNCell": lambda: nn.RNNCell(4, 3, bias=False),
    "Bilinear": lambda: nn.Bilinear(4, 4, 3),
    "PReLU": lambda: nn.PReLU(4),
}
layers = pytest.mark.parametrize("name", LAYERS)
modes = pytest.mark.parametrize(("training", "gradient"), [(True, True), (False, True), (False, False)])


def _net(name: str) -> tuple[nn.Module, nn.Module, Tensor]:
    torch.manual_seed(0)
    plain = Runs(LAYERS[name]())
    return plain, bayes.convert(plain, Posterior(initial_std=STD)), torch.rand(ROWS, STEPS, 4)


def _spread(net: nn.Module, x: Tensor, samples: int) -> Tensor:
    drawn: Tensor = bayes.sample_logits(net, x, samples).std(dim=0)
    return drawn.detach()


@layers
@modes
def test_whole_layer_draws_in_every_mode_with_the_same_spread(
    name: str, training: bool, gradient: bool
) -> None:
    _, net, x = _net(name)
    usual = _spread(net.train(), x, 200).mean().item()
    with torch.set_grad_enabled(gradient):
        net.train(training)
        assert not torch.equal(net(x), net(x))
        assert _spread(net, x, 200).mean().item() == pytest.approx(usual, rel=0.2)


@layers
def test_whole_layer_without_deviation_is_its_plain_twin(name: str) -> None:
    plain, net, x = _net(name)
    for key, parameter in net.named_parameters():
        if key.endswith("_rho"):
            nn.init.constant_(parameter, -math.inf)
    for training in (True, False):
        expected = plain.train(training)(x)
        torch.testing.assert_close(net.train(training)(x), expected)
        for answer in bayes.sample_logits(net, x, 3):
            torch.testing.assert_close(answer, expected)


@layers
def test_whole_layer_gives_a_sample_one_draw_for_all_its_examples(name: str) -> None:
    _, net, x = _net(name)
    alike = x[:1].expand(ROWS, -1, -1)
    answers = bayes.sample_logits(net, alike, 2).detach()
    for answer in answers:
        torch.testing.assert_close(answer, answer[:1].expand(ROWS, -1))
    assert not torch.allclose(answers[0], answers[1])
    # An example's answer depends on no other, and on the sample's draw alone.
    torch.manual_seed(1)
    together = bayes.sample_logits(net, x, 2)
    torch.manual_seed(1)
    torch.testing.assert_close(bayes.sample_logits(net, x[1:2], 2), together[:, 1:2])


@layers
def test_whole_layer_samples_are_independent(name: str) -> None:
    _, net, x = _net(name)
    with torch.no_grad():
        pairs = torch.stack([bayes.sample_logits(net, x[:1], 2)[:, 0] for _ in range(200)])
    one, two = (pairs[:, sample] - pairs[:, sample].mean(0) for sample in (0, 1))
    spread = one.std(0) * two.std(0)
    moving = spread > 1e-6
    correlation = (one * two).mean(0)[moving] / spread[moving]
    assert correlation.abs().mean() < 0.25  # 1 where they are the same


@layers
def test_whole_layer_goes_to_the_mean_network_and_through_files(name: str) -> None:
    plain, net, x = _net(name)
    torch.autograd.backward(net(x).sum())  # leaves nothing behind that cannot be copied
    back = bayes.mean_network(copy.deepcopy(net))
    assert [type(module) for module in back.modules()] == [type(module) for module in plain.modules()]
    assert list(back.state_dict()) == list(plain.state_dict())
    assert torch.equal(back(x), plain(x))
    with bayes.at_posterior_mean(net):
        before = random_state(x.device)
        assert torch.equal(net(x), plain(x))
        assert torch.equal(random_state(x.device), before)
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    read = torch.load(file, weights_only=False)
    torch.manual_seed(3)
    expected = net(x)
    torch.manual_seed(3)
    assert torch.equal(read(x), expected)
    for parameter in net.double().parameters():
        assert parameter.dtype == torch.float64
    assert net(x.double()).dtype == torch.float64


@layers
def test_whole_layer_divergence_and_gradients_reach_every_parameter(name: str) -> None:
    plain, net, x = _net(name)
    prior = 0.1
    means = torch.cat([parameter.detach().flatten() for parameter in plain.parameters()]).double()
    terms = math.log(prior / STD) - 0.5 + (STD**2 + means.square()) / (2 * prior**2)
    assert bayes.kl(net).item() == pytest.approx(terms.sum().item(), rel=1e-5)
    torch.autograd.backward(bayes.sample_logits(net, x, 2).square().sum())
    for key, parameter in net.named_parameters():
        assert parameter.grad is not None, key
        assert parameter.grad.isfinite().all()
        assert parameter.grad.any(), key


@layers
def test_whole_layer_refuses_what_has_no_examples(name: str) -> None:
    layer: nn.Module = bayes.convert(LAYERS[name]())
    flat = torch.rand(4) if "Cell" in name or name in ("PReLU", "Bilinear") else torch.rand(STEPS, 4)
    inputs = {"attention": [flat] * 3, "Bilinear": [flat] * 2}.get(name.partition(",")[0], [flat])
    with pytest.raises(ModelError, match=r"takes batches.*Put the batch first"):
        layer(*inputs)


def test_recurrent_layer_refuses_packed_sequences() -> None:
    packed = nn.utils.rnn.pack_padded_sequence(torch.rand(4, 2, 4), torch.tensor([4, 2]))
    with pytest.raises(ModelError, match="its input is a PackedSequence"):
        bayes.LSTM(4, 3)(packed)


# Closed forms, where the output is linear in independent weights


def _moments(net: nn.Module, x: Tensor, samples: int = 10_000) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        drawn = torch.cat([bayes.sample_logits(net, x, 2000) for _ in range(samples // 2000)]).double()
    return drawn.mean(0), drawn.var(0)


def _assert_moments(net: nn.Module, x: Tensor, mean: Tensor, variance: Tensor) -> None:
    actual_mean, actual_variance = _moments(net.eval(), x)
    error = (actual_mean - mean.double()).abs() / (variance.double() / 10_000).sqrt()
    assert error.max() < 5  # standard errors
    torch.testing.assert_close(actual_variance, variance.double(), rtol=0.1, atol=1e-9)


def test_bilinear_layer_has_the_moments_of_its_closed_form() -> None:
    plain, net, x = _net("Bilinear")
    lengths = x[:, 0].square().sum(1) * x[:, 1].square().sum(1)
    _assert_moments(net, x, plain(x), (STD**2 * (lengths + 1))[:, None].expand(-1, 3))


def test_recurrent_step_has_the_moments_of_its_closed_form() -> None:
    class Step(nn.Module):
        """One step, so far from the kink that it is linear, from a state that is not 0."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.RNN(4, 3, nonlinearity="relu", batch_first=True)
            nn.init.constant_(self.layer.get_parameter("bias_ih_l0"), 50.0)

        @override
        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.layer(x[:, :1], x[:, 1, :3].contiguous()[None])[0][:, 0]
            return output

    torch.manual_seed(0)
    plain, x = Step(), torch.rand(ROWS, STEPS, 4)
    lengths = x[:, 0].square().sum(1) + x[:, 1, :3].square().sum(1)
    variance = (STD**2 * (lengths + 2))[:, None].expand(-1, 3)
    _assert_moments(bayes.convert(plain, Posterior(initial_std=STD)), x, plain(x), variance)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("kdim", [None, 3])
def test_attention_to_one_key_has_the_moments_of_its_closed_form(batch_first: bool, kdim: int | None) -> None:
    class One(nn.Module):
        """Attention to a single key, which is W_o (W_v x + b_v) + b_o whatever the query."""

        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.MultiheadAttention(4, 2, kdim=kdim, batch_first=batch_first)
            nn.init.normal_(self.layer.in_proj_bias)

        @override
        def forward(self, x: Tensor) -> Tensor:
            value = x[:, None] if batch_first else x[None]
            output: Tensor = self.layer(value, value[..., :kdim], value, need_weights=False)[0]
            return output.flatten(0, 1)

    torch.manual_seed(0)
    plain, x = One(), torch.rand(ROWS, 4)
    net = bayes.convert(plain, Posterior(initial_std=STD))
    layer = plain.layer
    by_value = layer.in_proj_weight.chunk(3)[2] if kdim is None else layer.v_proj_weight
    assert by_value is not None
    inner = nn.functional.linear(x, by_value, layer.in_proj_bias.chunk(3)[2])
    inner_variance = (STD**2 * (x.square().sum(1) + 1))[:, None].expand(-1, 4)
    weight = layer.out_proj.weight
    second = nn.functional.linear(inner_variance + inner.square(), weight.square() + STD**2)
    variance = second - nn.functional.linear(inner.square(), weight.square()) + STD**2
    _assert_moments(net, x, plain(x).detach(), variance.detach())


@pytest.mark.parametrize("estimator", ["auto", "local", "flipout", "shared"])
@pytest.mark.parametrize("size", [None, [8, 9]])
def test_transposed_convolution_has_the_moments_of_its_closed_form(
    estimator: bayes.posterior.Estimator, size: list[int] | None
) -> None:
    class Sized(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.ConvTranspose2d(2, 4, 3, stride=2, groups=2)

        @override
        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = self.layer(x, output_size=size)
            return output.flatten(1)

    torch.manual_seed(0)
    plain, x = Sized(), torch.rand(2, 2, 3, 4)
    squares = copy.deepcopy(plain)
    with torch.no_grad():
        for parameter in squares.parameters():
            parameter.fill_(STD**2)
    net = bayes.convert(plain, Posterior(initial_std=STD, estimator=estimator))
    _assert_moments(net, x, plain(x).detach(), squares(x.square()).detach())


# Attention's own ways


def test_attention_masks_go_with_their_examples() -> None:
    torch.manual_seed(0)
    plain = nn.MultiheadAttention(4, 2, batch_first=True)
    net = bayes.convert(plain, Posterior(initial_std=1e-6))
    x = torch.rand(6, 3, 4)
    padding = torch.rand(6, 3) > 0.6
    padding[:, 0] = False
    each, shared = torch.rand(12, 3, 3) > 0.7, torch.ones(3, 3, dtype=torch.bool).triu(1)
    each[:, :, 0] = False
    with bayes.drawing(net, bayes.Drawing(num_samples=3, num_rows=6)):
        several: list[dict[str, Any]] = [
            *[{"key_padding_mask": padding}, {"attn_mask": each}, {"attn_mask": shared}],
            {"attn_mask": shared, "key_padding_mask": padding, "average_attn_weights": False},
        ]
        for masks in several:
            actual, expected = net(x, x, x, **masks), plain(x, x, x, **masks)
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-3)


def test_attention_projections_have_posteriors_of_their_own_and_are_drawn_together() -> None:
    plain = nn.Sequential(nn.MultiheadAttention(4, 2, batch_first=True))
    inner = bayes.convert(plain, layers={"0.out_proj": Posterior(initial_std=0.7)})
    assert [path for path, _ in bayes.variational_layers(inner)] == ["0", "0.out_proj"]
    assert (
        inner.get_parameter("0.out_proj.weight_rho").mean()
        > inner.get_parameter("0.in_proj_weight_rho").mean()
    )
    fixed = bayes.convert(plain, layers={"0.out_proj": None})
    x, layer = torch.rand(2, 3, 4), fixed[0]  # type: ignore[index]
    assert not torch.equal(layer(x, x, x)[0], layer(x, x, x)[0])
    with pytest.raises(ModelError, match=r"'0' reads the weight of its output projection"):
        bayes.convert(plain, layers={"0": None, "0.out_proj": Posterior()})
    built = bayes.MultiheadAttention(4, 2, posterior=Posterior(prior_std=0.7))
    assert [layer.posterior.prior_std for _, layer in bayes.variational_layers(built)] == [0.7, 0.7]


@pytest.mark.parametrize("wrap", [nn.utils.weight_norm, nn.utils.spectral_norm, parametrizations.orthogonal])
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_convert_refuses_computed_weights_of_layers_of_several(
    wrap: Callable[[nn.Module, str], nn.Module],
) -> None:
    for layer, name in ((nn.MultiheadAttention(4, 2), "in_proj_weight"), (nn.LSTM(4, 3), "weight_hh_l0")):
        with pytest.raises(ModelError, match=r"'1' computes its weight|Remove what computes its weights"):
            bayes.convert(nn.Sequential(nn.Linear(4, 4), wrap(layer, name)))


def test_expected_norms_are_those_of_every_random_weight() -> None:
    torch.manual_seed(0)
    net = bayes.convert(Runs(nn.MultiheadAttention(4, 2, batch_first=True)), Posterior(initial_std=1e-9))
    x = torch.rand(2, 3, 4)
    norms = expected_norms(net, x)
    layer = net.layer
    assert isinstance(layer, nn.MultiheadAttention)
    matrices = [*layer.in_proj_weight.chunk(3), layer.out_proj.weight]
    true = [torch.linalg.matrix_norm(matrix, ord=2).item() for matrix in matrices]
    assert [*norms.layers] == [f"layer.{part}_proj_weight" for part in "qkv"] + ["layer.out_proj"]
    assert [norm.proven for norm in norms.layers.values()] == pytest.approx(true, rel=1e-4)
    term = SpectralExpectation(squared=False, num_power_iterations=100)
    loss = term(net, x, torch.zeros(2, dtype=torch.int64)).loss
    assert loss.item() == pytest.approx(sum(true), rel=1e-3)
