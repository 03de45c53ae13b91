"""Training networks with random weights: the same again, resumed, and measured once an epoch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from typing_extensions import override

from tests.training.stop_after import StopAfter
from withstand import bayes, models
from withstand.attacks import PGD
from withstand.core.dataset_info import KNOWN_DATASETS
from withstand.data import Dataset
from withstand.objectives import Adversarial, CrossEntropy, Objective, Variational
from withstand.penalties import SpectralExpectation
from withstand.recipes.parsing import parse_recipe
from withstand.runs.run_parts import build_model, model_spec
from withstand.training import TrainingSettings, fit
from withstand.training.measure import Measure
from withstand.types import CheckpointError

SETTINGS = TrainingSettings(
    epochs=2, batch_size=20, optimizer=partial(torch.optim.SGD, lr=0.1, momentum=0.9), accelerator="cpu"
)
RECIPE = """
data: {name: digits}
model:
  name: mlp
  options: {hidden: [6]}
  bayes:
    posterior: {prior_std: 0.3, initial_std: [0.01, 1/10], parametrization: log, estimator: shared}
    layers: {network.1: null, network.3: {prior_std: 0.5}}
objective:
  class_path: Sum
  init_args:
    terms:
      - {class_path: Variational, init_args: {num_samples: 3, kl_weight: 1/2}}
      - {class_path: Weighted, init_args: {weight: 0.02, term: {class_path: SpectralExpectation}}}
"""


class LargestWeight(Measure):
    """Says how far one layer has come, and how many images it was shown."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    @override
    def of(self, model: nn.Module, images: Tensor) -> Mapping[str, float]:
        self.seen.append(images)
        largest = max(parameter.abs().max().item() for parameter in model.parameters())
        return {"spectral/5/largest": largest}


