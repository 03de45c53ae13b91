"""Every seeded choice of examples: which validate, which train, and in which order.

All draws come from CPU generators of torch that are seeded here, whatever device the data are
on, so the same seed chooses the same examples on any machine.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from withstand.data.split import Split
from withstand.types import DataError

__all__ = ["epoch_order", "partition"]

MAX_DEFAULT_VALIDATION = 5000


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> Tensor:
    """The order in which an epoch visits its examples: a pure function of its arguments.

    Args:
        num_examples: How many there are, at least 0.
        seed: The run's seed.
        epoch: 0-based number of the epoch.

    Returns:
        int64 CPU tensor (num_examples,): a permutation of 0 … num_examples - 1.
    """
    return torch.randperm(num_examples, generator=_generator("order", seed, epoch))


def partition(
    split: Split, *, validation_size: int | None = None, train_size: int | None = None, seed: int = 0
) -> tuple[Split, Split]:
    """Takes validation data from training data, and by option only some of the rest.

    The validation data do not depend on ``train_size``, and a smaller training subset is part
    of each larger one. Examples keep the order that they have in ``split``.

    Args:
        split: All training data.
        validation_size: How many examples validate, at least 0; by default a tenth, at most 5000.
        train_size: How many of the others train, at least 1; by default all.
        seed: Chooses the examples.

    Returns:
        The training and the validation split, without a common example.

    Raises:
        DataError: there are too few examples for these sizes.
    """
    total = len(split)
    num_validation = min(total // 10, MAX_DEFAULT_VALIDATION) if validation_size is None else validation_size
    _require_size("validation_size", num_validation, 0, total - 1)
    num_train = total - num_validation if train_size is None else train_size
    _require_size("train_size", num_train, 1, total - num_validation)
    order = torch.randperm(total, generator=_generator("partition", seed))
    validation, train = order[:num_validation], order[num_validation : num_validation + num_train]
    return split.subset(train.sort().values), split.subset(validation.sort().values)


def _require_size(name: str, size: int, smallest: int, largest: int) -> None:
    if not smallest <= size <= largest:
        raise DataError(
            f"{name} must be from {smallest} to {largest} with this training data, but is {size}. "
            "Validation data are taken out of the training data, and at least one example must remain."
        )


def _generator(*parts: str | int) -> torch.Generator:
    # Hashing keeps neighbours apart: seed 0 at epoch 1 has nothing in common with seed 1 at
    # epoch 0. Torch's CPU generator takes 32 bits of a seed, so that is what it gets.
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:4], "little"))
