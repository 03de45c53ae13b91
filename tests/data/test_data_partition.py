from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.data import Split, epoch_order, load, partition, published_partition, stratified
from withstand.data.load import read_digits
from withstand.data.partition import derived_seed
from withstand.types import DataError

SEEDS = st.integers(min_value=0, max_value=2**40)


def numbered(count: int) -> Split:
    """A split whose labels are the numbers of its examples."""
    return Split(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.arange(count))


@given(data=st.data(), total=st.integers(1, 60), seed=SEEDS)
def test_partition_never_lets_validation_and_training_data_overlap(
    data: st.DataObject, total: int, seed: int
) -> None:
    num_validation = data.draw(st.integers(0, total - 1))
    num_train = data.draw(st.integers(1, total - num_validation))
    train, validation = partition(
        numbered(total), validation_size=num_validation, train_size=num_train, seed=seed
    )
    assert (len(train), len(validation)) == (num_train, num_validation)
    assert len({*train.labels.tolist(), *validation.labels.tolist()}) == num_train + num_validation


@pytest.mark.parametrize(
    ("total", "expected"), [(9, 0), (10, 1), (1437, 143), (49_999, 4999), (60_000, 5000)]
)
def test_partition_validates_on_a_tenth_but_at_most_5000(total: int, expected: int) -> None:
    train, validation = partition(numbered(total))
    assert (len(train), len(validation)) == (total - expected, expected)


def test_partition_is_the_same_on_every_machine() -> None:
    train, validation = partition(numbered(20), validation_size=4, seed=3)
    assert validation.labels.tolist() == [2, 9, 15, 19]
    assert train.labels.tolist() == [index for index in range(20) if index not in (2, 9, 15, 19)]


def test_partition_follows_the_seed() -> None:
    choices = {tuple(partition(numbered(100), seed=seed)[1].labels.tolist()) for seed in range(20)}
    assert len(choices) == 20


def test_partition_with_less_training_data_is_part_of_that_with_more() -> None:
    splits = [partition(numbered(50), validation_size=5, train_size=size, seed=1) for size in (3, 20, 45)]
    few, some, every = (set(train.labels.tolist()) for train, _ in splits)
    assert few < some < every
    assert len({tuple(validation.labels.tolist()) for _, validation in splits}) == 1


@pytest.mark.parametrize("size", [-1, 10, 11])
def test_partition_rejects_validation_sizes_that_leave_nothing(size: int) -> None:
    with pytest.raises(DataError, match=f"validation_size must be from 0 to 9 .* is {size}"):
        partition(numbered(10), validation_size=size)


@pytest.mark.parametrize("size", [0, 8])
def test_partition_rejects_training_sizes_that_are_not_there(size: int) -> None:
    with pytest.raises(DataError, match=f"train_size must be from 1 to 7 .* is {size}"):
        partition(numbered(10), validation_size=3, train_size=size)


@given(count=st.integers(0, 200), seed=SEEDS, epoch=st.integers(0, 1000))
def test_epoch_order_visits_each_example_once(count: int, seed: int, epoch: int) -> None:
    order = epoch_order(count, seed=seed, epoch=epoch)
    assert order.sort().values.tolist() == list(range(count))
    assert order.dtype == torch.int64


def test_epoch_order_is_the_same_on_every_machine() -> None:
    assert epoch_order(10, seed=0, epoch=0).tolist() == [8, 4, 2, 6, 9, 1, 5, 3, 7, 0]
    assert epoch_order(10, seed=0, epoch=1).tolist() == [8, 1, 3, 2, 7, 6, 9, 0, 5, 4]


