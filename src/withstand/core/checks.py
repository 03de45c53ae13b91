"""Checks of what users hand in, each with an error that says what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from withstand.core.setting_rules import Whole, optional
from withstand.types import Batch, DataError, OutOfMemoryError


def require_at_least(least: int, of: str = "", /, **counts: int | None) -> None:
    """Refuses numbers too small or not whole: ``require_at_least(1, "the smoothing", num_draws=num_draws)``.

    Args:
        least: The smallest that will do.
        of: What they are settings of, for the message.
        **counts: Name -> number; None where there is none.

    Raises:
        TypeError: one is no number.
        ValueError: one is below, or not whole.
    """
    for name, count in counts.items():
        optional(Whole(least=least))(f"{name} of {of}" if of else name, count)


def as_device(device: torch.device | str) -> torch.device:
    """A device that is there.

    Args:
        device: Such as ``"cpu"``, ``"cuda"``, ``"cuda:1"`` or ``"mps"``.

    Raises:
        ValueError: there is no such device, here or at all.
    """
    try:
        place = torch.device(device)
    except (RuntimeError, TypeError) as error:
        near = "cuda" if device == "gpu" else "cpu"
        raise ValueError(
            f"There is no device {device!r}; did you mean {near!r}? Devices are cpu, cuda, cuda:1, mps, …"
        ) from error
    try:
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        count = torch.cuda.device_count()
        cuda = f"{count} of CUDA (cuda:0 … cuda:{count - 1})" if count else "none of CUDA"
        raise ValueError(
            f"This machine, or its PyTorch, has no device {str(place)!r}: beside the CPU there is {cuda}. "
            'Leave device out, or take device="cpu".'
        ) from error
    return place


@contextmanager
def memory_checked(remedy: str) -> Iterator[None]:
    """Where memory runs out, an error that says what to do.

    Args:
        remedy: What to do.

    Raises:
        OutOfMemoryError: it ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemoryError(f"Out of memory: {remedy} ({str(error).splitlines()[0][:200]})") from error


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, of whatever device."""
    of_cpu = "not enough memory" in str(error) or "can't allocate memory" in str(error)
    return of_cpu or isinstance(error, MemoryError | torch.OutOfMemoryError)


def as_batch(images: Tensor, labels: Tensor) -> Batch:
    """A batch as everything else expects it; what can be meant in one way only is brought to that form.

    Labels become int64 on the images' device, one an image also where they came as a column (batch, 1). What
    was made in ``torch.inference_mode`` is copied. Reads no values back from the device.

    Args:
        images: Float tensor (batch, …) in [0, 1].
        labels: Integer tensor (batch,).

    Raises:
        DataError: the images are no tensor of floats, or the labels are not one class index an image.
    """
    images = as_images(images)
    _require_tensor("labels", labels)
    count = images.shape[:1]
    if labels.dim() == 2 and labels.shape[1:] == (1,):
        labels = labels.squeeze(1)
    if labels.shape != count or labels.is_floating_point() or labels.is_complex():
        is_one_hot = labels.dim() == 2 and labels.shape[:1] == count
        remedy = " Of one-hot labels take labels.argmax(dim=1)." if is_one_hot else ""
        raise DataError(
            f"Expected one int64 label an image, shape {tuple(count)}, "
            f"but got shape {tuple(labels.shape)} of {labels.dtype}.{remedy}"
        )
    labels = labels.to(device=images.device, dtype=torch.int64)
    return Batch(images, labels.clone() if labels.is_inference() else labels)


def as_images(images: Tensor) -> Tensor:
    """A tensor of floats; copied where it was made in ``torch.inference_mode``.

    Args:
        images: Float tensor (batch, …).

    Raises:
        DataError: it is none.
    """
    _require_tensor("images", images)
    if not images.is_floating_point():
        raise DataError(
            f"Expected images as floats in [0, 1], but got {images.dtype}. Divide uint8 images by 255."
        )
    return images.clone() if images.is_inference() else images


def check_batch(images: Tensor, labels: Tensor, num_classes: int | None = None) -> None:
    """Accepts the values of a batch as every attack, objective and evaluation expects them.

    Reads values back from the device: call it once, not at every training step.

    Args:
        images: Float tensor (batch, …) in [0, 1].
        labels: Integer tensor (batch,), at least 0.
        num_classes: Of the model; None where it is not known.

    Raises:
        DataError: the images are not floats in [0, 1], or the labels are not one class index an
            image.
    """
    images, labels = as_batch(images, labels)
    check_images(images)
    if labels.numel() == 0:
        return
    least, largest = (int(bound) for bound in labels.aminmax())
    if least < 0:
        raise DataError(f"Expected labels of at least 0, but got {least}.")
    if num_classes is not None and largest >= num_classes:
        raise DataError(
            f"Expected labels from 0 to {num_classes - 1}, as the model has {num_classes} outputs, "
            f"but got {largest}."
        )


def check_images(images: Tensor) -> None:
    """Accepts images in [0, 1]. Reads values back from the device.

    Args:
        images: Float tensor (batch, …).

    Raises:
        DataError: they are no floats, or some are outside.
    """
    images = as_images(images)
    if images.numel() == 0:
        return
    low, high = (float(bound) for bound in images.detach().aminmax())
    if not (low >= 0.0 and high <= 1.0):  # written so that NaN fails too
        raise DataError(
            f"Expected images in [0, 1], but they span [{low:.4g}, {high:.4g}]. Divide them by their "
            "range, and normalise inside the model (withstand.models.Normalize as its first layer): "
            "epsilon is measured in [0, 1] units."
        )


def _require_tensor(name: str, value: object) -> None:
    if not isinstance(value, Tensor):
        got = "None" if value is None else f"a {type(value).__name__}"
        remedy = "" if value is None else f" Make one of it: torch.as_tensor({name})."
        raise DataError(f"Expected {name} as a torch tensor, but got {got}.{remedy}")
