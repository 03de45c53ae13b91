from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from withstand.core.schedules import (
    Constant,
    Continuation,
    Exponential,
    Join,
    Linear,
    PerEpoch,
    Schedule,
    Slowed,
    Stages,
    StepDecay,
    value_at,
)

IAT = PerEpoch(Linear(start=0.0, end=0.4, epochs=40))
EXTENDED = Stages(values=[0.3, 0.4], epochs=[30, 5])
VALUES = st.floats(1e-6, 1e3)
LENGTHS = st.floats(1e-3, 1e3)
BEGINS = st.floats(0, 1e3)


@pytest.mark.parametrize(
    ("schedule", "end"),
    [
        (Constant(0.3), 0.3),
        (Linear(0.0, 0.4, 40), 0.4),
        (Linear(0.4, 0.0, 40, begin=3), 0.0),
        (Exponential(0.1, 0.001, 10), 0.001),
        (EXTENDED, 0.4),
        (Join([Constant(1.0), Linear(0.0, 0.7, 3)], [2]), 0.7),
        (IAT, 0.4),
        (Slowed(EXTENDED, 30), 0.4),
        (Slowed(0.4, 0), 0.4),
        (Slowed(IAT, 20, share=1.0), 0.4),
        (Continuation(0.8, epochs=50), 0.8),
    ],
)
def test_schedule_without_progress_is_at_its_end(schedule: Schedule, end: float) -> None:
    assert schedule() == end
    assert schedule(math.inf) == end
    assert value_at(schedule) == end
    assert schedule(1e9) == end


def test_schedule_may_be_a_plain_float() -> None:
    assert value_at(0.25) == value_at(0.25, 3.0) == Constant(0.25)(3.0) == 0.25
    assert isinstance(value_at(2, 1.0), float)
    assert value_at(Linear(0, 1, 2), 1.0) == 0.5


# Ramps


def test_linear_ramp_by_hand() -> None:
    ramp = Linear(start=1.0, end=3.0, epochs=4, begin=2)
    assert [ramp(e) for e in (0, 1.9, 2, 3, 4.5, 6, 7)] == [1.0, 1.0, 1.0, 1.5, 2.25, 3.0, 3.0]


def test_exponential_ramp_by_hand() -> None:
    ramp = Exponential(start=1.0, end=16.0, epochs=4, begin=1)
    assert [ramp(e) for e in (0, 1, 2, 3, 5, 9)] == pytest.approx([1, 1, 2, 4, 16, 16], rel=1e-14)
    assert ramp(5) == 16.0


@given(kind=st.sampled_from([Linear, Exponential]), start=VALUES, end=VALUES, epochs=LENGTHS, begin=BEGINS)
@settings(max_examples=300, deadline=None)
def test_ramp_ends_exactly_and_never_leaves_its_ends(
    kind: type[Linear | Exponential], start: float, end: float, epochs: float, begin: float
) -> None:
    ramp = kind(start=start, end=end, epochs=epochs, begin=begin)
    assert ramp(0) == pytest.approx(start, rel=1e-12)
    assert ramp(begin) == pytest.approx(start, rel=1e-12)
    assert ramp(begin + epochs) == end
    assert ramp(begin + epochs * 1.5) == end
    values = [ramp(begin + epochs * share / 16) for share in range(17)]
    slack = 1e-12 * max(start, end)
    assert all(min(start, end) - slack <= value <= max(start, end) + slack for value in values)
    direction = 1 if end >= start else -1
    assert all(direction * (later - value) >= -slack for value, later in itertools.pairwise(values))


def test_ramp_ends_where_its_floats_say_so() -> None:
    # (1.1 + 2.2 - 1.1) / 2.2 and its like may fall below 1.
    for begin, epochs in itertools.product([k / 10 for k in range(40)], [k / 10 for k in range(1, 40)]):
        assert Linear(0.0, 1.0, epochs, begin=begin)(begin + epochs) == 1.0


