"""Analytic moments against samples: closed forms, what is exact, and what decreases with the noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from withstand.core.noise import GaussianNoise
from withstand.core.run_folder import RunFolder
from withstand.data import Dataset
from withstand.domains import Program
from withstand.evaluation import evaluate, meters
from withstand.evaluation.moment_check import METHODS, MomentResults, MomentSettings, check_moments
from withstand.evaluation.moment_check.errors import compare_logits
from withstand.evaluation.moment_check.methods import batch_size_of, survey, unaffordable
from withstand.evaluation.moment_check.noisy_passes import INPUT, LOGITS, Sampled, sample
from withstand.results import read_results
from withstand.results.analytic import MomentsMethod
from withstand.types import DataError, ModelError

SHAPE = (1, 4, 4)
SAMPLES = 4000


def images(count: int = 3) -> Tensor:
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def linear() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 5), nn.Linear(5, 3))


def two_layers() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 3))


def pooled() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16, 3),
    )


class Residual(nn.Module):
    """Two branches of one input."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.hidden, self.last = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(16, 8), nn.Linear(8, 3)

    @override
    def forward(self, x: Tensor) -> Tensor:
        first, second = (x + torch.relu(self.conv(x))).chunk(2, dim=2)
        hidden = torch.relu(self.hidden(torch.cat([first, second], 2).flatten(1)) - 0.2)
        logits: Tensor = self.last(torch.relu(hidden - 0.1))
        return logits


def moments_of(model: nn.Module, *, std: Sequence[float] = (0.2,), blur: float = 0.0) -> MomentResults:
    return check_moments(model, images(), MomentSettings(std, num_samples=SAMPLES, blur=blur))


def by_name(results: MomentResults, level: int = 0) -> dict[str, MomentsMethod]:
    return {method.name: method for method in results.levels[level].methods}


def number(value: float | None) -> float:
    assert value is not None
    return value


def median(method: MomentsMethod) -> float:
    assert method.std_ratio is not None
    return method.std_ratio.median


@pytest.mark.parametrize("blur", [0.0, 1.0])
def test_samples_of_a_linear_network_have_its_closed_form(blur: float) -> None:
    model, noise = linear(), GaussianNoise(0.3, blur)
    with torch.no_grad():
        first, second = model[1], model[2]
        assert isinstance(first, nn.Linear)
        assert isinstance(second, nn.Linear)
        matrix = second.weight @ first.weight
        factors = noise.factors(images()).flatten(1)
        variance = (factors @ matrix.T).square().sum(0).double()
        torch.manual_seed(3)
        samples = sample(Program(model, images()), images(), noise, SAMPLES, chunk=300, on_image=lambda: None)
        logits = samples.values[LOGITS]
        apart = (logits.mean - model(images())) / (variance / SAMPLES).sqrt()
    assert apart.abs().max() < 5
    assert (logits.variance / variance - 1).abs().max() < 5 * math.sqrt(2 / SAMPLES) + 1e-4 * (blur > 0)
    assert (samples.values[INPUT].variance / 0.09 - 1).abs().max() < 6 * math.sqrt(2 / SAMPLES)
    assert samples.operations == {"flatten": "Flatten", "linear": "Linear", "linear_1": "Linear"}


