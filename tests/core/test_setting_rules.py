"""Numbers and other settings: read alike whatever they are given as, or refused in one line."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from withstand.attacks import PGD
from withstand.attacks.attack import an_attack
from withstand.core.schedules import Linear, StepDecay, scheduled
from withstand.core.setting_rules import (
    AT_LEAST_0,
    COUNT,
    POSITIVE,
    SHARE,
    Number,
    Whole,
    as_number,
    flag,
    list_of,
    optional,
)


@pytest.mark.parametrize(
    "value",
    [
        "8/255",
        " 8 / 255 ",
        8 / 255,
        np.float64(8 / 255),
        torch.tensor(8 / 255, dtype=torch.float64),
        "0.8e1/255",
    ],
)
def test_numbers_are_read_alike_whatever_they_are_given_as(value: Any) -> None:
    number = as_number("epsilon", value)
    assert type(number) is float
    assert number == 8 / 255


@pytest.mark.parametrize(
    ("text", "number"), [("1", 1), (".5", 0.5), ("1e-3", 1e-3), ("-2", -2), ("inf", math.inf)]
)
def test_numbers_are_read_from_text(text: str, number: float) -> None:
    assert as_number("epsilon", text) == number


@pytest.mark.parametrize(
    "value", ["abc", "", "8/", "1/2/3", "8/0", None, True, [0.1], torch.ones(2), np.ones(1), 1j]
)
def test_what_is_no_number_is_refused_by_the_name_of_the_setting(value: Any) -> None:
    with pytest.raises((TypeError, ValueError), match=r"^Expected epsilon as a number, .*but "):
        as_number("epsilon", value)


@pytest.mark.parametrize(
    ("rule", "value", "message"),
    [
        (AT_LEAST_0, -0.1, "Expected it of at least 0, but got -0.1."),
        (AT_LEAST_0, math.nan, "Expected it of at least 0 and finite, but got nan."),
        (AT_LEAST_0, "inf", "Expected it of at least 0 and finite, but got inf."),
        (POSITIVE, 0, "Expected it above 0, but got 0."),
        (SHARE, 1.5, "Expected it from 0 to 1, but got 1.5."),
        (Number(below=1), 1.0, "Expected it below 1, but got 1."),
        (COUNT, 0, "Expected it of at least 1, but got 0."),
        (COUNT, 2**31, "Expected it at most 2,147,483,647, but got 2.14748e+09."),
        (COUNT, 99_999_999_999_999_999_999, "Expected it at most 2,147,483,647, but got 1e+20."),
        (COUNT, 10**400, "Expected it as a whole number, such as 20, but got one of more than 300 digits."),
        (COUNT, 2.5, "Expected a whole number as it, but got 2.5."),
        (COUNT, None, "Expected it as a whole number, such as 20, but got None."),
        (COUNT, True, "Expected it as a whole number, such as 20, but got True."),
        (list_of(COUNT), [1, 0], "Expected every one of it of at least 1, but got 0."),
        (list_of(COUNT), [], "Expected at least one in it, but got none."),
        (list_of(COUNT), 3, "Expected it as a list, in brackets, but got 3."),
        (list_of(COUNT), "1", "Expected it as a list, in brackets, but got '1'."),
        (list_of(COUNT), {1: 5}, "Expected it as a list, in brackets, but got {1: 5}."),
        (list_of(COUNT), {1}, "Expected it as a list, in brackets, but got {1}."),
        (optional(COUNT), 0, "Expected it of at least 1, but got 0."),
        (flag, 1, "Expected it as True or False, but got 1."),
        (scheduled(AT_LEAST_0), Linear(0, -1, 5), "Expected all values of it of at least 0, but got -1."),
        (scheduled(POSITIVE), 0.0, "Expected it above 0, but got 0."),
        (an_attack, None, "Expected it to be an attack, such as PGD(num_steps=20), but got None."),
        (
            an_attack,
            PGD,
            "Expected it to be an attack, such as PGD(num_steps=20), but got the class itself: write PGD(…).",
        ),
    ],
)
def test_rules_say_what_they_expect(rule: Callable[[str, Any], Any], value: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        rule("it", value)
    assert str(caught.value) == message


def test_rules_give_plain_numbers() -> None:
    large = 2**62 + 1
    assert [type(COUNT("it", value)) for value in (2, 2.0, np.int64(2), torch.tensor(2), "2")] == [int] * 5
    assert Whole(least=0)("it", large) == large
    assert list_of(AT_LEAST_0)("it", np.array([0.5, 1])) == [0.5, 1.0]
    assert list_of(AT_LEAST_0)("it", ("1/2", 1)) == (0.5, 1.0)
    assert optional(COUNT)("it", None) is None


def test_a_schedule_may_end_at_a_bound_that_a_number_must_not_reach() -> None:
    decay = StepDecay(0.5, 3)
    assert scheduled(POSITIVE)("lr_factor", decay) is decay
