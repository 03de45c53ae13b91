"""A part of the test data stands for the whole, whatever the order of the examples."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from withstand.attacks import PGD
from withstand.cli.console import print_results
from withstand.core.run_folder import RunFolder
from withstand.data import Augment, Dataset, Split, from_arrays
from withstand.data.content import digest
from withstand.evaluation import evaluate
from withstand.evaluation.meters import Attacks, Certificate
from withstand.objectives import CrossEntropy
from withstand.reporting.compare.pairs import read_outcomes
from withstand.results.measurements import CLEAN
from withstand.training import TrainingSettings, fit
from withstand.types import DataError


@pytest.fixture
def sorted_dataset(tiny_dataset: Dataset) -> Dataset:
    """Test images sorted by class, as a folder of pictures has them: 25 of the first, 15 and 5."""
    test = tiny_dataset.test
    order = test.labels.argsort(stable=True).tolist()
    return replace(tiny_dataset, test=test.subset([*order[:15], *order[:10], *order[15:30], *order[30:35]]))


class Constant(nn.Module):
    """Answers class 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return torch.tensor([3.0, 0.0, 0.0]).expand(len(images), 3) + 0 * images.flatten(1)[:, :3]


@pytest.mark.parametrize("number", [9, 18, 30, 45])
def test_constant_answer_scores_its_class_share_on_any_number_of_examples(
    sorted_dataset: Dataset, number: int
) -> None:
    rows = evaluate(Constant(), sorted_dataset, num_examples=number).rows
    assert len(rows) == number
    assert abs(rows["clean"].sum() - number * 25 / 45) < 1
    assert set(rows["label"]) == {0, 1, 2}


def test_rows_of_a_sample_name_their_places_in_the_test_split(
    sorted_dataset: Dataset, linear: nn.Module
) -> None:
    rows = evaluate(linear, sorted_dataset, num_examples=18, batch_size=7).rows
    every = evaluate(linear, sorted_dataset).rows
    assert rows["index"].is_monotonic_increasing
    chosen = every.set_index("index").loc[rows["index"]]
    for column in ("label", "prediction"):
        assert rows[column].tolist() == chosen[column].tolist()
    np.testing.assert_allclose(rows["confidence"], chosen["confidence"], rtol=1e-6)


def test_sample_is_the_same_for_every_model_and_seed(sorted_dataset: Dataset, linear: nn.Module) -> None:
    places = {
        tuple(evaluate(model, sorted_dataset, num_examples=11, seed=seed, batch_size=size).rows["index"])
        for model, seed, size in ((linear, 0, 500), (linear, 3, 500), (Constant(), 0, 2))
    }
    assert len(places) == 1


def test_runs_of_a_sample_and_of_all_pair_the_same_images(
    sorted_dataset: Dataset, linear: nn.Module, tmp_path: Path
) -> None:
    for name, number in (("few", 18), ("all", None)):
        evaluate(linear, sorted_dataset, num_examples=number, out=tmp_path / name)
    few, every = (read_outcomes(tmp_path / name, ["clean"]) for name in ("few", "all"))
    assert few is not None
    assert every is not None
    both = few.join(every.add_suffix("-all"), how="inner")
    assert len(both) == 18
    assert (both["label"] == both["label-all"]).all()
    assert (both["clean"] == both["clean-all"]).all()


def test_galleries_and_ends_of_radii_are_of_the_images_that_rows_name(
    sorted_dataset: Dataset, linear: nn.Module, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    floats = sorted_dataset.test.images / 255 * 0.9 + torch.rand(45, 1, 4, 4, generator=generator) / 20
    for test in (sorted_dataset.test, Split(floats, sorted_dataset.test.labels)):
        dataset, out = replace(sorted_dataset, test=test), RunFolder(tmp_path / str(test.images.dtype))
        meters = [Attacks([PGD(num_steps=2)], [0.1]), Certificate(norm=2, epsilons=[0.1], radius=True)]
        evaluate(linear, dataset, meters, num_examples=30, out=out.path)
        levels = (test.images / (255 if test.images.dtype == torch.uint8 else 1) * 255).round().byte()
        with np.load(out.gallery) as gallery:
            assert set(gallery["label"]) == {0, 1, 2}
        with np.load(out.extremes) as ends:
            for part in ("smallest", "largest"):
                places = ends[f"{part}_index"].tolist()
                assert places
                expected = levels[places].permute(0, 2, 3, 1).numpy()
                np.testing.assert_array_equal(ends[f"{part}_images"], expected)
                assert ends[f"{part}_label"].tolist() == test.labels[places].tolist()


def test_sample_is_told_on_the_console_and_in_the_results(
    sorted_dataset: Dataset, linear: nn.Module, capsys: pytest.CaptureFixture[str]
) -> None:
    words = "9 of 45 test examples, drawn with the classes' shares of the whole (seed 0)"
    for number in (9, None):
        evaluation = evaluate(linear, sorted_dataset, num_examples=number)
        print_results(evaluation.results, evaluation.table)
        assert evaluation.results.num_test == 45
        assert evaluation.results.test_data == digest(sorted_dataset.test)
        for text in (evaluation.results.scored, " ".join(capsys.readouterr().out.split())):
            assert (words in text) == (number == 9)


def test_evaluate_of_no_test_images_says_so(tiny_dataset: Dataset, linear: nn.Module, tmp_path: Path) -> None:
    nothing = replace(tiny_dataset, test=tiny_dataset.test.subset([]))
    with pytest.raises(DataError, match="tiny has no test images, so there is nothing to evaluate"):
        evaluate(linear, nothing, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("wrong", [None, 3, (1, 2, 3)])
def test_evaluate_and_fit_say_what_they_take_for_data(wrong: Any, linear: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"Expected data as a pair of train and test.*but got a"):
        evaluate(linear, wrong)
    with pytest.raises(TypeError, match=r"Expected data as a pair of train and test.*but got a"):
        fit(linear, wrong, CrossEntropy(), TrainingSettings(epochs=1), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_fit_refuses_crops_that_miss_the_images(
    tiny_dataset: Dataset, linear: nn.Module, tmp_path: Path
) -> None:
    settings = TrainingSettings(epochs=1, augment=Augment(crop_padding=4))
    with pytest.raises(DataError, match="crop_padding=4 can crop whole images away: they have 4 x 4 pixels"):
        fit(linear, tiny_dataset, CrossEntropy(), settings, out=tmp_path / "run")


def test_floats_that_are_no_levels_are_trained_on_and_scored_exactly(tmp_path: Path) -> None:
    """The classes differ by less than a level of 255."""
    labels = torch.arange(40) % 2
    images = 0.5 + 0.001 * (labels[:, None, None, None] - 0.5) * torch.ones(40, 1, 2, 2)
    dataset = from_arrays((images, labels), (images, labels), validation_size=0)
    layer = nn.Linear(4, 2)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[-1.0], [1.0]]).expand(2, 4) * 1000)
        layer.bias.copy_(torch.tensor([2000.0, -2000.0]))
    model = nn.Sequential(nn.Flatten(), layer)
    evaluation = evaluate(model, dataset)
    table = evaluation.table
    assert table.loc[table["measure"] == CLEAN, "value"].item() == 1.0
    settings = TrainingSettings(epochs=1, batch_size=40, augment=Augment(crop_padding=1))
    assert len(fit(model, dataset, CrossEntropy(), settings, out=tmp_path).rows) == 1
