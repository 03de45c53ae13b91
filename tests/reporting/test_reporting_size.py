"""A page of many examples and curves stays small."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from plotly.offline import get_plotlyjs

from withstand.reporting import report

WriteRun = Callable[..., Path]
NUM_EXAMPLES = 10_000
NUM_CURVES = 20
MEGABYTE = 1_000_000


@pytest.fixture
def large(write_run: WriteRun, measures: dict[str, Any]) -> Path:
    """A run of 10,000 examples, with ten attacks and ten certificates of known radii."""
    draws = random.Random(0)
    names = [f"l2-{number}" for number in range(NUM_CURVES // 2)]
    epsilons = [0.1 * number for number in range(1, 21)]
    curve = [
        {"epsilon": epsilon} | measures["clean"] | {"total": NUM_EXAMPLES, "correct": 9_000}
        for epsilon in epsilons
    ]
    attacks = [{"name": f"pgd-{name}", "norm": "2", "curve": curve} for name in names]
    certificates = [
        {"name": f"certified-{name}", "norm": "2", "method": "best", "curve": curve} for name in names
    ]
    rows = [
        ",".join([str(index), *(f"{draws.expovariate(1.0):.9f}" for _ in names)])
        for index in range(NUM_EXAMPLES)
    ]
    header = ",".join(["index", *(f"radius-{name}" for name in names)])
    return write_run(
        metrics=measures | {"attacks": attacks, "certificates": certificates},
        examples="\n".join([header, *rows]),
    )


def test_a_page_of_many_examples_is_small(large: Path) -> None:
    page = report(large)
    assert page.stat().st_size < 8 * MEGABYTE
    rest = page.stat().st_size - len(get_plotlyjs().encode())
    assert rest < 1.5 * MEGABYTE
