"""Accuracies and confusion of classes, and the examples at either end of the radii, by hand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch

from withstand.data import Split
from withstand.evaluation import Predictor
from withstand.evaluation.meters import Classes
from withstand.evaluation.run_files import save_extremes
from withstand.results import results
from withstand.results.results import Confusion, Target
from withstand.results.shares import share

if TYPE_CHECKING:
    from tests.evaluation.conftest import Gather

NAMES = ["cat", "dog", "owl"]
ATTACK = Target("pgd-linf", "inf", 0.1)
PROOF = Target("certified-l2", "2", 0.5)


def classes(
    gather: Gather,
    rows: pd.DataFrame,
    attack: Target | None = None,
    proof: Target | None = None,
    predictor: Predictor | None = None,
) -> results.Classes:
    gathered = gather(rows, predictor, headline_attack=attack, headline_certificate=proof)
    info = replace(gathered.subject.info, class_names=NAMES)
    table, parts = Classes().summary(replace(gathered, subject=replace(gathered.subject, info=info)))
    assert not table
    assert isinstance(parts["classes"], results.Classes)
    return parts["classes"]


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


def test_classes_have_accuracies_where_they_have_examples(gather: Gather, rows: pd.DataFrame) -> None:
    result = classes(gather, rows, ATTACK, PROOF)
    assert (result.class_names, result.attacked, result.certified) == (NAMES, ATTACK, PROOF)
    cat, owl = result.accuracies
    assert (cat.name, owl.name) == ("cat", "owl")
    assert cat.clean == share([1, 1, 0, 1])
    assert cat.attacked == cat.certified == share([0, 1, 0, 0])
    assert (owl.clean, owl.attacked) == (share([1, 0, 1]), share([1, 0, 0]))
    assert owl.certified == share([0, 0, 0])


def test_classes_without_attack_or_proof_have_clean_accuracy_alone(
    gather: Gather, rows: pd.DataFrame
) -> None:
    result = classes(gather, rows)
    assert (result.attacked, result.certified, result.confusion.attacked) == (None, None, None)
    assert [(accuracy.attacked, accuracy.certified) for accuracy in result.accuracies] == [(None, None)] * 2


def test_classes_count_shares_of_several_predictions(gather: Gather, rows: pd.DataFrame) -> None:
    shares = rows.assign(clean=[1.0, 0.5, 0.25, 1.0, 0.0, 0.75, 1.0])
    predictor = Predictor(torch.nn.Identity(), torch.nn.Identity(), num_repeats=4)
    _, owl = classes(gather, shares, predictor=predictor).accuracies
    assert owl.clean == share([1.0, 0.25, 0.75], 4)
    assert (owl.clean.correct, owl.clean.total) == (8, 12)


def test_confusion_counts_examples_by_class_and_prediction(gather: Gather, rows: pd.DataFrame) -> None:
    confusion = classes(gather, rows, ATTACK, PROOF).confusion
    assert confusion == Confusion(
        clean=[[3, 0, 1], [0, 0, 0], [0, 1, 2]], attacked=[[1, 2, 1], [0, 0, 0], [1, 1, 1]]
    )


SaveEnds = Callable[..., dict[str, np.ndarray[Any, np.dtype[Any]]]]


@pytest.fixture
def save_ends(tmp_path: Path) -> SaveEnds:
    """Writes the ends of the radii of rows and reads them again; image i of the test split has label i."""

    def save(
        rows: pd.DataFrame, number: int = 6, images: torch.Tensor | None = None
    ) -> dict[str, np.ndarray[Any, np.dtype[Any]]]:
        images = torch.zeros(20, 1, 4, 5, dtype=torch.uint8) if images is None else images
        test = Split(images, torch.arange(len(images)))
        path = tmp_path / "extremes.npz"
        save_extremes(path, test, rows, certificate="certified-l2", class_names=NAMES, number=number)
        assert sorted(path.parent.iterdir()) == [path]
        with np.load(path) as file:
            return dict(file)

    return save


@pytest.mark.parametrize(
    ("number", "smallest", "largest"),
    [(1, [5], [3]), (2, [5, 1], [3, 0]), (6, [5, 1, 6], [3, 0]), (0, [], [])],
)
def test_extremes_are_the_smallest_and_largest_radii(
    rows: pd.DataFrame, number: int, smallest: list[int], largest: list[int], save_ends: SaveEnds
) -> None:
    saved = save_ends(rows, number)
    assert saved["smallest_index"].tolist() == smallest
    assert saved["largest_index"].tolist() == largest


def test_extremes_are_empty_where_nothing_is_proven(rows: pd.DataFrame, save_ends: SaveEnds) -> None:
    saved = save_ends(rows.assign(**{"radius-l2": 0.0}))
    assert saved["smallest_images"].shape == (0, 4, 5, 1)
    assert saved["smallest_index"].dtype == np.int64
    assert saved["largest_radius"].shape == (0,)


def test_extremes_have_indices_of_the_test_split(rows: pd.DataFrame, save_ends: SaveEnds) -> None:
    saved = save_ends(rows.assign(index=rows["index"] + 10).iloc[::-1], 1)
    assert saved["smallest_index"].tolist() == saved["smallest_label"].tolist() == [15]
    assert saved["largest_index"].tolist() == [13]


def test_extremes_are_written_by_an_evaluation(rows: pd.DataFrame, save_ends: SaveEnds) -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8, generator=generator)
    saved = save_ends(rows, 2, images)
    assert str(saved["certificate"]) == "certified-l2"
    assert saved["class_names"].tolist() == NAMES
    assert saved["smallest_index"].tolist() == saved["smallest_label"].tolist() == [5, 1]
    assert saved["smallest_radius"].tolist() == [0.1, 0.2]
    assert saved["largest_index"].tolist() == saved["largest_label"].tolist() == [3, 0]
    assert saved["largest_radius"].tolist() == [0.9, 0.3]
    assert saved["largest_images"].dtype == np.uint8
    np.testing.assert_array_equal(saved["largest_images"][1], images[0].permute(1, 2, 0).numpy())
