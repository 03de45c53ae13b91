"""Where a recipe's meters find the data that they name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from withstand.recipes.parsing import find_recipe, parse_recipe
from withstand.runs.loading import RecipeSources


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of 6 x 6 pictures of two classes."""
    draw = np.random.default_rng(0)
    for place in ("train/ant", "train/bee", "test/ant", "test/bee"):
        (tmp_path / place).mkdir(parents=True)
        Image.fromarray(draw.integers(0, 256, (6, 6), np.uint8)).save(tmp_path / place / "x.png")
    return tmp_path


@pytest.mark.parametrize("size", [None, 8])
def test_only_pictures_of_a_folder_take_the_size_of_a_recipe(pictures: Path, size: int | None) -> None:
    recipe = parse_recipe(find_recipe("digits-adversarial")).recipe
    sources = RecipeSources(replace(recipe, data=replace(recipe.data, size=size)))
    assert sources.dataset("digits").info.shape == (1, 8, 8)
    assert sources.dataset(f"folder:{pictures}").info.shape == (1, size or 6, size or 6)
