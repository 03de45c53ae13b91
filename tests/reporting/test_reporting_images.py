from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from withstand.reporting.images import amplification, data_uri, difference, drawn_as
from withstand.reporting.sections import example_images as examples
from withstand.types import RunFolderError

Pixels = NDArray[np.uint8]


def decoded(uri: str) -> NDArray[np.uint8]:
    prefix, _, content = uri.partition(",")
    assert prefix == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.mark.parametrize("channels", [1, 3])
def test_data_uri_keeps_every_pixel(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    assert np.array_equal(decoded(data_uri(image)).reshape(image.shape), image)


SIZES = [(1, 1), (1, 7), (7, 1), (5, 8), (300, 2), (600, 400)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 13, 16, 17, 200])
def test_data_uri_draws_any_channels_and_sizes(channels: int, size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 200, (*size, channels)).astype(np.uint8)
    shown = decoded(data_uri(image))
    assert shown.ndim == (3 if channels == 3 else 2)
    assert max(shown.shape[:2]) <= 256
    sentence = drawn_as(image[None])
    assert (f"{channels} channels" in sentence) is (channels not in (1, 3))
    assert (f"{size[1]} × {size[0]} pixels" in sentence) is (max(size) > 256)


@pytest.mark.parametrize(("channels", "columns"), [(2, 2), (4, 2), (5, 3), (13, 4)])
def test_data_uri_draws_each_channel_in_grey(channels: int, columns: int) -> None:
    image = np.random.default_rng(0).integers(0, 200, (3, 5, channels)).astype(np.uint8)
    shown = decoded(data_uri(image))
    for channel in range(channels):
        top, left = channel // columns * 4, channel % columns * 6
        assert np.array_equal(shown[top : top + 3, left : left + 5], image[:, :, channel])
    assert f"{columns} a row" in drawn_as(image)


def test_data_uri_draws_the_mean_of_many_channels() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, 20)).astype(np.uint8)
    assert np.array_equal(decoded(data_uri(image)), np.rint(image.mean(axis=2)))
    assert "mean" in drawn_as(image)


def test_gallery_shows_changes_smaller_than_a_level(make_run: Any, gallery: dict[str, Any]) -> None:
    change = np.full(gallery["clean"].shape, 0.1, np.float16)
    small = gallery | {"adversarial": gallery["clean"], "change": change}
    shown = examples.gallery(make_run(gallery=small))
    assert "amplified 1200 times" in shown.prose[0].text
    assert np.unique(decoded(shown.pictures[0].images[2][0])).tolist() == [128 + 120]


@pytest.mark.parametrize("change", [np.zeros(3), np.zeros((2, 4, 4, 2)), None])
def test_gallery_names_damaged_changes(make_run: Any, gallery: dict[str, Any], change: Any) -> None:
    bad = np.full(gallery["clean"].shape, np.nan) if change is None else change
    with pytest.raises(RunFolderError, match="change must hold one number a pixel"):
        make_run(gallery=gallery | {"change": bad})


def test_difference_is_signed_on_mid_grey() -> None:
    clean = np.array([10, 10, 10], np.uint8)
    assert difference(clean, np.array([10, 12, 5], np.uint8), 10.0).tolist() == [128, 148, 78]


@given(arrays.arrays(np.uint8, (2, 6)))
def test_amplified_difference_never_clips_and_uses_the_range(pair: Pixels) -> None:
    clean, adversarial = pair
    factor = amplification(clean, adversarial)
    change = adversarial.astype(np.float64) - clean
    amplified = factor * change
    assert np.all(np.abs(difference(clean, adversarial, factor) - 128.0 - amplified) <= 0.5 + 1e-9)
    if np.any(change):
        assert 0.9 * 126 <= np.abs(amplified).max() <= 126 + 1e-9
    else:
        assert factor == 1.0


@given(st.integers(min_value=1, max_value=255))
def test_amplification_has_two_digits(largest: int) -> None:
    factor = amplification(np.array([0], np.uint8), np.array([largest], np.uint8))
    assert float(f"{factor:.2g}") == factor


def test_gallery_shows_images_before_and_after(make_run: Any) -> None:
    shown = examples.gallery(make_run())
    assert "before and after <b>pgd-200</b> at ε = 20/255" in shown.prose[0].text
    assert "amplified 6.3 times" in shown.prose[0].text
    assert "more are in" not in shown.prose[0].text
    first, second = shown.pictures
    assert first.title == "True class: <b>cat</b>"
    assert [alternative for _, alternative, _ in first.images] == [
        "Clean image 1 of class cat",
        "Image 1 after the attack",
        "What the attack changed in image 1, times 6.3",
    ]
    assert 'predicted <b>cat</b>, <span class="correct">correct</span>' in first.images[1][2]
    assert 'predicted <b>ship</b>, <span class="wrong">wrong</span>' in second.images[1][2]
    pixels = [decoded(uri) for uri, _, _ in second.images]
    assert [np.unique(image).tolist() for image in pixels] == [[100], [120], [128 + 126]]


def test_gallery_leaves_out_what_is_too_much(make_run: Any, gallery: dict[str, Any]) -> None:
    many = {
        name: np.repeat(gallery[name], 20, axis=0)
        for name in ("clean", "adversarial", "label", "clean_prediction", "adversarial_prediction")
    }
    shown = examples.gallery(make_run(gallery=gallery | many))
    assert len(shown.pictures) == 24
    assert "16 more are in" in shown.prose[0].text


def test_gallery_without_images_says_why(make_run: Any, evaluated: Any) -> None:
    files = {"metrics.json", "train.csv"}
    lacking = examples.gallery(make_run("one", only=files)).prose[0]
    assert "Missing: <code>gallery.npz</code>" in lacking.lead
    plain = evaluated.but(attacks=[])
    assert "No attack was run" in examples.gallery(make_run("two", only=files, evaluated=plain)).prose[0].text
