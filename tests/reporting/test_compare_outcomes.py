"""The columns of ``examples.csv`` that comparisons read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from withstand.reporting.compare.pairs import read_outcomes
from withstand.types import RunFolderError

WriteRun = Callable[..., Path]


def test_outcomes_are_of_the_requested_columns_and_every_example_once(write_run: WriteRun) -> None:
    rows = "index,label,prediction,clean,pgd@0.1,note\n2,1,1,1,,x\n0,7,7,1,0.5,y\n0,7,7,1,0.5,y\n"
    outcomes = read_outcomes(write_run(examples=rows), {"clean", "pgd@0.1", "absent"})
    assert outcomes is not None
    assert outcomes.index.tolist() == [0, 2]
    assert outcomes.label.tolist() == [7, 1]
    assert set(outcomes.columns) == {"label", "clean", "pgd@0.1"}
    np.testing.assert_array_equal(outcomes["pgd@0.1"], [0.5, np.nan])


def test_outcomes_of_clean_images_follow_from_predictions(write_run: WriteRun) -> None:
    outcomes = read_outcomes(write_run(examples="index,label,prediction\n0,7,7\n1,2,3\n"), {"clean"})
    assert outcomes is not None
    assert outcomes.clean.tolist() == [1, 0]


def test_outcomes_are_none_where_there_is_nothing_to_read(write_run: WriteRun) -> None:
    assert read_outcomes(write_run("a", only={"metrics.json"}), {"clean"}) is None
    assert read_outcomes(write_run("b", examples="label,clean\n1,1\n"), {"clean"}) is None


def test_outcomes_name_a_damaged_file(write_run: WriteRun) -> None:
    folder = write_run(examples="index,label,clean\n0,1,yes\n")
    with pytest.raises(RunFolderError, match=r"examples\.csv is damaged"):
        read_outcomes(folder, {"clean"})
