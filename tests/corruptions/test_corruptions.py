"""Each corruption against what it says of itself, at any size, and against an encoder."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter
from torch import Tensor

from withstand import corruptions
from withstand.corruptions import CORRUPTIONS, SEVERITIES, Corruption, Jpeg, Rotation, Translation
from withstand.types import DataError

if TYPE_CHECKING:
    from tests.devices.pretended import Device

KINDS = pytest.mark.parametrize("kind", list(CORRUPTIONS.values()), ids=list(CORRUPTIONS))
DRAWN = ("shot-noise", "impulse-noise", "rotation", "translation")


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(num: int, channels: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Smooth images with noise, of whole levels of 0 … 255."""
    coarse = torch.rand(num, channels, 4, 4, generator=generator(seed))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear", align_corners=True)
    noise = torch.rand(smooth.shape, generator=generator(seed + 1))
    return (255 * (0.9 * smooth + 0.1 * noise)).round() / 255


def disc(size: int) -> Tensor:
    """A white disc off the middle of a black image (1, 1, size, size)."""
    places = (torch.arange(size) + 0.5) / size
    inside = (places[:, None] - 0.35) ** 2 + (places[None] - 0.55) ** 2 < 0.2**2
    return inside.float()[None, None]


@given(
    st.sampled_from(list(CORRUPTIONS)),
    st.sampled_from(SEVERITIES),
    st.integers(1, 4),
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
)
@settings(max_examples=60, deadline=None)
def test_corruption_keeps_shape_type_and_range(
    name: str, severity: int, channels: int, height: int, width: int, dtype: torch.dtype
) -> None:
    images = torch.rand(2, channels, height, width, generator=generator()).to(dtype)
    before = images.clone()
    result = CORRUPTIONS[name](images, severity, generator(1))
    assert (result.shape, result.dtype) == (images.shape, dtype)
    assert 0 <= float(result.min()) <= float(result.max()) <= 1
    assert torch.equal(images, before)


@KINDS
def test_corruption_takes_large_images_of_colour(kind: Corruption) -> None:
    result = kind(pictures(1, 3, 224, 224), 3, generator())
    assert result.shape == (1, 3, 224, 224)


@KINDS
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (3, 64, 48)])
def test_corruption_severities_are_ordered_and_all_change_something(
    kind: Corruption, shape: tuple[int, int, int]
) -> None:
    images = pictures(24, *shape)
    changes = [float((kind(images, s, generator(s)) - images).square().mean()) for s in SEVERITIES]
    assert changes[0] > 1e-6
    assert changes == sorted(changes)


