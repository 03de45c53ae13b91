from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from withstand.data import Split, epoch_order, partition
from withstand.types import DataError

SEEDS = st.integers(min_value=-(2**40), max_value=2**40)


def numbered(count: int) -> Split:
    """A split whose labels are the numbers of its examples."""
    return Split(torch.zeros(count, 1, 1, 1, dtype=torch.uint8), torch.arange(count))


@given(data=st.data(), total=st.integers(1, 60), seed=SEEDS)
def test_validation_and_training_data_never_overlap(data: st.DataObject, total: int, seed: int) -> None:
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
def test_a_tenth_validates_but_at_most_5000(total: int, expected: int) -> None:
    train, validation = partition(numbered(total))
    assert (len(train), len(validation)) == (total - expected, expected)


def test_the_choice_is_the_same_on_every_machine() -> None:
    train, validation = partition(numbered(20), validation_size=4, seed=3)
    assert validation.labels.tolist() == [2, 9, 15, 19]
    assert train.labels.tolist() == [index for index in range(20) if index not in (2, 9, 15, 19)]


def test_the_seed_chooses() -> None:
    choices = {tuple(partition(numbered(100), seed=seed)[1].labels.tolist()) for seed in range(20)}
    assert len(choices) == 20


def test_less_training_data_is_part_of_more_with_the_same_validation_data() -> None:
    splits = [partition(numbered(50), validation_size=5, train_size=size, seed=1) for size in (3, 20, 45)]
    few, some, every = (set(train.labels.tolist()) for train, _ in splits)
    assert few < some < every
    assert len({tuple(validation.labels.tolist()) for _, validation in splits}) == 1


@pytest.mark.parametrize("size", [-1, 10, 11])
def test_rejects_validation_sizes_that_leave_nothing(size: int) -> None:
    with pytest.raises(DataError, match=f"validation_size must be from 0 to 9 .* is {size}"):
        partition(numbered(10), validation_size=size)


@pytest.mark.parametrize("size", [0, 8])
def test_rejects_training_sizes_that_are_not_there(size: int) -> None:
    with pytest.raises(DataError, match=f"train_size must be from 1 to 7 .* is {size}"):
        partition(numbered(10), validation_size=3, train_size=size)


@given(count=st.integers(0, 200), seed=SEEDS, epoch=st.integers(0, 1000))
def test_an_epoch_visits_each_example_once(count: int, seed: int, epoch: int) -> None:
    order = epoch_order(count, seed=seed, epoch=epoch)
    assert order.sort().values.tolist() == list(range(count))
    assert order.dtype == torch.int64


def test_an_epoch_order_is_the_same_on_every_machine() -> None:
    assert epoch_order(10, seed=0, epoch=0).tolist() == [8, 4, 2, 6, 9, 1, 5, 3, 7, 0]
    assert epoch_order(10, seed=0, epoch=1).tolist() == [8, 1, 3, 2, 7, 6, 9, 0, 5, 4]


def test_each_seed_and_epoch_has_its_own_order() -> None:
    orders = {
        tuple(epoch_order(100, seed=seed, epoch=epoch).tolist()) for seed in range(5) for epoch in range(5)
    }
    assert len(orders) == 25


def test_orders_and_partitions_leave_the_global_generator_alone() -> None:
    before = torch.get_rng_state()
    epoch_order(10, seed=0, epoch=0)
    partition(numbered(10))
    assert torch.equal(torch.get_rng_state(), before)
