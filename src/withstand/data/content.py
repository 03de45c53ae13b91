"""What a split holds, however it is stored: levels as uint8 and the same levels as floats are alike."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import torch

from withstand.data.batches import nearest_levels
from withstand.data.mapped import chunks
from withstand.data.split import Split


def pixels(split: Split) -> Iterator[bytes]:
    """The bytes of each image: of its levels where it has no other values, else of its floats."""
    for images in (part.cpu().contiguous() for part in chunks(split.images)):
        if images.dtype == torch.uint8:
            yield from (image.tobytes() for image in images.numpy())
            continue
        levels, are_levels = nearest_levels(images)
        floats = images + 0.0  # of which -0.0 is 0.0
        for level, value, is_level in zip(levels.numpy(), floats.numpy(), are_levels.tolist(), strict=True):
            yield (level if is_level else value).tobytes()


def digest(split: Split) -> str:
    """SHA-256, in hex, over images and labels in their order; the same on any machine."""
    whole = hashlib.sha256(f"{tuple(split.images.shape)};".encode())
    for image in pixels(split):
        whole.update(len(image).to_bytes(8, "little"))
        whole.update(image)
    whole.update(split.labels.cpu().numpy().astype("<i8").data)
    return whole.hexdigest()
