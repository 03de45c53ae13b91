"""From a recipe to a model."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from withstand.constraints import PARAMETRIZATIONS, ParametrizationName
from withstand.dataset_info import KNOWN_DATASETS
from withstand.pipeline import build_model, evaluate_run, model_spec, train_recipe
from withstand.recipe import ModelSettings, Recipe
from withstand.recipe_file import parse_recipe
from withstand.reporting import report
from withstand.run_folder import RunFolder
from withstand.spectral import weights


@pytest.mark.parametrize("name", PARAMETRIZATIONS)
def test_a_parametrised_model_has_spectral_norms_of_one(name: ParametrizationName) -> None:
    info = KNOWN_DATASETS["digits"]
    recipe = Recipe(model=ModelSettings("mlp", options={"hidden": [16]}, parametrize=name))
    model = build_model(recipe, info)
    for _ in range(100):  # torch estimates by power iteration, one a forward pass
        model(torch.rand(2, *info.shape))
    norms = [torch.linalg.matrix_norm(weight.matrix, 2).item() for weight in weights(model.eval())]
    assert norms == [pytest.approx(1.0, rel=1e-3)] * 2
    assert model_spec(recipe, info)["parametrize"] == name
    plain = build_model(replace(recipe, model=replace(recipe.model, parametrize=None)), info)
    assert not any(weight.parametrised for weight in weights(plain))


_WITH_PROTOCOL = """\
data: {name: digits, train_size: 40, validation_size: 20}
model: {name: mlp, options: {hidden: [8]}}
training: {epochs: 1, batch_size: 20}
evaluation:
  num_examples: 30
  batch_size: 20
  weights: last
  protocols:
    - class_path: SebrProtocol
      init_args: {fgsm: [0.1], pgd: [0.1, 8/255], num_steps: 2}
published:
  - {measure: attacked, accuracy: 0.5, norm: inf, epsilon: 0.1, source: Somebody, attack: pgd}
"""


def test_published_protocols_are_measured_of_the_examples_scored_and_reported(tmp_path: Path) -> None:
    file = tmp_path / "recipe.yaml"
    file.write_text(_WITH_PROTOCOL)
    parsed, out = parse_recipe(file), RunFolder(tmp_path / "run")
    train_recipe(parsed, out, command="train")
    evaluate_run(out, parsed, command="evaluate")
    metrics = json.loads(out.metrics.read_text())
    (found,) = metrics["protocols"]
    assert found["num_examples"] == 30
    # One pass by a net without random weights: as the evaluation itself scores it.
    assert found["clean"] == metrics["clean"]
    assert [point["epsilon"] for point in found["attacks"][1]["curve"]] == [0.1, pytest.approx(8 / 255)]
    assert metrics["published"][0]["attack"] == "pgd"
    assert ">Published protocol of SEBR</h2>" in report(out.path).read_text(encoding="utf-8")
