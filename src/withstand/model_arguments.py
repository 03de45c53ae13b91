"""The options that say which model and which data a command is about, where no run or recipe does."""

from __future__ import annotations

from typing import Any

from jsonargparse import ArgumentParser, Namespace

from withstand.models import MODEL_NAMES
from withstand.recipe import DataSettings, ModelSettings
from withstand.types import RecipeError


def is_model(name: str) -> bool:
    """Whether an argument names a model, built in or of the user's own."""
    return ":" in name or name in MODEL_NAMES


def add_model_arguments(parser: ArgumentParser) -> None:
    """Adds the options that say which model and data are meant where no run or recipe does."""
    parser.add_argument(
        "--model.normalize",
        type=bool | None,
        default=None,
        help="Put the data set's normalisation before MODEL; where null, before those of this package alone.",
    )
    parser.add_argument("--model.options", type=dict[str, Any], default={}, help="Of the model's builder.")
    parser.add_class_arguments(DataSettings, "data", skip={"name"})
    parser.add_argument("--data.name", type=str | None, default=None, help="Such as mnist, or folder:PATH.")


def given_model(name: str, values: Namespace) -> ModelSettings:
    """The model that an argument and its options name."""
    chosen = values.model.normalize
    normalize = name in MODEL_NAMES if chosen is None else chosen
    return ModelSettings(name=name, normalize=normalize, options=dict(values.model.options))


def given_data(values: Namespace) -> DataSettings:
    """The data set that the options name.

    Raises:
        RecipeError: they name none.
    """
    if values.data.name is None:
        raise RecipeError("Say which data the model is for: --data.name=mnist.")
    return DataSettings(**vars(values.data))
