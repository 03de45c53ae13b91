from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from withstand.attacks import cross_entropy, dlr, margin

LOSSES = [cross_entropy, margin, dlr]
LOGITS = torch.tensor([[2.0, 1.0, -1.0, 0.0], [0.0, 3.0, 1.0, 2.0], [5.0, 4.0, 3.0, 1.0]])
LABELS = torch.tensor([0, 3, 2])


def _distinct(seed: int, classes: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Logits (8, classes) without ties, at least 0.1 apart, and labels."""
    generator = torch.Generator().manual_seed(seed)
    ranks = torch.rand(8, classes, generator=generator).argsort(dim=1)
    jitter = 0.4 * torch.rand(8, classes, generator=generator, dtype=dtype)
    labels = torch.randint(0, classes, (8,), generator=generator)
    return (ranks + jitter - 1.0) / 2, labels


def test_cross_entropy_by_hand() -> None:
    total = math.exp(2) + math.exp(1) + math.exp(-1) + 1
    result = cross_entropy(LOGITS, LABELS)
    assert result.shape == (3,)
    assert float(result[0]) == pytest.approx(math.log(total) - 2, rel=1e-6)


def test_margin_by_hand() -> None:
    torch.testing.assert_close(margin(LOGITS, LABELS), torch.tensor([-1.0, 1.0, 2.0]))


def test_dlr_by_hand() -> None:
    # Largest less third largest: 2 - 0, 3 - 1, 5 - 3.
    torch.testing.assert_close(dlr(LOGITS, LABELS), torch.tensor([-0.5, 0.5, 1.0]))


@given(seed=st.integers(0, 999), classes=st.integers(3, 6))
@settings(max_examples=50, deadline=None)
def test_margin_and_dlr_are_positive_exactly_where_the_argmax_is_wrong(seed: int, classes: int) -> None:
    logits, labels = _distinct(seed, classes)
    wrong = logits.argmax(dim=1) != labels
    assert torch.equal(margin(logits, labels) > 0, wrong)
    assert torch.equal(dlr(logits, labels) > 0, wrong)


@given(seed=st.integers(0, 999), scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
@settings(max_examples=50, deadline=None)
def test_dlr_is_free_of_scale_and_shift_and_margin_of_shift(seed: int, scale: float, shift: float) -> None:
    logits, labels = _distinct(seed, 5)
    torch.testing.assert_close(dlr(scale * logits + shift, labels), dlr(logits, labels))
    torch.testing.assert_close(margin(scale * logits + shift, labels), scale * margin(logits, labels))


@given(seed=st.integers(0, 999), classes=st.integers(3, 6))
@settings(max_examples=50, deadline=None)
def test_dlr_is_at_most_one_and_decreases_with_the_true_logit(seed: int, classes: int) -> None:
    logits, labels = _distinct(seed, classes)
    true = torch.nn.functional.one_hot(labels, classes)
    for loss in LOSSES:
        assert (loss(logits + 0.01 * true, labels) <= loss(logits, labels)).all()
    is_correct = logits.argmax(dim=1) == labels
    assert (dlr(logits, labels)[is_correct] >= -1).all()


@pytest.mark.parametrize("loss", LOSSES)
def test_attack_loss_gradients_are_those_of_finite_differences(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    logits, labels = _distinct(3, 5)
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (logits.requires_grad_(),))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attack_losses_of_ties_and_huge_logits_are_finite(
    loss: Callable[[Tensor, Tensor], Tensor], dtype: torch.dtype
) -> None:
    logits = torch.tensor([[0.0] * 4, [7.0] * 4, [1e4, -1e4, 0.0, 0.0], [1.0, 1.0, 0.0, 0.0]], dtype=dtype)
    logits.requires_grad_()
    result = loss(logits, torch.tensor([0, 1, 1, 0]))
    assert result.dtype == dtype
    assert result.shape == (4,)
    assert result.isfinite().all()
    (gradient,) = torch.autograd.grad(result.sum(), logits)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_attack_losses_but_dlr_take_two_classes(loss: Callable[[Tensor, Tensor], Tensor]) -> None:
    logits = torch.tensor([[1.0, 3.0], [1.0, 3.0]])
    result = loss(logits, torch.tensor([0, 1]))
    assert result[0] > result[1]


def test_dlr_refuses_two_classes() -> None:
    with pytest.raises(ValueError, match=r"at least 3 classes, but got 2: use margin instead"):
        dlr(torch.zeros(1, 2), torch.tensor([0]))


@pytest.mark.parametrize("loss", LOSSES)
def test_attack_loss_is_one_value_an_example_and_each_its_own(
    loss: Callable[[Tensor, Tensor], Tensor],
) -> None:
    together = loss(LOGITS, LABELS)
    alone = torch.cat([loss(LOGITS[i : i + 1], LABELS[i : i + 1]) for i in range(3)])
    assert torch.equal(together, alone)
    assert LOGITS.isfinite().all()  # as it was: nothing is written into it