def test_epoch_order_differs_by_seed_and_epoch() -> None:
    orders = {
        tuple(epoch_order(100, seed=seed, epoch=epoch).tolist()) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


def test_epoch_order_and_partition_leave_the_global_generators_alone() -> None:
    before, numpy_before = torch.get_rng_state(), np.random.get_state(legacy=True)
    epoch_order(10, seed=0, epoch=0)
    partition(numbered(10))
    published_partition(numbered(10), validation_size=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert str(np.random.get_state(legacy=True)) == str(numpy_before)


def published_shuffle(total: int, seed: int) -> list[int]:
    indices = np.arange(total)
    np.random.RandomState(42 + seed).shuffle(indices)
    chosen: list[int] = indices.tolist()
    return chosen


@pytest.mark.parametrize("seed", [0, 3])
def test_published_partition_is_that_of_the_published_code(seed: int) -> None:
    train, validation = published_partition(numbered(50_000), train_size=1000, seed=seed)
    shuffled = published_shuffle(50_000, seed)
    assert train.labels.tolist() == sorted(shuffled[:1000])
    assert validation.labels.tolist() == sorted(shuffled[-10_000:])


def test_published_partition_has_these_examples() -> None:
    few, validation = published_partition(numbered(50_000), train_size=5)
    assert few.labels.tolist() == [199, 9427, 12447, 33553, 39489]
    assert validation.labels.tolist()[:5] == [2, 9, 10, 12, 16]


@given(data=st.data(), total=st.integers(1, 60), seed=st.integers(-42, 2**32 - 43))
def test_published_partition_trains_or_validates_on_its_examples_but_never_both(
    data: st.DataObject, total: int, seed: int
) -> None:
    num_validation = data.draw(st.integers(0, total - 1))
    train, validation = published_partition(numbered(total), validation_size=num_validation, seed=seed)
    assert len(validation) == num_validation
    assert sorted(train.labels.tolist() + validation.labels.tolist()) == list(range(total))


def test_published_partition_has_its_own_limits() -> None:
    with pytest.raises(DataError, match=r"validation_size must be from 0 to 9999 .* is 10000"):
        published_partition(numbered(10_000))
    with pytest.raises(DataError, match=r"train_size must be from 1 to 5 .* is 6"):
        published_partition(numbered(10), validation_size=5, train_size=6)
    for seed in (-43, 2**32 - 42):
        with pytest.raises(DataError, match=f"seed .* must be from -42 to 4294967253, but is {seed}"):
            published_partition(numbered(10), validation_size=5, seed=seed)


def test_load_partitions_a_data_set_by_name() -> None:
    known = read_digits(KNOWN_DATASETS["digits"], Path("unused")).train
    shuffled = published_shuffle(len(known), 2)
    dataset = load("digits", partition="kernel-reg", train_size=100, validation_size=200, seed=2)
    assert torch.equal(dataset.train.images, known.images[sorted(shuffled[:100])])
    assert torch.equal(dataset.validation.labels, known.labels[sorted(shuffled[-200:])])
    assert load("digits", partition="seeded").fingerprint == load("digits").fingerprint


def test_load_suggests_the_nearest_partition() -> None:
    with pytest.raises(DataError, match="no partition 'kernel'; did you mean 'kernel-reg'"):
        load("digits", partition="kernel")  # type: ignore[arg-type]


def test_derived_seed_never_changes() -> None:
    assert derived_seed("order", 1, 0) == 669503533
    assert len({derived_seed("order", seed, epoch) for seed in range(20) for epoch in range(20)}) == 400


@pytest.mark.parametrize("choose", [partition, published_partition])
def test_sizes_and_seeds_are_whole_numbers_however_they_are_given(choose: Any) -> None:
    known = choose(numbered(40), validation_size=6, train_size=20, seed=1)
    given = {"validation_size": np.int64(6), "train_size": "20", "seed": torch.tensor(1.0)}
    for ours, theirs in zip(known, choose(numbered(40), **given), strict=True):
        assert torch.equal(ours.labels, theirs.labels)
    for name in ("validation_size", "train_size", "seed"):
        for wrong in (0.5, True, [3], "many"):
            with pytest.raises((TypeError, ValueError), match=f"{name}.* got "):
                choose(numbered(40), **{"validation_size": 6, name: wrong})


@pytest.mark.parametrize("wrong", [-1, None, True, 1.5])
def test_seeds_are_whole_and_at_least_0(wrong: Any) -> None:
    for choose in (
        lambda: partition(numbered(9), seed=wrong),
        lambda: stratified(torch.arange(9), 3, seed=wrong),
    ):
        with pytest.raises((TypeError, ValueError), match=r"Expected .*seed"):
            choose()
