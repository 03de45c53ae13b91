"""Accuracies and confusion of classes, and the examples at either end of the radii, by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from withstand.data import Split
from withstand.evaluation.classes import (
    Extremes,
    Telling,
    class_accuracies,
    confusion,
    extremes,
    save_extremes,
)
from withstand.evaluation.rows import prediction_column
from withstand.evaluation.summary import share

NAMES = ["cat", "dog", "owl"]
ATTACK = Telling("pgd-linf", "inf", 0.1)
PROOF = Telling("certified-l2", "2", 0.5)


@pytest.fixture
def rows() -> pd.DataFrame:
    """Seven examples of the first and the last class."""
    return pd.DataFrame(
        {
            "index": range(7),
            "label": [2, 0, 2, 0, 0, 2, 0],
            "prediction": [2, 0, 1, 0, 2, 2, 0],
            "clean": [1, 1, 0, 1, 0, 1, 1],
            "pgd-linf@0.1": [1, 0, 0, 1, 0, 0, 0],
            "pgd-linf@0.1:prediction": [2, 1, 1, 0, 2, 0, 1],
            "certified-l2@0.5": [0, 0, 0, 1, 0, 0, 0],
            "radius-l2": [0.3, 0.2, 0.0, 0.9, 0.0, 0.1, 0.2],
        }
    )


def test_each_class_that_there_is_has_its_accuracies(rows: pd.DataFrame) -> None:
    found = class_accuracies(rows, NAMES, ATTACK, PROOF)
    assert found["attacked"] == {"name": "pgd-linf", "norm": "inf", "epsilon": 0.1}
    assert found["certified"] == {"name": "certified-l2", "norm": "2", "epsilon": 0.5}
    cat, owl = found["rows"]
    assert (cat["class"], owl["class"]) == ("cat", "owl")
    assert cat["clean"] == share([1, 1, 0, 1])
    assert cat["attacked"] == share([0, 1, 0, 0])
    assert cat["certified"] == share([0, 1, 0, 0])
    assert (owl["clean"], owl["attacked"]) == (share([1, 0, 1]), share([1, 0, 0]))
    assert owl["certified"] == share([0, 0, 0])


def test_without_attack_or_proof_there_is_nothing_of_them(rows: pd.DataFrame) -> None:
    found = class_accuracies(rows, NAMES, None, None)
    assert (found["attacked"], found["certified"]) == (None, None)
    assert [(each["attacked"], each["certified"]) for each in found["rows"]] == [(None, None)] * 2


def test_shares_of_several_predictions_are_counted_as_such(rows: pd.DataFrame) -> None:
    shares = rows.assign(clean=[1.0, 0.5, 0.25, 1.0, 0.0, 0.75, 1.0])
    _, owl = class_accuracies(shares, NAMES, None, None, draws=4)["rows"]
    assert owl["clean"] == share([1.0, 0.25, 0.75], 4)
    assert (owl["clean"]["correct"], owl["clean"]["total"]) == (8, 12)


def test_what_is_taken_for_what(rows: pd.DataFrame) -> None:
    found = confusion(rows, NAMES, ATTACK)
    assert found["class_names"] == NAMES
    assert found["clean"] == [[3, 0, 1], [0, 0, 0], [0, 1, 2]]
    assert found["attacked"] == {
        "name": "pgd-linf",
        "norm": "inf",
        "epsilon": 0.1,
        "matrix": [[1, 2, 1], [0, 0, 0], [1, 1, 1]],
    }
    assert prediction_column(ATTACK.name, ATTACK.epsilon) == "pgd-linf@0.1:prediction"


def test_without_predictions_under_attack_there_is_no_such_matrix(rows: pd.DataFrame) -> None:
    assert confusion(rows, NAMES, None)["attacked"] is None
    assert confusion(rows.drop(columns="pgd-linf@0.1:prediction"), NAMES, ATTACK)["attacked"] is None


@pytest.mark.parametrize(
    ("number", "smallest", "largest"),
    [(1, [5], [3]), (2, [5, 1], [3, 0]), (6, [5, 1, 6], [3, 0]), (0, [], [])],
)
def test_the_ends_of_the_proven(
    rows: pd.DataFrame, number: int, smallest: list[int], largest: list[int]
) -> None:
    found = extremes(rows, "certified-l2", number)
    assert found.smallest.tolist() == smallest
    assert found.largest.tolist() == largest


def test_where_nothing_is_proven_there_are_no_ends(rows: pd.DataFrame) -> None:
    found = extremes(rows.assign(**{"radius-l2": 0.0}), "certified-l2")
    assert (len(found.smallest), len(found.largest)) == (0, 0)


def test_indices_are_those_of_the_test_split(rows: pd.DataFrame) -> None:
    found = extremes(rows.assign(index=rows["index"] + 10).iloc[::-1], "certified-l2", 1)
    assert found.smallest.tolist() == [15]
    assert found.largest.tolist() == [13]


def test_images_of_the_ends_are_written(rows: pd.DataFrame, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8, generator=generator)
    test = Split(images, torch.tensor(rows["label"].tolist()))
    path = tmp_path / "extremes.npz"
    found = extremes(rows, "certified-l2", 2)
    save_extremes(path, test, rows, found, certificate="certified-l2", class_names=NAMES)
    with np.load(path) as file:
        saved = dict(file)
    assert str(saved["certificate"]) == "certified-l2"
    assert saved["class_names"].tolist() == NAMES
    assert saved["smallest_index"].tolist() == [5, 1]
    assert saved["smallest_label"].tolist() == [2, 0]
    assert saved["smallest_radius"].tolist() == [0.1, 0.2]
    assert saved["largest_index"].tolist() == [3, 0]
    assert saved["largest_label"].tolist() == [0, 2]
    assert saved["largest_radius"].tolist() == [0.9, 0.3]
    assert saved["largest_images"].dtype == np.uint8
    np.testing.assert_array_equal(saved["largest_images"][1], images[0].permute(1, 2, 0).numpy())
    assert sorted(path.parent.iterdir()) == [path]


def test_no_ends_are_written_as_such(rows: pd.DataFrame, tmp_path: Path) -> None:
    test = Split(torch.zeros(7, 1, 4, 5, dtype=torch.uint8), torch.tensor(rows["label"].tolist()))
    none = Extremes(np.array([], dtype=np.int64), np.array([], dtype=np.int64))
    path = tmp_path / "extremes.npz"
    save_extremes(path, test, rows, none, certificate="certified-l2", class_names=NAMES)
    with np.load(path) as file:
        assert file["smallest_images"].shape == (0, 4, 5, 1)
        assert file["largest_radius"].shape == (0,)
