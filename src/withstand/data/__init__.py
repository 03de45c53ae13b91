"""Data sets on the device: read or fetched, split by seed, batched and augmented at once."""

from __future__ import annotations

from withstand.data.arrays import as_split, from_arrays
from withstand.data.augment import Augment
from withstand.data.batches import batches, few, to_unit_range
from withstand.data.deform import Deform, affine_fields, deformed_stream, tangent_images, warp
from withstand.data.fetch import fetch, verify
from withstand.data.input_range import range_of, scale, unscale
from withstand.data.load import NAMES, as_dataset, info, load
from withstand.data.partition import (
    PartitionName,
    epoch_order,
    partition,
    published_partition,
    sample,
    stratified,
)
from withstand.data.split import Dataset, Split

__all__ = [
    "NAMES",
    "Augment",
    "Dataset",
    "Deform",
    "PartitionName",
    "Split",
    "affine_fields",
    "as_dataset",
    "as_split",
    "batches",
    "deformed_stream",
    "epoch_order",
    "fetch",
    "few",
    "from_arrays",
    "info",
    "load",
    "partition",
    "published_partition",
    "range_of",
    "sample",
    "scale",
    "stratified",
    "tangent_images",
    "to_unit_range",
    "unscale",
    "verify",
    "warp",
]