def test_sample_does_not_depend_on_chunks_beyond_the_draws() -> None:
    model, few = linear(), 7
    logits_sampled: list[Sampled] = []
    for chunk in (7, 3):
        torch.manual_seed(5)
        with torch.no_grad():
            result = sample(
                Program(model, images(1)),
                images(1),
                GaussianNoise(0.1),
                few,
                chunk=chunk,
                on_image=lambda: None,
            )
        logits_sampled.append(result.values[LOGITS])
    torch.manual_seed(5)
    with torch.no_grad():
        noisy = images(1) + 0.1 * torch.randn(few, *SHAPE)
        logits = model(noisy).double()
    for of_chunk in logits_sampled:
        torch.testing.assert_close(of_chunk.mean[0], logits.mean(0), atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(of_chunk.variance[0], logits.var(0), atol=1e-8, rtol=1e-4)


def test_means_of_two_layers_are_exact_in_every_form() -> None:
    methods = by_name(moments_of(two_layers()))
    assert [*methods] == ["first-activation", "diagonal", "factored", "full"]
    for method in methods.values():
        assert method.reason is None
        assert 0 < number(method.mean_error) < 2.5 / math.sqrt(SAMPLES)
    assert methods["first-activation"].std_ratio is None
    assert methods["first-activation"].points == []
    assert median(methods["full"]) == pytest.approx(1, abs=0.03)


def test_correlations_hold_to_first_order() -> None:
    results = moments_of(two_layers(), std=[1e-3])
    methods = by_name(results)
    assert median(methods["factored"]) == pytest.approx(1, abs=0.03)
    assert abs(median(methods["diagonal"]) - 1) > 0.05
    layers = {layer.operation: layer for layer in results.levels[0].layers}
    assert layers["Linear"].count == 2
    assert number(layers["Linear"].forms["factored"].own.std_error) < 0.03
    assert number(layers["Linear"].forms["diagonal"].own.std_error) > 0.05


def test_first_affine_layer_adds_no_error_of_its_own() -> None:
    results = moments_of(nn.Sequential(nn.Flatten(), nn.Linear(16, 4)))
    (level,) = results.levels
    linear_layer = level.layers[-1]
    for form in ("diagonal", "factored"):
        own = linear_layer.forms[form].own
        assert number(own.mean_error) < 1e-4
        assert number(own.std_error) < 3 / math.sqrt(SAMPLES)
        assert number(own.std_ratio) == pytest.approx(1, abs=4 / math.sqrt(SAMPLES))


@pytest.mark.parametrize("model", [pooled, Residual])
def test_errors_decrease_with_the_noise(model: type[nn.Module]) -> None:
    results = moments_of(model(), std=[0.02, 0.5])
    small, large = by_name(results, 0), by_name(results, 1)
    for name in ("diagonal", "factored", "full"):
        assert small[name].reason is None
    assert number(small["factored"].mean_error) < number(large["factored"].mean_error)
    assert abs(median(small["factored"]) - 1) < 0.06
    for level in results.levels:
        for layer in level.layers:
            assert [*layer.forms] == ["diagonal", "factored"]
            assert all(number(form.samples) > 0 for form in layer.forms.values())


def test_blurred_noise_is_seen_by_factors_and_not_by_independence() -> None:
    methods = by_name(moments_of(linear(), blur=1.5))
    assert median(methods["factored"]) == pytest.approx(1, abs=0.04)
    assert median(methods["full"]) == pytest.approx(1, abs=0.04)
    assert abs(median(methods["diagonal"]) - 1) > 0.1


def test_check_moments_leaves_the_model_as_it_was() -> None:
    model = pooled().train()
    model[3].eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    progress: list[tuple[int, int]] = []
    settings = MomentSettings([0.1, 0.2], num_samples=20, num_examples=2)
    check_moments(model, images(), settings, on_image=lambda *done: progress.append(done))
    assert progress == [(1, 4), (2, 4), (3, 4), (4, 4)]
    assert [module.training for module in model] == [True, True, True, False, True, True]
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), state)