@pytest.mark.parametrize("kind", [Linear, Exponential])
@pytest.mark.parametrize(("epochs", "begin"), [(0, 0), (-1, 0), (5, -0.5)])
def test_ramps_without_length_are_refused(
    kind: type[Linear | Exponential], epochs: float, begin: float
) -> None:
    with pytest.raises(ValueError, match=r"Expected (epochs above 0|begin of at least 0), but got"):
        kind(0.1, 0.2, epochs, begin)


@pytest.mark.parametrize(("start", "end"), [(0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)])
def test_exponential_ramps_need_positive_ends(start: float, end: float) -> None:
    with pytest.raises(ValueError, match=r"Expected (start|end) above 0, but got"):
        Exponential(start, end, 5)


# Stages and joins


def test_stages_change_at_their_boundaries() -> None:
    before = math.nextafter(30, 0)
    assert [EXTENDED(e) for e in (0, 29, before, 30, 34.9, 35, 99)] == [0.3, 0.3, 0.3, 0.4, 0.4, 0.4, 0.4]
    assert [Stages([1, 2, 3], [1, 0.5, 1])(e) for e in (0.9, 1, 1.4, 1.5, 7)] == [1, 2, 2, 3, 3]


@pytest.mark.parametrize(
    ("values", "epochs"), [([], []), ([1.0], []), ([1.0], [1, 2]), ([1.0, 2.0], [1, 0]), ([1.0], [-1])]
)
def test_stages_that_do_not_fit_are_refused(values: list[float], epochs: list[float]) -> None:
    with pytest.raises(
        ValueError, match=r"as many epochs as values, but got|at least one in|every one of epochs above 0"
    ):
        Stages(values, epochs)


def test_join_runs_each_schedule_on_its_own_clock() -> None:
    joined = Join([Linear(0, 1, 4), Linear(10, 20, 5), Linear(100, 200, 2)], [2, 6])
    assert [joined(e) for e in (0, 1, 2, 4.5, 6, 7, 8, 50)] == [0, 0.25, 10, 15, 100, 150, 200, 200]
    assert joined(math.nextafter(2, 0)) == pytest.approx(0.5)
    assert joined(math.nextafter(6, 0)) == pytest.approx(18)


def test_join_of_one_schedule_is_that_schedule() -> None:
    assert Join([Linear(0, 1, 4)], [])(3) == 0.75


@pytest.mark.parametrize(
    ("count", "boundaries"), [(0, []), (1, [1]), (2, []), (3, [2, 1]), (3, [2, 2]), (2, [1, 2])]
)
def test_join_refuses_what_does_not_fit(count: int, boundaries: list[float]) -> None:
    with pytest.raises(
        ValueError, match=rf"one ascending boundary .* but got {count} schedules|at least one in schedules"
    ):
        Join([Constant(0.0)] * count, boundaries)


def test_per_epoch_schedule_is_that_of_iat() -> None:
    for epoch in range(1, 41):
        for done in (0.0, 0.5, 0.999):
            assert IAT(epoch - 1 + done) == pytest.approx(0.01 * epoch, rel=1e-12)
    assert IAT(40) == IAT(41.5) == 0.4


# Slowing down


def test_slowing_down_puts_in_one_epoch_of_half_the_step() -> None:
    slowed = Slowed(EXTENDED, 30)
    assert [slowed(e) for e in (0, 29.9, math.nextafter(30, 0))] == [0.3] * 3
    assert [slowed(e) for e in (30, 30.99)] == pytest.approx([0.35] * 2)
    assert [slowed(e) for e in (31, 35, 36, 99)] == [0.4] * 4


def test_slowing_down_again_halves_the_step_again() -> None:
    twice = Slowed(Slowed(EXTENDED, 30), 30)
    assert [twice(e) for e in (29, 30, 31, 32, 33)] == pytest.approx([0.3, 0.325, 0.35, 0.4, 0.4])
    thrice = Slowed(twice, 30)
    assert [thrice(e) for e in (29, 30, 31, 32, 33)] == pytest.approx([0.3, 0.3125, 0.325, 0.35, 0.4])


