"""No meter, attack or certificate takes NaN for a class, and each says at how many images it met it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand import bayes
from withstand.attacks import PGD, AtMeans, Attack, Cascade, Noise, Transfer
from withstand.core.answers import NO_ANSWER
from withstand.data import Dataset, sample
from withstand.evaluation import Evaluation, evaluate
from withstand.evaluation.meters import (
    Attacks,
    Corruptions,
    KernelNorms,
    Meter,
    MomentCheck,
    NoiseCurve,
    RandomizedSmoothing,
    SebrProtocol,
    Suite,
    Uncertainty,
)
from withstand.evaluation.prediction_sampling import Sampling
from withstand.evaluation.predictor import random_predictor

NUM = 30


def is_spoilt(images: Tensor, threshold: float = 0.6) -> Tensor:
    """Whether the end of the stripe is bright; never of the random images that ``models.check`` looks at."""
    return (images[:, 0, 0, :3].amax(dim=1) > threshold) & (images[:, 0, :, 3].amax(dim=1) < 0.62)


class Columns(nn.Module):
    """The brightest column wins; of spoilt images some logits are no numbers."""

    def __init__(self, threshold: float = 0.6, value: float = math.nan, where: str = "all") -> None:
        super().__init__()
        self.threshold, self.value, self.where = threshold, value, where
        self.scale = nn.Parameter(torch.tensor(10.0))

    @override
    def forward(self, images: Tensor) -> Tensor:
        logits = self.scale * images.mean(dim=(1, 2))[:, :3]
        is_bad = is_spoilt(images, self.threshold)
        spoilt = torch.full_like(logits, self.value)
        if self.where == "first":  # the place that argmax takes for the answer
            spoilt = torch.cat([spoilt[:, :1], logits[:, 1:]], dim=1)
        return torch.where(is_bad[:, None], spoilt, logits)


def bad_images(model: Columns, dataset: Dataset) -> np.ndarray[Any, Any]:
    return is_spoilt(sample(dataset.test, NUM).images.float() / 255, model.threshold).numpy()


def said(evaluation: Evaluation, what: str) -> bool:
    return any(text.startswith("No answer: for ") and what in text for text in evaluation.results.warnings)


def value_of(evaluation: Evaluation, measure: str, **where: Any) -> float:
    table = evaluation.table[evaluation.table["measure"] == measure]
    for name, value in where.items():
        table = table[table[name] == value]
    return float(table["value"].iloc[0])


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["all", "first"])
def test_clean_images_without_an_answer_count_as_wrong_and_are_said(
    tiny_dataset: Dataset, value: float, where: str
) -> None:
    model = Columns(value=value, where=where)
    evaluation = evaluate(model, tiny_dataset, num_examples=NUM)
    bad, rows = bad_images(model, tiny_dataset), evaluation.rows
    if value == -math.inf and where == "first":  # a masked class
        assert not said(evaluation, "clean images")
        return
    assert 0 < bad.sum() < NUM
    assert ((rows["prediction"] == NO_ANSWER) == bad).all()
    assert not rows["clean"][bad].any()
    assert rows["clean"][~bad].all()
    assert rows["confidence"][bad].isna().all()
    assert said(evaluation, f"for {bad.sum()} of {NUM} clean images")
    confusion = np.array(evaluation.results.classes.confusion.clean)  # type: ignore[union-attr]
    assert confusion.sum() == NUM - bad.sum()
    assert sum(part.count for part in evaluation.results.calibration) == NUM


def test_a_model_that_answers_every_image_has_no_such_warning(tiny_dataset: Dataset) -> None:
    meters: list[Meter] = [NoiseCurve(num_levels=2, largest=0.01), RandomizedSmoothing(num_estimation=20)]
    assert not said(evaluate(Columns(threshold=2.0), tiny_dataset, meters, num_examples=NUM), "")


def test_an_attack_that_leads_to_no_answer_counts_as_broken_and_is_said(tiny_dataset: Dataset) -> None:
    class Brighter(Attack):
        norm = math.inf

        @override
        def perturb(
            self, model: nn.Module, images: Tensor, labels: Tensor, *, progress: float = math.inf
        ) -> Tensor:
            return (images + self.epsilon_at(progress)).clamp(0, 1)

        @property
        @override
        def name(self) -> str:
            return "brighter"

    model = Columns(threshold=0.9)
    evaluation = evaluate(model, tiny_dataset, [Attacks([Brighter()], [0.2])], num_examples=NUM)
    led = evaluation.rows["brighter@0.2:prediction"] == NO_ANSWER
    assert led.any()
    assert not evaluation.rows["brighter@0.2"][led].any()
    assert said(evaluation, "under brighter at epsilon 0.2")


@pytest.mark.parametrize(
    "attack",
    [
        PGD(num_steps=5),
        PGD(num_steps=5, norm=2.0, num_restarts=2),
        Noise(num_samples=5),
        Cascade([PGD(num_steps=3), Noise(num_samples=3)]),
        Transfer(Columns(threshold=2.0), PGD(num_steps=5)),
        AtMeans(PGD(num_steps=3)),
    ],
    ids=lambda attack: attack.name,
)
def test_no_attack_makes_images_without_an_answer_robust(tiny_dataset: Dataset, attack: Attack) -> None:
    model = Columns()
    evaluation = evaluate(model, tiny_dataset, [Attacks([attack], [0.02])], num_examples=NUM)
    bad, name = bad_images(model, tiny_dataset), attack.for_evaluation().name
    assert not evaluation.rows[f"{name}@0.02"][bad].any()
    assert (evaluation.rows[f"{name}@0.02"] <= evaluation.rows["clean"]).all()


def test_a_suite_counts_no_answer_as_wrong(tiny_dataset: Dataset) -> None:
    model = Columns()
    evaluation = evaluate(model, tiny_dataset, [Suite("fast", [0.01])], num_examples=NUM)
    assert not evaluation.rows["fast-linf@0.01"][bad_images(model, tiny_dataset)].any()


def test_noise_counts_no_answer_as_wrong_and_as_agreeing_with_nothing(tiny_dataset: Dataset) -> None:
    meter = NoiseCurve(num_levels=2, largest=1e-6)
    model = Columns()
    evaluation = evaluate(model, tiny_dataset, [meter], num_examples=NUM)
    share = 1 - bad_images(model, tiny_dataset).mean()
    for by in ("unclipped", "clipped"):
        for level in meter.levels:
            for measure in ("agreement under noise", "accuracy under noise"):
                assert value_of(evaluation, measure, by=by, level=level) == pytest.approx(share)
    assert said(evaluation, "noisy images")


def test_corruptions_count_no_answer_as_wrong(tiny_dataset: Dataset) -> None:
    meter = Corruptions(["brightness"], [1])
    evaluation = evaluate(Columns(threshold=0.0), tiny_dataset, [meter], num_examples=NUM)
    assert value_of(evaluation, "accuracy under corruption") == 0
    assert said(evaluation, f"for {NUM} of {NUM} corrupted images")


def test_smoothing_takes_no_answer_for_no_vote(tiny_dataset: Dataset) -> None:
    meter = RandomizedSmoothing(noise_std=1e-4, num_selection=5, num_estimation=50)
    model = Columns(where="first")
    evaluation = evaluate(model, tiny_dataset, [meter], num_examples=NUM)
    bad, rows = bad_images(model, tiny_dataset), evaluation.rows
    assert (rows["smoothed-prediction"][bad] == NO_ANSWER).all()
    assert (rows["smoothed-radius-l2"][bad] == 0).all()
    assert (rows["smoothed-radius-l2"][~bad] > 0).all()
    assert said(evaluation, "noisy images of the smoothing")


def test_protocols_count_no_answer_as_wrong(tiny_dataset: Dataset) -> None:
    protocol = SebrProtocol(fgsm=[0.01], pgd=[])
    with pytest.warns(UserWarning, match="for networks with random weights"):
        evaluation = evaluate(Columns(threshold=0.0), tiny_dataset, [protocol], num_examples=NUM)
    assert value_of(evaluation, "accuracy under protocol sebr", by="clean") == 0
    assert said(evaluation, "images of the protocol sebr")


def broken_in_places(tiny_dataset: Dataset) -> nn.Module:
    """A net with random weights that answers NaN for images with a bright corner."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    class Spoilt(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = head

        @override
        def forward(self, images: Tensor) -> Tensor:
            is_bad = is_spoilt(images)
            logits: Tensor = self.head(images)
            return torch.where(is_bad[:, None], math.nan, logits)

    return bayes.convert(Spoilt())