@KINDS
def test_corruption_draws_from_its_generator_alone(kind: Corruption) -> None:
    images = pictures(8, 1, 12, 12)
    before = torch.random.get_rng_state()
    first, again, other = (kind(images, 4, generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first, again)
    assert torch.equal(first, other) == (kind.name not in DRAWN)


@KINDS
def test_corruption_never_makes_the_host_wait(kind: Corruption, device: Device) -> None:
    images = pictures(4, 3, 16, 16)
    on_device, source = device.put(images), torch.Generator("pretended")
    kind(on_device, 2, source)  # what is copied once is copied now
    with device.step():
        result = kind(on_device, 2, source.manual_seed(3))
    assert torch.equal(result.cpu(), kind(images, 2, generator(3)))


@KINDS
def test_corruption_of_an_image_does_not_depend_on_its_neighbours(kind: Corruption) -> None:
    if kind.name in DRAWN:
        return
    images = pictures(6, 3, 20, 28)
    alone = torch.cat([kind(image[None], 3, generator()) for image in images])
    # JPEG rounds: what rounding moves across a half differs by a level.
    torch.testing.assert_close(kind(images, 3, generator()), alone, atol=2e-6, rtol=0)


@KINDS
def test_corruption_has_no_gradient(kind: Corruption) -> None:
    images = pictures(2, 1, 8, 8).requires_grad_()
    assert not kind(images, 1, generator()).requires_grad


@KINDS
def test_corruption_describes_itself(kind: Corruption) -> None:
    assert [kind.value(severity) for severity in SEVERITIES] == list(kind.values)
    assert len(set(kind.values)) == 5
    assert kind.title
    assert kind.parameter
    # The table of the package is that of the code.
    lines = (corruptions.__doc__ or "").splitlines()
    (row,) = (line for line in lines if line.startswith(f"{kind.name} "))
    assert row.endswith(" " + ", ".join(f"{value:g}" for value in kind.values))
    assert CORRUPTIONS[kind.name] is kind
    for wrong in (0, 6):
        with pytest.raises(ValueError, match=f"severity of 1 to 5, but got {wrong}"):
            kind.value(wrong)


@pytest.mark.parametrize(
    "wrong", [torch.zeros(2, 3, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8), torch.zeros(4)]
)
def test_corruption_refuses_what_is_no_image(wrong: Tensor) -> None:
    with pytest.raises(DataError, match="to corrupt, but got"):
        CORRUPTIONS["brightness"](wrong, 1, generator())


@pytest.mark.parametrize("severity", [2, 5])
def test_blur_is_the_known_filter_where_it_is_wide(severity: int) -> None:
    images = pictures(1, 1, 96, 64).double()
    std = CORRUPTIONS["gaussian-blur"].value(severity) * 64
    expected = gaussian_filter(images[0, 0].numpy(), std, mode="nearest", truncate=8)
    actual = CORRUPTIONS["gaussian-blur"](images, severity, generator())[0, 0].numpy()
    # The mass over a pixel is that of the density at its middle, up to the width of a pixel.
    assert np.abs(actual - expected).max() < 0.004
    assert np.abs(actual - images[0, 0].numpy()).max() > 0.03


def test_blur_keeps_flat_images_and_the_light_in_all() -> None:
    blur = CORRUPTIONS["gaussian-blur"]
    flat = torch.full((1, 2, 9, 13), 0.3)
    torch.testing.assert_close(blur(flat, 5, generator()), flat)
    point = torch.zeros(1, 1, 41, 41)
    point[0, 0, 20, 20] = 1.0
    result = blur(point, 5, generator())
    assert float(result.sum()) == pytest.approx(1.0, abs=1e-5)
    offsets = torch.arange(41.0) - 20
    # The variance of the normal distribution and that of a pixel's width.
    assert float((result.sum(dim=2) * offsets**2).sum()) == pytest.approx((0.05 * 41) ** 2 + 1 / 12, rel=1e-3)


def test_brightness_and_contrast_by_hand() -> None:
    images = torch.tensor([[[[0.0, 0.2], [0.6, 0.8]], [[0.5, 0.5], [0.5, 0.5]]]])
    brighter = CORRUPTIONS["brightness"](images, 3, generator())
    assert brighter.flatten().tolist() == pytest.approx([0.3, 0.5, 0.9, 1.0, *[0.8] * 4])
    flatter = CORRUPTIONS["contrast"](images, 2, generator())
    assert flatter.flatten().tolist() == pytest.approx([0.2, 0.3, 0.5, 0.6, *[0.5] * 4])


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 40), (1, 13, 21)])
def test_jpeg_is_what_an_encoder_does(shape: tuple[int, int, int], severity: int) -> None:
    (image,) = pictures(1, *shape)
    pixels = (image * 255).round().byte().permute(1, 2, 0).numpy()
    file = io.BytesIO()
    Image.fromarray(pixels.squeeze()).save(
        file, "jpeg", quality=int(Jpeg().value(severity)), **({"subsampling": 0} if shape[0] == 3 else {})
    )
    with Image.open(file) as decoded:
        expected = torch.from_numpy(np.atleast_3d(np.array(decoded))).permute(2, 0, 1).double()
    actual = Jpeg()(image[None], severity, generator())[0].double() * 255
    # An encoder computes with whole numbers, which now and then round to another multiple.
    difference = (actual - expected).abs()
    assert float((difference < 0.01).double().mean()) > 0.75
    assert float(difference.mean()) < 0.5
    assert float((actual - image * 255).abs().mean()) > 5 * float(difference.mean())


