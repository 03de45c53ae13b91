"""From a recipe to a model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from withstand.constraints import PARAMETRIZATIONS, ParametrizationName
from withstand.dataset_info import KNOWN_DATASETS
from withstand.pipeline import build_model, model_spec
from withstand.recipe import ModelSettings, Recipe
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
