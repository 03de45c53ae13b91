from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import count

import pytest
import torch
from torch import Tensor

from withstand.operators import (
    Convolution,
    Dense,
    GuaranteedNorms,
    LinearOperator,
    Shape,
    guaranteed,
    upper_bound,
)


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class _Derived(Dense):
    """What it holds beside the fields of a dataclass is not known."""


@dataclass(frozen=True, eq=False)
class _Twin(_Derived):
    """Holds what another one holds."""


@dataclass(frozen=True, eq=False)
class _Remembered(Dense):
    parts: object = ()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many bounds were computed."""
    counter, last = count(1), [0]

    def counted(operator: LinearOperator, input_shape: Shape, *, is_quick: bool) -> Tensor:
        last[0] = next(counter)
        return upper_bound(operator, input_shape, is_quick=is_quick)

    monkeypatch.setattr(guaranteed, "upper_bound", counted)
    monkeypatch.setattr(guaranteed, "_cache", {})
    return lambda: last[0]


def test_guaranteed_norms_bound_the_same_content_once(calls: Callable[[], int]) -> None:
    weight = _random(3, 2, 3)
    first = GuaranteedNorms().of(Convolution(weight, [1], [1], [1]), (2, 5), "a")
    again = GuaranteedNorms().of(Convolution(weight.clone(), (1,), (1,), (1,)), (2, 5), "b")
    assert again.equal(first)
    assert calls() == 1


def test_guaranteed_norms_bound_whatever_differs_anew(calls: Callable[[], int]) -> None:
    weight, norms = _random(4, 2, 3, 3), GuaranteedNorms()
    conv = Convolution(weight, [1, 1], [1, 1], [1, 1])
    changed = weight.clone()
    changed[0, 0, 0, 0] = torch.nextafter(changed[0, 0, 0, 0], torch.tensor(9.0).double())
    different: list[tuple[LinearOperator, Shape]] = [
        (conv, (2, 6, 5)),
        (conv, (2, 5, 6)),
        (replace(conv, weight=changed), (2, 6, 5)),
        (replace(conv, weight=weight.reshape(4, 2, 1, 9)), (2, 8, 8)),
        (replace(conv, weight=weight.reshape(4, 2, 9, 1)), (2, 8, 8)),
        (replace(conv, stride=[2, 1]), (2, 6, 5)),
        (replace(conv, stride=[1, 2]), (2, 6, 5)),
        (replace(conv, padding=[1, 0]), (2, 6, 5)),
        (replace(conv, dilation=[2, 1]), (2, 6, 5)),
        (replace(conv, groups=2), (4, 6, 5)),
        (conv.entrywise(Tensor.float), (2, 6, 5)),
        (Dense(weight[0, 0]), (3,)),
        (Dense(weight[0, 0].T), (3,)),
        (_Twin(weight[0, 0]), (3,)),
        (_Remembered(weight[0, 0]), (3,)),
        (_Remembered(weight[0, 0], (1, 2)), (3,)),
    ]
    for number, (operator, shape) in enumerate(different, start=1):
        norms.of(operator, shape, "a")
        norms.of(operator, shape, "a")
        assert calls() == number


def test_guaranteed_norms_notice_weights_changed_in_place(calls: Callable[[], int]) -> None:
    weight, norms = torch.nn.Parameter(_random(3, 3)), GuaranteedNorms()
    before = norms.of(Dense(weight), (3,), "a").item()
    weight.data[0, 0] += 100
    assert norms.of(Dense(weight), (3,), "a").item() > before + 50


def test_guaranteed_norms_do_not_cache_what_may_hold_more_than_can_be_seen(calls: Callable[[], int]) -> None:
    for operator in (_Derived(_random(3, 3)), _Remembered(_random(3, 3), object())):
        before = calls()
        GuaranteedNorms().of(operator, (3,), "a")
        GuaranteedNorms().of(operator, (3,), "a")
        assert calls() == before + 2


def test_guaranteed_norms_cache_only_the_youngest(
    calls: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guaranteed, "_MOST_CACHED", 2)
    norms, weights = GuaranteedNorms(), [_random(3, 3, seed=seed) for seed in range(3)]
    for index, computed in ((0, 1), (1, 2), (0, 2), (2, 3), (0, 3), (1, 4)):
        norms.of(Dense(weights[index]), (3,), "a")
        assert calls() == computed


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_guaranteed_norms_are_rounded_up(dtype: torch.dtype) -> None:
    for seed in range(20):
        operator = Dense(_random(3, 4, seed=seed).to(dtype))
        bound = GuaranteedNorms().of(operator, (4,), "a")
        exact = upper_bound(operator, (4,)).item()
        assert bound.dtype == dtype
        assert exact <= bound.item() <= exact * (1 + torch.finfo(dtype).eps)
