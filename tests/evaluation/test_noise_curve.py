"""The curve under noise: closed forms, and what is counted of what."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import beta, norm
from torch import Tensor, nn
from typing_extensions import override

from withstand.attacks import PGD
from withstand.core.dataset_info import DatasetInfo
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset, Split
from withstand.evaluation import evaluate
from withstand.evaluation.meters import Attacks, Certificate, NoiseCurve
from withstand.evaluation.predictor import Predictor
from withstand.recipes.parsing import parse_recipe
from withstand.reporting.table import area_over_levels, rows, select
from withstand.results import read_results
from withstand.results.measurements import CLEAN, NOISE_ACCURACY, NOISE_AGREEMENT
from withstand.results.results import Noise
from withstand.results.shares import share, share_of
from withstand.types import Batch, RecipeError

if TYPE_CHECKING:
    from tests.evaluation.conftest import Gather

FEW = NoiseCurve(num_levels=4, largest=0.6, num_draws=2)
MEASURES = [(measure, by) for by in ("unclipped", "clipped") for measure in (NOISE_AGREEMENT, NOISE_ACCURACY)]


class Sides(nn.Module):
    """Two classes, parted by a plane."""

    def __init__(self, weight: Tensor, offset: float) -> None:
        super().__init__()
        self.weight, self.offset = weight, offset

    @override
    def forward(self, images: Tensor) -> Tensor:
        side = images.flatten(1) @ self.weight - self.offset
        return torch.stack([-side, side], dim=1)


class Always(nn.Module):
    """Answers one class."""

    def __init__(self, answer: int) -> None:
        super().__init__()
        self.answer = answer

    @override
    def forward(self, images: Tensor) -> Tensor:
        return 5 * torch.eye(3)[self.answer].expand(len(images), 3)


class Probe(nn.Module):
    """Keeps the images that it was asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []

    @override
    def forward(self, images: Tensor) -> Tensor:
        self.seen.append(images)
        return images.mean(dim=(1, 2))[:, :3]