def test_slowing_down_a_later_step_leaves_the_earlier_ones() -> None:
    twice = Slowed(Slowed(EXTENDED, 30), 31)  # 0.35 was reached; 0.4 was too hard
    assert [twice(e) for e in (29, 30, 31, 32)] == pytest.approx([0.3, 0.35, 0.375, 0.4])


def test_slowing_down_delays_what_follows_by_one_epoch() -> None:
    slowed = Slowed(IAT, 20)
    assert [slowed(e) for e in (19, 20, 21, 22)] == pytest.approx([0.2, 0.205, 0.21, 0.22])
    assert [slowed(e) for e in (39, 40, 41)] == pytest.approx([0.39, 0.4, 0.4])


def test_slowing_down_at_the_very_start_begins_at_nothing() -> None:
    assert [Slowed(0.4, 0)(e) for e in (0, 0.5, 1, 2)] == [0.2, 0.2, 0.4, 0.4]
    assert [Slowed(Slowed(0.4, 0), 0)(e) for e in (0, 1, 2)] == pytest.approx([0.1, 0.2, 0.4])
    assert Slowed(0.4, 5)(5) == pytest.approx(0.4)  # no step there to halve


def test_slowing_down_with_a_share_of_one_only_delays_and_does_so_exactly() -> None:
    steps = Stages([75, 100, 11], [30, 5, 1])
    delayed = Slowed(steps, 30, share=1.0)
    assert [delayed(e) for e in (29, 30, 31, 35, 35.9, 36)] == [75, 100, 100, 100, 100, 11]
    down = Slowed(Stages([0.2, 0.05], [1, 1]), 1, share=1.0)
    assert down(1) == 0.05  # 0.2 + (0.05 - 0.2) is not


@given(at=st.integers(0, 45), progress=st.floats(0, 50), share=st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_slowing_down_a_growing_schedule_never_makes_it_harder(
    at: int, progress: float, share: float
) -> None:
    slowed = Slowed(IAT, at, share)
    assert 0 <= slowed(progress) <= IAT(progress) + 1e-12
    assert slowed(progress) <= slowed(progress + 0.5) + 1e-12


# Continuation


def test_continuation_by_hand() -> None:
    radius = Continuation(0.8, epochs=50)
    assert radius(0) == pytest.approx(4.0)
    assert radius(50) == pytest.approx(0.8 * (1 + 4 / math.e))
    assert Continuation(1.5)(2) == pytest.approx(1.5 * (1 + 4 / math.e))
    assert Continuation(2.0, excess=0.5)(0) == 3.0
    assert Continuation(2.0, excess=0.0)(1) == 2.0


@given(end=VALUES, excess=st.floats(0, 10), epochs=LENGTHS, progress=st.floats(0, 1e4))
@settings(max_examples=100, deadline=None)
def test_continuation_decreases_and_stays_above_its_end(
    end: float, excess: float, epochs: float, progress: float
) -> None:
    radius = Continuation(end, excess, epochs)
    assert end <= radius(progress) <= radius(progress / 2) <= end * (1 + excess)


@pytest.mark.parametrize(("excess", "epochs"), [(4, 0), (4, -1), (-0.5, 2), (4, math.nan)])
def test_continuation_refuses_to_grow(excess: float, epochs: float) -> None:
    with pytest.raises(ValueError, match=r"Expected (epochs above 0|excess of at least 0)"):
        Continuation(1.0, excess, epochs)


def test_step_decay_by_hand() -> None:
    decay = StepDecay(factor=0.5, epochs=40)
    assert [decay(0), decay(39.9), decay(40), decay(80.5)] == [1.0, 1.0, 0.5, 0.25]
    assert decay() == 0.0


@pytest.mark.parametrize(("factor", "epochs"), [(1.0, 1), (0.0, 1), (-0.5, 1), (0.5, 0), (0.5, -1)])
def test_step_decay_refuses_what_does_not_decay(factor: float, epochs: float) -> None:
    with pytest.raises(ValueError, match=r"Expected (factor between 0 and 1|epochs above 0)"):
        StepDecay(factor, epochs)
