from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from PIL import Image

from withstand.reporting.images import amplification, data_uri, difference, view_gallery
from withstand.reporting.read import Gallery, read_run

WriteRun = Callable[..., Path]
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


def read_gallery(write_run: WriteRun, gallery: dict[str, Any]) -> Gallery:
    found = read_run(write_run(gallery=gallery)).gallery
    assert found is not None
    return found


def test_view(write_run: WriteRun, gallery: dict[str, Any]) -> None:
    view = view_gallery(read_gallery(write_run, gallery))
    assert (view.attack, view.epsilon, view.factor, view.num_left_out) == ("pgd-200", "20/255", 6.3, 0)
    first, second = view.triples
    assert (first.label, first.clean_is_right, first.adversarial_is_right) == ("cat", True, True)
    assert (second.adversarial_prediction, second.adversarial_is_right) == ("ship", False)
    assert np.all(decoded(second.clean) == 100)
    assert np.all(decoded(second.adversarial) == 120)
    assert np.all(decoded(second.difference) == 128 + 126)


def test_view_leaves_out_what_is_too_much(write_run: WriteRun, gallery: dict[str, Any]) -> None:
    many = {
        name: np.repeat(gallery[name], 20, axis=0)
        for name in ("clean", "adversarial", "label", "clean_prediction", "adversarial_prediction")
    }
    view = view_gallery(read_gallery(write_run, gallery | many))
    assert (len(view.triples), view.num_left_out) == (24, 16)
