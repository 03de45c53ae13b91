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

from withstand.reporting.images import amplification, data_uri, difference
from withstand.reporting.sections import example_images as examples

Pixels = NDArray[np.uint8]


def decoded(uri: str) -> NDArray[np.uint8]:
    prefix, _, content = uri.partition(",")
    assert prefix == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))


@pytest.mark.parametrize("channels", [1, 3])
def test_data_uri_keeps_every_pixel(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (5, 7, channels)).astype(np.uint8)
    assert np.array_equal(decoded(data_uri(image)).reshape(image.shape), image)


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
    assert "before and after <b>pgd-200</b> at epsilon 20/255" in shown.prose[0].text
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
