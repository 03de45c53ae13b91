from __future__ import annotations

import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core.schedules import Linear, Schedule
from withstand.loss.terms import Objective, Penalty, Sum, Weighted
from withstand.types import LossTerms

IMAGES = torch.rand(3, 2)
LABELS = torch.zeros(3, dtype=torch.int64)
MODEL = nn.Identity()


class Fixed(Objective):
    """Always the same loss, under the same name; remembers its arguments."""

    def __init__(self, value: float, name: str = "fixed") -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(value))
        self.register_buffer("state", torch.zeros(()))
        self.name = name
        self.slowed_at: list[float] = []
        self.is_scheduled = False
        self.calls: list[dict[str, Any]] = []

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        self.calls.append({"model": model, "images": images, "labels": labels, "progress": progress})
        return LossTerms(self.value * 1.0, {self.name: self.value.detach()})

    @override
    def slow_down(self, at: float) -> bool:
        self.slowed_at.append(at)
        return self.is_scheduled


class FixedPenalty(Penalty):
    """A penalty of 1, which schedules nothing."""

    @override
    def forward(
        self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
    ) -> LossTerms:
        return LossTerms(torch.ones(()), {"penalty": torch.ones(())})


def _value(objective: Objective, progress: float = math.inf) -> float:
    loss, _ = objective(MODEL, IMAGES, LABELS, progress=progress)
    return float(loss.detach())


def test_objective_sums_and_products_are_what_they_say() -> None:
    one, two = Fixed(3.0), Fixed(5.0)
    assert _value(one + two) == 8.0
    assert _value(0.5 * one) == _value(one * 0.5) == 1.5
    assert _value(one + 0.5 * two + 2 * one) == 3.0 + 2.5 + 6.0
    assert _value(2 * (one + 0.5 * two)) == 11.0
    assert _value(0.5 * (0.5 * two)) == 1.25
    assert _value(one + FixedPenalty()) == 4.0


def test_sum_has_the_weighted_sum_of_gradients() -> None:
    one, two = Fixed(3.0), Fixed(5.0)
    (one + 0.25 * two)(MODEL, IMAGES, LABELS).loss.backward()
    assert one.value.grad is not None
    assert two.value.grad is not None
    assert (one.value.grad.item(), two.value.grad.item()) == (1.0, 0.25)


def test_weighted_reports_terms_before_their_weight_and_detached() -> None:
    loss, terms = (Fixed(3.0, "a") + 0.5 * Fixed(5.0, "b"))(MODEL, IMAGES, LABELS)
    assert {name: float(value) for name, value in terms.items()} == {"a": 3.0, "b": 5.0}
    assert list(terms) == ["a", "b"]
    assert loss.requires_grad
    assert loss.shape == ()
    assert not any(value.requires_grad for value in terms.values())


def test_sum_numbers_names_that_repeat() -> None:
    same = Fixed(1.0) + Fixed(2.0) + Fixed(3.0)
    terms = same(MODEL, IMAGES, LABELS).terms
    assert {name: float(value) for name, value in terms.items()} == {"fixed": 1, "fixed_2": 2, "fixed_3": 3}
    objective = Fixed(1.0, "a_2") + Fixed(2.0, "a") + Fixed(3.0, "a")
    names = list(objective(MODEL, IMAGES, LABELS).terms)
    assert names == ["a_2", "a", "a_3"]


def test_weighted_takes_a_schedule() -> None:
    term = Fixed(2.0)
    for scheduled in (Linear(0.0, 1.0, 4) * term, term * Linear(0.0, 1.0, 4)):
        assert isinstance(scheduled, Weighted)
        assert [_value(scheduled, progress) for progress in (0, 1, 4, 9)] == [0, 0.5, 2, 2]
        assert _value(scheduled) == 2.0


def test_sum_hands_everything_on_to_each_term() -> None:
    one, two = Fixed(1.0), Fixed(2.0)
    ((one + 0.1 * two) * 3.0)(MODEL, IMAGES, LABELS, progress=1.5)
    for term in (one, two):
        (call,) = term.calls
        assert call["model"] is MODEL
        assert call["images"] is IMAGES
        assert call["labels"] is LABELS
        assert call["progress"] == 1.5


def test_sum_slows_every_term_once() -> None:
    one, two, three = Fixed(1.0), Fixed(2.0), Fixed(3.0)
    total = 2 * (one + 0.1 * two) + three + FixedPenalty()
    assert total.slow_down(7) is False  # none of them got easier
    two.is_scheduled = True
    assert total.slow_down(7) is True
    assert one.slowed_at == two.slowed_at == three.slowed_at == [7, 7]


def test_sum_is_flat_and_leaves_its_parts_alone() -> None:
    one, two, three = Fixed(1.0), Fixed(2.0), Fixed(3.0)
    pair = one + two
    assert list(pair.children()) == [pair.get_submodule("terms")]
    assert list(pair.get_submodule("terms").children()) == [one, two]
    assert list((pair + three).get_submodule("terms").children()) == [one, two, three]
    assert list((three + pair).get_submodule("terms").children()) == [three, one, two]
    assert list(pair.get_submodule("terms").children()) == [one, two]


def test_sum_saves_and_moves_the_state_of_its_terms() -> None:
    objective = Fixed(1.0) + 0.5 * Fixed(2.0)
    assert set(objective.state_dict()) == {
        "terms.0.value",
        "terms.0.state",
        "terms.1.term.value",
        "terms.1.term.state",
    }
    assert all(value.dtype == torch.float64 for value in objective.double().state_dict().values())


def test_objective_survives_pickling() -> None:
    again = pickle.loads(pickle.dumps(Fixed(3.0) + 0.5 * Fixed(4.0)))
    assert _value(again) == 5.0


def test_sum_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one in the terms of a sum, but got none"):
        Sum([])


def test_sum_refuses_what_is_no_objective() -> None:
    with pytest.raises(TypeError):
        Fixed(1.0) + 3.0  # type: ignore[operator]


@pytest.mark.parametrize("interface", [Objective, Penalty, Schedule])
def test_objective_interfaces_cannot_be_instantiated(interface: type[Any]) -> None:
    with pytest.raises(TypeError, match="abstract"):
        interface()
