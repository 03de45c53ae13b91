from __future__ import annotations

import torch

from withstand.data import Split
from withstand.data.content import digest

LEVELS = torch.randint(0, 256, (5, 2, 3, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
LABELS = torch.arange(5)


def test_digest_is_of_what_is_held_and_not_of_how() -> None:
    floats = (LEVELS / 255).contiguous(memory_format=torch.channels_last)
    assert digest(Split(LEVELS, LABELS)) == digest(Split(floats, LABELS))


def test_digest_sees_pixels_labels_shape_order_and_length() -> None:
    brighter = LEVELS.clone()
    brighter[4, 1, 2, 2] ^= 1
    near = LEVELS / 255
    near[0, 0, 0, 0] = (near[0, 0, 0, 0] - 1e-4).abs()
    splits = [
        Split(LEVELS, LABELS),
        Split(brighter, LABELS),
        Split(near, LABELS),
        Split(LEVELS, LABELS.flip(0)),
        Split(LEVELS.flip(0), LABELS),
        Split(LEVELS.transpose(2, 3).flip(3), LABELS),
        Split(LEVELS.reshape(5, 1, 6, 3), LABELS),
        Split(LEVELS[:4], LABELS[:4]),
    ]
    assert len({digest(split) for split in splits}) == len(splits)
