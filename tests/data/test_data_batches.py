from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from withstand.data import Augment, Split, batches, epoch_order, to_unit_range


def numbered(count: int) -> Split:
    """A split whose labels and levels are the numbers of its examples."""
    numbers = torch.arange(count)
    return Split(numbers.to(torch.uint8).reshape(count, 1, 1, 1).expand(count, 2, 3, 3), numbers)


@given(count=st.integers(0, 30), batch_size=st.integers(1, 12), drop_last=st.booleans())
def test_batches_hold_every_example_once_and_in_order(count: int, batch_size: int, drop_last: bool) -> None:
    labels = [batch.labels.tolist() for batch in batches(numbered(count), batch_size, drop_last=drop_last)]
    num_labels = count - count % batch_size if drop_last else count
    assert [label for batch in labels for label in batch] == list(range(num_labels))
    assert all(len(batch) == batch_size for batch in labels[:-1])
    assert len(labels) == -(-num_labels // batch_size)


@given(count=st.integers(0, 30), batch_size=st.integers(1, 12), drop_last=st.booleans())
def test_batches_follow_an_order(count: int, batch_size: int, drop_last: bool) -> None:
    order = epoch_order(count, seed=count, epoch=0)
    result = list(batches(numbered(count), batch_size, order=order, drop_last=drop_last))
    labels = [label for batch in result for label in batch.labels.tolist()]
    levels = [level for batch in result for level in (batch.images[:, 0, 0, 0] * 255).round().tolist()]
    assert labels == levels == order[: len(labels)].tolist()
    assert len(labels) == (count - count % batch_size if drop_last else count)


def test_batches_take_an_order_that_is_a_part_or_repeats() -> None:
    (batch,) = batches(numbered(5), 8, order=torch.tensor([4, 4, 1]))
    assert batch.labels.tolist() == [4, 4, 1]


def test_batches_hold_floats_in_the_unit_range() -> None:
    levels = torch.arange(256, dtype=torch.uint8)
    floats = to_unit_range(levels)
    assert floats.dtype == torch.float32
    assert np.array_equal(floats.numpy(), np.arange(256, dtype=np.float32) / np.float32(255))
    (batch,) = batches(Split(levels.reshape(4, 1, 8, 8), torch.zeros(4, dtype=torch.int64)), 4)
    assert torch.equal(batch.images.flatten(), floats)


def test_batches_augment_each_batch_once() -> None:
    seen: list[tuple[torch.dtype, int]] = []

    def invert(images: torch.Tensor) -> torch.Tensor:
        seen.append((images.dtype, len(images)))
        return 255 - images

    result = list(batches(numbered(5), 2, augment=invert))
    assert seen == [(torch.uint8, 2), (torch.uint8, 2), (torch.uint8, 1)]
    assert result[2].images.flatten().tolist() == pytest.approx([251 / 255] * 18)
    assert result[2].labels.tolist() == [4]


def test_batches_leave_the_data_as_they_were() -> None:
    split = Split(torch.arange(96, dtype=torch.uint8).reshape(6, 1, 4, 4), torch.arange(6))
    before = split.images.clone()
    for batch in batches(split, 2, augment=Augment(crop_padding=1)):
        batch.images.zero_()
    assert torch.equal(split.images, before)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
@pytest.mark.parametrize("order", [None, torch.tensor([3, 1, 2, 0])])
def test_batches_may_be_changed_in_place(dtype: torch.dtype, order: torch.Tensor | None) -> None:
    split = Split(torch.ones(4, 1, 2, 2, dtype=dtype), torch.ones(4, dtype=torch.int64))
    for augment in (None, lambda images: images.mul_(0)):
        for batch in batches(split, 3, order=order, augment=augment):
            batch.images.zero_()
            batch.labels.zero_()
    assert bool((split.images == 1).all())
    assert bool((split.labels == 1).all())


def test_batches_reject_size_0_at_once() -> None:
    with pytest.raises(ValueError, match="batch_size must be at least 1, but is 0"):
        batches(numbered(3), 0)


@pytest.mark.parametrize("order", [torch.tensor([0, 3]), torch.tensor([-1])])
def test_batches_reject_orders_beyond_the_split(order: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=f"indices from 0 to 2, but its values go from {order.min()}"):
        batches(numbered(3), 2, order=order)


@pytest.mark.parametrize("order", [torch.tensor([[0]]), torch.tensor([0.0]), torch.tensor([True])])
def test_batches_reject_orders_that_are_not_indices(order: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="order must be a 1-D int64 tensor"):
        batches(numbered(3), 2, order=order)
