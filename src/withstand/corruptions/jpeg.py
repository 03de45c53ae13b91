"""What compression to JPEG leaves of an image.

After ITU-T T.81: blocks of 8 x 8 of each plane are transformed to cosines, and these rounded to multiples of
the standard tables (annex K), scaled to a quality as the Independent JPEG Group does. What is coded without
loss is left out; colour planes keep their full size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from typing_extensions import override

from withstand.corruptions.corruption import Corruption

_SIDE = 8
_LUMA = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
_CHROMA = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    *(((99,) * 8,) * 4),
)


class Jpeg(Corruption):
    """Images of three channels are taken for red, green and blue; each channel of others for brightness.

    Images whose sides are no multiples of 8 are continued by their last pixels, as encoders do.
    """

    name = "jpeg"
    title = "JPEG"
    parameter = "quality, of 100"
    values = (50.0, 35.0, 25.0, 15.0, 8.0)

    @override
    def _corrupt(self, images: Tensor, value: float, generator: torch.Generator) -> Tensor:
        levels, is_coloured = images * 255, images.shape[1] == 3
        planes = _to_luma_chroma(levels) if is_coloured else levels - 128
        coding = _coding(value, is_coloured, images.dtype, images.device)
        coded = _rounded(planes.round(), coding).round().clamp(-128, 127)
        return (_from_luma_chroma(coded) if is_coloured else coded + 128).round() / 255


class _Coding(NamedTuple):
    """The cosines (8, 8), a frequency a row; and the steps of each plane's (planes, 1, 1, 8, 8)."""

    cosines: Tensor
    steps: Tensor


@lru_cache(maxsize=32)  # numbers copied to an accelerator make it wait: once, not at every batch
def _coding(quality: float, is_coloured: bool, dtype: torch.dtype, device: torch.device) -> _Coding:
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    tables = torch.tensor((_LUMA, _CHROMA, _CHROMA) if is_coloured else (_LUMA,), dtype=torch.float64)
    steps = ((tables * scale + 50) / 100).floor().clamp(1, 255)[:, None, None]
    places = torch.arange(_SIDE, dtype=torch.float64)
    cosines = 0.5 * torch.cos(torch.pi / 16 * (2 * places + 1) * places[:, None])
    cosines[0] *= 0.5**0.5  # so that the rows are of length 1
    return _Coding(cosines.to(device, dtype), steps.to(device, dtype))


def _rounded(planes: Tensor, coding: _Coding) -> Tensor:
    """Planes (batch, planes, height, width) around 0, each block's cosines rounded to multiples."""
    batch, channels, height, width = planes.shape
    padded = F.pad(planes, (0, -width % _SIDE, 0, -height % _SIDE), mode="replicate")
    rows, columns = padded.shape[2] // _SIDE, padded.shape[3] // _SIDE
    blocks = padded.reshape(batch, channels, rows, _SIDE, columns, _SIDE).transpose(3, 4)
    strengths = coding.cosines @ blocks @ coding.cosines.T
    rounded = (strengths / coding.steps).round() * coding.steps
    blocks = coding.cosines.T @ rounded @ coding.cosines
    return blocks.transpose(3, 4).reshape(padded.shape)[:, :, :height, :width]


def _to_luma_chroma(levels: Tensor) -> Tensor:
    """Red, green and blue of 0 … 255 as brightness and two colour differences, all around 0."""
    red, green, blue = levels.unbind(dim=1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    return torch.stack([luma - 128, (blue - luma) / 1.772, (red - luma) / 1.402], dim=1)


def _from_luma_chroma(planes: Tensor) -> Tensor:
    """The way back, to 0 … 255 up to rounding."""
    luma, blueness, redness = planes.unbind(dim=1)
    red, blue = luma + 1.402 * redness, luma + 1.772 * blueness
    green = (luma - 0.299 * red - 0.114 * blue) / 0.587
    return torch.stack([red, green, blue], dim=1) + 128