def test_check_moments_repeats_with_the_seed() -> None:
    settings = MomentSettings([0.1], num_samples=50)
    first, again, other = (
        check_moments(two_layers(), images(), settings, seed=seed).levels[0].methods[1].mean_error
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_times_and_speed_ups_are_what_they_are_defined_as() -> None:
    (level,) = moments_of(two_layers()).levels
    for method in level.methods:
        error, seconds = number(method.mean_error), number(method.seconds)
        draws = min(SAMPLES, 1 / error**2)
        assert method.matching_samples == pytest.approx(draws)
        assert method.speed_up == pytest.approx(draws * level.sample_seconds / seconds)
        assert method.full_speed_up == pytest.approx(SAMPLES * level.sample_seconds / seconds)


def test_errors_are_in_units_of_each_logits_deviation() -> None:
    sampled = Sampled(torch.tensor([[1.0, 2.0, 3.0]]).double(), torch.tensor([[4.0, 1.0, 0.0]]).double())
    mean, variance = torch.tensor([[3.0, 2.0, 9.0]]), torch.tensor([[1.0, 4.0, 5.0]])
    result = compare_logits("full", mean, variance, sampled, seconds=2.0, sample_seconds=1.0, num_samples=8)
    assert result.mean_error == pytest.approx(math.sqrt(0.5))  # the third logit never moves
    assert median(result) == pytest.approx(1.25)
    assert result.points == [(2.0, 1.0), (1.0, 2.0)]
    assert result.matching_samples == pytest.approx(2)
    assert result.speed_up == pytest.approx(1)
    assert result.full_speed_up == pytest.approx(4)


def test_points_are_few_and_the_results_read_back(tiny_dataset: Dataset, tmp_path: Path) -> None:
    meter = meters.MomentCheck([0.1, 0.2], num_samples=30, num_examples=3)
    evaluated = evaluate(two_layers(), tiny_dataset, [meter], out=tmp_path)
    written = read_results(RunFolder(tmp_path))
    assert written is not None
    moments = written[0].moments
    assert moments is not None
    assert moments == evaluated.results.moments
    assert (moments.num_examples, moments.num_samples) == (3, 30)
    assert [level.noise_std for level in moments.levels] == [0.1, 0.2]
    assert {method.name for method in moments.levels[0].methods} == set(METHODS)
    assert {layer.operation for layer in moments.levels[0].layers} == {"Flatten", "Linear", "ReLU"}
    assert 0 < sum(len(method.points) for level in moments.levels for method in level.methods) <= 300


def test_network_that_does_not_move_has_no_errors() -> None:
    model = two_layers()
    last = model[3]
    assert isinstance(last, nn.Linear)
    nn.init.zeros_(last.weight)
    for method in by_name(moments_of(model)).values():
        assert method.mean_error is None
        assert method.speed_up is None
        assert method.std_ratio is None


# -- what is not to be afforded, and bad input ------------------------------------------------------


def test_unaffordable_method_has_a_reason_in_numbers() -> None:
    settings = MomentSettings([0.1], num_samples=10, most_coordinates=15)
    full = by_name(check_moments(two_layers(), images(), settings))["full"]
    assert full.reason is not None
    assert "16 coordinates" in full.reason
    assert "GiB" in full.reason
    assert full.mean_error is None
    noise, wide = GaussianNoise(0.1), torch.rand(1, 3, 64, 64)
    about = survey(Program(nn.Conv2d(3, 64, 3), wide), wide)
    assert about.widest == 64 * 62 * 62
    refused = unaffordable("factored", about, settings, wide, noise)
    assert refused is not None
    assert "12,288 factors" in refused
    assert unaffordable("diagonal", about, settings, wide, noise) is None
    assert GaussianNoise(0.1, 1.5).rank(images()) == len(GaussianNoise(0.1, 1.5).factors(images())) < 16
    assert batch_size_of("diagonal", about, wide, noise) > 1


def test_survey_knows_what_joins() -> None:
    assert not survey(Program(pooled().eval(), images()), images()).joins
    assert survey(Program(Residual(), images()), images()).joins


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noise_std": [-0.1]}, "above 0"),
        ({"noise_std": [0.1, math.nan]}, "above 0"),
        ({"noise_std": []}, "at least one"),
        ({"num_samples": 1}, "num_samples"),
        ({"num_examples": 0}, "num_examples"),
        ({"methods": ["diagnoal"]}, "diagonal"),
        ({"blur": -1.0}, "blur"),
    ],
)
def test_moment_settings_refuse_numbers_out_of_range(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MomentSettings(**arguments)  # type: ignore[arg-type]


def test_check_moments_refuses_bad_images_and_models() -> None:
    with pytest.raises(DataError, match="at least one image"):
        check_moments(linear(), images()[:0])
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        check_moments(linear(), 255 * images())
    batch_dependent = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ModelError, match="track_running_stats"):
        check_moments(nn.Sequential(batch_dependent, nn.Flatten()), images())
