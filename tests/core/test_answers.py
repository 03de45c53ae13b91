"""Which class outputs answer: NaN, infinity and ties of it are none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from withstand.core.answers import NO_ANSWER, is_correct, predicted

INF, NAN = float("inf"), float("nan")


@pytest.mark.parametrize(
    ("outputs", "answer"),
    [
        ([0.0, 2.0, 1.0], 1),
        ([0.0, -INF, -1.0], 0),  # a masked class
        ([NAN, 2.0, 1.0], NO_ANSWER),
        ([0.0, 2.0, NAN], NO_ANSWER),
        ([NAN, NAN, NAN], NO_ANSWER),
        ([INF, 0.0, 1.0], NO_ANSWER),
        ([INF, 0.0, INF], NO_ANSWER),
        ([-INF, -INF, -INF], NO_ANSWER),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_predicted_is_the_largest_output_or_no_answer(
    outputs: list[float], answer: int, dtype: torch.dtype
) -> None:
    rows = torch.tensor([outputs, [0.0, 0.0, 3.0]], dtype=dtype)
    assert predicted(rows).tolist() == [answer, 2]
    assert predicted(rows.T, dim=0).tolist() == [answer, 2]
    for label in range(3):
        assert is_correct(rows, torch.tensor([label, 2])).tolist() == [label == answer, True]


@given(st.lists(st.sampled_from([0.0, -1.0, 5.0, INF, -INF, NAN]), min_size=2, max_size=4))
def test_predicted_answers_exactly_where_there_are_probabilities(outputs: list[float]) -> None:
    row = torch.tensor([outputs])
    has_probabilities = bool(row.softmax(dim=1).isfinite().all())
    assert (predicted(row) != NO_ANSWER).item() == has_probabilities
    if has_probabilities:
        assert predicted(row).equal(row.argmax(dim=1))
        assert predicted(row).equal(predicted(row.log_softmax(dim=1)))
