"""The 8 x 8 handwritten digits that come inside scikit-learn: data without any download."""

from __future__ import annotations

from pathlib import Path

import torch

from withstand.data.split import Parts, Split
from withstand.dataset_info import DatasetInfo

NUM_TEST = 360
# What the test data are never depends on a user's seed.
_TEST_SEED = 20_200_331
_MAX_LEVEL = 16


def read_digits(info: DatasetInfo, root: Path) -> Parts:
    """The 1,797 digits: 1,437 to train on, 360 to test on, always the same ones.

    Args:
        info: The entry of ``digits``.
        root: Ignored; scikit-learn brings the data.

    Returns:
        Both parts, in scikit-learn's order; levels 0 … 16 are scaled to 0 … 255.
    """
    # scikit-learn takes a second to import, and no other data set needs it.
    from sklearn.datasets import load_digits

    bunch = load_digits()
    levels = torch.tensor(bunch.images, dtype=torch.float64)
    images = (levels * 255 / _MAX_LEVEL).round().to(torch.uint8).reshape(-1, *info.shape)
    every = Split(images, torch.tensor(bunch.target, dtype=torch.int64))
    order = torch.randperm(len(every), generator=torch.Generator().manual_seed(_TEST_SEED))
    test, train = order[:NUM_TEST], order[NUM_TEST:]
    return Parts(every.subset(train.sort().values), every.subset(test.sort().values))