def test_random_nets_count_no_answer_as_wrong_and_say_so(tiny_dataset: Dataset) -> None:
    model = broken_in_places(tiny_dataset)
    meters: list[Meter] = [
        Attacks([PGD(num_steps=2)], [0.01]),
        NoiseCurve(num_levels=2, largest=0.01),
        Uncertainty(num_samples=4, out_of_distribution={"itself": tiny_dataset}),
    ]
    sampling = Sampling(num_samples=2, num_repeats=2, attack_samples=1)
    evaluation = evaluate(model, tiny_dataset, meters, sampling=sampling, num_examples=NUM)
    bad = bad_images(Columns(), tiny_dataset)
    assert not evaluation.rows["clean"][bad].any()
    assert ((evaluation.rows["prediction"] == NO_ANSWER) == bad).all()
    assert evaluation.rows["entropy"][bad].isna().all()
    assert evaluation.table["value"].notna().all()
    for what in ("clean images", "noisy images", "images of clean", "images of itself"):
        assert said(evaluation, what)


def test_a_random_net_with_one_draw_without_an_answer_has_none(tiny_dataset: Dataset) -> None:
    class Draws(nn.Module):
        calls = 0

        @override
        def forward(self, images: Tensor) -> Tensor:
            type(self).calls += 1
            return torch.full((len(images), 3), math.nan if self.calls % 3 == 0 else 0.0)

    predictor = random_predictor(Draws(), num_samples=1, num_repeats=3, attack_samples=1)
    answer = predictor.answer(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]))
    assert answer.prediction.tolist() == [NO_ANSWER, NO_ANSWER]
    assert answer.correct.tolist() == [2, 0]


def test_a_net_that_is_random_and_answers_nan_at_times_is_seen_to_be_random(tiny_dataset: Dataset) -> None:
    class Draws(Columns):
        @override
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images) + torch.rand(3)

    assert evaluate(Draws(), tiny_dataset, num_examples=NUM).results.sampling is not None


def test_kernel_norms_and_moments_say_where_logits_are_no_numbers(tiny_dataset: Dataset) -> None:
    class Root(nn.Module):
        @override
        def forward(self, images: Tensor) -> Tensor:
            flat = images.flatten(1)
            return torch.stack([(flat[:, 0] - 0.3).sqrt(), flat[:, 1], flat[:, 2]], dim=1)

    norms = evaluate(Root(), tiny_dataset, [KernelNorms(num_examples=NUM)], num_examples=NUM)
    assert said(norms, "they bound no kernel norm")
    few = MomentCheck(noise_std=[0.1], num_samples=20, num_examples=4, methods=["first-activation"])
    moments = evaluate(nn.Sequential(Root(), nn.ReLU()), tiny_dataset, [few], num_examples=NUM)
    assert said(moments, "in a draw of some noise_std")
