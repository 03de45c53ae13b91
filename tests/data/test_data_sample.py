from __future__ import annotations

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from withstand.data import Split, few, sample, stratified

COUNTS = st.lists(st.integers(0, 40), min_size=1, max_size=6).filter(any)


def labels_of(counts: list[int]) -> torch.Tensor:
    """So many labels of each class, sorted by class as in a folder of pictures."""
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


@given(counts=COUNTS, number=st.integers(0, 250), seed=st.integers(0, 5))
def test_stratified_gives_each_class_its_share(counts: list[int], number: int, seed: int) -> None:
    labels = labels_of(counts)
    chosen = stratified(labels, number, seed=seed)
    assert len(chosen) == min(number, len(labels))
    assert chosen.tolist() == sorted({*chosen.tolist()})
    share = Fraction(len(chosen), len(labels))
    for count, known in zip(counts, labels[chosen].bincount(minlength=len(counts)).tolist(), strict=True):
        assert abs(known - count * share) < 1


@given(counts=COUNTS, number=st.integers(0, 250))
def test_stratified_takes_the_same_shares_whatever_the_order(counts: list[int], number: int) -> None:
    labels = labels_of(counts)
    shuffled = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    parts = (part[stratified(part, number)].bincount(minlength=len(counts)) for part in (labels, shuffled))
    first, second = parts
    assert torch.equal(first, second)


def test_stratified_is_the_same_on_every_machine() -> None:
    assert stratified(torch.arange(20) // 10, 6).tolist() == [0, 1, 5, 10, 11, 18]


def test_stratified_follows_the_seed_and_spreads_within_a_class() -> None:
    labels = torch.zeros(1000, dtype=torch.int64)
    first, second = (stratified(labels, 100, seed=seed) for seed in (0, 1))
    assert not torch.equal(first, second)
    for chosen in (first, second):
        assert abs(float(chosen.double().mean()) - 499.5) < 90  # three standard deviations


@pytest.mark.parametrize("number", [None, 5, 6, 1000])
def test_sample_of_all_is_the_split_itself(number: int | None) -> None:
    split = Split(torch.zeros(5, 1, 2, 2, dtype=torch.uint8), torch.arange(5))
    assert stratified(split.labels, number).tolist() == [0, 1, 2, 3, 4]
    assert sample(split, number) is split


def test_sample_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    stratified(torch.arange(50), 7)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_few_images_are_of_all_classes() -> None:
    images = torch.arange(100, dtype=torch.uint8).reshape(100, 1, 1, 1)
    batch = few(Split(images, labels_of([10] * 10)), 10)
    assert batch.labels.tolist() == list(range(10))
    assert (batch.images.flatten() * 255).round().div(10, rounding_mode="floor").tolist() == list(range(10))