def test_jpeg_keeps_grey_colours_grey_and_takes_other_channels_for_brightness() -> None:
    grey = pictures(2, 1, 16, 16)
    alone = Jpeg()(grey, 4, generator())
    assert torch.equal(Jpeg()(grey.expand(2, 2, 16, 16), 4, generator()), alone.expand(2, 2, 16, 16))
    coloured = Jpeg()(grey.expand(2, 3, 16, 16), 4, generator())
    torch.testing.assert_close(coloured, alone.expand(2, 3, 16, 16), atol=1.01 / 255, rtol=0)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_shot_noise_has_the_moments_of_a_count(severity: int) -> None:
    images = torch.full((1, 1, 200, 200), 0.25)
    result = CORRUPTIONS["shot-noise"](images, severity, generator())
    photons = CORRUPTIONS["shot-noise"].value(severity)
    assert float(result.mean()) == pytest.approx(0.25, abs=5 * math.sqrt(0.25 / photons) / 200 + 1e-3)
    assert float(result.var()) == pytest.approx(0.25 / photons, rel=0.05)
    assert torch.equal(CORRUPTIONS["shot-noise"](images * 0, severity, generator()), images * 0)


@pytest.mark.parametrize("severity", SEVERITIES)
def test_impulse_noise_hits_its_share_half_of_it_black(severity: int) -> None:
    images = torch.full((1, 2, 200, 200), 0.5)
    result = CORRUPTIONS["impulse-noise"](images, severity, generator())
    share = CORRUPTIONS["impulse-noise"].value(severity)
    error = 5 * math.sqrt(share / 2 / result.numel())
    for colour in (0.0, 1.0):
        assert float((result == colour).double().mean()) == pytest.approx(share / 2, abs=error)
    assert float((result == 0.5).double().mean()) == pytest.approx(1 - share, abs=2 * error)
    assert not torch.equal(result[:, 0], result[:, 1])


def _middle(images: Tensor) -> Tensor:
    """The centre of mass (batch, 2), rows and columns, in pixels from the middle of the image."""
    rows, columns = (torch.arange(size) + 0.5 - size / 2 for size in images.shape[2:])
    mass = images.sum(dim=(1, 2, 3))
    down = (images.sum(dim=(1, 3)) * rows).sum(dim=1) / mass
    across = (images.sum(dim=(1, 2)) * columns).sum(dim=1) / mass
    return torch.stack([down, across], dim=1)


@pytest.mark.parametrize("shape", [(64, 64), (64, 40), (28, 28)])
@pytest.mark.parametrize("severity", [1, 5])
def test_rotation_turns_a_disc_by_the_angle(shape: tuple[int, int], severity: int) -> None:
    image = (
        torch.nn.functional.pad(disc(24), (8, shape[1] - 32, 0, shape[0] - 24)) if shape[0] > 28 else disc(28)
    )
    (start,) = _middle(image)
    result = _middle(Rotation()(image.expand(40, 1, *shape), severity, generator()))
    torch.testing.assert_close(result.norm(dim=1), start.norm().expand(40), atol=0.1, rtol=0)
    angles = torch.rad2deg(torch.atan2(result[:, 0], result[:, 1]) - torch.atan2(start[0], start[1]))
    angles = (angles + 180) % 360 - 180
    torch.testing.assert_close(angles.abs(), torch.full((40,), Rotation().value(severity)), atol=0.7, rtol=0)
    assert {-1.0, 1.0} == set(angles.sign().tolist())


@pytest.mark.parametrize("severity", SEVERITIES)
def test_translation_moves_a_disc_along_both_axes_each_way(severity: int) -> None:
    image = torch.nn.functional.pad(disc(24), (12, 12, 20, 20))  # 64 x 48
    shifts = _middle(Translation()(image.expand(60, 1, 64, 48), severity, generator())) - _middle(image)
    expected = Translation().value(severity) * torch.tensor([64.0, 48.0])
    torch.testing.assert_close(shifts.abs(), expected.expand(60, 2), atol=1e-3, rtol=0)
    assert len({tuple(signs) for signs in shifts.sign().tolist()}) == 4


@pytest.mark.parametrize("name", ["gaussian-blur", "shot-noise", "rotation", "translation"])
def test_motion_leaves_a_black_border_black_as_far_as_nothing_reaches_it(name: str) -> None:
    image = torch.nn.functional.pad(torch.rand(1, 1, 14, 14, generator=generator()), (7, 7, 7, 7))
    result = CORRUPTIONS[name](image, 3, generator())
    assert float(result[..., 0, :].max()) < 1e-6
    assert float(result[..., :, -1].max()) < 1e-6


@pytest.mark.parametrize("name", ["rotation", "translation"])
def test_motion_continues_images_as_their_border(name: str) -> None:
    flat = torch.full((3, 2, 10, 14), 0.7)
    torch.testing.assert_close(CORRUPTIONS[name](flat, 5, generator()), flat)
