"""A collapse is told by the model's answers, and ``fit`` says what makes its result doubtful."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override

from withstand.attacks import PGD
from withstand.core.schedules import Linear, PerEpoch, Schedule, Stages
from withstand.data import Dataset, Split, from_arrays
from withstand.data.arrays import as_split
from withstand.loss.terms import Objective
from withstand.objectives import Adversarial, Certified, CrossEntropy
from withstand.training import TrainingResult, TrainingSettings, fit, has_collapsed
from withstand.training.checkpoint import Row, early_best
from withstand.training.collapse import is_constant
from withstand.training.messages import cut_schedules
from withstand.training.validation import NO_ANSWER_SHARE, accuracies, scores
from withstand.types import LossTerms

WEAK = PGD(epsilon=0.02, num_steps=2)


def shades(share: float, *, num: int = 200, validation: int = 60) -> Dataset:
    """Dark images of class 0, bright ones of class 1, of which there is this share; sorted by class."""
    generator = torch.Generator().manual_seed(0)

    def part(count: int) -> tuple[Tensor, Tensor]:
        labels = (torch.arange(count) >= round(count * (1 - share))).long()
        images = 0.2 * torch.rand(count, 1, 4, 4, generator=generator)
        return images + 0.6 * labels[:, None, None, None], labels

    train, test = part(num), part(40)
    dataset = from_arrays(train, test, class_names=["dark", "bright"])
    return replace(dataset, validation=as_split(*part(validation)) if validation else dataset.validation)


def linear(*, frozen: bool = False, answer: int | None = None) -> nn.Sequential:
    """A linear net that knows nothing, or always gives one answer."""
    head = nn.Linear(16, 2)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    if answer is not None:
        head.bias.data[answer] = 0.7
    head.weight.requires_grad_(not frozen)
    return nn.Sequential(Center(), nn.Flatten(), head)


class Center(nn.Module):
    @override
    def forward(self, images: Tensor) -> Tensor:
        return images - 0.4


def sgd(lr: float) -> partial[torch.optim.SGD]:
    return partial(torch.optim.SGD, lr=lr)


def train(
    model: nn.Module, dataset: Dataset, objective: Objective, out: Path, *, lr: float, epochs: int = 3
) -> TrainingResult:
    settings = TrainingSettings(epochs=epochs, batch_size=40, accelerator="cpu", optimizer=sgd(lr))
    return fit(model, dataset, objective, settings, out=out)


def collapsed(result: TrainingResult) -> list[float | int | str]:
    return [row["collapsed"] for row in result.rows]


@pytest.mark.parametrize(("accuracy", "num_classes"), [(0.95, 2), (0.8, 2), (0.6, 10), (0.99, 1000)])
def test_a_net_that_is_right_has_not_collapsed_whatever_its_loss(accuracy: float, num_classes: int) -> None:
    assert not has_collapsed(math.log(num_classes), accuracy, num_classes)


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.99])
def test_a_constant_answer_may_have_collapsed_however_many_it_is_right_of(share: float) -> None:
    assert has_collapsed(0.1, share, 2, label_share=share)
    assert not has_collapsed(0.1, share + (1 - share) * 0.9, 2, label_share=share) or share > 0.95


@pytest.mark.parametrize("share", [0.5, 0.7])
def test_slow_progress_is_no_collapse_and_its_best_epoch_is_kept(share: float, tmp_path: Path) -> None:
    result = train(linear(), shades(share), Adversarial(WEAK), tmp_path, lr=2e-4)
    assert result.rows[0]["adversarial"] == pytest.approx(math.log(2), rel=5e-3)  # hardly begun
    assert collapsed(result) == [0, 0, 0]
    assert result.best_score == max(float(row["validation_accuracy"]) for row in result.rows) > share


def test_a_net_that_the_attack_always_fools_has_not_collapsed_while_it_is_right(tmp_path: Path) -> None:
    strong = PGD(epsilon=0.35, num_steps=5)
    model = linear()
    nn.init.constant_(model[2].get_parameter("weight")[1], 0.01)
    result = train(model, shades(0.5), Adversarial(strong), tmp_path, lr=1e-6)
    assert all(float(row["adversarial_accuracy"]) < 0.5 for row in result.rows)
    assert collapsed(result) == [0, 0, 0]
    assert result.best_score == 1


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 0.1])
@pytest.mark.parametrize("validation", [60, 0])
def test_a_constant_answer_is_a_collapse_on_whatever_data(
    share: float, validation: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    common = int(share >= 0.5)
    dataset = shades(share, validation=validation)
    result = train(linear(frozen=True, answer=common), dataset, Adversarial(WEAK), tmp_path, lr=1e-3)
    assert collapsed(result) == [1, 1, 1]
    assert result.has_collapsed
    assert "Training collapsed: the model gives one answer to nearly all images" in caplog.text


def test_a_constant_answer_of_certified_training_is_a_collapse(tmp_path: Path) -> None:
    result = train(linear(frozen=True, answer=1), shades(0.9), Certified(2, 0.01), tmp_path, lr=1e-3)
    assert collapsed(result) == [1, 1, 1]


def test_data_of_one_class_show_no_collapse(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = train(linear(), shades(1.0), Adversarial(WEAK), tmp_path, lr=0.1)
    assert collapsed(result) == [0, 0, 0]
    of_training = [record for record in caplog.records if record.name.startswith("withstand.training")]
    assert not of_training
    assert "1 of 2 classes have no training images" in caplog.text  # all that is said of such data


def test_labels_at_random_are_no_collapse_but_said_to_be_no_better(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = shades(0.5)
    train_part, validation = (
        Split(part.images, torch.arange(len(part)) % 2) for part in (dataset.train, dataset.validation)
    )
    noisy = replace(dataset, train=train_part, validation=validation)
    model = linear()
    nn.init.constant_(model[2].get_parameter("weight")[1], 0.01)
    result = train(model, noisy, Adversarial(WEAK), tmp_path, lr=1e-6)
    assert collapsed(result) == [0, 0, 0]
    assert "no better than always answering the commonest class" in caplog.text


def test_plain_training_that_is_well_says_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    train(linear(), shades(0.5), CrossEntropy(), tmp_path, lr=0.1)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class Fixed(nn.Module):
    """Gives these answers to images whose mean is its place."""

    def __init__(self, answers: Sequence[float]) -> None:
        super().__init__()
        self.answers = torch.tensor(answers)

    @override
    def forward(self, images: Tensor) -> Tensor:
        place = (images.flatten(1).mean(dim=1) * 255).round().long()
        given = self.answers[place]
        logits = F.one_hot(given.nan_to_num(0).long(), 3).float()
        return torch.where(given.isnan()[:, None], math.nan, logits)


def answered(answers: Sequence[float], labels: Sequence[int]) -> tuple[nn.Module, Split]:
    places = torch.arange(len(answers), dtype=torch.uint8)
    return Fixed(answers), Split(places[:, None, None, None].expand(-1, 1, 2, 2), torch.tensor(labels))


@pytest.mark.parametrize(
    ("answers", "labels", "expected"),
    [
        ([1] * 20, [0, 1] * 10, True),
        ([1] * 39 + [0], [0, 1] * 20, True),
        ([1] * 17 + [0] * 3, [0, 1] * 10, False),
        ([1] * 20, [1] * 20, False),  # there is nothing else to answer
        ([1] * 20, [1] * 18 + [0] * 2, True),
        ([1] * 18 + [0] * 2, [1] * 18 + [0] * 2, False),  # all right
        ([0, 1] * 10, [1, 0] * 10, False),  # all wrong, but not constant
        ([math.nan] * 20, [0, 1] * 10, False),  # no answer is not one answer
    ],
)
def test_is_constant_compares_answers_with_labels(
    answers: list[float], labels: list[int], expected: bool
) -> None:
    assert is_constant(*answered(answers, labels)) is expected


def test_accuracies_count_no_answer_as_wrong_and_show_it() -> None:
    nan = math.nan
    model, split = answered([0, 1, nan, nan], [0, 1, 0, 1])
    assert accuracies(model, split, None) == {"validation_accuracy": 0.5, NO_ANSWER_SHARE: 0.5}
    model, split = answered([0, 1, 2, 0], [0, 1, 2, 1])
    assert accuracies(model, split, None) == {"validation_accuracy": 0.75}


def test_a_score_that_is_nan_is_never_the_best() -> None:
    rows: list[Row] = [
        {"epoch": epoch, "validation_accuracy": score, "collapsed": 0}
        for epoch, score in enumerate([0.3, math.nan, 0.4], start=1)
    ]
    assert scores(rows, 3) == [0.3, -math.inf, 0.4]


class Spoilt(nn.Module):
    """Answers NaN for bright images where it is in eval mode, as with broken statistics."""

    def __init__(self) -> None:
        super().__init__()
        self.head = linear()

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(images)
        mean = images.flatten(1).mean(dim=1)
        is_bad = (mean > 0.6) & torch.tensor(not self.training)
        return logits.where(~is_bad[:, None], math.nan)


def test_fit_counts_no_answer_as_wrong_and_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    result = train(Spoilt(), shades(0.5), CrossEntropy(), tmp_path, lr=0.1)
    assert result.best_score <= 0.5
    assert [row[NO_ANSWER_SHARE] for row in result.rows] == [0.5] * 3
    assert "% of the validation images the model answers NaN" in caplog.text


def test_fit_says_where_adversarial_training_met_gradients_that_are_not_finite(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Root(nn.Module):
        @override
        def forward(self, images: Tensor) -> Tensor:
            return images + (0 * images) ** 0.5

    model = nn.Sequential(Root(), nn.Flatten(), nn.Linear(16, 2))
    train(model, shades(0.5), Adversarial(WEAK), tmp_path, lr=0.1)
    assert "training images the gradient with respect to the image is NaN or infinite" in caplog.text


def test_objectives_count_no_answer_as_wrong() -> None:
    images, labels = torch.rand(4, 1, 2, 2), torch.zeros(4, dtype=torch.int64)

    class Nan(nn.Module):
        @override
        def forward(self, images: Tensor) -> Tensor:
            return images.flatten(1) * math.nan

    result: LossTerms = CrossEntropy()(Nan(), images, labels)
    assert result.terms["accuracy"] == 0
    assert Adversarial(WEAK)(Nan(), images, labels).terms["adversarial_accuracy"] == 0


RAMP = Linear(start=0.0, end=0.4, epochs=20)


@pytest.mark.parametrize(
    ("epsilon", "epochs", "words"),
    [
        (RAMP, 2, "2 epochs reach 0.04, and 0.4 is meant, which takes 20 epochs"),
        (RAMP, 1, "1 epoch reaches 0.02"),
        (RAMP, 19, "19 epochs reach 0.38, and 0.4 is meant, which takes 20"),
        (PerEpoch(RAMP), 19, "19 epochs reach 0.38, and 0.4 is meant, which takes 20"),
        (Stages(values=[0.1, 0.2], epochs=[5, 9]), 5, "5 epochs reach 0.1, and 0.2 is meant, which takes 6"),
        (RAMP, 20, None),
        (PerEpoch(RAMP), 20, None),
        (Linear(start=0.4, end=0.1, epochs=20), 2, None),
        (0.3, 1, None),
    ],
)
@pytest.mark.parametrize("kind", ["adversarial", "certified", "in a sum"])
def test_schedule_of_epsilon_that_ends_after_the_training_is_told(
    epsilon: float | Schedule, epochs: int, words: str | None, kind: str
) -> None:
    attacked = Adversarial(PGD(epsilon=epsilon, num_steps=2))
    certified = Certified(norm=math.inf, epsilon=epsilon)
    objective = {"adversarial": attacked, "certified": certified, "in a sum": CrossEntropy() + 0.5 * attacked}
    told = cut_schedules(objective[kind], epochs)
    assert len(told) == (words is not None)
    assert words is None or words in told[0]


def _log(*epochs: tuple[float, float, int], column: str = "validation_accuracy") -> list[Row]:
    return [
        {"epoch": number, "epsilon": epsilon, column: score, "collapsed": collapsed}
        for number, (epsilon, score, collapsed) in enumerate(epochs, start=1)
    ]


def test_best_epoch_of_a_smaller_epsilon_is_told() -> None:
    grows = _log((0.1, 0.9, 0), (0.2, 0.8, 0), (0.3, 0.7, 0))
    assert "epoch 1, trained at epsilon 0.1, and the last was trained at 0.3" in early_best(grows)
    texts: list[Row] = [{name: str(value) for name, value in row.items()} for row in grows]
    assert early_best(texts) == early_best(grows)
    warmed_up = _log((0.0, 0.9, 0), (0.3, 0.7, 0))
    assert "epoch 1, trained at epsilon 0, and the last was trained at 0.3" in early_best(warmed_up)
    assert early_best([{name: row[name] for name in row if name != "collapsed"} for row in grows])
    collapsed_first = _log((0.1, 0.9, 1), (0.2, 0.8, 0), (0.3, 0.7, 0))
    assert "epoch 2, trained at epsilon 0.2" in early_best(collapsed_first)


@pytest.mark.parametrize(
    "rows",
    [
        _log((0.1, 0.7, 0), (0.3, 0.8, 0)),  # the last is the best
        _log((0.3, 0.9, 0), (0.3, 0.8, 0)),  # no ramp
        _log((0.1, 0.9, 0), (0.3, 0.8, 0), column="validation_robust_accuracy"),  # scored under attack
        [{"epoch": 1, "validation_accuracy": 0.9, "collapsed": 0}, *_log((0.3, 0.8, 0))],
        [{"epoch": "1", "epsilon": "", "validation_accuracy": "0.9", "collapsed": "0"}],
        _log((0.1, 0.9, 1)),
        [],
    ],
)
def test_best_epoch_that_is_no_easier_is_not_told(rows: list[Row]) -> None:
    assert early_best(rows) == ""
