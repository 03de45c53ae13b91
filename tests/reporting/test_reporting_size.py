"""A page of many examples and curves stays small."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from withstand import reporting
from withstand.reporting import report
from withstand.reporting.page import plotly_script

WriteRun = Callable[..., Path]
NUM_EXAMPLES = 10_000
NUM_CURVES = 20
MEGABYTE = 1_000_000


@pytest.fixture
def large(write_run: WriteRun, everything: Any, build: Any) -> Path:
    """A run of 10,000 examples, with ten attacks and ten certificates of known radii."""
    draws = random.Random(0)
    names = [f"l2-{number}" for number in range(NUM_CURVES // 2)]
    curve = {0.1 * number: 900 for number in range(1, 21)}
    whole = everything.but(attacks=[], certificates=[])
    whole = whole.without(build.ATTACKED, build.CERTIFIED)
    for name in names:
        whole = whole.attacked(f"pgd-{name}", "2", curve).certified(f"certified-{name}", "2", "best", curve)
    rows = [
        ",".join([str(index), *(f"{draws.expovariate(1.0):.9f}" for _ in names)])
        for index in range(NUM_EXAMPLES)
    ]
    header = ",".join(["index", *(f"radius-{name}" for name in names)])
    return write_run(evaluated=whole, examples="\n".join([header, *rows]))


def test_page_of_many_examples_is_small(large: Path) -> None:
    page = report(large)
    assert page.stat().st_size < 3 * MEGABYTE
    rest = page.stat().st_size - len(plotly_script().encode())
    assert rest < 1.5 * MEGABYTE


def test_plotly_bundle_draws_all_kinds_of_figures_that_the_sections_make() -> None:
    kinds = set(re.findall(r'moduleType:"trace",name:"(\w+)"', plotly_script()))
    made = {
        name.lower()
        for file in Path(reporting.__file__).parent.rglob("*.py")
        for name in re.findall(r"\bgo\.([A-Z]\w+)\(", file.read_text(encoding="utf-8"))
    }
    assert made - {"figure"} == {"scatter", "bar"} <= kinds
    assert "</script" not in plotly_script()
