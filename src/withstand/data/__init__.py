"""Data sets on the device: read or fetched, split by seed, batched and augmented at once."""

from __future__ import annotations

from withstand.data.arrays import as_split, from_arrays
from withstand.data.augment import Augment
from withstand.data.batches import batches, to_unit_range
from withstand.data.fetch import fetch, verify
from withstand.data.load import NAMES, info, load
from withstand.data.partition import epoch_order, partition
from withstand.data.split import Dataset, Split

__all__ = [
    "NAMES",
    "Augment",
    "Dataset",
    "Split",
    "as_split",
    "batches",
    "epoch_order",
    "fetch",
    "from_arrays",
    "info",
    "load",
    "partition",
    "to_unit_range",
    "verify",
]
