"""Every seeded choice of examples: which validate, which train, in which order, and which stand for all.

All draws come from CPU generators that are seeded here, whatever device the data are on, so the
same seed chooses the same examples on any machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from withstand.core.setting_rules import SEED, Whole, optional
from withstand.data.split import Split
from withstand.types import DataError

PartitionName = Literal["seeded", "kernel-reg"]

MAX_DEFAULT_VALIDATION = 5000
PUBLISHED_VALIDATION = 10_000
PUBLISHED_SEED = 42


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


def stratified(labels: Tensor, number: int | None, *, seed: int = 0) -> Tensor:
    """Chooses examples that stand for all: each class has the share of them that it has of the whole.

    Shares are rounded by largest remainder, so that no class is off by a whole example.

    Args:
        labels: int64 tensor (examples,), on any device.
        number: How many; all where None or where there are no more.
        seed: Chooses within each class; the same examples on any machine.

    Returns:
        int64 CPU tensor (chosen,) of indices, ascending.
    """
    total, seed = len(labels), SEED("seed", seed)
    if number is None or number >= total:
        return torch.arange(total)
    shuffled = torch.randperm(total, generator=_generator("sample", seed))
    shuffled_labels = labels.cpu()[shuffled]
    counts = shuffled_labels.bincount()
    quotas, remainders = number * counts // total, number * counts % total
    # Equal remainders go by a shuffled order, so that no class is preferred for its number.
    order = torch.randperm(len(counts), generator=_generator("sample classes", seed))
    largest = order[remainders[order].argsort(descending=True, stable=True)]
    quotas[largest[: number - int(quotas.sum())]] += 1
    chosen = [shuffled[shuffled_labels == label][:quota] for label, quota in enumerate(quotas.tolist())]
    return torch.cat(chosen).sort().values


def sample(split: Split, number: int | None, *, seed: int = 0) -> Split:
    """What ``stratified`` chooses of a split, in its order; the split itself where that is all."""
    is_all = number is None or number >= len(split)
    return split if is_all else split.subset(stratified(split.labels, number, seed=seed))


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
        TypeError: a size or the seed is no number.
        ValueError: one is not whole, or the seed is negative.
        DataError: there are too few examples for these sizes.
    """
    total, seed = len(split), SEED("seed", seed)
    if validation_size is None:
        validation_size = min(total // 10, MAX_DEFAULT_VALIDATION)
    validation_size, num_train = _sizes(total, validation_size, train_size)
    order = torch.randperm(total, generator=_generator("partition", seed))
    validation, train = order[:validation_size], order[validation_size : validation_size + num_train]
    return _chosen(split, train), _chosen(split, validation)


def published_partition(
    split: Split, *, validation_size: int | None = None, train_size: int | None = None, seed: int = 0
) -> tuple[Split, Split]:
    """The small training sets of arXiv 1810.00363: the same examples as in its code (kernel_reg).

    numpy's ``RandomState(42 + seed)`` shuffles all examples; the first ones train and the last
    ones validate. Neither choice depends on the other's size. Examples keep the order that they
    have in ``split``.

    Args:
        split: All training data, in the order of the published files.
        validation_size: How many of the last examples validate, at least 0; by default 10,000.
        train_size: How many of the first train, at least 1; by default all that do not validate.
        seed: Chooses the examples, from -42 to 2^32 - 43; the published code's ``--shuf_seed``.

    Returns:
        The training and the validation split, without a common example.

    Raises:
        TypeError: a size or the seed is no number.
        ValueError: one is not whole.
        DataError: there are too few examples for these sizes, or the seed is out of its range.
    """
    total, seed = len(split), Whole()("seed", seed)
    if validation_size is None:
        validation_size = PUBLISHED_VALIDATION
    validation_size, num_train = _sizes(total, validation_size, train_size)
    largest_seed = 2**32 - 1 - PUBLISHED_SEED
    if not -PUBLISHED_SEED <= seed <= largest_seed:
        raise DataError(
            f"The seed of this partition must be from {-PUBLISHED_SEED} to {largest_seed}, but is {seed}."
        )
    order = torch.from_numpy(np.random.RandomState(PUBLISHED_SEED + seed).permutation(total))
    return _chosen(split, order[:num_train]), _chosen(split, order[total - validation_size :])


# Read-only: which choices of examples there are, by the name that a recipe gives them.
PARTITIONS: Mapping[PartitionName, Callable[..., tuple[Split, Split]]] = MappingProxyType(
    {"seeded": partition, "kernel-reg": published_partition}
)


def derived_seed(*parts: str | int) -> int:
    """A 32-bit seed for one purpose, from its name and the numbers that it depends on."""
    # Hashing keeps neighbours apart: seed 0 at epoch 1 has nothing in common with seed 1 at
    # epoch 0. Torch's CPU generator takes 32 bits of a seed, so that is what it gets.
    digest = hashlib.sha256(" ".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:4], "little")


def _chosen(split: Split, indices: Tensor) -> Split:
    return split.subset(indices.sort().values)


def _sizes(total: int, validation_size: int, train_size: int | None) -> tuple[int, int]:
    """How many examples validate and train; an error where the sizes do not fit."""
    validation_size = Whole()("validation_size", validation_size)
    train_size = optional(Whole())("train_size", train_size)
    _require_size("validation_size", validation_size, 0, total - 1)
    num_train = total - validation_size if train_size is None else train_size
    _require_size("train_size", num_train, 1, total - validation_size)
    return validation_size, num_train


def _require_size(name: str, size: int, smallest: int, largest: int) -> None:
    if not smallest <= size <= largest:
        raise DataError(
            f"{name} must be from {smallest} to {largest} with this training data, but is {size}. "
            "Validation data are taken out of the training data, and at least one example must remain."
        )


def _generator(*parts: str | int) -> torch.Generator:
    return torch.Generator().manual_seed(derived_seed(*parts))
