"""What a recipe asks to be measured, and what of that its data can be measured by."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from withstand.core.dataset_info import DatasetInfo
from withstand.evaluation import Meter
from withstand.recipes.parsing import ParsedRecipe
from withstand.recipes.schema import Recipe
from withstand.runs.loading import RecipeSources

MeterPair = tuple[Meter, dict[str, Any]]
"""A meter, and as a recipe spells it."""

_logger = logging.getLogger(__name__)


def pairs_of(parsed: ParsedRecipe) -> list[MeterPair]:
    """The meters that a recipe asks for."""
    return list(zip(parsed.recipe.evaluation.meters, parsed.values["evaluation"]["meters"], strict=True))


def fitting(meters: Sequence[MeterPair], info: DatasetInfo) -> list[MeterPair]:
    """The meters that can be of such data at all; which are left out is logged."""
    for meter, _ in meters:
        if not meter.fits(info):
            _logger.warning(
                "The recipe's meter %s is left out: it does not measure %s.", type(meter).__name__, info.form
            )
    return [pair for pair in meters if pair[0].fits(info)]


def require_other_data(recipe: Recipe) -> None:
    """Accepts what an evaluation will need beside the run, before training takes its time.

    That is other data sets, other runs, and the packages of its attacks.

    Raises:
        AttackError: a package is not installed.
        DataError: a data set is unknown, missing or damaged, or its images have another shape.
        WithstandError: a run is missing, or its model does not fit.
    """
    sources = RecipeSources(recipe)
    info = sources.info
    for meter in recipe.evaluation.meters:
        if meter.fits(info):
            meter.resolved(sources).require(info)
