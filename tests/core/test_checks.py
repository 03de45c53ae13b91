from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from withstand.core.checks import as_device, check_batch, memory_checked, require_at_least
from withstand.types import DataError, OutOfMemoryError

LABELS = torch.tensor([0, 1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(2, 3), (2, 1, 4, 4)])
def test_check_batch_accepts_floats_in_the_unit_interval(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    images = torch.rand(shape).to(dtype)
    images.view(-1)[:2] = torch.tensor([0.0, 1.0], dtype=dtype)
    check_batch(images, LABELS)
    check_batch(images.requires_grad_(), LABELS)


def test_check_batch_accepts_an_empty_batch() -> None:
    check_batch(torch.zeros(0, 1, 4, 4), torch.zeros(0, dtype=torch.int64))


def test_check_batch_refuses_images_of_whole_numbers() -> None:
    with pytest.raises(
        DataError, match=r"floats in \[0, 1\], but got torch.uint8. Divide uint8 images by 255"
    ):
        check_batch(torch.zeros(2, 3, dtype=torch.uint8), LABELS)


@pytest.mark.parametrize(
    ("value", "span"),
    [
        (255.0, r"\[0, 255\]"),
        (-0.01, r"\[-0.01, 0\]"),
        (1.0001, r"\[0, 1\]"),
        (math.inf, "inf"),
        (math.nan, "nan"),
    ],
)
def test_check_batch_refuses_images_outside_the_unit_interval(value: float, span: str) -> None:
    images = torch.zeros(2, 3)
    images[1, 2] = value
    with pytest.raises(
        DataError, match=rf"(?s)in \[0, 1\], but they span .*{span}.*normalise inside the model"
    ):
        check_batch(images, LABELS)


@pytest.mark.parametrize(
    "labels",
    [
        torch.tensor([0, 1, 1]),
        torch.tensor([0]),
        torch.tensor(0),
        torch.tensor([0.0, 1.0]),
        torch.tensor([0j, 1j]),
        torch.tensor([[0, 1]]),
        torch.eye(2),
    ],
)
def test_check_batch_needs_one_class_index_an_image(labels: Tensor) -> None:
    with pytest.raises(
        DataError, match=r"one int64 label an image, shape \(2,\), but got shape \(.*\) of torch"
    ):
        check_batch(torch.zeros(2, 3), labels)


def test_check_batch_refuses_negative_labels() -> None:
    with pytest.raises(DataError, match="labels of at least 0, but got -1"):
        check_batch(torch.zeros(2, 3), torch.tensor([0, -1]))


def test_check_batch_explains_that_an_image_lacks_its_batch() -> None:
    with pytest.raises(DataError, match="one int64 label an image"):
        check_batch(torch.tensor(0.5), LABELS)


def test_check_batch_error_is_one_of_ours_and_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        check_batch(torch.full((2, 3), 2.0), LABELS)


def test_require_at_least_names_numbers_that_are_too_small() -> None:
    require_at_least(1, num_draws=1, num_steps=None)
    require_at_least(0, num_draws=0)
    with pytest.raises(ValueError, match=r"^Expected num_steps of at least 1, but got 0\.$"):
        require_at_least(1, num_draws=1, num_steps=0)
    with pytest.raises(ValueError, match=r"^Expected num_draws of the smoothing of at least 2, but got 1\.$"):
        require_at_least(2, "the smoothing", num_draws=1)


def test_as_device_takes_what_is_there_alone() -> None:
    assert as_device("cpu") == as_device(torch.device("cpu")) == torch.device("cpu")
    for device in ("gpu", "cuda:99", "nosuch", 3.5):
        with pytest.raises(ValueError, match=r"no device '?(gpu|cuda:99|nosuch|3\.5)'?") as caught:
            as_device(device)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)


def test_memory_checked_passes_on_other_errors() -> None:
    with pytest.raises(RuntimeError, match=r"^another$"), memory_checked("take less."):
        raise RuntimeError("another")
    with pytest.raises(OutOfMemoryError, match=r"^Out of memory: take less\."), memory_checked("take less."):
        raise RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes.")