def _random(model: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    return bayes.convert(model, bayes.Posterior(initial_std=(0.02, 0.1)), {"1": None})


def _objective() -> Objective:
    return Variational(num_samples=3) + 0.02 * SpectralExpectation()


def _state(model: nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in model.state_dict().values()]


@pytest.mark.parametrize("steps", [(3,), (5, 8)])  # five steps an epoch
def test_fit_of_random_weights_resumed_ends_with_the_same_posterior(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path, steps: tuple[int, ...]
) -> None:
    random = _random(tiny_model)
    settings = replace(SETTINGS, selection=PGD(epsilon=0.05, num_steps=2), measures=[LargestWeight()])
    whole = copy.deepcopy(random)
    fit(whole, tiny_dataset, _objective(), settings, out=tmp_path / "whole", seed=3)
    for step in steps:
        with pytest.raises(KeyboardInterrupt):
            fit(
                copy.deepcopy(random),
                tiny_dataset,
                _objective(),
                replace(settings, checkpoint_seconds=0.0),
                out=tmp_path / "parts",
                seed=3,
                observers=[StopAfter(step)],
            )
    resumed = copy.deepcopy(random)
    fit(resumed, tiny_dataset, _objective(), settings, out=tmp_path / "parts", seed=3)
    assert all(map(torch.equal, _state(whole), _state(resumed)))
    assert not any(map(torch.equal, random.parameters(), resumed.parameters()))
    columns = [pd.read_csv(tmp_path / name / "train.csv") for name in ("whole", "parts")]
    for name in ("kl", "spectral_expectation", "spectral/5/largest", "validation_robust_accuracy"):
        assert columns[0][name].tolist() == columns[1][name].tolist()
    saved = copy.deepcopy(random)
    models.load_weights(saved, tmp_path / "parts" / "last.safetensors")
    assert all(map(torch.equal, _state(saved), _state(resumed)))


def test_fit_resumed_with_a_trained_prior_keeps_the_one_that_it_began_with(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    file, random = tmp_path / "prior.safetensors", _random(tiny_model)
    models.save_weights(tiny_model, file)
    objective = Variational(prior=bayes.TrainedPrior(str(file), relative=0.1))
    settings = replace(SETTINGS, epochs=1, checkpoint_seconds=0.0)
    whole, cut, resumed = (copy.deepcopy(random) for _ in range(3))
    fit(whole, tiny_dataset, objective, settings, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        fit(cut, tiny_dataset, objective, settings, out=tmp_path / "parts", observers=[StopAfter(3)])
    for weight in tiny_model.parameters():
        weight.data.zero_()
    models.save_weights(tiny_model, file)  # another network's
    fit(resumed, tiny_dataset, objective, settings, out=tmp_path / "parts")
    assert all(map(torch.equal, _state(whole), _state(resumed)))
    assert "TrainedPrior" in (tmp_path / "parts" / "recipe.yaml").read_text()


def test_fit_takes_another_posterior_for_another_run(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    settings = replace(SETTINGS, epochs=1)
    fit(_random(tiny_model), tiny_dataset, _objective(), settings, out=tmp_path)
    other = bayes.convert(tiny_model, bayes.Posterior(prior_std=0.2, initial_std=(0.02, 0.1)), {"1": None})
    with pytest.raises(CheckpointError, match=r"random weights: .*prior_std=0\.1.* then, .*prior_std=0\.2"):
        fit(other, tiny_dataset, _objective(), settings, out=tmp_path)


def test_fit_tells_objectives_the_size_of_the_data(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    result = []
    objective = _objective()
    for name, run_objective in (
        ("told", objective),
        ("given", Variational(96, 3) + 0.02 * SpectralExpectation()),
    ):
        model = _random(tiny_model)
        fit(model, tiny_dataset, run_objective, SETTINGS, out=tmp_path / name)
        result.append(_state(model))
    assert all(map(torch.equal, *result))
    assert "num_data=None" in repr(objective)  # the next training may have more


def test_adversarial_training_of_random_weights_learns(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    attacked = Variational(num_samples=2, likelihood=Adversarial(PGD(epsilon=0.03, num_steps=2)))
    settings = replace(SETTINGS, epochs=4, selection=PGD(epsilon=0.03, num_steps=2))
    fit(_random(tiny_model), tiny_dataset, attacked, settings, out=tmp_path)
    log = pd.read_csv(tmp_path / "train.csv")
    assert log["validation_robust_accuracy"].iloc[-1] > 0.8
    assert log["adversarial"].iloc[-1] < log["adversarial"].iloc[0]


def test_measures_see_the_model_once_an_epoch_and_change_nothing(
    tiny_model: nn.Module, tiny_dataset: Dataset, tmp_path: Path
) -> None:
    measure, result = LargestWeight(), []
    for name, measures in (("with", [measure]), ("without", [])):
        model = copy.deepcopy(tiny_model)
        fit(model, tiny_dataset, CrossEntropy(), replace(SETTINGS, measures=measures), out=tmp_path / name)
        result.append(model)
    assert all(map(torch.equal, *map(_state, result)))
    assert len(measure.seen) == 1 + SETTINGS.epochs  # once before, so that one that fails does so early
    assert measure.seen[0].shape == (4, 1, 4, 4)
    assert all(torch.equal(measure.seen[0], run_objective) for run_objective in measure.seen)
    assert measure.seen[0].dtype == torch.float32
    assert 0.5 < measure.seen[0].max() <= 1
    column = pd.read_csv(tmp_path / "with" / "train.csv")["spectral/5/largest"]
    assert column.iloc[-1] == pytest.approx(max(p.abs().max().item() for p in result[0].parameters()))


def test_recipe_makes_weights_random(tmp_path: Path) -> None:
    file = tmp_path / "random.yaml"
    file.write_text(RECIPE)
    parsed = parse_recipe(file)
    info = KNOWN_DATASETS["digits"]
    model = build_model(parsed.recipe, info)
    ((path, layer),) = bayes.variational_layers(model)
    assert path == "network.3"
    assert layer.posterior == bayes.Posterior(prior_std=0.5)
    assert model_spec(parsed.recipe)["bayes"]["posterior"]["estimator"] == "shared"
    again = tmp_path / "again.yaml"
    again.write_text(parsed.text)
    assert parse_recipe(again).recipe.model == parsed.recipe.model
    overrides = ["--model.bayes.layers={}", "--model.bayes.posterior.mean_range=0.1"]
    every = build_model(parse_recipe(file, overrides).recipe, info)
    for _, layer in bayes.variational_layers(every):
        assert layer.posterior == bayes.Posterior(0.3, (0.01, 0.1), "log", "shared", 0.1)
        assert 0.0099 < layer.std("weight").min() < layer.std("weight").max() < 0.1001
        assert layer.normals()["weight"].mean.abs().max() <= 0.1
    plain = build_model(parse_recipe(file, ["--model.bayes=null"]).recipe, info)
    assert not bayes.is_stochastic(plain)
    assert model_spec(parse_recipe(file, ["--model.bayes=null"]).recipe)["bayes"] is None
