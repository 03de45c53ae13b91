from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st

from withstand.data import Augment
from withstand.types import DataError

SEEDS = st.integers(0, 2**31)


def coded(
    batch: int, channels: int, height: int, width: int, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Images in which every pixel of the batch has its own value, none of them 0."""
    count = batch * channels * height * width
    return torch.arange(1, count + 1, dtype=dtype).reshape(batch, channels, height, width)


def windows(image: torch.Tensor, padding: int, flip: bool) -> list[torch.Tensor]:
    """All that may come out of one image (channels, height, width), by slicing."""
    height, width = image.shape[1:]
    padded = F.pad(image, (padding,) * 4)
    shifts = range(2 * padding + 1)
    crops = [padded[:, y : y + height, x : x + width] for y in shifts for x in shifts]
    return crops + [crop.flip(2) for crop in crops] if flip else crops


@given(
    shape=st.tuples(st.integers(0, 4), st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    padding=st.integers(0, 3),
    flip=st.booleans(),
    seed=SEEDS,
)
def test_augment_gives_each_image_one_of_its_windows(
    shape: tuple[int, int, int, int], padding: int, flip: bool, seed: int
) -> None:
    images = coded(*shape)
    assume(padding <= min(images.shape[2:]))
    augmented = Augment(padding, flip)(images, generator=torch.Generator().manual_seed(seed))
    assert augmented.shape == images.shape
    for image, result in zip(images, augmented, strict=True):
        assert any(torch.equal(result, window) for window in windows(image, padding, flip))


def test_augment_takes_all_windows_about_equally_often() -> None:
    images = coded(1, 1, 2, 3).expand(18_000, -1, -1, -1)
    augmented = Augment(1)(images, generator=torch.Generator().manual_seed(0))
    counts = [(augmented == window).flatten(1).all(1).sum().item() for window in windows(images[0], 1, True)]
    assert sum(counts) == 18_000
    # 18 windows, 1,000 of each expected, with a standard deviation of 31.
    assert min(counts) > 850
    assert max(counts) < 1150


def test_augment_flips_half_of_the_images() -> None:
    images = coded(1, 1, 1, 2).expand(10_000, -1, -1, -1)
    flipped = (Augment(0)(images, generator=torch.Generator().manual_seed(0))[:, 0, 0, 0] == 2).sum().item()
    assert 4800 < flipped < 5200


@given(seed=SEEDS)
def test_augment_without_crop_and_flip_is_the_identity(seed: int) -> None:
    images = coded(3, 2, 4, 4)
    torch.manual_seed(seed)
    before = torch.get_rng_state()
    assert torch.equal(Augment(crop_padding=0, flip=False)(images), images)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.float64])
def test_augment_treats_every_type_of_image_alike(dtype: torch.dtype) -> None:
    images = coded(5, 2, 4, 4).to(dtype)
    augmented = Augment(2)(images, generator=torch.Generator().manual_seed(3))
    expected = Augment(2)(images.long(), generator=torch.Generator().manual_seed(3))
    assert augmented.dtype == dtype
    assert torch.equal(augmented.long(), expected)


def test_augment_draws_from_the_global_generator_by_default() -> None:
    images = coded(64, 1, 6, 6)
    torch.manual_seed(5)
    first = Augment()(images)
    torch.manual_seed(5)
    assert torch.equal(Augment()(images), first)
    assert not torch.equal(Augment()(images), first)


def test_augment_leaves_its_images_as_they_were() -> None:
    images = coded(4, 1, 4, 4)
    Augment()(images).zero_()
    assert torch.equal(images, coded(4, 1, 4, 4))


def test_augment_refuses_negative_padding() -> None:
    with pytest.raises(ValueError, match="crop_padding of at least 0, but got -1"):
        Augment(crop_padding=-1)


def test_augment_refuses_padding_above_the_side_of_an_image() -> None:
    Augment(crop_padding=3)(coded(2, 1, 3, 4))
    with pytest.raises(DataError, match="crop_padding of at most 3 pixels, an image's side, but got 4"):
        Augment(crop_padding=4)(coded(2, 1, 3, 5))


def test_augment_takes_only_batches_of_images() -> None:
    with pytest.raises(
        DataError,
        match=r"images \(channels, height, width\) alone, but these are vectors of 10\. Leave it out",
    ):
        Augment()(torch.zeros(4, 10))


@pytest.mark.parametrize(("padding", "fits"), [(7, True), (8, False), (100, False)])
def test_augment_refuses_images_that_a_crop_can_miss(padding: int, fits: bool) -> None:
    shape = (1, 12, 8)
    if fits:
        Augment(padding).require_fit(shape)
    else:
        with pytest.raises(DataError, match=f"crop_padding={padding} can crop whole images away.* such as 1"):
            Augment(padding).require_fit(shape)
