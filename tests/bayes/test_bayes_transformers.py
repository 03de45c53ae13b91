"""Transformers with random weights draw in every mode, though torch has fused code that reads weights."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand import bayes
from withstand.bayes import Posterior
from withstand.types import ModelError

POSTERIOR = Posterior(initial_std=0.2)


def _encoder_layer(*, batch_first: bool = True) -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0, batch_first=batch_first)


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerDecoderLayer(8, 2, 8, dropout=0.0, batch_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.decoder(x, x.flip(1))
        return output


class _Padded(nn.Module):
    """An encoder of sequences of several lengths, for which torch has fused code of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(_encoder_layer(), 2)

    @override
    def forward(self, x: Tensor) -> Tensor:
        mask = torch.zeros(x.shape[:2], dtype=torch.bool)
        mask[:, 3:] = True
        output: Tensor = self.encoder(x, src_key_padding_mask=mask)
        return output[:, :3]


NETS: dict[str, Callable[[], nn.Module]] = {
    "layer": _encoder_layer,
    "encoder": lambda: nn.TransformerEncoder(_encoder_layer(), 2),
    "padded": _Padded,
    "decoder": _Decoder,
}
nets = pytest.mark.parametrize("name", NETS)
pytestmark = pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")


class _Flat(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    @override
    def forward(self, x: Tensor) -> Tensor:
        output: Tensor = self.inner(x)
        return output.flatten(1)


def _net(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    return _Flat(NETS[name]()).eval(), torch.rand(3, 4, 8)


def _parts(name: str, net: nn.Module) -> list[str]:
    return [
        path for path, layer in net.named_modules() if isinstance(layer, nn.MultiheadAttention | nn.Linear)
    ]


@nets
def test_transformer_draws_the_weights_of_each_of_its_layers_in_every_mode(name: str) -> None:
    plain, x = _net(name)
    for path in [None, *(path for path in _parts(name, plain) if "out_proj" not in path)]:
        layers = {} if path is None else {"": None, path: POSTERIOR}
        net = bayes.convert(plain, POSTERIOR, layers)
        spread = bayes.sample_logits(net.train(), x, 100).std(0).mean().item()
        assert spread > 0
        for gradient in (True, False):
            with torch.set_grad_enabled(gradient):
                answers = bayes.sample_logits(net.eval(), x, 100)
                assert answers.std(0).mean().item() == pytest.approx(spread, rel=0.3)
                assert not torch.equal(net(x), net(x))


@nets
def test_transformer_at_its_means_is_the_plain_one(name: str) -> None:
    plain, x = _net(name)
    net = bayes.convert(plain, POSTERIOR)
    back = bayes.mean_network(net)
    assert [type(module) for module in back.modules()] == [type(module) for module in plain.modules()]
    for gradient in (True, False):
        with torch.set_grad_enabled(gradient), bayes.at_posterior_mean(net):
            assert torch.equal(back(x), plain(x))
            torch.testing.assert_close(net(x), plain(x))


@nets
def test_transformer_leaves_torchs_fused_code_on_for_others(name: str) -> None:
    plain, x = _net(name)
    net = bayes.convert(plain, POSTERIOR)
    for enabled in (True, False):
        torch.backends.mha.set_fastpath_enabled(enabled)
        try:
            with torch.no_grad():
                net(x)
                assert torch.backends.mha.get_fastpath_enabled() is enabled
                with pytest.raises((RuntimeError, AssertionError)):
                    net(x[:, :, :5])
                assert torch.backends.mha.get_fastpath_enabled() is enabled
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


def test_transformer_without_random_weights_stays_torchs_own() -> None:
    net = bayes.convert(nn.Sequential(_encoder_layer(), nn.Linear(8, 2)), layers={"0": None})
    assert type(net.get_submodule("0")) is nn.TransformerEncoderLayer


class _OwnLayer(nn.TransformerEncoderLayer):
    pass


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (_encoder_layer(batch_first=False), r"'1' has examples in its second .*layers=\{'1': None\}"),
        (
            nn.TransformerDecoderLayer(8, 2, 8, batch_first=False),
            r"'1' has examples in its second .*layers=\{'1': None\}",
        ),
        (_OwnLayer(8, 2, 8, batch_first=True), r"_OwnLayer '1' hands the weights .*layers=\{'1': None\}"),
    ],
)
def test_convert_refuses_transformers_whose_weights_it_could_not_draw(layer: nn.Module, words: str) -> None:
    net = nn.Sequential(nn.Linear(8, 8), layer)
    with pytest.raises(ModelError, match=words):
        bayes.convert(net)
    assert [path for path, _ in bayes.variational_layers(bayes.convert(net, layers={"1": None}))] == ["0"]


class _Reads(nn.Module):
    """Reads the weight of one layer instead of calling it."""

    def __init__(self) -> None:
        super().__init__()
        self.called, self.read = nn.Linear(4, 4), nn.Linear(4, 3)

    @override
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(self.called(x), self.read.weight, self.read.bias)


def test_sample_logits_names_random_layers_that_are_never_called() -> None:
    net, x = bayes.convert(_Reads()), torch.rand(2, 4)
    with pytest.warns(UserWarning, match=r"The random layers 'read' were not called.*layers="):
        bayes.sample_logits(net, x, 2)
    with bayes.at_posterior_mean(net):
        bayes.sample_logits(net, x, 2)
    bayes.sample_logits(bayes.convert(_Reads(), layers={"read": None}), x, 2)