def batch_of(num: int, size: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(0)
    return Batch(torch.rand(num, 1, size, size, generator=generator), torch.arange(num) % 2)


def counted(model: nn.Module, batch: Batch, settings: NoiseCurve, seed: int = 0) -> Any:
    return settings.score(Predictor.of(model), batch, model(batch.images).argmax(dim=1), seed=seed)


def curve(table: pd.DataFrame, measure: str, by: str = "unclipped") -> pd.DataFrame:
    """The levels of a measure."""
    return select(table, measure, by=by)


@pytest.mark.parametrize("shell", [False, True])
def test_noise_curve_crosses_a_plane_as_often_as_the_normal_law_says(shell: bool) -> None:
    batch = batch_of(3000)
    weight = torch.linspace(-1.0, 1.5, 16)
    model = Sides(weight, 2.0)
    settings = NoiseCurve(num_levels=5, largest=0.4, shell=shell)
    counts = counted(model, batch, settings).counts["hits"]
    distance = ((batch.images.flatten(1) @ weight - 2.0).abs() / weight.norm()).double().numpy()
    prediction = model(batch.images).argmax(dim=1)
    is_correct = (prediction == batch.labels).numpy()
    for level, (agreement, accuracy, *_) in list(zip(settings.levels, counts, strict=True))[1:]:
        # On the shell the cosine with the plane's normal is that of a uniform direction in 16 dimensions.
        stays = (
            beta.cdf((np.minimum(distance / (level * 4), 1) + 1) / 2, 7.5, 7.5)
            if shell
            else norm.cdf(distance / level)
        )
        error = math.sqrt(float((stays * (1 - stays)).sum()))
        assert abs(agreement - stays.sum()) < 5 * error
        assert abs(accuracy - np.where(is_correct, stays, 1 - stays).sum()) < 5 * error
        assert error < 0.02 * len(stays)


def test_noise_curve_clipping_does_not_change_a_threshold_on_one_pixel() -> None:
    result = counted(Sides(torch.ones(1), 0.5), batch_of(200, size=1), NoiseCurve(num_levels=3))
    counts = result.counts["hits"]
    assert (counts[:, :2] == counts[:, 2:]).all()
    assert counts[2, 0] < 200


def test_noise_curve_of_a_constant_answer_agrees_and_is_correct_on_its_class(tiny_dataset: Dataset) -> None:
    test = tiny_dataset.test.subset(list(range(40)))  # 14, 13, 13
    dataset = Dataset(tiny_dataset.info, tiny_dataset.train, tiny_dataset.validation, test)
    evaluation = evaluate(Always(1), dataset, [NoiseCurve(num_levels=3)])
    for by in ("unclipped", "clipped"):
        assert list(curve(evaluation.table, NOISE_AGREEMENT, by).value) == [1.0] * 3
        assert list(curve(evaluation.table, NOISE_ACCURACY, by).value) == pytest.approx([13 / 40] * 3)
    (warning,) = evaluation.results.warnings
    assert warning.startswith("Constant answer: the model predicts class 1 whatever it sees")
    assert "same under noise is no merit" in warning


def test_noise_curve_warning_names_answers_constant_without_noise_alone(tiny_dataset: Dataset) -> None:
    class Brittle(nn.Module):
        """Distinguishes the greys of stored images from all others."""

        @override
        def forward(self, images: Tensor) -> Tensor:
            levels = images * 255
            is_stored = ((levels - levels.round()).abs().amax(dim=(1, 2, 3)) < 1e-3).long()
            return 5 * torch.eye(3)[2 * is_stored]

    (warning,) = evaluate(Brittle(), tiny_dataset, [FEW]).results.warnings
    assert "class 2 of every image without noise, so its clean accuracy" in warning
    assert "whatever it sees" not in warning


def test_noise_curve_agreement_is_exact_without_noise(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    table = evaluate(tiny_model, tiny_dataset, [FEW]).table
    (clean,) = rows(select(table, CLEAN))
    first = select(table, NOISE_AGREEMENT, level=0.0)
    assert [(row.value, row.correct, row.total) for row in rows(first)] == [(1.0, 90, 90)] * 2
    for row in rows(select(table, NOISE_ACCURACY, level=0.0)):
        assert row.value == clean.value
        assert row.lower == pytest.approx(clean.lower)
    assert curve(table, NOISE_AGREEMENT).correct.iloc[-1] < 90


def test_noise_curve_columns_are_the_mean_over_levels(tiny_model: nn.Module, tiny_dataset: Dataset) -> None:
    result = evaluate(tiny_model, tiny_dataset, [FEW], batch_size=20)
    for measure, by in MEASURES:
        levels = curve(result.table, measure, by)
        assert list(levels.level) == pytest.approx([0.0, 0.2, 0.4, 0.6])
        area = area_over_levels(result.table, measure, by)
        assert area == pytest.approx(np.trapezoid(levels.value, levels.level) / 0.6)
    accuracy, agreement = (
        curve(result.table, measure).value for measure in (NOISE_ACCURACY, NOISE_AGREEMENT)
    )
    assert result.rows["noise-accuracy"].mean() == pytest.approx(accuracy.mean())
    assert result.rows["noise-agreement"].mean() == pytest.approx(agreement.mean())


def test_noise_curve_draws_for_each_level_and_clips_to_the_unit_range() -> None:
    batch, model = batch_of(50), Probe()
    counted(model, batch, NoiseCurve(num_levels=3, largest=0.5, num_draws=2))
    _, *seen = model.seen  # the first were clean
    assert len(seen) == 2 * 2 * 2
    plain, clipped = seen[::2], seen[1::2]
    assert all(torch.equal(a.clamp(0, 1), b) for a, b in zip(plain, clipped, strict=True))
    assert all(0 <= float(images.min()) <= float(images.max()) <= 1 for images in clipped)
    assert float(plain[0].min()) < 0
    noise = torch.stack([images - batch.images for images in plain]).flatten(1)
    assert noise.std(dim=1).tolist() == pytest.approx([0.25, 0.25, 0.5, 0.5], rel=0.1)
    assert (torch.corrcoef(noise) - torch.eye(4)).abs().max() < 5 / math.sqrt(noise.shape[1])


def test_noise_curve_on_the_shell_draws_one_length() -> None:
    batch, model = batch_of(20), Probe()
    batch = Batch(batch.images * 0, batch.labels)  # so that nothing is rounded away
    counted(model, batch, NoiseCurve(num_levels=3, largest=0.5, shell=True))
    lengths = [images.flatten(1).norm(dim=1) for images in model.seen[1::2]]
    assert torch.cat(lengths).tolist() == pytest.approx([0.25 * 4] * 20 + [0.5 * 4] * 20, rel=1e-6)


def test_noise_curve_draws_repeat_with_the_seed_whatever_came_before(
    tiny_model: nn.Module, tiny_dataset: Dataset
) -> None:
    tiny_model.eval()
    batch = Batch(tiny_dataset.test.images.float() / 255, tiny_dataset.test.labels)
    before = torch.random.get_rng_state()
    first = counted(tiny_model, batch, FEW, seed=3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(5)
    again, other = (counted(tiny_model, batch, FEW, seed=seed) for seed in (3, 4))
    assert (first.counts["hits"] == again.counts["hits"]).all()
    assert (first.columns["noise-accuracy"] == again.columns["noise-accuracy"]).all()
    assert (first.counts["hits"] != other.counts["hits"]).any()


def test_noise_curve_and_attacks_do_not_change_each_other(
    tiny_model: nn.Module, tiny_dataset: Dataset
) -> None:
    attacks = Attacks([PGD(num_steps=2, random_start=True)], [0.1])
    both, attacked, noisy = (
        evaluate(tiny_model, tiny_dataset, meters, batch_size=20)
        for meters in ([attacks, FEW], [attacks], [FEW])
    )
    assert attacked.results.noise is None
    pd.testing.assert_frame_equal(both.rows[list(attacked.rows)], attacked.rows)
    pd.testing.assert_frame_equal(both.rows[list(noisy.rows)], noisy.rows)
    assert both.results.noise == noisy.results.noise
    for measure in (NOISE_ACCURACY, NOISE_AGREEMENT):
        assert rows(select(both.table, measure)) == rows(select(noisy.table, measure))
    # A batch has its own draws: the first is the same where no other follows.
    first = replace(tiny_dataset, test=tiny_dataset.test.subset(range(20)))
    alone = evaluate(tiny_model, first, [FEW], batch_size=20)
    pd.testing.assert_frame_equal(alone.rows, noisy.rows.iloc[:20])
    other = evaluate(tiny_model, tiny_dataset, [FEW], batch_size=20, seed=1)
    assert not other.rows["noise-accuracy"].equals(noisy.rows["noise-accuracy"])


def test_noise_curve_leaves_the_model_as_it_was_without_gradient(
    tiny_model: nn.Module, tiny_dataset: Dataset
) -> None:
    modes: list[bool] = []
    grads: list[bool] = []

    def note(module: nn.Module, inputs: object, output: Tensor) -> None:
        modes.append(module.training)
        grads.append(output.requires_grad)

    tiny_model.train()
    tiny_model[1].register_forward_hook(note)  # type: ignore[index]
    evaluate(tiny_model, tiny_dataset, [FEW])
    assert len(modes) > 12
    assert not any(modes[-12:])
    assert not any(grads[-12:])
    assert all(module.training for module in tiny_model.modules())


def test_noise_curve_results_pass_through_a_run_folder(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    result = evaluate(tiny_model, tiny_dataset, [FEW], batch_size=20, out=tmp_path)
    assert result.results.noise == Noise(FEW.describe(), num_draws=2, shell=False)
    run = RunFolder(tmp_path)
    stored = read_results(run)
    assert stored is not None
    assert stored[0] == result.results
    pd.testing.assert_frame_equal(stored[1], result.table)
    examples = pd.read_csv(run.examples)
    assert examples["noise-accuracy"].to_numpy() == pytest.approx(result.rows["noise-accuracy"].to_numpy())


def test_noise_curve_stays_when_certificates_join(
    linear: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    former = evaluate(linear, tiny_dataset, [FEW], out=tmp_path, batch_size=20)
    certificate = Certificate(norm=2, epsilons=[0.01])
    result = evaluate(linear, tiny_dataset, [FEW, certificate], out=tmp_path, batch_size=20)
    assert result.results.certificates
    assert result.results.noise == former.results.noise
    assert rows(select(result.table, NOISE_ACCURACY)) == rows(select(former.table, NOISE_ACCURACY))
    pd.testing.assert_frame_equal(result.rows[list(former.rows)], former.rows)


def test_constant_answer_warning_appears_once_though_certificates_join(
    tiny_dataset: Dataset, tmp_path: Path
) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))
    with torch.no_grad():
        model[1].weight.zero_()  # type: ignore[operator]
    former = evaluate(model, tiny_dataset, [FEW], out=tmp_path)
    result = evaluate(model, tiny_dataset, [FEW, Certificate(norm=2, epsilons=[0.01])], out=tmp_path)
    constant = [
        [warning for warning in evaluation.results.warnings if "Constant" in warning]
        for evaluation in (former, result)
    ]
    assert constant[0] == constant[1] == former.results.warnings
    assert len(constant[0]) == 1


def test_noise_curve_draws_of_an_example_narrow_no_interval() -> None:
    one, many = share_of(30, 45), share_of(300, 450, 10)
    assert (many.correct, many.total) == (300, 450)
    assert (many.lower, many.upper) == pytest.approx((one.lower, one.upper))
    assert share([1] * 30 + [0] * 15) == one
    assert [share_of(0, 8).lower, share_of(8, 8).upper] == [0.0, 1.0]


def test_noise_curve_summary_adds_batches_up(gather: Gather) -> None:
    whole, predictor = batch_of(30), Predictor.of(Sides(torch.ones(16), 8.0))
    prediction = predictor.predict(whole.images)
    counts = np.zeros((FEW.num_levels, len(MEASURES)), dtype=np.int64)
    for start, stop in ((0, 20), (20, 30)):
        part = Batch(whole.images[start:stop], whole.labels[start:stop])
        counts += FEW.score(predictor, part, prediction[start:stop], seed=start).counts["hits"]
    measurements, _ = FEW.summary(
        gather(pd.DataFrame({"clean": np.ones(30)}), predictor, counts={"hits": counts})
    )
    assert [(row.measure, row.by) for row in measurements] == MEASURES * FEW.num_levels
    assert [row.correct for row in measurements] == counts.flatten().tolist()
    assert {row.total for row in measurements} == {60}


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        ({"num_levels": 1}, "num_levels of at least 2"),
        ({"largest": 0.0}, "largest above 0"),
        ({"largest": math.nan}, "largest above 0"),
        ({"largest": math.inf}, "largest above 0"),
        ({"num_draws": 0}, "num_draws of at least 1"),
    ],
)
def test_noise_curve_refuses_settings_out_of_range(wrong: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=text):
        NoiseCurve(**wrong)


def test_noise_curve_describes_its_settings() -> None:
    assert "30 levels of noise_std from 0 to 0.5 in [0, 1] pixel units, one draw" in NoiseCurve().describe()
    assert "2 draws an image and level, each rescaled" in NoiseCurve(num_draws=2, shell=True).describe()
    assert NoiseCurve(num_levels=8, largest=0.3).levels[-1] == 0.3


def test_noise_curve_is_named_by_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("name: noisy\n", encoding="utf-8")
    assert parse_recipe(recipe).recipe.evaluation.meters == []
    added = "--evaluation.meters+=NoiseCurve"
    for overrides, expected in (
        ([added], NoiseCurve()),
        ([added, "--evaluation.meters.num_levels=5", "--evaluation.meters.shell=true"],
         NoiseCurve(num_levels=5, shell=True)),
        ([added, "--evaluation.meters.num_draws=3"], NoiseCurve(num_draws=3)),
    ):  # fmt: skip
        assert parse_recipe(recipe, overrides).recipe.evaluation.meters == [expected]
    with pytest.raises(RecipeError, match="num_levels of at least 2, but got 1"):
        parse_recipe(recipe, [added, "--evaluation.meters.num_levels=1"])


def test_noise_curve_counts_the_pixels_of_all_channels() -> None:
    info = DatasetInfo("tiny", (3, 2, 2), ["a", "b"], [0.5] * 3, [0.5] * 3)
    split = Split(torch.zeros(4, 3, 2, 2, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]))

    class Colours(Probe):
        @override
        def forward(self, images: Tensor) -> Tensor:
            self.seen.append(images)
            return images.flatten(1)[:, :2]

    model = Colours()
    evaluate(model, Dataset(info, split, split, split), [NoiseCurve(2, 0.5, shell=True)])
    assert model.seen[-2].flatten(1).norm(dim=1).tolist() == pytest.approx([0.5 * math.sqrt(12)] * 4)
