"""Models made of many kinds of operators: sets pass, soundly and finitely, and so do distributions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.domains import CorrelatedGaussian, FactoredGaussian, Gaussian, Moments, Program
from withstand.operators import GuaranteedNorms, Shape

CLASSES = 3


class Vit(nn.Module):
    """A vision transformer, written by hand: patches, a class token, places, blocks of attention."""

    def __init__(self, width: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.patches = nn.Conv2d(2, width, 2, 2)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 5, width) / 4)
        self.norm, self.norm2, self.last_norm = (nn.LayerNorm(width, eps=0.1) for _ in range(3))
        self.to_parts, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, CLASSES)
        self.heads = heads

    def attention(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        parts = self.to_parts(x).reshape(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = parts.unbind(0)
        weights = (query @ key.transpose(-2, -1) * (width // self.heads) ** -0.5).softmax(dim=-1)
        out: Tensor = self.out((weights @ value).transpose(1, 2).reshape(batch, tokens, width))
        return out

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], dim=1) + self.places
        x = x + self.attention(self.norm(x))
        x = x + self.mlp(self.norm2(x))
        logits: Tensor = self.head(self.last_norm(x)[:, 0])
        return logits


class Encoder(nn.Module):
    """Torch's own transformer on the rows of an image.

    Args:
        norm_first: As of the layer.
        batch_first: As of the layer.
        options: Of the encoder's call.
    """

    def __init__(self, norm_first: bool, batch_first: bool = True, **options: Any) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(
            8, 2, 16, 0.1, layer_norm_eps=0.1, batch_first=batch_first, norm_first=norm_first
        )
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, CLASSES)
        self.batch_first, self.options = batch_first, options

    @override
    def forward(self, x: Tensor) -> Tensor:
        if self.batch_first:
            x = self.encoder(x, **self.options).mean(1)
        else:
            x = self.encoder(x.transpose(0, 1), **self.options).mean(0)
        logits: Tensor = self.head(x)
        return logits


class Attended(nn.Module):
    """Attention by torch's layer, whose weights are asked for too."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    @override
    def forward(self, x: Tensor) -> Tensor:
        out, weights = self.attention(x, x, x)
        return torch.cat([out, weights], 2).flatten(1)


class UNet(nn.Module):
    """Down, up by transposed convolutions and by interpolation, and skips."""

    def __init__(self) -> None:
        super().__init__()
        self.enter, self.down = nn.Conv2d(2, 4, 3, padding=1), nn.Conv2d(4, 6, 3, 2, 1)
        self.up = nn.ConvTranspose2d(6, 4, 3, 2, 1, output_padding=1)
        self.merge, self.last = nn.Conv2d(8, 4, 3, padding=1, padding_mode="reflect"), nn.Conv2d(4, 1, 1)

    @override
    def forward(self, x: Tensor) -> Tensor:
        high = F.silu(self.enter(x))
        low = F.relu(self.down(high))
        y = torch.cat([self.up(low), high], 1)
        y = F.relu(self.merge(y)) + F.interpolate(low[:, :4], scale_factor=2, mode="bilinear")
        return torch.sigmoid(self.last(y))


class ConvNeXt(nn.Module):
    """Depthwise convolution, normalisation of channels by permute, an MLP on channels, a learnt scale."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.norm = nn.LayerNorm(4, eps=0.1)
        self.mlp = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        self.scale = nn.Parameter(torch.full((4,), 0.3))
        self.stem, self.head = nn.Conv2d(2, 4, 2, 2), nn.Linear(4, CLASSES)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        x = x + (self.scale * self.mlp(y)).permute(0, 3, 1, 2)
        logits: Tensor = self.head(x.mean([-2, -1]))
        return logits


class Gated(nn.Module):
    """Squeeze and excitation, group normalisation, slices, pads, shuffles, a maximum over places."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(2, 8, 3, padding=1), nn.GroupNorm(2, 8, eps=0.1)
        self.squeeze = nn.Sequential(nn.Linear(8, 2), nn.ReLU(), nn.Linear(2, 8), nn.Sigmoid())
        self.head = nn.Linear(5, CLASSES)

    @override
    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.conv(x)))
        x = x * self.squeeze(x.mean((2, 3)))[:, :, None, None]
        x = F.pixel_shuffle(F.channel_shuffle(x, 2), 2)
        first, second = x.roll(1, 2).chunk(2, 1)
        x = torch.cat([F.pad(first, (1, 0, 0, 1), "circular")[..., 1:, :-1], torch.maximum(first, second)], 1)
        vectors = torch.stack([x.amax((2, 3)), x.std((2, 3))], -1).flatten(1)
        logits: Tensor = self.head(F.pad(vectors, (0, 1), value=0.5))
        return logits


def _causal() -> Tensor:
    return nn.Transformer.generate_square_subsequent_mask(3, dtype=torch.float64)


MODELS: dict[str, tuple[Callable[[], nn.Module], Shape]] = {
    "vit": (Vit, (2, 4, 4)),
    "encoder": (lambda: Encoder(norm_first=False), (3, 8)),
    "encoder with norms first": (lambda: Encoder(norm_first=True), (3, 8)),
    "encoder with tokens first": (lambda: Encoder(norm_first=True, batch_first=False), (3, 8)),
    "causal encoder": (lambda: Encoder(norm_first=True, mask=_causal(), is_causal=False), (3, 8)),
    "attended": (Attended, (3, 8)),
    "unet": (UNet, (2, 4, 4)),
    "convnext": (ConvNeXt, (2, 4, 4)),
    "gated": (Gated, (2, 4, 4)),
}


@cache
def _model(name: str) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name][0]().double().eval()


@pytest.mark.parametrize("name", MODELS)
def test_models_of_many_kinds_are_bounded_soundly(name: str, soundly: Callable[..., None]) -> None:
    soundly(_model(name), MODELS[name][1], size=0.02)


def _factored(images: Tensor, variance: Tensor) -> FactoredGaussian:
    units = torch.eye(variance.numel(), dtype=images.dtype).reshape(-1, *images.shape)
    return FactoredGaussian(images, units * variance.sqrt())


@pytest.mark.parametrize("name", MODELS)
def test_models_of_many_kinds_have_moments_near_those_of_samples(name: str) -> None:
    """Errors over the size of what noise does: of deviations half, where correlations are not kept."""
    model, shape = _model(name), MODELS[name][1]
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, *shape, generator=generator, dtype=torch.float64)
    noise = 0.05 * torch.randn(10_000, *shape, generator=generator, dtype=torch.float64)
    variance = torch.full_like(image, 0.05**2)
    starts: dict[float, Moments] = {
        0.6: Gaussian(image, variance),
        0.05: _factored(image, variance),
        0.04: CorrelatedGaussian.independent(image, variance, linked=True),
    }
    with torch.no_grad():
        program, outputs = Program(model, image), model(image + noise)
        results = {error: program.run(start, GuaranteedNorms()) for error, start in starts.items()}
    size = outputs.std(0).norm()
    for error, moments in results.items():
        std = moments.variance.expand_as(moments.mean)[0].sqrt()
        assert (moments.mean[0] - outputs.mean(0)).norm() <= 0.05 * size
        assert (std - outputs.std(0)).norm() <= error * size
