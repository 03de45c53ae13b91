"""Whether a run folder was begun with the very recipe that is to go on in it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from withstand.flat import flat
from withstand.recipe_file import ParsedRecipe, parse_recipe
from withstand.run_folder import RunFolder
from withstand.types import RunFolderError

# What may change between a run and its resumption: none of it changes what is trained.
_FREE_KEYS = ("title", "description", "published", "evaluation")
_FREE_TRAINING = ("accelerator", "checkpoint_seconds", "tensorboard")


def require_same_recipe(parsed: ParsedRecipe, out: RunFolder) -> None:
    """Refuses to go on with another recipe than the one the folder was begun with.

    Raises:
        RunFolderError: it is another.
    """
    if not out.recipe.exists() or not out.is_begun():
        return  # nothing has been trained yet
    former = flat(_trained_part(parse_recipe(out.recipe).values), opens=False)
    current = flat(_trained_part(parsed.values), opens=False)
    differing = [key for key in sorted({*former, *current}) if former.get(key) != current.get(key)]
    if differing:
        shown = "; ".join(f"{key}: {former.get(key)} then, {current.get(key)} now" for key in differing[:5])
        more = f" and {len(differing) - 5} more" if len(differing) > 5 else ""
        raise RunFolderError(
            f"{out.path} holds a run of another recipe ({shown}{more}). "
            "Choose another --out, or give the values it was begun with to go on."
        )


def _trained_part(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values that decide what is trained."""
    part = {key: value for key, value in values.items() if key not in _FREE_KEYS}
    part["training"] = {key: value for key, value in part["training"].items() if key not in _FREE_TRAINING}
    part["data"] = {key: value for key, value in part["data"].items() if key != "root"}
    return part
